"""What the tests of the WebSocket mode share: a workflow, a served site, and connections whose events are checked."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest
from websockets.asyncio.client import ClientConnection, connect

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, config, handler, response_handler
from tests.published import strict_event

__all__ = ["Client", "Dial", "Memo", "dial", "memo", "output", "said", "site", "strict_event", "ws"]

TERMINAL = {"response.completed", "response.failed", "error"}


class Memo(Executor):
    """Remembers what it was told. It can also ask, fail, and wait until the test lets it go on."""

    begun: list[str] = config()
    may_end: asyncio.Event = config()

    def __init__(self) -> None:
        super().__init__("memo")
        self.told: list[str] = []
        self.begun = []
        self.may_end = asyncio.Event()

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.begun.append(text)
        self.told.append(text)
        if text.startswith("wait"):
            await ctx.yield_output(TextDelta(text))
            await self.may_end.wait()
        elif text == "fail":
            raise ValueError("told to fail")
        elif text == "ask":
            await ctx.request_info("How many?", int)
        else:
            await ctx.yield_output("|".join(self.told))

    @response_handler
    async def answered(self, question: str, number: int, ctx: WorkflowContext[Never, str]) -> None:
        if number == 13:
            raise ValueError("an unlucky number")
        self.told.append(str(number))
        await ctx.yield_output("|".join(self.told))


class Client:
    """One connection. `turn` sends a request and reads to its end; other lanes' events are kept for `heard`."""

    def __init__(self, socket: ClientConnection, check: Callable[[dict[str, Any]], None]) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self._check = check

    async def send(self, *frames: Any) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def create(self, text: Any, **more: Any) -> None:
        await self.send({"type": "response.create", "input": text, **more})

    async def next(self) -> dict[str, Any]:
        """The next frame, which is an event as in a stream, or an error with what errors have."""
        frame = await asyncio.wait_for(self.socket.recv(), 20)
        assert isinstance(frame, str)
        event: dict[str, Any] = json.loads(frame)
        if event["type"] == "error":
            assert {"type", "code", "message", "param"} == set(event["error"])
            assert event["status"] >= 400
        else:
            self._check({name: value for name, value in event.items() if name != "stream_id"})
        self.heard.append(event)
        return event

    async def until(self, *types: str, lane: str | None = None) -> dict[str, Any]:
        while True:
            event = await self.next()
            if event["type"] in types and event.get("stream_id") == lane:
                return event

    async def end(self, lane: str | None = None) -> Any:
        """The response of a lane's turn, or the error that it got instead."""
        last = await self.until(*TERMINAL, lane=lane)
        return last["error"] if last["type"] == "error" else last["response"]

    async def turn(self, text: Any, **more: Any) -> Any:
        await self.create(text, **more)
        return await self.end(more.get("stream_id"))


def said(response: Any) -> str:
    return "".join(item["content"][0]["text"] for item in response["output"])


def output(call: Any, number: int) -> list[dict[str, Any]]:
    return [{"type": "function_call_output", "call_id": call["call_id"], "output": str(number)}]


def ws(site: Any) -> str:
    return str(site.url).replace("http://", "ws://")


@pytest.fixture
def memo() -> Memo:
    return Memo()


@pytest.fixture
async def site(serve_app: Any, memo: Memo) -> Any:
    return await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build(), shutdown_grace=0.2)


Dial = Callable[..., Any]


@pytest.fixture
def dial(site: Any, strict_event: Callable[[dict[str, Any]], None]) -> Dial:
    """Opens connections to the site; everything that comes over them is checked against the published types."""

    @asynccontextmanager
    async def open_one(path: str = "/v1/responses", **more: Any) -> AsyncIterator[Client]:
        async with connect(ws(site) + path, proxy=None, **more) as socket:
            yield Client(socket, strict_event)

    return open_one
