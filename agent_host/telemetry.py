"""Names of spans and attributes, over the OpenTelemetry API: without an SDK installed they cost nothing."""

from opentelemetry import trace

TURN_SPAN = "agent_host.turn"
RESPONSE_ID = "gen_ai.response.id"
CONVERSATION_ID = "gen_ai.conversation.id"
WORKFLOW_NAME = "workflow.name"
TURN_STATUS = "agent_host.turn.status"

tracer = trace.get_tracer("agent_host")
