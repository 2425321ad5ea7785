"""Answers: one JSON body, or a stream of server-sent events.

A turn runs in the task of its request. A stream has a second task that writes: it sends what was told, a comment when
nothing was told for a while, and the end. A client that leaves cancels the turn, in both forms.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
from starlette.types import Message, Receive, Send

from agent_host.engine.events import WorkflowEvent
from agent_host.server.bridge import workflow_event
from agent_host.wire import sse
from agent_host.wire.events import Event

WATCH_AFTER = 0.05  # seconds; most turns are over before a watcher would pay
_json = msgspec.json.Encoder().encode


async def send_json(send: Send, status: int, content: Any, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """A complete JSON answer."""
    body = _json(content)
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers,
        ],
    }  # fmt: skip
    await send(start)
    await send({"type": "http.response.body", "body": body})


async def send_frames(send: Send, headers: Sequence[tuple[bytes, bytes]], frames: AsyncIterator[bytes]) -> None:
    """A stream of frames that are made elsewhere; the next is asked for when the client has taken the last."""
    await send(_stream_start(headers))
    async for frame in frames:
        await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _stream_start(own_headers: Sequence[tuple[bytes, bytes]]) -> Message:
    headers = [
        (b"content-type", sse.CONTENT_TYPE.encode()),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
        *own_headers,
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}


class Disconnect:
    """Cancels the current task when the client leaves. Watching begins a moment later: most turns are short."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> "Disconnect":
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()

        def begin() -> None:
            self._watcher = loop.create_task(self._watch(task))

        self._timer = loop.call_later(WATCH_AFTER, begin)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _watch(self, task: "asyncio.Task[Any]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        task.cancel()


class JsonAnswer:
    """Keeps quiet until the turn has ended."""

    is_stream = False

    def tell(self, events: Sequence[Event]) -> None:
        """Nothing is sent before the end."""

    def show(self, event: WorkflowEvent) -> None:
        """Nothing: only a stream has room for it."""


class StreamAnswer:
    """Sends events as they are told. The first one opens the HTTP answer."""

    is_stream = True

    def __init__(self, send: Send, headers: Sequence[tuple[bytes, bytes]], keep_alive: float) -> None:
        self._send = send
        self._headers = headers
        self._keep_alive = keep_alive
        self._frames: list[bytes] = []
        self._told = asyncio.Event()
        self._ended = False
        self._writer: asyncio.Task[None] | None = None

    def tell(self, events: Sequence[Event]) -> None:
        if not events:
            return
        self._frames.extend(map(sse.encode, events))
        self._told.set()
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def show(self, event: WorkflowEvent) -> None:
        """Workflow events go between those of the response, once that has begun."""
        if self._writer is not None:
            self.tell([workflow_event(event)])

    async def end(self) -> None:
        """Wait until everything told has been sent."""
        self._ended = True
        self._told.set()
        if self._writer is not None:
            with contextlib.suppress(OSError):  # the client has left
                await self._writer

    async def _write(self) -> None:
        await self._send(_stream_start(self._headers))
        while True:
            try:
                async with asyncio.timeout(self._keep_alive or None):
                    await self._told.wait()
            except TimeoutError:
                await self._send({"type": "http.response.body", "body": sse.KEEP_ALIVE, "more_body": True})
                continue
            self._told.clear()
            frames, self._frames = self._frames, []
            ended = self._ended
            await self._send({"type": "http.response.body", "body": b"".join(frames), "more_body": not ended})
            if ended:
                return
