"""One family of records: a copy in memory, the head on the platform that decides, and what goes between them.

Rule 1: writing the head decides. What a function would change is published with it, or not at all.
Rule 2: whose head was overtaken takes over what was written meanwhile, and runs the function again.
Rule 3: a function's caller hears of success only when the head is written. If the answer to that was lost, the head is
asked.
Rule 4: a head counts for half of its time to live, and what it reaches is written again in the first write after a
quarter of it. So what is reached always lives, and nobody's clock must be exact.
"""

import asyncio
import base64
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import msgspec

from agent_host.errors import StoreClosedError, StoreError, StoreFormatError
from agent_host.foundry.calls import current_call, on_behalf_of
from agent_host.foundry.storage import OvertakenError, ProjectStorage, StateItem
from agent_host.ids import random_bytes
from agent_host.stores.commands import run_to_end
from agent_host.stores.database import Connection
from agent_host.stores.foundry.cache import SegmentCache
from agent_host.stores.foundry.changes import Changes, merged
from agent_host.stores.foundry.head import PART, Entry, Head, Segment, added, digest_of, missing
from agent_host.stores.foundry.replica import REPLICAS, Outcome, Replica
from agent_host.stores.migrate import migrations

T = TypeVar("T")

log = logging.getLogger("agent_host")

FRESH = 0.5
"""Seconds for which a copy counts as up to date. Whether it is, the head decides anyway when something is written."""
_MOST_TRIES = 20
_LONGEST_PAUSE = 2.0
"""How often a write that others overtake is tried, and the most seconds between two tries."""
_WRITERS = 8
"""How many writes a head names. So many can follow one whose answer was lost until its writer asks for it."""
_TOUCHED = 1 / 60
"""The part of its time to live after which a head that is only read is written again."""


@dataclass(slots=True)
class _Command:
    function: Callable[[Connection], Any]
    then: Callable[[], object] | None
    is_always_written: bool
    call_id: str
    done: "asyncio.Future[Any]"


@dataclass(slots=True, eq=False)
class Family:
    """The records of one user whose ids share a key, as a `Database`. `name` is unique in the project.

    `clock` gives seconds since the epoch.
    """

    name: str
    storage: ProjectStorage
    cache: SegmentCache
    clock: Callable[[], float]
    head: Head | None = None
    is_exclusive: bool = False
    synced_at: float = float("-inf")
    _etag: str | None = None
    _replica: Replica | None = None
    _commands: list[_Command] = field(default_factory=list)
    _worker: "asyncio.Task[None] | None" = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _deferred: dict[str, Callable[[Connection], Any]] = field(default_factory=dict)
    _deferred_changes: Changes = field(default_factory=Changes)
    _elsewhere: set[str] = field(default_factory=set)
    _shown: dict[str, bool] = field(default_factory=dict)
    _touching: "asyncio.Task[None] | None" = None
    _removing: "set[asyncio.Task[None]]" = field(default_factory=set)
    _is_closed: bool = False

    # --- As a database ---

    async def open(self) -> None:
        """Nothing: what is on the platform is read when it is needed."""

    async def aclose(self) -> None:
        """Finish what was begun and give the memory back."""
        self._is_closed = True
        await self.rest()

    async def rest(self) -> None:
        """Finish what was begun and give the memory back, until somebody uses the family again."""
        if begun := {task for task in (self._worker, self._touching, *self._removing) if task is not None}:
            await asyncio.wait(begun)
        async with self._turn:
            await self._drop_copy()

    async def _drop_copy(self) -> None:
        former, self._replica, self.synced_at = self._replica, None, float("-inf")
        if former is not None:
            await _in_order(former.close)

    def check_writable(self) -> None:
        """Raise `StoreClosedError` if the family is closed."""
        if self._is_closed:
            raise StoreClosedError("The store is closed.")

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        """Run `fn` and publish what it changes; if it raises, nothing has changed. Runs to its end when cancelled.

        Raises `StoreError` if the platform does not take it.
        """
        return await self._give(fn, then)

    async def _give(
        self,
        fn: Callable[[Connection], T],
        then: Callable[[], object] | None = None,
        *,
        is_always_written: bool = False,
    ) -> T:
        self.check_writable()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._commands.append(_Command(fn, then, is_always_written, current_call(), done))
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return await run_to_end(done)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on the copy, brought up to date if it is older than `FRESH`."""
        await self.sync(FRESH)
        return await self.peek(fn)

    async def peek(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on the copy as it is."""
        await self._need_copy()
        result: T = await _in_order(self._copy.read, fn)
        return result

    async def imagine(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on the copy as it is, and undo what it changes."""
        await self._need_copy()
        (outcome,), _ = await _in_order(self._copy.rehearse, [fn])
        if outcome.error is not None:
            raise outcome.error
        result: T = outcome.result
        return result

    async def _need_copy(self) -> None:
        self.check_writable()
        while self._replica is None:
            await self.sync()

    @property
    def _copy(self) -> Replica:
        assert self._replica is not None, "made by `sync` or by a write"
        return self._replica

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for it."""
        return self._worker is None and not self._turn.locked()

    @property
    def has_copy(self) -> bool:
        """Whether there is a copy to peek into."""
        return self._replica is not None

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The keys of the families in which some ids with this family's key are found."""
        return () if self.head is None else self.head.elsewhere

    @property
    def unshown(self) -> frozenset[str]:
        """The responses that the platform does not show yet."""
        noted = () if self.head is None else self.head.unshown
        return frozenset({*noted, *self._shown} - {id for id, is_shown in self._shown.items() if is_shown})

    # --- Reading what others have written ---

    async def begin(self) -> None:
        """Take the family for a new one if there is no copy; if it is not, the next write or `sync` finds that out."""
        async with self._turn:
            if self._replica is None:
                await self._stand_at(None)

    async def sync(self, older_than: float = 0.0) -> None:
        """Bring the copy up to date if it was last compared more than so many seconds ago."""
        began = time.monotonic()
        if self._replica is not None and began - self.synced_at <= older_than:
            return
        async with self._turn:
            if self._replica is None or self.synced_at < began - older_than:
                await self._pull()

    async def _pull(self) -> None:
        self.check_writable()
        while True:
            began = time.monotonic()
            item = await self.storage.read(self._key)
            try:
                await self._stand_at(self._head_in(item))
            except StoreFormatError:
                # Somebody may have merged the segments meanwhile.
                again = await self.storage.read(self._key)
                if again is None or item is None or again.etag == item.etag:
                    raise
                continue
            self._etag = None if item is None else item.etag
            self.synced_at = began
            self._touch()
            return

    def _head_in(self, item: StateItem | None) -> Head | None:
        """The head that was read; None if nobody has used it for so long that what it reaches may be gone."""
        if item is None:
            return None
        head = Head.from_value(item.value, self.name, _schema())
        return head if head.written_at >= self.clock() - self.storage.lifetime / 2 else None

    async def _stand_at(self, head: Head | None) -> None:
        """Let the copy be what a head says, in one step for whoever reads it."""
        if self._replica is not None and _place(head) == _place(self.head):
            return
        is_older = head is not None and head.schema < _schema()
        begins = head is None or self._replica is None or bool(self._deferred) or is_older
        needed = None if head is None or begins else missing(head, self.head)
        replica = self._copy if needed is not None else await _in_order(Replica, head.schema if head else None)
        segments, entries = needed or (((), ()) if head is None else missing(head, None) or ((), ()))
        bodies = await asyncio.gather(*map(self._segment, segments))
        await _in_order(replica.apply, await asyncio.to_thread(_decoded, bodies, entries))
        upgraded = Changes()
        if head is not None and is_older:
            # All rows are published with the next write: what the head has reached so far is of the older schema.
            upgraded = await _in_order(replica.upgrade)
            head = msgspec.structs.replace(head, schema=_schema(), tail=(), segments=())
        deferred = [await self._run_deferred(replica, name) for name in list(self._deferred)]
        self._deferred_changes = merged((upgraded, *deferred))
        forgotten = _unreached(self.head, head)
        self.head = head
        former, self._replica = self._replica, replica
        if former is not None and former is not replica:
            await _in_order(former.close)
        await asyncio.to_thread(self._forget, forgotten)

    def _forget(self, segments: Iterable[Segment]) -> None:
        needed = () if self.head is None else {each.digest for each in self.head.segments}
        for segment in segments:
            if segment.digest not in needed:
                self.cache.forget(segment.digest)

    def _touch(self) -> None:
        """Write the head again in a moment if it was not written for long: to be read is to be used."""
        if self._is_only_read and self._touching is None:
            self._touching = asyncio.create_task(self._write_again())

    @property
    def _is_only_read(self) -> bool:
        long_ago = self.clock() - self.storage.lifetime * _TOUCHED
        return self.head is not None and self.head.written_at < long_ago

    async def _write_again(self) -> None:
        try:
            async with self._turn:
                if self._is_only_read:
                    await self._decide(Changes())
        except (OvertakenError, StoreError) as error:
            log.warning("a conversation that is only read lives on as long as before: %s", error)
        finally:
            self._touching = None

    async def _segment(self, segment: Segment) -> bytes:
        known = await asyncio.to_thread(self.cache.read, segment.digest)
        if known is not None:
            return known
        parts = await asyncio.gather(*(self.storage.read(key) for key in self._part_keys(segment)))
        data = b"".join(_bytes_of(part.value) for part in parts if part is not None)
        if digest_of(data) != segment.digest:
            raise StoreFormatError(
                f"A part of {self.name} is gone or damaged on the platform, so its conversation cannot be read. Begin "
                "a new one."
            )
        await asyncio.to_thread(self.cache.write, segment.digest, data)
        return data

    # --- Writing ---

    def defer_first(self, name: str, fn: Callable[[Connection], object]) -> None:
        """Like `defer`, for a family that has no copy yet."""
        self._deferred[name] = fn

    async def defer(self, name: str, fn: Callable[[Connection], object]) -> None:
        """Change the copy alone; what is changed is published together with the next write, or not at all.

        `fn` must leave what is there as it is, since it is run again when others have written. One of the same name
        that waits already takes its place.
        """
        async with self._turn:
            self._deferred[name] = fn
            if self._replica is not None:
                self._deferred_changes = merged((self._deferred_changes, await self._run_deferred(self._replica, name)))

    async def _run_deferred(self, replica: Replica, name: str) -> Changes:
        """Run what was deferred on a copy. What finds nothing to change there need not wait any more."""
        _, changes = await _in_order(replica.rehearse, [self._deferred[name]])
        await _in_order(replica.apply, changes)
        if not changes:
            del self._deferred[name]
        return changes

    async def point_to(self, key: str) -> None:
        """Note that some ids with this family's key are found in the family with another key."""
        self._elsewhere.add(key)
        await self._give(lambda _: None, None, is_always_written=True)

    def note_unshown(self, response_id: str, *, is_unshown: bool) -> None:
        """Let the next write note whether the platform shows a response already."""
        self._shown[response_id] = not is_unshown

    async def _work(self) -> None:
        try:
            while self._commands:
                call_id = self._commands[0].call_id
                batch = [self._commands.pop(0)]
                # One write carries the call id of one request.
                while self._commands and self._commands[0].call_id == call_id:
                    batch.append(self._commands.pop(0))
                with on_behalf_of(call_id):
                    await self._run(batch)
        finally:
            self._worker = None

    async def _run(self, batch: list[_Command]) -> None:
        try:
            async with self._turn:
                outcomes = await self._publish(batch)
        except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            outcomes = [Outcome(error=error) for _ in batch]
        for command, outcome in zip(batch, outcomes, strict=True):
            if outcome.error is not None:
                command.done.set_exception(outcome.error)
                continue
            if command.then is not None:
                command.then()
            command.done.set_result(outcome.result)

    async def _publish(self, batch: list[_Command]) -> list[Outcome]:
        began = time.monotonic()
        if self._replica is None:
            await self._pull()
        for tries in range(_MOST_TRIES):
            outcomes, changes = await _in_order(self._copy.rehearse, [command.function for command in batch])
            if not changes and not any(command.is_always_written for command in batch):
                if self.synced_at >= began - FRESH:
                    return outcomes
                # What others have written may give the function something to do.
                await self._pull()
                continue
            try:
                await self._decide(changes)
            except OvertakenError:
                await asyncio.sleep(_pause(tries))
                await self._pull()
                continue
            await self._apply(changes)
            return outcomes
        raise StoreError(f"Others write to {self.name} all the time. Nothing was stored; try again.")

    async def _apply(self, changes: Changes) -> None:
        """Take over what was published. A copy that cannot is made anew from the head when it is needed."""
        try:
            await _in_order(self._copy.apply, changes)
        except StoreError as error:
            log.error("the copy of a conversation is made anew: %s", error)
            await self._drop_copy()

    async def _decide(self, changes: Changes) -> None:
        """Publish what was deferred and these changes."""
        changes = merged((self._deferred_changes, changes))
        now = self.clock()
        token = random_bytes(12).hex()
        before = self.head or Head(token, _schema())
        # What takes long does not keep the copies of other families waiting.
        head, bodies = await asyncio.to_thread(added, before, changes, lambda each: self.cache.read(each.digest), now)
        head, again = await self._refreshed(head, now)
        head = msgspec.structs.replace(
            head,
            writers=(*before.writers, token)[-_WRITERS:],
            written_at=now,
            elsewhere=tuple(sorted({*before.elsewhere, *self._elsewhere})),
            unshown=tuple(sorted(self.unshown)),
        )
        shown = dict(self._shown)
        new = bodies | again
        await asyncio.gather(
            *(self._put_segment(each, new[each.digest]) for each in head.segments if each.digest in new)
        )
        await self._write_head(head)
        self._deferred, self._deferred_changes = {}, Changes()
        self._shown = {id: is_shown for id, is_shown in self._shown.items() if shown.get(id) is not is_shown}
        if gone := _unreached(before, head):
            task = asyncio.create_task(self._remove(gone))
            self._removing.add(task)
            task.add_done_callback(self._removing.discard)

    async def _write_head(self, head: Head, *, again: bool = True) -> None:
        try:
            self._etag = await self.storage.replace(self._key, head.to_value(), self._etag, {"kind": "family"})
        except (OvertakenError, StoreError) as error:
            # An answer that was lost on its way, or a repetition by the client, may stand for a write that happened.
            item = await self.storage.read(self._key)
            if item is None or head.writers[-1] not in item.value.get("writers", ()):
                if isinstance(error, StoreError) and item is not None and item.etag != self._etag:
                    raise OvertakenError(self._key) from error
                if isinstance(error, StoreError) and item is None and self._etag is None and again:
                    # The client repeats what replaces a value, but not what makes one: a connection may just have died.
                    await self._write_head(head, again=False)
                    return
                raise
            # Where others have written behind it, its own ETag is unknown and does not matter: the next write is late.
            if item.value["writers"][-1] == head.writers[-1]:
                self._etag = item.etag
        self.head, self.synced_at = head, time.monotonic()

    async def _refreshed(self, head: Head, now: float) -> tuple[Head, dict[str, bytes]]:
        """The head with a new time on each segment of which a quarter of the life has passed, and their bytes."""
        old = [each for each in head.segments if each.written_at < now - self.storage.lifetime / 4]
        bodies = await asyncio.gather(*map(self._segment, old))
        renewed = {each.digest: msgspec.structs.replace(each, written_at=now) for each in old}
        segments = tuple(renewed.get(each.digest, each) for each in head.segments)
        return msgspec.structs.replace(head, segments=segments), dict(zip(renewed, bodies, strict=True))

    async def _put_segment(self, segment: Segment, data: bytes) -> None:
        await asyncio.to_thread(self.cache.write, segment.digest, data)
        parts = (data[at : at + PART] for at in range(0, len(data), PART))
        keyed = zip(self._part_keys(segment), parts, strict=True)
        await asyncio.gather(*(self.storage.put(key, _value_of(part)) for key, part in keyed))

    async def _remove(self, segments: list[Segment]) -> None:
        await asyncio.to_thread(self._forget, segments)
        for segment in segments:
            for key in self._part_keys(segment):
                with suppress(StoreError):  # it goes by itself when its time has passed
                    await self.storage.delete(key)

    @property
    def _key(self) -> str:
        return f"f/{self.name}"

    def _part_keys(self, segment: Segment) -> list[str]:
        return [f"s/{self.name}/{segment.last}.{segment.digest}.{part}" for part in range(segment.parts)]


def _place(head: Head | None) -> tuple[str, int] | None:
    return None if head is None else (head.origin, head.number)


def _pause(tries: int) -> float:
    """Seconds until a write that was overtaken is tried again: longer each time, and never the same for two."""
    return min(_LONGEST_PAUSE, 0.02 * 2.0**tries) * random_bytes(1)[0] / 255


def _unreached(former: Head | None, head: Head | None) -> list[Segment]:
    """The segments of a former head that the next one does not reach."""
    kept = () if head is None else {(each.digest, each.last) for each in head.segments}
    return [] if former is None else [each for each in former.segments if (each.digest, each.last) not in kept]


def _schema() -> int:
    return migrations()[-1].version


def _decoded(bodies: Iterable[bytes], entries: Iterable[Entry]) -> Changes:
    try:
        return merged([*map(Changes.from_bytes, bodies), *(entry.read() for entry in entries)])
    except ValueError as error:
        raise StoreFormatError(f"A conversation on the platform cannot be read: {error}. Begin a new one.") from error


def _value_of(data: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(data).decode()}


def _bytes_of(value: dict[str, Any]) -> bytes:
    data = value.get("data")
    return base64.b64decode(data) if isinstance(data, str) else b""


async def _in_order(fn: Callable[..., T], *arguments: object) -> T:
    """Run a function in the thread of the copies."""
    return await run_to_end(asyncio.get_running_loop().run_in_executor(REPLICAS, partial(fn, *arguments)))
