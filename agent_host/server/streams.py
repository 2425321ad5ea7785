"""Answers: one JSON body, or a stream of server-sent events.

A turn runs in the task of its request. A stream has a second task that writes: it sends what was told, a comment when
nothing was told for a while, and the end. A client that leaves cancels the turn, in both forms; one that has stopped
to read has left.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from starlette.types import Message, Receive, Send

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.events import WorkflowEvent
from agent_host.server.bridge import workflow_event
from agent_host.wire import sse
from agent_host.wire.events import Event

log = logging.getLogger("agent_host")

PIECE = 256 * 1024
"""Bytes given to the connection at once, so that it is seen whether the client takes anything."""
STALLED_AFTER = 60.0
"""Seconds after which a client that has taken nothing, though something waits for it, counts as gone."""
MOST_UNSENT = 64 * 1024 * 1024
SLOW_AFTER = 2.0
"""Bytes that may wait for a client that has taken nothing for so many seconds; with more it counts as gone."""

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
    """A stream of frames that are made elsewhere; the next is asked for when the client has taken the last.

    The stream of a client that takes nothing for `STALLED_AFTER` seconds stays without an end.
    """
    pieces = _Pieces(send)
    try:
        await send(_stream_start(headers))
        async for frame in frames:
            await pieces.give([frame], more=True)
        await pieces.give([], more=False)
    except TimeoutError:
        log.warning("a client takes nothing; its stream is cut off")


class _Pieces:
    """Gives a body to the connection in pieces; `TimeoutError` when the client takes none for `STALLED_AFTER` seconds.

    `asked_at` is when the piece that the client has not yet taken was offered, None if there is none.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.asked_at: float | None = None

    async def give(self, frames: Iterable[bytes], *, more: bool) -> None:
        """Returns when all has been taken; without `more` the body is complete."""
        last = b""
        for piece in _cut(frames):
            if last:
                await self._offer(last, more=True)
            last = piece
        if last or not more:
            await self._offer(last, more=more)

    async def _offer(self, piece: bytes, *, more: bool) -> None:
        self.asked_at = asyncio.get_running_loop().time()
        async with asyncio.timeout(STALLED_AFTER):
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        self.asked_at = None


def _cut(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Small frames together and large ones apart, in pieces of about `PIECE` bytes."""
    gathered: list[bytes] = []
    size = 0
    for frame in frames:
        for start in range(0, len(frame), PIECE):
            gathered.append(frame[start : start + PIECE])
            size += len(gathered[-1])
            if size >= PIECE:
                yield b"".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield b"".join(gathered)


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
    """Sends events as they are told. The first one opens the HTTP answer.

    A client that has stopped to read is treated as one that has left: what waits for it is dropped, and the task that
    has made the answer, which is that of the turn, is cancelled.
    """

    is_stream = True

    def __init__(self, send: Send, headers: Sequence[tuple[bytes, bytes]], keep_alive: float) -> None:
        self._send = send
        self._headers = headers
        self._keep_alive = keep_alive
        self._pieces = _Pieces(send)
        self._frames: list[bytes] = []
        self._unsent = 0
        self._is_lost = False
        self._turn = asyncio.current_task()
        self._told = asyncio.Event()
        self._ended = False
        self._writer: asyncio.Task[None] | None = None

    def tell(self, events: Sequence[Event]) -> None:
        if not events or self._is_lost:
            return
        for event in events:
            self._frames.append(sse.encode(event))
            self._unsent += len(self._frames[-1])
        if self._unsent > MOST_UNSENT and self._is_slow():
            self._lose()
            return
        self._told.set()
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def show(self, event: WorkflowEvent) -> None:
        """Workflow events go between those of the response, once that has begun."""
        if self._writer is not None:
            self.tell([workflow_event(event)])

    def _is_slow(self) -> bool:
        asked_at = self._pieces.asked_at
        return asked_at is not None and asyncio.get_running_loop().time() - asked_at > SLOW_AFTER

    def _lose(self) -> None:
        log.warning("a client takes nothing; its stream is cut off with %d bytes unsent", self._unsent)
        self._is_lost = True
        self._frames.clear()
        assert self._writer is not None
        assert self._turn is not None
        self._writer.cancel()
        if not self._ended:
            self._turn.cancel()

    async def end(self) -> None:
        """Wait until everything told has been sent, or the client is lost."""
        self._ended = True
        self._told.set()
        if self._writer is not None:
            with contextlib.suppress(OSError):  # the client has left
                await asyncio.wait([self._writer])
                if not self._writer.cancelled():
                    self._writer.result()

    async def _write(self) -> None:
        try:
            await self._send_all()
        except TimeoutError:
            self._lose()

    async def _send_all(self) -> None:
        await self._send(_stream_start(self._headers))
        while True:
            try:
                async with asyncio.timeout(self._keep_alive or None):
                    await self._told.wait()
            except TimeoutError:
                await self._pieces.give([sse.KEEP_ALIVE], more=True)
                continue
            self._told.clear()
            frames, self._frames = self._frames, []
            ended = self._ended
            await self._pieces.give(frames, more=not ended)
            self._unsent -= sum(map(len, frames))
            reached(CrashPoint.SENT)
            if ended:
                return
