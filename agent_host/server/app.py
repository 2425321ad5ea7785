"""`create_app`: the host as a Starlette application."""

import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Match, Route, WebSocketRoute

from agent_host import __version__
from agent_host.engine.workflow import Workflow
from agent_host.errors import SettingsError
from agent_host.foundry.answers import server_name
from agent_host.server import conversations
from agent_host.server.compaction import compact_response
from agent_host.server.exchange import Endpoint, Serve, refusal
from agent_host.server.host import Host, Sources, Tokenizer
from agent_host.server.input_items import list_input_items
from agent_host.server.middleware import ApiKey, NoForeignPages
from agent_host.server.models import list_models, retrieve_model
from agent_host.server.responses import (
    cancel_response,
    create_response,
    delete_response,
    readiness,
    retrieve_response,
)
from agent_host.server.snapshots import after_restore, before_snapshot
from agent_host.server.stored import shown
from agent_host.server.taking_up import take_up
from agent_host.server.tokens import count_input_tokens
from agent_host.server.websocket import WebSocketEndpoint
from agent_host.settings import Platform, Settings
from agent_host.stores import PROJECT, open_store, project_store
from agent_host.stores.base import Store
from agent_host.wire import problems
from agent_host.wire.problems import Problem

log = logging.getLogger("agent_host")


def create_app(
    workflow: Workflow,
    store: Store | str | None = None,
    *,
    settings: Settings | None = None,
    sources: Sources | None = None,
    tokenizer: Tokenizer | None = None,
) -> Starlette:
    """An application that serves one workflow through the Responses API.

    `store` is an address such as `sqlite:///data/host.db`, or an opened or unopened store; without it the file
    `.agent_host/<workflow name>.db` is used. The application can be served alone or mounted in another one: without a
    lifespan event it opens its store with the first request, and `app.state.agent_host.aclose()` closes it.
    `tokenizer` counts the tokens of a text for `/responses/input_tokens`; without it a token is taken for four bytes.
    """
    if not isinstance(workflow, Workflow):
        raise SettingsError(
            f"create_app takes a workflow, made by WorkflowBuilder(...).build(); got a {type(workflow).__name__}."
        )
    settings = (settings or Settings.from_environment()).checked()
    if store is None or isinstance(store, str):
        address = store or default_store(workflow, settings)
        store = store_at(address, settings.platform, lambda: host.settings.platform)
    host = Host(workflow, store, settings, sources, take_up=take_up, tokenizer=tokenizer)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await host.begin()
        try:
            yield
        finally:
            await host.aclose()

    # A platform ends what is not ready, and its storage is not mended by that.
    opens = not host.hosting.tells_platform
    # A handler may answer with any ASGI application, though its type says otherwise.
    handlers: dict[Any, Any] = {HTTPException: partial(_routing_fault, host)}
    app = Starlette(
        routes=[
            *_routes(host),
            Route("/readiness", Endpoint(host, readiness, opens=opens, serves_users=False), methods=["GET"]),
        ],
        lifespan=lifespan,
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    if settings.api_key is not None:
        # A browser sends no key by itself, so with a key no page can do harm.
        app.add_middleware(ApiKey, key=settings.api_key, refusal=refusal(host, problems.wrong_api_key()))
    else:
        app.add_middleware(
            NoForeignPages,
            is_local=settings.is_local,
            trusted=settings.trusted_hosts,
            refuse=partial(refusal, host),
        )
    app.state.agent_host = host
    return app


def default_store(workflow: Workflow, settings: Settings) -> str:
    """The store of a workflow that was given none: a file below the working directory.

    On a platform it is the storage of the project, since the disk there is empty whenever a session begins.
    """
    if settings.platform is not None and settings.platform.project_endpoint:
        return PROJECT + settings.platform.project_endpoint
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", workflow.name).strip("-.") or "workflow"
    return f"sqlite:///{Path('.agent_host') / name}.db"


def store_at(
    address: str, platform: Platform | None = None, now: Callable[[], Platform | None] = lambda: None
) -> Store:
    """The store at an address, not opened yet. `now` tells what the platform says when it is asked again."""
    if not address.startswith(PROJECT):
        return open_store(address)
    return project_store(
        address,
        shown,
        agent=platform.agent_name if platform is not None else "",
        session=lambda: (now() or Platform()).session_id,
        home=platform.home if platform is not None else "",
        user_agent=server_name(__version__),
    )


_ENDPOINTS: tuple[tuple[str, str, Serve], ...] = (
    ("POST", "/responses", create_response),
    ("GET", "/responses/{response_id}", retrieve_response),
    ("DELETE", "/responses/{response_id}", delete_response),
    ("POST", "/responses/{response_id}/cancel", cancel_response),
    ("GET", "/responses/{response_id}/input_items", list_input_items),
    ("POST", "/responses/compact", compact_response),
    ("POST", "/responses/input_tokens", count_input_tokens),
    ("POST", "/conversations", conversations.create_conversation),
    ("GET", "/conversations/{conversation_id}", conversations.retrieve_conversation),
    ("POST", "/conversations/{conversation_id}", conversations.update_conversation),
    ("DELETE", "/conversations/{conversation_id}", conversations.delete_conversation),
    ("POST", "/conversations/{conversation_id}/items", conversations.create_items),
    ("GET", "/conversations/{conversation_id}/items", conversations.list_items),
    ("GET", "/conversations/{conversation_id}/items/{item_id:path}", conversations.retrieve_item),
    ("DELETE", "/conversations/{conversation_id}/items/{item_id:path}", conversations.delete_item),
    ("GET", "/models", list_models),
    ("GET", "/models/{model_id:path}", retrieve_model),
)

_SNAPSHOT_HOOKS: tuple[tuple[str, Serve], ...] = (
    ("/_agent/before-snapshot", before_snapshot),
    ("/_before_snapshot", before_snapshot),
    ("/_agent/after-restore", after_restore),
    ("/_after_restore", after_restore),
)

_PREFIXES = ("/v1", "")


def _routes(host: Host) -> list[BaseRoute]:
    # The router looks at one after the other, so those that are asked for most come first.
    return [
        *(
            Route(prefix + path, Endpoint(host, serve), methods=[method])
            for method, path, serve in _ENDPOINTS
            for prefix in _PREFIXES
            if host.hosting.owns_conversations or not path.startswith("/conversations")
        ),
        *(WebSocketRoute(f"{prefix}/responses", WebSocketEndpoint(host)) for prefix in _PREFIXES),
        *(
            Route(path, Endpoint(host, serve, opens=False, serves_users=False), methods=["POST"])
            for path, serve in _SNAPSHOT_HOOKS
            if host.hosting.tells_platform
        ),
    ]


def _allowed(request: Request) -> list[str]:
    """The methods of an address. The router's own error names those of one route only."""
    routes = (route for route in request.app.routes if isinstance(route, Route))
    found = [route for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return sorted({name for route in found for name in route.methods or ()})


async def _routing_fault(host: Host, request: Request, error: Exception) -> Endpoint:
    """404 and 405 of the router, in the shape and with the log line of every other error."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    known: dict[int, Problem] = {
        404: problems.not_found(path),
        405: problems.method_not_allowed(method, path),
    }
    problem = known.get(error.status_code) or Problem(error.status_code, str(error.detail))
    allowed = {"Allow": ", ".join(_allowed(request))} if error.status_code == 405 else {}
    problem.headers = {**(error.headers or {}), **allowed, **problem.headers}
    return refusal(host, problem)
