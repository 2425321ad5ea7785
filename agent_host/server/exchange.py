"""One request and its answer, and the frame around every endpoint: open the host, turn faults into answers, log."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from agent_host import __version__
from agent_host.errors import StoreClosedError, StoreError
from agent_host.foundry.answers import RawHeaders, answer_headers, fault_headers, server_name
from agent_host.foundry.calls import on_behalf_of
from agent_host.foundry.identity import identify
from agent_host.server.host import Host
from agent_host.server.streams import send_json
from agent_host.telemetry import called_by
from agent_host.wire import problems
from agent_host.wire.problems import Problem, problem_body

log = logging.getLogger("agent_host")
access = logging.getLogger("agent_host.access")

_SERVER = server_name(__version__)


class Exchange:
    """One request and its answer: the ASGI channels, who asks, and what the log line will say.

    `session_id` is the platform's session that the answer belongs to, "" if there is none.
    """

    def __init__(self, host: Host, scope: Scope, receive: Receive, send: Send, *, session_id: str = "") -> None:
        self.host = host
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.who = identify(self.headers, host.sources.new_request_id)
        self.session_id = session_id
        self.status = 0
        self.about = ""

    @property
    def own_headers(self) -> RawHeaders:
        """What every answer to this request carries."""
        platform = answer_headers(_SERVER, self.session_id) if self.host.hosting.tells_platform else []
        return [(b"x-request-id", self.who.request_id.encode()), *platform]

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def body(self) -> bytes:
        """The request's body, up to the host's limit. The host that goes down does not wait for the rest of it."""
        limit = self.host.settings.max_body_bytes
        chunks: list[bytes] = []
        size = 0
        while True:
            with self.host.runs.interruptible():
                message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise problems.body_too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)

    @property
    def query(self) -> QueryParams:
        """The parameters behind the path."""
        return QueryParams(self.scope["query_string"])

    def path(self, name: str) -> str:
        """A part of the path, such as the id of a response."""
        part: str = self.scope["path_params"][name]
        return part

    async def answer(self, content: Any) -> None:
        """A complete JSON answer."""
        await send_json(self.send, 200, content, self.own_headers)

    async def refuse(self, problem: Problem, cause: BaseException | None = None) -> None:
        """Answer with a problem; the platform is told the `cause` of one that is the host's own."""
        self.about = problem.code
        headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        if self.host.hosting.tells_platform:
            headers += fault_headers(problem.status, cause or problem.__cause__)
        await send_json(self.send, problem.status, problem_body(problem), [*self.own_headers, *headers])


Serve = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """An ASGI application around a function that serves exchanges: opens the host, turns faults into answers, logs.

    Where it `serves_users`, and the host is hosted, requests come through the platform and belong to a session.
    """

    def __init__(self, host: Host, serve: Serve, *, opens: bool = True, serves_users: bool = True) -> None:
        self._host = host
        self._serve = serve
        self._opens = opens
        self._serves_users = serves_users

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        host, platform = self._host, self._host.settings.platform
        session_id = platform.session_id if platform is not None and self._serves_users else ""
        exchange = Exchange(host, scope, receive, send, session_id=session_id)
        try:
            if self._opens:
                await host.open()
            if self._serves_users and host.hosting.needs_call_id and not exchange.who.call_id:
                raise problems.no_call_id()
            with on_behalf_of(exchange.who.call_id), called_by(exchange.headers):
                await self._serve(exchange)
        except Problem as problem:
            await exchange.refuse(problem)
        except StoreClosedError:
            if not exchange.status:
                await exchange.refuse(going_down())
        except (ClientDisconnect, asyncio.CancelledError):
            await self._part(exchange)
        except Exception as error:  # the last boundary: a fault of the host is an answer and a traceback in the log
            trace = None if isinstance(error, StoreError) else error  # a store's own errors say all there is to say
            log.error("request %s failed: %s", exchange.who.request_id, error, exc_info=trace)
            if not exchange.status:
                await exchange.refuse(problems.server_fault(exchange.who.request_id), error)
        finally:
            milliseconds = (time.perf_counter() - began) * 1000
            path = logged_path(scope)
            # A platform asks all the time whether the host is ready; that it is not is news.
            level = logging.DEBUG if platform and path == "/readiness" and exchange.status == 200 else logging.INFO
            about = (scope["method"], path, exchange.status, milliseconds, exchange.about)
            access.log(level, "%s %s %d %.1f ms %s", *about)

    async def _part(self, exchange: Exchange) -> None:
        """End a request that was cut off outside of a turn: the host goes down, or the client has left."""
        if self._host.runs.draining and not exchange.status:
            await exchange.refuse(going_down())
        elif not exchange.about:
            exchange.about = "the client has left"


def logged_path(scope: Scope) -> str:
    """The path as the log shows it: encoded, so that no client can end the line or its field and write another."""
    return quote(scope["path"], safe="/:@!$&'()*+,;=~", errors="replace")


def refusal(host: Host, problem: Problem) -> Endpoint:
    """An ASGI application that answers every request with one problem."""

    async def refuse(exchange: Exchange) -> None:
        raise problem

    return Endpoint(host, refuse, opens=False, serves_users=False)


def going_down() -> Problem:
    """The answer to whatever comes while the host goes down."""
    return Problem(
        503, "The host is shutting down; send the request again.", type="server_error", code="shutting_down",
        headers={"Retry-After": "1"},
    )  # fmt: skip
