"""The verbs of `Store` over families of records: which family each is about, and what else the platform is told.

Rule 1: a record is in the family of the partition key in its id. A turn that continues something is in the family of
what it continues, whatever its own id says; the family of its id then points there. Ids without a key share one family.
Rule 2: what a verb does inside a family is what `SqlStore` does.
Rule 3: the platform shows finished responses too. Its copy is not read; one that it could not be given is given later.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from agent_host.engine.checkpoint import Commit
from agent_host.errors import StoreClosedError, StoreError, StoreFormatError, TurnConflictError
from agent_host.foundry.storage import ProjectStorage
from agent_host.ids import key_of
from agent_host.stores import conversation_rows, rows
from agent_host.stores.archive import Archive
from agent_host.stores.base import CommitLog
from agent_host.stores.commands import run_to_end
from agent_host.stores.foundry.cache import SegmentCache
from agent_host.stores.foundry.claims import Claims
from agent_host.stores.foundry.commit_log import SharingCommitLog
from agent_host.stores.foundry.finding import Finding
from agent_host.stores.foundry.own_turns import OwnTurns
from agent_host.stores.foundry.place import OTHERS, Place, Places
from agent_host.stores.foundry.retention import FamilyRetention
from agent_host.stores.foundry.showing import Show, Showing
from agent_host.stores.foundry.turn_index import IndexedTurn, TurnIndex
from agent_host.stores.records import (
    Append,
    CommitName,
    Compaction,
    Conversation,
    ConversationMove,
    Description,
    Freed,
    Guard,
    Heard,
    IdempotencyKey,
    Item,
    Lapsed,
    OpenCall,
    ResponseRecord,
    ResumePoint,
    SavePoint,
    TurnInFlight,
    Waiting,
)
from agent_host.stores.sql_store import SqlStore

T = TypeVar("T")

log = logging.getLogger("agent_host")

_encode = msgspec.json.Encoder().encode


P = ParamSpec("P")
Verb = Callable[Concatenate["FoundryStore", P], Coroutine[Any, Any, T]]


def _verb(method: "Verb[P, T]") -> "Verb[P, T]":
    """A verb of an open store, which the end of the store waits for."""

    @wraps(method)
    async def counted(store: "FoundryStore", /, *args: P.args, **named: P.kwargs) -> T:
        with store.working():
            return await method(store, *args, **named)

    return counted


class FoundryStore:
    """A store in the storage of a Foundry project; the promises are those of `Store`.

    `show` makes of a stored response what the platform shows: the response object and its input items. `session` is the
    platform's session, of which this is the only process. `cache` is a folder for what never changes. `clock` gives
    seconds since the epoch.

    R3 holds within a process at once; what another process has stored is seen after at most half a second, and whatever
    is written is compared with it in any case. R45, R58 and R60 to R65 are about the families that this process has
    used: everything else goes by itself when its time to live has passed.
    """

    event_pause = 0.25
    appends_together = False

    def __init__(
        self,
        storage: ProjectStorage,
        show: Show,
        *,
        session: Callable[[], str] = lambda: "",
        cache: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._places = Places(storage, SegmentCache(cache), clock)
        self._retention = FamilyRetention(self._places)
        self._showing = Showing(storage, show)
        self._session = session
        self._settled: str | None = None
        self._index = TurnIndex(storage, session)
        self._claims = Claims(storage, self._find_key_of, session, clock)
        self._turns = OwnTurns()
        self._finding = Finding(self._places, self._turns)
        self._begun = 0
        self._ended = asyncio.Event()
        self._state = "new"

    def __repr__(self) -> str:
        return f"<FoundryStore {self._storage.endpoint} {self._state}>"

    async def open(self) -> None:
        """Connect, and take over the turns that an earlier process of this session has left."""
        if self._state == "closed":
            raise StoreClosedError("The store was closed; make a new one.")
        if self._state == "new":
            await self._storage.open()
            await self._settle_session()
            self._state = "open"

    async def aclose(self) -> None:
        """End what has begun and disconnect."""
        self._state = "closed"
        while self._begun:
            self._ended.clear()
            await self._ended.wait()
        await self._claims.aclose()
        await self._showing.aclose()
        await self._places.aclose()
        await self._storage.aclose()

    # --- Reading what a turn needs ---

    @_verb
    async def resolve(self, user: str, response_id: str) -> ResumePoint | None:
        """Where a turn that continues this response starts; None if it is unknown."""
        return await self._find(user, response_id, lambda sql: sql.resolve(user, response_id))

    @_verb
    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown."""
        return await self._finding.find_state(user, commit_id, lambda sql: sql.read_chain(user, commit_id))

    @_verb
    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The verified bodies of the blobs that are stored."""
        missing, found = set(hashes), dict[bytes, bytes]()
        for place in (*self._places.open_of(user), *self._places.open_of()):
            if not missing:
                break
            found |= await place.copy.read_blobs(user, missing)
            missing -= found.keys()
        return found

    @_verb
    async def holds_root(self, commit_id: str) -> bool:
        """Whether every family has this root: it is not enough that an older one does, which was read meanwhile."""
        return self._places.is_shared(commit_id)

    @_verb
    async def read_calls(self, user: str, commit_id: str) -> list[OpenCall]:
        """The questions that were asked at a commit, in order."""
        return await self._finding.find_state(user, commit_id, lambda sql: sql.read_calls(user, commit_id))

    @_verb
    async def find_call(self, user: str, call_id: str) -> str | None:
        """The commit at which a question is open; None if it is unknown."""
        return await self._finding.find_state(user, call_id, lambda sql: sql.find_call(user, call_id))

    @_verb
    async def find_items(self, user: str, ids: Collection[str]) -> dict[str, tuple[bytes, ...]]:
        """What holds items, by their ids; unknown ones are absent."""
        found: dict[str, tuple[bytes, ...]] = {}
        for place in self._places.open_of(user):
            found |= await place.copy.find_items(user, [id for id in ids if id not in found])
        left = [id for id in ids if id not in found]
        for id in {key_of(id) or OTHERS: id for id in left}.values():
            found |= await self._find(user, id, lambda sql: sql.find_items(user, left))
            if any(each not in found for each in left):
                async for place in self._finding.about(user, id):
                    found |= await place.copy.find_items(user, left)
        return found

    @_verb
    async def read_heard(self, user: str, commit_id: str) -> list[Heard]:
        """What the state of a commit has heard by each turn, newest first."""
        return await self._finding.find_state(user, commit_id, lambda sql: sql.read_heard(user, commit_id))

    @_verb
    async def find_key(self, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        """The fingerprint and the response id of an earlier request with this key; None if there is none."""
        return await self._claims.find(user, key, since)

    async def _find_key_of(self, user: str, response_id: str, key: str, since: float) -> tuple[bytes, str] | None:
        turn = self._turns.get(user, response_id)
        if turn is not None:
            return await turn.place.sql.find_key(user, key, since)
        return await self._find(user, response_id, lambda sql: sql.find_key(user, key, since))

    # --- A turn in flight ---

    @_verb
    async def admit(
        self, user: str, turn: TurnInFlight, commits: Sequence[Commit] = (), *, keys_since: float = 0.0
    ) -> None:
        """Let a turn begin, or raise `TurnConflictError` or `ConversationLockedError` and change nothing."""
        if self._turns.get(user, turn.id) is not None:
            raise TurnConflictError(f"Response {turn.id} is in flight already. Use a new id.")
        place = await self._finding.home(user, turn.conversation, turn.start_commit, turn.id)
        self._turns.hold(user, turn.id, place, is_background=turn.background)
        try:
            if turn.key is not None:
                await self._claims.claim(user, turn.id, turn.key, keys_since)
            if turn.background:
                indexed = IndexedTurn(user, turn.id, place.key)
                await asyncio.gather(self._finding.point(user, turn.id, place), self._index.add(indexed))
            else:
                self._finding.begin_to_point(user, turn.id, place)
            await place.sql.admit(user, turn, commits, keys_since=keys_since)
        except BaseException:
            await run_to_end(asyncio.ensure_future(self._forget(user, turn.id)))
            raise
        if turn.background:
            await self._learn(commits)

    @_verb
    async def release(self, user: str, response_id: str) -> None:
        """Take back a turn that will not be finished."""
        place = await self._finding.of_turn(user, response_id)
        try:
            await place.sql.release(user, response_id)
        finally:
            await self._forget(user, response_id)

    @_verb
    async def take(
        self, user: str, response_id: str, owner: str, *, now: float, until: float, by_force: bool = False
    ) -> TurnInFlight | None:
        """Become the owner of a background turn; None if it is unknown or its owner keeps it."""
        place = await self._finding.of_turn(user, response_id)
        taken = await place.sql.take(user, response_id, owner, now=now, until=until, by_force=by_force)
        if taken is not None:
            self._turns.hold(user, response_id, place, is_background=True)
        return taken

    @_verb
    async def read_turn(self, user: str, response_id: str) -> TurnInFlight | None:
        """A background turn in flight; None if there is none."""
        return await self._find(user, response_id, lambda sql: sql.read_turn(user, response_id))

    @_verb
    async def is_in_flight(self, user: str, response_id: str) -> bool:
        """Whether there is such a background turn in flight."""
        return await self._find(user, response_id, lambda sql: sql.is_in_flight(user, response_id))

    @_verb
    async def renew(self, owner: str, ids: Collection[tuple[str, str]], until: float) -> set[tuple[str, str]]:
        """Move the leases of turns; those that are lost are returned."""
        by_place: dict[Place, list[tuple[str, str]]] = {}
        for user, id in ids:
            by_place.setdefault(await self._finding.of_turn(user, id), []).append((user, id))
        return set().union(
            *await asyncio.gather(*(self._renew(place, owner, own, until) for place, own in by_place.items()))
        )

    async def _renew(self, place: Place, owner: str, ids: list[tuple[str, str]], until: float) -> set[tuple[str, str]]:
        with self._turns.calling_for(*ids[0]):
            lost = await place.sql.renew(owner, ids, until)
        for user, id in lost:
            self._turns.let_go(user, id)
        return lost

    @_verb
    async def give_back(self, user: str, response_id: str, owner: str, *, has_begun: bool) -> None:
        """Leave a background turn to whoever takes it next."""
        with self._turns.calling_for(user, response_id):
            place = await self._finding.of_turn(user, response_id)
            await place.sql.give_back(user, response_id, owner, has_begun=has_begun)
        self._turns.let_go(user, response_id)

    @_verb
    async def begin(self, user: str, guard: Guard, events: Sequence[bytes]) -> None:
        """Count an attempt at a background turn, or raise `GuardLostError` and store nothing."""
        with self._turns.as_long_as_guarded(user, guard.response_id):
            await (await self._finding.of_turn(user, guard.response_id)).sql.begin(user, guard, events)

    @_verb
    async def step(self, user: str, guard: Guard, commits: Sequence[Commit], events: Sequence[bytes]) -> None:
        """Store a superstep of a background turn, or raise `GuardLostError` and store nothing."""
        with self._turns.as_long_as_guarded(user, guard.response_id):
            await (await self._finding.of_turn(user, guard.response_id)).sql.step(user, guard, commits, events)

    @_verb
    async def record(self, user: str, guard: Guard, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of a background turn's superstep, or raise `GuardLostError`."""
        with self._turns.as_long_as_guarded(user, guard.response_id):
            await (await self._finding.of_turn(user, guard.response_id)).sql.record(user, guard, entries)

    @_verb
    async def recorded(self, user: str, response_id: str) -> dict[str, bytes]:
        """What is noted of a background turn's superstep."""
        return await (await self._finding.of_turn(user, response_id)).sql.recorded(user, response_id)

    @_verb
    async def append(self, batch: Sequence[Append]) -> set[str]:
        """Add events to the event log; the ids of turns whose guard is void are returned."""
        lost: set[str] = set()
        for events in batch:
            user, id = events.user, events.guard.response_id
            # The task that writes events belongs to none of their requests.
            with self._turns.calling_for(user, id):
                lost |= await (await self._finding.of_turn(user, id)).sql.append([events])
            if id in lost:
                self._turns.let_go(user, id)
        return lost

    @_verb
    async def read_events(self, user: str, response_id: str, after: int, limit: int) -> list[bytes]:
        """The events behind a sequence number, at most so many."""
        return await self._find(user, response_id, lambda sql: sql.read_events(user, response_id, after, limit))

    @_verb
    async def lapsed(self, now: float) -> list[Lapsed]:
        """The turns that nobody works on, of those that this process has seen."""
        await self._settle_session()
        found = [await place.copy.lapsed(now) for place in self._places.open_of()]
        return [each for some in found for each in some]

    @_verb
    async def finish(
        self,
        user: str,
        record: ResponseRecord,
        commits: Sequence[Commit],
        *,
        guard: Guard | None = None,
        events: Sequence[bytes] = (),
        move: ConversationMove | None = None,
        key: IdempotencyKey | None = None,
    ) -> None:
        """Store the end of a turn, or raise `TurnConflictError` and store nothing."""
        turn = self._turns.get(user, record.id)
        place = await self._finding.of_turn(user, record.id) if guard is not None else turn.place if turn else None
        if place is None:
            place = await self._finding.home(user, record.conversation, record.start_commit, record.id)
        await self._finding.point(user, record.id, place)
        end = partial(place.sql.finish, user, record, commits, guard=guard, events=events, move=move, key=key)
        # Whoever has asked may have left: what is stored is told to everybody nevertheless.
        await run_to_end(asyncio.ensure_future(self._finish(user, place, record, commits, key, end)))

    async def _finish(
        self,
        user: str,
        place: Place,
        record: ResponseRecord,
        commits: Sequence[Commit],
        key: IdempotencyKey | None,
        end: Callable[[], Awaitable[None]],
    ) -> None:
        place.family.note_unshown(record.id, is_unshown=True)
        try:
            with self._turns.as_long_as_guarded(user, record.id):
                await end()
        except BaseException:
            place.family.note_unshown(record.id, is_unshown=False)
            raise
        await self._learn(commits)
        if key is not None and not self._claims.has(user, record.id):
            with suppress(StoreError):  # the response is stored under its key in any case
                await self._claims.put(user, record.id, key)
        self._claims.keep(user, record.id)
        self._turns.let_go(user, record.id)
        shown = self._showing.show(place, record)
        await (asyncio.gather(shown, self._index.remove(user, record.id)) if record.background else shown)

    # --- Responses ---

    @_verb
    async def read_response(self, user: str, response_id: str) -> ResponseRecord | None:
        """A stored response; None if it is unknown."""
        return await self._find(user, response_id, lambda sql: sql.read_response(user, response_id))

    @_verb
    async def delete_response(self, user: str, response_id: str) -> bool:
        """Remove a stored response; False if it is unknown."""
        record = await self._find(user, response_id, lambda sql: sql.read_response(user, response_id))
        is_gone = await self._find(user, response_id, lambda sql: sql.delete_response(user, response_id))
        if is_gone and record is not None:
            await self._showing.hide(record)
        return is_gone

    @_verb
    async def save_points(self, since: float) -> list[SavePoint]:
        """What somebody may continue of what this process has seen."""
        return [point for place in self._places.open_of() for point in await place.copy.save_points(since)]

    # --- Conversations ---

    @_verb
    async def create_conversation(self, user: str, conversation: Conversation, items: Sequence[Item]) -> None:
        """Store a new conversation, or raise `TurnConflictError`."""
        await self._of(user, conversation.id).create_conversation(user, conversation, items)

    @_verb
    async def adopt_conversation(self, user: str, conversation: Conversation) -> Conversation:
        """A conversation that the platform owns, with the items that others have put there. Its next turn stores it."""
        place = self._places.of(user, conversation.id)
        said, _ = await asyncio.gather(self._storage.items_in(conversation.id), place.family.sync())
        items: list[Item] = []
        if new := await self._unknown(place, said):
            # What our own turns have said is stored before it is shown: so now all of that is known.
            read, _ = await asyncio.gather(self._storage.read_items(new), place.family.sync())
            new = await self._unknown(place, new)
            items = [Item(each["id"], _encode(each)) for each in read if each["id"] in new]
        own = rows.partition(user)
        adopt = partial(conversation_rows.adopt, own=own, conversation=conversation, items=items)
        await place.family.defer(conversation.id, adopt)
        found = await place.copy.read_conversation(user, conversation.id)
        assert found is not None, "it was adopted just now"
        self._showing.show_what_is_left(place)
        return found

    async def _unknown(self, place: Place, ids: Collection[str]) -> list[str]:
        known = await place.copy.find_items(place.user, ids)
        return [id for id in ids if id not in known]

    @_verb
    async def read_conversation(self, user: str, conversation_id: str) -> Conversation | None:
        """A conversation; None if it is unknown."""
        return await self._of(user, conversation_id).read_conversation(user, conversation_id)

    @_verb
    async def update_conversation(self, user: str, conversation_id: str, metadata: bytes) -> Conversation | None:
        """Replace the metadata of a conversation; None if it is unknown."""
        return await self._of(user, conversation_id).update_conversation(user, conversation_id, metadata)

    @_verb
    async def delete_conversation(self, user: str, conversation_id: str) -> bool:
        """Remove a conversation and its items; False if it is unknown."""
        return await self._of(user, conversation_id).delete_conversation(user, conversation_id)

    @_verb
    async def add_items(self, user: str, conversation_id: str, items: Sequence[Item]) -> Conversation | None:
        """Add items outside of a turn, or raise `TurnConflictError`; None if the conversation is unknown."""
        return await self._of(user, conversation_id).add_items(user, conversation_id, items)

    @_verb
    async def list_items(
        self, user: str, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """A page of items, and whether there are more; None if the conversation is unknown."""
        page = self._of(user, conversation_id).list_items
        return await page(user, conversation_id, after=after, limit=limit, newest_first=newest_first)

    @_verb
    async def read_item(self, user: str, conversation_id: str, item_id: str) -> Item | None:
        """An item of a conversation; None if it is unknown."""
        return await self._of(user, conversation_id).read_item(user, conversation_id, item_id)

    @_verb
    async def delete_item(self, user: str, conversation_id: str, item_id: str) -> bool:
        """Remove an item of a conversation; False if it is unknown."""
        return await self._of(user, conversation_id).delete_item(user, conversation_id, item_id)

    @_verb
    async def waiting_items(self, user: str, conversation_id: str) -> Waiting:
        """What entered a conversation since its last turn."""
        return await self._of(user, conversation_id).waiting_items(user, conversation_id)

    # --- Compactions, retention, and the engine's face ---

    @_verb
    async def keep_compaction(self, user: str, compaction: Compaction) -> None:
        """Store what a compaction stands for."""
        await self._of(user, compaction.handle).keep_compaction(user, compaction)

    @_verb
    async def read_compaction(self, user: str, handle: str) -> Compaction | None:
        """What a compaction stands for; None for an unknown handle."""
        return await self._of(user, handle).read_compaction(user, handle)

    @_verb
    async def forget_events(self, before: float, limit: int) -> Freed:
        """Remove the events of the responses that ended first of those before a time."""
        return await self._retention.forget_events(before, limit)

    @_verb
    async def forget_keys(self, before: float, limit: int) -> Freed:
        """Remove the oldest idempotency keys from before a time."""
        return await self._retention.forget_keys(before, limit)

    @_verb
    async def forget_responses(self, before: float, limit: int) -> Freed:
        """Remove the oldest responses from before a time, without those that wait for an answer."""
        return await self._retention.forget_responses(before, limit)

    @_verb
    async def forget_compactions(self, before: float, limit: int) -> Freed:
        """Remove the oldest compactions from before a time."""
        return await self._retention.forget_compactions(before, limit)

    @_verb
    async def unneeded_commits(self, limit: int, roots: Collection[str] = ()) -> list[CommitName]:
        """The commits that nothing needs, newest first."""
        return await self._retention.unneeded_commits(limit, roots)

    @_verb
    async def prune(self, names: Sequence[CommitName], roots: Collection[str] = ()) -> Freed:
        """Remove commits that nothing needs."""
        return await self._retention.prune(names, roots)

    @_verb
    async def collect_blobs(self) -> Freed:
        """Remove the blobs that no stored commit needs."""
        return await self._retention.collect_blobs()

    @_verb
    async def read_archive(self, user: str, id: str) -> Archive | None:
        """A conversation or a chain of responses with all that continues them; None for an unknown id."""
        return await self._find(user, id, lambda sql: sql.read_archive(user, id))

    @_verb
    async def add_archive(self, user: str, archive: Archive) -> bool:
        """Store an archive, or raise `TurnConflictError`; False if all of it is there."""
        return await self._of(user, archive.id).add_archive(user, archive)

    @_verb
    async def describe(self) -> Description:
        """What this process has seen, added up."""
        return await self._retention.describe()

    def commit_log(self, user: str = "") -> CommitLog:
        """The engine's face of this store, for one user."""
        return SharingCommitLog(self._places.at(user, OTHERS).family, user, self._learn)

    # --- Which family it is ---

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keep the store from being closed; raises `StoreClosedError` if it is not open."""
        if self._state != "open":
            raise StoreClosedError("The store is not open: it was closed, or `open` was not called yet.")
        self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1
            self._ended.set()

    def _of(self, user: str, id: str) -> SqlStore:
        return self._places.of(user, id).sql

    async def _find(self, user: str, id: str, look: Callable[[SqlStore], Awaitable[T]]) -> T:
        found = await self._finding.find(user, id, look)
        self._showing.show_what_is_left(self._places.of(user, id))
        return found

    async def _learn(self, commits: Sequence[Commit]) -> None:
        """Give every family a copy of a root that was stored in one: roots belong to everybody."""
        for commit in commits:
            if commit.kind == "root":
                await self._places.share(commit)

    # --- Turns of this process ---

    async def _settle_session(self) -> None:
        """Free what the session's process before this one has left; a snapshot of a process goes on in another one."""
        session = self._session()
        if session != self._settled:
            async for turn in self._index.left_behind():
                if self._turns.get(turn.user, turn.response_id) is None:
                    try:
                        if not await self._places.at(turn.user, turn.family).free(turn.response_id):
                            await self._index.remove(turn.user, turn.response_id)
                    except StoreFormatError as error:  # that of a newer version, say, which will not become readable
                        log.error("%s was left behind and cannot be read: %s", turn.response_id, error)
            self._settled = session

    async def _forget(self, user: str, id: str) -> None:
        """Leave no trace of a turn that ends without a response."""
        turn = self._turns.get(user, id)
        self._turns.let_go(user, id)
        await self._claims.give_up(user, id)
        if turn is None or turn.is_background:
            await self._index.remove(user, id)
