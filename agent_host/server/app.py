"""`create_app`: the host as a Starlette application."""

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute, Route

from agent_host.engine.workflow import Workflow
from agent_host.errors import SettingsError
from agent_host.server.host import Host, Sources
from agent_host.server.middleware import ApiKey
from agent_host.server.routes import Endpoint, create_response, readiness, refusal, retrieve_response
from agent_host.settings import Settings
from agent_host.stores import open_store
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
) -> Starlette:
    """An application that serves one workflow through the Responses API.

    `store` is an address such as `sqlite:///data/host.db`, or an opened or unopened store; without it the file
    `.agent_host/<workflow name>.db` is used. The application can be served alone or mounted in another one: without a
    lifespan event it opens its store with the first request, and `app.state.agent_host.aclose()` closes it.
    """
    if not isinstance(workflow, Workflow):
        raise SettingsError(
            f"create_app takes a workflow, made by WorkflowBuilder(...).build(); got a {type(workflow).__name__}."
        )
    settings = (settings or Settings.from_environment()).checked()
    opened = store if store is not None and not isinstance(store, str) else open_store(store or default_store(workflow))
    host = Host(workflow, opened, settings, sources)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await host.open()
        try:
            yield
        finally:
            await host.aclose()

    # A handler may answer with any ASGI application, though its type says otherwise.
    handlers: dict[Any, Any] = {HTTPException: partial(_routing_fault, host)}
    app = Starlette(
        routes=[
            *_routes(host, ""),
            *_routes(host, "/v1"),
            Route("/readiness", Endpoint(host, readiness), methods=["GET"]),
        ],
        lifespan=lifespan,
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    if settings.api_key is not None:
        app.add_middleware(ApiKey, key=settings.api_key, refusal=refusal(host, problems.wrong_api_key()))
    app.state.agent_host = host
    return app


def default_store(workflow: Workflow) -> str:
    """The file of a workflow that was given no store, below the working directory."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", workflow.name).strip("-.") or "workflow"
    return f"sqlite:///{Path('.agent_host') / name}.db"


def _routes(host: Host, prefix: str) -> list[BaseRoute]:
    return [
        Route(f"{prefix}/responses", Endpoint(host, create_response), methods=["POST"]),
        Route(f"{prefix}/responses/{{response_id}}", Endpoint(host, retrieve_response), methods=["GET"]),
    ]


async def _routing_fault(host: Host, request: Request, error: Exception) -> Endpoint:
    """404 and 405 of the router, in the shape and with the log line of every other error."""
    assert isinstance(error, HTTPException)
    path, method = request.url.path, request.method
    known: dict[int, Problem] = {
        404: problems.not_found(path),
        405: problems.method_not_allowed(method, path),
    }
    problem = known.get(error.status_code) or Problem(error.status_code, str(error.detail))
    problem.headers = {**(error.headers or {}), **problem.headers}
    return refusal(host, problem)
