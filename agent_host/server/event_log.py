"""The event log of background turns: what a turn tells is stored before anybody sees it.

The events of all running background turns are written together, a few times in each tenth of a second; a superstep and
the end of a turn take those of their own turn along. So a client's place in a stream holds on every process and after
a crash, and the number of transactions does not grow with the number of events.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

import msgspec

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.checkpoint import Commit
from agent_host.errors import (
    GuardLostError,
    StoreClosedError,
    StoreError,
    StoreFormatError,
    StoreLimitError,
    TurnConflictError,
)
from agent_host.server.cancellation import to_its_end_first
from agent_host.stores.base import Store
from agent_host.stores.records import Append, ConversationMove, Guard, IdempotencyKey, ResponseRecord
from agent_host.wire.events import Event

log = logging.getLogger("agent_host")

AGAIN_AFTER = 1.0
MOST_TRIES = 60
"""Seconds between the tries to write a superstep while the disk is at fault, and how many there are."""
FLUSH_SIZE = 64 * 1024
"""Bytes of one turn's events that are not kept waiting."""

LASTING = (GuardLostError, StoreClosedError, StoreFormatError, StoreLimitError, TurnConflictError)
"""Errors of the store that are not over in a while."""

_json = msgspec.json.Encoder().encode

Key = tuple[str, str]
"""A user and the id of a response."""


class Bells:
    """Wakes those who wait for more of a response in this process."""

    def __init__(self) -> None:
        self._waiting: dict[Key, set[asyncio.Future[None]]] = {}

    def __repr__(self) -> str:
        return f"<Bells for {sum(map(len, self._waiting.values()))} listeners>"

    def ring(self, key: Key) -> None:
        """Wake everybody who listens to this response."""
        for waiter in self._waiting.pop(key, ()):
            if not waiter.done():
                waiter.set_result(None)

    @contextmanager
    def listening(self, key: Key) -> Iterator["asyncio.Future[None]"]:
        """A future that the next ring completes. To miss none, listen before you look."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(waiter)
        try:
            yield waiter
        finally:
            waiting = self._waiting.get(key, set())
            waiting.discard(waiter)
            if not waiting:
                self._waiting.pop(key, None)


class TurnLog:
    """One background turn's side of the log, and its guard. Its writes come one after the other."""

    def __init__(self, log: "EventLog", user: str, guard: Guard) -> None:
        self._log = log
        self.user = user
        self.guard = guard
        self.has_begun = False
        self.is_lost = False
        self._told: list[bytes] = []
        self._size = 0
        self._held_back: int | None = None
        self._lock = asyncio.Lock()

    @property
    def key(self) -> Key:
        return self.user, self.guard.response_id

    def tell(self, events: Sequence[Event]) -> None:
        """Take events in; they are written soon."""
        for event in events:
            encoded = _json(event)
            self._told.append(encoded)
            self._size += len(encoded)
        self._log.wants_flush(self, at_once=self._size >= FLUSH_SIZE)

    def hold_back(self) -> None:
        """Write what is told from now on together with the next superstep or the end, and not before.

        It tells what a superstep has settled: if that is not stored, another attempt settles it again.
        """
        if self._held_back is None:
            self._held_back = len(self._told)

    @asynccontextmanager
    async def writing(self, *, is_settled: bool) -> AsyncIterator[Append]:
        """Be the turn's only writer: the guard of the next write, and what was told until now.

        What was held back is left out unless what it tells is settled by this write.
        """
        async with self._lock:
            told = self._told if is_settled else self._told[: self._held_back]
            yield Append(self.user, self.guard, tuple(told))

    def written(self, events: int, *, is_settled: bool) -> None:
        """Know that so many more of the told events are stored. For the turn's writer."""
        self.guard = self.guard.after(events)
        del self._told[:events]
        if self._held_back is not None:
            self._held_back = None if is_settled else self._held_back - events
        self._size = sum(map(len, self._told))
        self._log.bells.ring(self.key)
        if self._told:
            self._log.wants_flush(self, at_once=False)

    async def begin(self) -> None:
        """Count an attempt at the turn, with what was told until now. Nothing of the workflow may run before."""

        async def begin() -> None:
            async with self.writing(is_settled=True) as told:
                await self._log.store.begin(self.user, told.guard, told.events)
                self.has_begun = True
                self.written(len(told.events), is_settled=True)

        await self._insist(lambda: to_its_end_first(begin()))

    async def step(self, commits: Sequence[Commit]) -> None:
        """Store a superstep's commits with what was told until now."""

        async def step() -> None:
            async with self.writing(is_settled=True) as told:
                await self._log.store.step(self.user, told.guard, commits, told.events)
                self.written(len(told.events), is_settled=True)

        # Whether it was stored must be known also if the turn is cancelled meanwhile.
        await self._insist(lambda: to_its_end_first(step()))

    async def record(self, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that runs."""

        async def record() -> None:
            async with self.writing(is_settled=False) as told:
                await self._log.store.record(self.user, told.guard, entries)

        await self._insist(record)
        reached(CrashPoint.NOTED)

    async def _insist(self, write: Callable[[], Awaitable[None]]) -> None:
        """Write; while the disk is full or fails try again, so that the turn goes on when that is over."""
        tries = 1
        while True:
            try:
                await write()
                return
            except StoreError as error:
                if tries == MOST_TRIES or isinstance(error, LASTING):
                    raise
                log.warning("%s waits for the store: %s", self.guard.response_id, error)
            tries += 1
            await asyncio.sleep(AGAIN_AFTER)

    async def finish(
        self,
        record: ResponseRecord,
        commits: Sequence[Commit],
        last: Sequence[Event],
        *,
        move: ConversationMove | None,
        key: IdempotencyKey | None,
    ) -> None:
        """Store the end of the turn with everything that was told, and `last` behind it. Must not be cancelled."""
        async with self.writing(is_settled=True) as told:
            events = (*told.events, *map(_json, last))
            await self._log.store.finish(
                self.user, record, commits, guard=told.guard, events=events, move=move, key=key
            )
            self.written(len(told.events), is_settled=True)
        self._log.forget(self)

    async def close(self) -> None:
        """Write what was told until now, unless the turn has another owner, and then nothing more."""
        async with self.writing(is_settled=False) as last:
            if last.events:
                with contextlib.suppress(StoreError):  # whoever goes on with the turn tells it again
                    await self._log.store.append([last])
            self._told.clear()
        self._log.forget(self)


class EventLog:
    """Writes what background turns tell: one transaction for all of them at a time.

    `lose` hears of a turn that has another owner now, or none: this process's work on it is in vain.
    """

    def __init__(self, store: Store, lose: Callable[[Key], None] = lambda _: None) -> None:
        self.store = store
        self._lose = lose
        self.bells = Bells()
        self._waiting: dict[Key, TurnLog] = {}
        self._wake = asyncio.Event()
        self._at_once = False
        self._writer: asyncio.Task[None] | None = None

    def open_turn(self, user: str, guard: Guard) -> TurnLog:
        """The log of a turn that this process has taken."""
        return TurnLog(self, user, guard)

    def wants_flush(self, turn: TurnLog, *, at_once: bool) -> None:
        self._waiting[turn.key] = turn
        self._at_once = self._at_once or at_once
        self._wake.set()
        if self._writer is None:
            self._writer = asyncio.get_running_loop().create_task(self._write())

    def forget(self, turn: TurnLog) -> None:
        self._waiting.pop(turn.key, None)

    async def aclose(self) -> None:
        """Write what is left, then stop."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
        await self._flush()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            if not self._at_once:
                await asyncio.sleep(self.store.event_pause)
            self._wake.clear()
            self._at_once = False
            if not await self._flush():
                await asyncio.sleep(AGAIN_AFTER)

    async def _flush(self) -> bool:
        """Write what is waiting; False if some of it waits on."""
        turns, self._waiting = self._waiting, {}
        batches = [turns] if self.store.appends_together else [{key: turn} for key, turn in turns.items()]
        return all(await asyncio.gather(*map(self._flush_batch, batches)))

    async def _flush_batch(self, turns: dict[Key, TurnLog]) -> bool:
        is_written = False
        try:
            await self._append(turns.values())
            is_written = True
        except StoreError as error:
            log.error("events of %d background turns could not be written yet: %s", len(turns), error)
        except Exception:  # the turn's own write says so to its client; the events are tried again
            log.exception("events of %d background turns could not be written yet", len(turns))
        finally:
            if not is_written:
                self._waiting = turns | self._waiting
                self._wake.set()
        return is_written

    async def _append(self, turns: Iterable[TurnLog]) -> None:
        async with contextlib.AsyncExitStack() as writers:
            held = [(turn, await writers.enter_async_context(turn.writing(is_settled=False))) for turn in turns]
            batch = [(turn, append) for turn, append in held if append.events and not turn.is_lost]
            lost = await self.store.append([append for _, append in batch]) if batch else set()
            reached(CrashPoint.APPENDED)
            for turn, append in batch:
                if turn.guard.response_id in lost:
                    turn.is_lost = True
                    self._lose(turn.key)
                else:
                    turn.written(len(append.events), is_settled=False)
