"""The endpoints: read a request, have the turn taken or the record read, write the answer, log one line."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from agent_host.errors import StoreClosedError
from agent_host.foundry.identity import LOCAL_USER, identify
from agent_host.server.host import Host
from agent_host.server.stored import response_of
from agent_host.server.streams import Disconnect, JsonAnswer, StreamAnswer, send_json
from agent_host.server.turn import Answer
from agent_host.server.turns import take_turn
from agent_host.wire import problems
from agent_host.wire.problems import Problem, problem_body
from agent_host.wire.request import CreateRequest

log = logging.getLogger("agent_host")
access = logging.getLogger("agent_host.access")

RawHeaders = list[tuple[bytes, bytes]]


class Exchange:
    """One request and its answer: the ASGI channels, who asks, and what the log line will say."""

    def __init__(self, host: Host, scope: Scope, receive: Receive, send: Send) -> None:
        self.host = host
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.who = identify(self.headers, host.sources.new_request_id)
        self.headers["x-request-id"] = self.who.request_id
        self.own_headers: RawHeaders = [(b"x-request-id", self.who.request_id.encode())]
        self.status = 0
        self.about = ""

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def body(self) -> bytes:
        """The request's body, up to the host's limit."""
        limit = self.host.settings.max_body_bytes
        chunks: list[bytes] = []
        size = 0
        while True:
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

    async def refuse(self, problem: Problem) -> None:
        self.about = problem.code
        headers = [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
        await send_json(self.send, problem.status, problem_body(problem), [*self.own_headers, *headers])


Serve = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """An ASGI application around one of the functions below: opens the host, turns faults into answers, logs."""

    def __init__(self, host: Host, serve: Serve, *, opens: bool = True) -> None:
        self._host = host
        self._serve = serve
        self._opens = opens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        exchange = Exchange(self._host, scope, receive, send)
        try:
            if self._opens:
                await self._host.open()
            await self._serve(exchange)
        except Problem as problem:
            await exchange.refuse(problem)
        except StoreClosedError:
            await exchange.refuse(_going_down())
        except (ClientDisconnect, asyncio.CancelledError):
            await self._part(exchange)
        except Exception:  # the last boundary: a fault of the host is an answer and a traceback in the log
            log.exception("request %s failed", exchange.who.request_id)
            if not exchange.status:
                await exchange.refuse(problems.server_fault(exchange.who.request_id))
        finally:
            milliseconds = (time.perf_counter() - began) * 1000
            access.info(
                "%s %s %d %.1f ms %s", scope["method"], scope["path"], exchange.status, milliseconds, exchange.about
            )

    async def _part(self, exchange: Exchange) -> None:
        """End a request that was cut off outside of a turn: the host goes down, or the client has left."""
        if self._host.runs.draining and not exchange.status:
            await exchange.refuse(_going_down())
        elif not exchange.about:
            exchange.about = "the client has left"


def refusal(host: Host, problem: Problem) -> Endpoint:
    """An ASGI application that answers every request with one problem."""

    async def refuse(exchange: Exchange) -> None:
        raise problem

    return Endpoint(host, refuse, opens=False)


async def create_response(exchange: Exchange) -> None:
    """POST /responses: take one turn."""
    body = await exchange.body()
    opened: list[StreamAnswer] = []

    def open_answer(request: CreateRequest) -> Answer:
        if not request.stream:
            return JsonAnswer()
        settings = exchange.host.settings
        opened.append(StreamAnswer(exchange.send, exchange.own_headers, settings.keep_alive))
        return opened[0]

    try:
        with Disconnect(exchange.receive):
            turn = await take_turn(exchange.host, body, exchange.headers, open_answer)
            exchange.about = f"{turn.facts.id} {turn.transcript.status}"
    finally:
        for stream in opened:
            await stream.end()
    if not opened:
        await send_json(exchange.send, 200, turn.transcript.final_response(), exchange.own_headers)


async def retrieve_response(exchange: Exchange) -> None:
    """GET /responses/{id}: a stored response."""
    if QueryParams(exchange.scope["query_string"]).get("stream") == "true":
        raise problems.not_available("stream", "Replaying the events of a stored response")
    response_id = exchange.scope["path_params"]["response_id"]
    record = await exchange.host.store.read_response(LOCAL_USER, response_id)
    if record is None:
        raise problems.response_not_found(response_id)
    exchange.about = f"{record.id} {record.status}"
    await send_json(exchange.send, 200, response_of(record), exchange.own_headers)


async def readiness(exchange: Exchange) -> None:
    """GET /readiness: whether this process takes requests."""
    if exchange.host.runs.draining:
        raise _going_down()
    await send_json(exchange.send, 200, {"status": "ready"}, exchange.own_headers)


def _going_down() -> Problem:
    return Problem(
        503, "The host is shutting down; send the request again.", type="server_error", code="shutting_down",
        headers={"Retry-After": "1"},
    )  # fmt: skip
