"""What the platform shows of a turn: the attributes of its span, and the baggage of the calls that it makes."""

from collections.abc import Mapping

from agent_host import telemetry
from agent_host.settings import Platform

MARK = {"microsoft.foundry": "True"}
"""On every span and log record of a hosted agent."""

_PROVIDER = "AzureAI Hosted Agents"
_BAGGAGE = "azure.ai.agentserver."


def agent_attributes(workflow: str, platform: Platform | None) -> Mapping[str, str]:
    """The attributes that all spans of a host have, of which the platform's views make their tables."""
    if platform is None:
        return {telemetry.OPERATION: telemetry.INVOKE_AGENT, telemetry.AGENT_NAME: workflow}
    attributes = {
        telemetry.OPERATION: telemetry.INVOKE_AGENT,
        telemetry.PROVIDER: _PROVIDER,
        telemetry.AGENT_NAME: platform.agent_name or workflow,
        telemetry.AGENT_ID: platform.agent_id,
        telemetry.AGENT_VERSION: platform.agent_version,
        "microsoft.foundry.project.id": platform.project_id,
        "microsoft.tenant.id": platform.tenant_id,
        "microsoft.a365.agent.blueprint.id": platform.blueprint_id,
        **MARK,
    }
    return {name: value for name, value in attributes.items() if value}


def turn_attributes(response_id: str, conversation_id: str | None, session_id: str) -> Mapping[str, str]:
    """The attributes of the span of one turn."""
    attributes = {
        telemetry.RESPONSE_ID: response_id,
        telemetry.CONVERSATION_ID: conversation_id or "",
        "microsoft.session.id": session_id,
    }
    return {name: value for name, value in attributes.items() if value}


def turn_baggage(
    response_id: str, conversation_id: str | None, request_id: str, *, is_streaming: bool
) -> Mapping[str, str]:
    """What the calls of one turn tell whoever they call."""
    facts = {
        "response_id": response_id,
        "conversation_id": conversation_id or "",
        "streaming": str(is_streaming),
        "x-request-id": request_id,
    }
    return {f"{_BAGGAGE}{name}": value for name, value in facts.items() if value}
