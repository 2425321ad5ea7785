"""Clients for what a Foundry project offers: its models, and the agents that are deployed in it.

Rule 1: azure and openai are loaded when the first client is made, not when this module is imported.
Rule 2: the call id of a request goes with every call that is made for it, and with no other. It is read when a call is
        made, so one client may be shared by all requests. The user's id never leaves the process.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent_host.errors import SettingsError
from agent_host.foundry.calls import call_headers
from agent_host.settings import project_endpoint

if TYPE_CHECKING:
    from azure.ai.projects import AIProjectClient
    from azure.core.credentials import TokenCredential
    from openai import AsyncOpenAI, OpenAI

SCOPE = "https://ai.azure.com/.default"


def project_client(
    endpoint: str | None = None, credential: "TokenCredential | None" = None, **options: Any
) -> "AIProjectClient":
    """A client of the project at `endpoint`, by default that of `FOUNDRY_PROJECT_ENDPOINT`.

    Without a credential azure-identity finds one: hosted, that of the agent; elsewhere that of `az login` or
    `azd auth login`. `options` are those of azure-core's pipelines, such as `transport`. Raises `SettingsError` if the
    address is missing or the extra `foundry` is not installed.
    """
    address = _address(endpoint)
    try:
        from azure.ai.projects import AIProjectClient
    except ImportError as error:
        raise _not_installed(error) from None

    def add_call_id(request: Any) -> None:
        request.http_request.headers.update(call_headers())

    return AIProjectClient(address, credential or _default_credential(), raw_request_hook=add_call_id, **options)


def openai_client(
    endpoint: str | None = None,
    credential: "TokenCredential | None" = None,
    *,
    agent_name: str | None = None,
    **options: Any,
) -> "AsyncOpenAI":
    """An asynchronous OpenAI client for the project's models, or for an agent that is deployed in it.

    `options` are those of `AsyncOpenAI` but for `http_client`. Raises `SettingsError` like `project_client`.
    """
    address = _openai_address(endpoint, agent_name, options)
    try:
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient
    except ImportError as error:
        raise _not_installed(error) from None
    read_token = _tokens(credential)

    async def token() -> str:
        # It is mostly in memory, but an expired one is fetched over the network.
        return await asyncio.to_thread(read_token)

    async def add_call_id(request: Any) -> None:
        request.headers.update(call_headers())

    http = DefaultAsyncHttpxClient(event_hooks={"request": [add_call_id]})
    return AsyncOpenAI(base_url=address, api_key=token, http_client=http, **options)


def sync_openai_client(
    endpoint: str | None = None,
    credential: "TokenCredential | None" = None,
    *,
    agent_name: str | None = None,
    **options: Any,
) -> "OpenAI":
    """The same as `openai_client` without an event loop, for handlers that are no coroutines.

    `AIProjectClient.get_openai_client()` gives such a client too, but that one sends no call id.
    """
    address = _openai_address(endpoint, agent_name, options)
    try:
        from openai import DefaultHttpxClient, OpenAI
    except ImportError as error:
        raise _not_installed(error) from None

    def add_call_id(request: Any) -> None:
        request.headers.update(call_headers())

    http = DefaultHttpxClient(event_hooks={"request": [add_call_id]})
    return OpenAI(base_url=address, api_key=_tokens(credential), http_client=http, **options)


def _address(endpoint: str | None) -> str:
    return project_endpoint(None if endpoint is None else {"FOUNDRY_PROJECT_ENDPOINT": endpoint})


def _openai_address(endpoint: str | None, agent_name: str | None, options: dict[str, Any]) -> str:
    """Where the models are, or an agent is, to whose `options` the version of its API is added."""
    if agent_name is None:
        return f"{_address(endpoint)}/openai/v1"
    options["default_query"] = {"api-version": "v1", **options.get("default_query", {})}
    return f"{_address(endpoint)}/agents/{agent_name}/endpoint/protocols/openai"


def _tokens(credential: "TokenCredential | None") -> Callable[[], str]:
    try:
        from azure.identity import get_bearer_token_provider
    except ImportError as error:
        raise _not_installed(error) from None
    return get_bearer_token_provider(credential or _default_credential(), SCOPE)


def _default_credential() -> "TokenCredential":
    from azure.identity import DefaultAzureCredential

    return DefaultAzureCredential()


def _not_installed(error: ImportError) -> SettingsError:
    return SettingsError(f"{error}. Clients of a Foundry project need: pip install 'workflow-agent-host[foundry]'")
