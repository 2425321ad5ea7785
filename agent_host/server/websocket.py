"""The WebSocket mode of `/responses`: turns over one connection, in lanes.

- A lane takes its turns one after the other, in the order of their frames; lanes run side by side. A lane begins its
  next turn when all of the last one has been sent, so a client that does not read is not worked for.
- What is wrong with a frame is said in a frame; the connection and what it remembers stay.
- A client that leaves cancels its turns. When the host goes down, and when the connection is too old, what runs may
  end, what waits is refused, and then the connection is closed.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from starlette.types import Receive, Scope, Send

from agent_host.engine.events import WorkflowEvent
from agent_host.errors import StoreClosedError
from agent_host.foundry.calls import on_behalf_of
from agent_host.foundry.identity import Identity, identify
from agent_host.server import streams
from agent_host.server.bridge import workflow_event
from agent_host.server.connection_memory import ConnectionMemory, LaneMemory
from agent_host.server.exchange import access, going_down, logged_path, refusal
from agent_host.server.host import Host
from agent_host.server.runs import RETRY_AFTER
from agent_host.server.turn import Ended
from agent_host.server.turns import take_turn
from agent_host.server.upgrade import refuse_upgrade
from agent_host.server.warm_up import warm_up
from agent_host.wire import frames, problems
from agent_host.wire.body import decoded
from agent_host.wire.events import Event
from agent_host.wire.frames import CreateFrame
from agent_host.wire.problems import Problem

log = logging.getLogger("agent_host")

LIFETIME = 3600.0
"""Seconds for which a connection takes turns."""
MOST_ACTIVE = 16
"""Turns of one connection that run at once."""
MOST_NAMED_LANES = 32
MOST_WAITING = 64
"""Frames of one connection whose turns have not begun. Together they have no more bytes than one request may have."""

NORMAL_CLOSURE = 1000
SERVICE_RESTART = 1012


class WebSocketEndpoint:
    """An ASGI application around the connections of one host. `lifetime` is in seconds."""

    def __init__(self, host: Host, *, lifetime: float = LIFETIME) -> None:
        self._host = host
        self._lifetime = lifetime

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = self._host
        client = _client(scope, host.sources.new_request_id)
        if host.runs.draining:
            await refuse_upgrade(refusal(host, going_down()), scope, receive, send)
        elif host.hosting.needs_call_id and not client.call_id:
            await refuse_upgrade(refusal(host, problems.no_call_id()), scope, receive, send)
        else:
            with on_behalf_of(client.call_id):
                await host.open()
                await send({"type": "websocket.accept"})
                await Connection(host, client, scope, receive, send).serve(self._lifetime)


class _Outbox:
    """Frames on their way to the client, in the order in which they were told.

    `writer` ends when the client has left, or takes nothing any more: that is for `STALLED_AFTER` seconds, or for
    `SLOW_AFTER` while more than `MOST_UNSENT` characters wait for it. From then on frames are dropped.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: asyncio.Queue[str | asyncio.Future[None]] = asyncio.Queue()
        self._unsent = 0
        self._asked_at: float | None = None
        self.writer = asyncio.get_running_loop().create_task(self._write())

    def put(self, frame: str) -> None:
        if self.writer.done():
            return
        self._frames.put_nowait(frame)
        self._unsent += len(frame)
        asked_at, now = self._asked_at, asyncio.get_running_loop().time()
        if self._unsent > streams.MOST_UNSENT and asked_at is not None and now - asked_at > streams.SLOW_AFTER:
            self._lose()

    async def flush(self) -> None:
        """Wait until everything put so far has been sent, or can no more be."""
        sent = asyncio.get_running_loop().create_future()
        self._frames.put_nowait(sent)
        await asyncio.wait({sent, self.writer}, return_when=asyncio.FIRST_COMPLETED)

    def close(self) -> None:
        self.writer.cancel()

    def _lose(self) -> None:
        log.warning("a client takes nothing; its connection is cut off with %d characters unsent", self._unsent)
        self.writer.cancel()

    async def _write(self) -> None:
        while True:
            frame = await self._frames.get()
            if isinstance(frame, asyncio.Future):
                frame.set_result(None)
                continue
            self._asked_at = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(streams.STALLED_AFTER):
                    await self._send({"type": "websocket.send", "text": frame})
            except OSError as error:  # the client has left; the reader is told so too
                if isinstance(error, TimeoutError):
                    self._lose()
                return
            self._asked_at = None
            self._unsent -= len(frame)


@dataclass(frozen=True, slots=True)
class _LaneAnswer:
    """Sends the events of one turn as frames of its lane."""

    outbox: _Outbox
    stream_id: str | None

    @property
    def is_stream(self) -> bool:
        return True

    def tell(self, events: Sequence[Event]) -> None:
        for event in events:
            self.outbox.put(frames.event_frame(event, self.stream_id))

    def show(self, event: WorkflowEvent) -> None:
        """Workflow events go between those of the response: nothing runs before that has begun."""
        self.tell([workflow_event(event)])


@dataclass(slots=True)
class _Lane:
    """One line of turns: the frames that wait, and the turn that runs."""

    stream_id: str | None
    memory: LaneMemory
    waiting: deque[CreateFrame] = field(default_factory=deque)
    turn: "asyncio.Task[None] | None" = None


class Connection:
    """One WebSocket of a client: its lanes, and what it remembers."""

    def __init__(self, host: Host, client: Identity, scope: Scope, receive: Receive, send: Send) -> None:
        self._host = host
        self._path = logged_path(scope)
        self._client = client
        self._receive = receive
        self._send = send
        self._outbox = _Outbox(send)
        self._memory = ConnectionMemory()
        self._lanes: dict[str | None, _Lane] = {}
        self._places = asyncio.Semaphore(MOST_ACTIVE)
        self._refusal: Callable[[], Problem] | None = None
        self._has_left = False

    def __repr__(self) -> str:
        return f"<Connection with {len(self._lanes)} lanes, {len(self._turns)} turns, {self._memory!r}>"

    async def serve(self, lifetime: float) -> None:
        """Take turns until the client leaves, the host goes down, or `lifetime` seconds are over."""
        loop = asyncio.get_running_loop()
        reading, writer = loop.create_task(self._read()), self._outbox.writer
        going = loop.create_task(self._host.runs.going_down())
        try:
            done, _ = await asyncio.wait(
                {reading, writer, going}, timeout=lifetime, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                self._refusal = lambda: problems.connection_too_old(lifetime / 60)
                self._outbox.put(frames.error_frame(self._refusal(), None))
            elif going in done:
                self._refusal = going_down
            while self._turns and not (reading.done() or writer.done()):
                await asyncio.wait({*self._turns, reading, writer}, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
            elif not writer.done():
                await self._close(SERVICE_RESTART if self._host.runs.draining else NORMAL_CLOSURE)
        finally:
            self._has_left = True
            reading.cancel()
            going.cancel()
            await self._cancel_turns()
            self._outbox.close()

    async def _close(self, code: int) -> None:
        reason = self._refusal().message if self._refusal is not None else ""
        await self._outbox.flush()
        self._outbox.close()
        with contextlib.suppress(OSError):  # the client may be faster
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    # --- Frames ---

    async def _read(self) -> None:
        """Take frames until the client leaves."""
        while (message := await self._receive())["type"] != "websocket.disconnect":
            if message["type"] == "websocket.receive":
                self._take_frame(message.get("text"))

    def _take_frame(self, text: str | None) -> None:
        """Put the turn that a frame asks for behind those of its lane, or say what is wrong with the frame."""
        stream_id = None
        try:
            frame = decoded(self._checked(text))
            stream_id = frames.stream_id_of(frame)
            lane = self._lane(stream_id)
            create = frames.create_frame(frame)
            self._refuse_if_full(create)
        except Problem as problem:
            self._outbox.put(frames.error_frame(problem, stream_id))
            access.info("WS %s %d %s", self._path, problem.status, problem.code)
            return
        lane.waiting.append(create)
        self._begin_next(lane)

    def _checked(self, text: str | None) -> bytes:
        if text is None:
            raise problems.not_a_text_frame()
        if self._refusal is not None:
            raise self._refusal()
        body = text.encode()
        if len(body) > self._host.settings.max_body_bytes:
            raise problems.body_too_large(self._host.settings.max_body_bytes)
        return body

    def _lane(self, stream_id: str | None) -> _Lane:
        lane = self._lanes.get(stream_id)
        if lane is None:
            if stream_id is not None and len(self._lanes.keys() - {None}) >= MOST_NAMED_LANES:
                raise problems.too_many_streams(MOST_NAMED_LANES)
            lane = self._lanes[stream_id] = _Lane(stream_id, LaneMemory(self._memory, stream_id))
        return lane

    def _refuse_if_full(self, create: CreateFrame) -> None:
        waiting = [each for lane in self._lanes.values() for each in lane.waiting]
        size = sum(len(each.body) for each in waiting)
        if waiting and (len(waiting) >= MOST_WAITING or size + len(create.body) > self._host.settings.max_body_bytes):
            raise problems.too_busy(RETRY_AFTER)

    # --- Turns ---

    @property
    def _turns(self) -> "set[asyncio.Task[None]]":
        return {lane.turn for lane in self._lanes.values() if lane.turn is not None}

    def _begin_next(self, lane: _Lane) -> None:
        if lane.turn is None and lane.waiting and not self._has_left:
            lane.turn = asyncio.get_running_loop().create_task(self._turn(lane, lane.waiting.popleft()))
            lane.turn.add_done_callback(lambda _: self._go_on(lane))

    def _go_on(self, lane: _Lane) -> None:
        lane.turn = None
        self._begin_next(lane)

    async def _turn(self, lane: _Lane, frame: CreateFrame) -> None:
        """Take one turn of a lane, and log it; when it is over, all of it has been sent."""
        async with self._places:
            began = time.perf_counter()
            status, about = 200, "the client has left"
            try:
                about = (await self._take(lane, frame)).about
            except Problem as problem:
                status, about = problem.status, problem.code
                self._outbox.put(frames.error_frame(problem, lane.stream_id))
                if frame.continues is not None and "Retry-After" not in problem.headers:
                    lane.memory.evict(frame.continues)
            finally:
                access.info("WS %s %d %.1f ms %s", self._path, status, (time.perf_counter() - began) * 1000, about)
            await self._outbox.flush()

    async def _take(self, lane: _Lane, frame: CreateFrame) -> Ended:
        """Take one turn. Raises the `Problem` of one that cannot be taken."""
        request_id = self._host.sources.new_request_id()
        who = replace(self._client, request_id=request_id)
        answer = _LaneAnswer(self._outbox, lane.stream_id)
        if self._refusal is not None:
            raise self._refusal()
        try:
            if not frame.generates:
                return await warm_up(self._host, frame.body, who, answer, lane.memory)
            return await take_turn(self._host, frame.body, who, lambda *_: answer, memory=lane.memory)
        except StoreClosedError:
            raise going_down() from None
        except asyncio.CancelledError:
            if self._has_left or not self._host.runs.draining:
                raise
            raise going_down() from None  # it was cut off before it had begun
        except Problem:
            raise
        except Exception:  # the last boundary, as for requests: a fault of the host is told and logged
            log.exception("request %s failed", request_id)
            raise problems.server_fault(request_id) from None

    async def _cancel_turns(self) -> None:
        """End what still runs: each turn stores how it ended."""
        turns = self._turns
        for turn in turns:
            turn.cancel()
        if turns:
            await asyncio.wait(turns)


def _client(scope: Scope, new_request_id: Callable[[], str]) -> Identity:
    """What the client says of itself for all turns; each has ids of its own, and no idempotency key."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    return replace(identify(headers, new_request_id), response_id="")
