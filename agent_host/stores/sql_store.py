"""The verbs of `Store` over a SQL database, each written once.

Rule 1: each verb is one synchronous function of one transaction; the class only carries it to the database. A
cancelled request can therefore never leave half a verb behind.
Rule 2: statements are in `sql/queries.sql`; which database runs them is not known here.
Rule 3: a foreground turn in flight is in memory, a background one is a row. Of two turns of different kinds that want
the same thing at once one is refused, because a background turn stands in memory too until its row is written.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.checkpoint import Commit
from agent_host.errors import TurnConflictError
from agent_host.stores import archive_rows, conversation_rows, response_rows, rows, turn_rows
from agent_host.stores.archive import Archive
from agent_host.stores.base import CommitLog
from agent_host.stores.database import Connection, Database
from agent_host.stores.description import describe
from agent_host.stores.foreground_turns import ForegroundTurns
from agent_host.stores.queries import QUERIES
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
from agent_host.stores.sql_commit_log import SqlCommitLog
from agent_host.stores.sql_retention import SqlRetention

T = TypeVar("T")


class SqlStore:
    """A store in a SQL database that one process has for itself; the promises are those of `Store`."""

    event_pause = 0.02
    appends_together = True

    def __init__(self, database: Database) -> None:
        self._database = database
        self._foreground = ForegroundTurns()
        self._retention = SqlRetention(database, self._foreground.starts)
        self._owners_are_gone = False

    def __repr__(self) -> str:
        return f"<SqlStore {self._database!r}>"

    async def open(self) -> None:
        """Open the database; `StoreError` with the remedy if that is not possible."""
        await self._database.open()
        reached(CrashPoint.OPENED)
        if self._database.is_exclusive and not self._owners_are_gone:
            self._owners_are_gone = True
            try:
                await self._database.write(turn_rows.let_leases_lapse)
            except BaseException:
                self._owners_are_gone = False
                raise

    async def aclose(self) -> None:
        """End what has begun and close the database."""
        await self._database.aclose()

    # --- Reading what a turn needs ---

    async def resolve(self, user: str, response_id: str) -> ResumePoint | None:
        """Where a turn that continues this response starts; None if it is unknown."""
        return await self._read(response_rows.resolve, user, response_id)

    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown."""
        return await self._read(rows.select_chain, user, commit_id)

    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The verified bodies of the blobs that are stored."""
        return await self._read(_read_blobs, user, hashes)

    async def holds_root(self, commit_id: str) -> bool:
        """Whether this root commit is stored."""
        return await self._database.read(partial(_holds_root, commit_id=commit_id))

    async def read_calls(self, user: str, commit_id: str) -> list[OpenCall]:
        """The questions that were asked at a commit, in order."""
        return await self._read(response_rows.read_calls, user, commit_id)

    async def find_call(self, user: str, call_id: str) -> str | None:
        """The commit at which a question is open; None if it is unknown."""
        return await self._read(response_rows.find_call, user, call_id)

    async def find_items(self, user: str, ids: Collection[str]) -> dict[str, tuple[bytes, ...]]:
        """What holds items, by their ids; unknown ones are absent."""
        return await self._read(response_rows.find_items, user, ids)

    async def read_heard(self, user: str, commit_id: str) -> list[Heard]:
        """What the state of a commit has heard by each turn, newest first."""
        return await self._read(response_rows.read_heard, user, commit_id)

    async def find_key(self, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        """The fingerprint and the response id of an earlier request with this key; None if there is none."""
        in_flight = self._foreground.find_key(user, key, since)
        return in_flight or await self._read(response_rows.find_key, user, key, since)

    # --- A turn in flight ---

    async def admit(
        self, user: str, turn: TurnInFlight, commits: Sequence[Commit] = (), *, keys_since: float = 0.0
    ) -> None:
        """Let a turn begin, or raise `TurnConflictError` or `ConversationLockedError` and change nothing."""
        self._database.check_writable()
        self._foreground.begin(user, turn)
        try:
            if turn.background:
                await self._write(turn_rows.insert, user, turn, commits, keys_since)
            elif turn.conversation is not None or turn.key is not None:
                await self._read(turn_rows.refuse_beside, user, turn, keys_since)
        except BaseException:
            self._foreground.end(user, turn.id)
            raise
        if turn.background:
            self._foreground.end(user, turn.id)

    async def release(self, user: str, response_id: str) -> None:
        """Take back a turn that will not be finished."""
        self._database.check_writable()
        if not self._foreground.end(user, response_id):
            await self._write(turn_rows.release, user, response_id)

    async def take(
        self, user: str, response_id: str, owner: str, *, now: float, until: float, by_force: bool = False
    ) -> TurnInFlight | None:
        """Become the owner of a background turn; None if it is unknown or its owner keeps it."""
        return await self._write(turn_rows.take, user, response_id, owner, now, until, by_force)

    async def read_turn(self, user: str, response_id: str) -> TurnInFlight | None:
        """A background turn in flight; None if there is none."""
        return await self._read(turn_rows.read, user, response_id)

    async def is_in_flight(self, user: str, response_id: str) -> bool:
        """Whether there is such a background turn in flight."""
        return await self._read(turn_rows.is_in_flight, user, response_id)

    async def renew(self, owner: str, ids: Collection[tuple[str, str]], until: float) -> set[tuple[str, str]]:
        """Move the leases of turns; those that are lost are returned."""
        return await self._database.write(partial(turn_rows.renew, owner=owner, ids=ids, until=until))

    async def give_back(self, user: str, response_id: str, owner: str, *, has_begun: bool) -> None:
        """Leave a background turn to whoever takes it next."""
        await self._write(turn_rows.give_back, user, response_id, owner, has_begun)

    async def begin(self, user: str, guard: Guard, events: Sequence[bytes]) -> None:
        """Count an attempt at a background turn, or raise `GuardLostError` and store nothing."""
        await self._write(turn_rows.begin, user, guard, events)

    async def step(self, user: str, guard: Guard, commits: Sequence[Commit], events: Sequence[bytes]) -> None:
        """Store a superstep of a background turn, or raise `GuardLostError` and store nothing."""
        await self._write(turn_rows.step, user, guard, commits, events)

    async def record(self, user: str, guard: Guard, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of a background turn's superstep, or raise `GuardLostError`."""
        await self._write(turn_rows.record, user, guard, entries)

    async def recorded(self, user: str, response_id: str) -> dict[str, bytes]:
        """What is noted of a background turn's superstep."""
        return await self._read(turn_rows.recorded, user, response_id)

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """Add events of many turns to the event log; the ids of those whose guard is void are returned."""
        return await self._database.write(partial(turn_rows.append, batch=batch))

    async def read_events(self, user: str, response_id: str, after: int, limit: int) -> list[bytes]:
        """The events behind a sequence number, at most so many."""
        return await self._read(turn_rows.read_events, user, response_id, after, limit)

    async def lapsed(self, now: float) -> list[Lapsed]:
        """The turns of every user that nobody works on."""
        return await self._database.read(partial(turn_rows.find_lapsed, now=now))

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
        own = rows.partition(user)
        await self._database.write(
            lambda connection: _finish(connection, own, record, commits, guard, events, move, key),
            then=lambda: self._foreground.end(user, record.id),
        )

    # --- Responses ---

    async def read_response(self, user: str, response_id: str) -> ResponseRecord | None:
        """A stored response; None if it is unknown."""
        return await self._read(response_rows.read, user, response_id)

    async def delete_response(self, user: str, response_id: str) -> bool:
        """Remove a stored response; False if it is unknown."""
        return await self._write(response_rows.delete, user, response_id)

    async def save_points(self, since: float) -> list[SavePoint]:
        """Every head of a session or conversation, and every response since a time in seconds, of every user."""
        return await self._database.read(partial(_save_points, since=since))

    # --- Conversations ---

    async def create_conversation(self, user: str, conversation: Conversation, items: Sequence[Item]) -> None:
        """Store a new conversation, or raise `TurnConflictError`."""
        await self._write(conversation_rows.create, user, conversation, items)

    async def adopt_conversation(self, user: str, conversation: Conversation) -> Conversation:
        """A conversation that somebody else has made; it is stored if it is not here."""
        known = await self.read_conversation(user, conversation.id)
        if known is None:
            await self._write(conversation_rows.adopt, user, conversation)
            known = await self.read_conversation(user, conversation.id)
        return known or conversation

    async def read_conversation(self, user: str, conversation_id: str) -> Conversation | None:
        """A conversation; None if it is unknown."""
        return await self._read(conversation_rows.read, user, conversation_id)

    async def update_conversation(self, user: str, conversation_id: str, metadata: bytes) -> Conversation | None:
        """Replace the metadata of a conversation; None if it is unknown."""
        return await self._write(conversation_rows.update, user, conversation_id, metadata)

    async def delete_conversation(self, user: str, conversation_id: str) -> bool:
        """Remove a conversation and its items; False if it is unknown."""
        return await self._write(conversation_rows.delete, user, conversation_id)

    async def add_items(self, user: str, conversation_id: str, items: Sequence[Item]) -> Conversation | None:
        """Add items outside of a turn, or raise `TurnConflictError`; None if the conversation is unknown."""
        return await self._write(conversation_rows.add, user, conversation_id, items)

    async def list_items(
        self, user: str, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """A page of items, and whether there are more; None if the conversation is unknown."""
        return await self._read(conversation_rows.list_items, user, conversation_id, after, limit, newest_first)

    async def read_item(self, user: str, conversation_id: str, item_id: str) -> Item | None:
        """An item of a conversation; None if it is unknown."""
        return await self._read(conversation_rows.read_item, user, conversation_id, item_id)

    async def delete_item(self, user: str, conversation_id: str, item_id: str) -> bool:
        """Remove an item of a conversation; False if it is unknown."""
        return await self._write(conversation_rows.delete_item, user, conversation_id, item_id)

    async def waiting_items(self, user: str, conversation_id: str) -> Waiting:
        """What entered a conversation since its last turn."""
        return await self._read(conversation_rows.waiting, user, conversation_id)

    # --- Compactions, retention, and the engine's face ---

    async def keep_compaction(self, user: str, compaction: Compaction) -> None:
        """Store what a compaction stands for."""
        await self._write(response_rows.put_compaction, user, compaction)

    async def read_compaction(self, user: str, handle: str) -> Compaction | None:
        """What a compaction stands for; None for an unknown handle."""
        return await self._read(response_rows.read_compaction, user, handle)

    async def forget_events(self, before: float, limit: int) -> Freed:
        """Remove the events of the responses that ended first of those before a time."""
        return await self._retention.forget_events(before, limit)

    async def forget_keys(self, before: float, limit: int) -> Freed:
        """Remove the oldest idempotency keys from before a time."""
        return await self._retention.forget_keys(before, limit)

    async def forget_responses(self, before: float, limit: int) -> Freed:
        """Remove the oldest responses from before a time, without those that wait for an answer."""
        return await self._retention.forget_responses(before, limit)

    async def forget_compactions(self, before: float, limit: int) -> Freed:
        """Remove the oldest compactions from before a time."""
        return await self._retention.forget_compactions(before, limit)

    async def unneeded_commits(self, limit: int, roots: Collection[str] = ()) -> list[CommitName]:
        """The commits that nothing needs, newest first, of every user."""
        return await self._retention.unneeded_commits(limit, roots)

    async def prune(self, names: Sequence[CommitName], roots: Collection[str] = ()) -> Freed:
        """Remove commits that nothing needs."""
        return await self._retention.prune(names, roots)

    async def collect_blobs(self) -> Freed:
        """Remove the blobs that no stored commit needs."""
        return await self._retention.collect_blobs()

    async def read_archive(self, user: str, id: str) -> Archive | None:
        """A conversation or a chain of responses with all that continues them; None for an unknown id."""
        return await self._read(archive_rows.read, user, id)

    async def add_archive(self, user: str, archive: Archive) -> bool:
        """Store an archive, or raise `TurnConflictError`; False if all of it is there."""
        return await self._write(archive_rows.add, user, archive)

    async def describe(self) -> Description:
        """What is stored, of every user."""
        return await self._database.read(describe)

    def commit_log(self, user: str = "") -> CommitLog:
        """The engine's face of this store, for one user."""
        return SqlCommitLog(self._database, user)

    async def _read(self, fn: Callable[..., T], user: str, *arguments: object) -> T:
        own = rows.partition(user)
        return await self._database.read(lambda connection: fn(connection, own, *arguments))

    async def _write(self, fn: Callable[..., T], user: str, *arguments: object) -> T:
        own = rows.partition(user)
        return await self._database.write(lambda connection: fn(connection, own, *arguments))


def _read_blobs(connection: Connection, own: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
    return rows.checked(rows.select_blobs(connection, own, hashes))


def _holds_root(connection: Connection, commit_id: str) -> bool:
    return connection.execute(QUERIES["find_root"], (commit_id,)).fetchone() is not None


def _save_points(connection: Connection, since: float) -> list[SavePoint]:
    found: tuple[tuple[Literal["session", "conversation", "response"], list[Any]], ...] = (
        ("session", connection.execute(QUERIES["select_heads"]).fetchall()),
        ("conversation", connection.execute(QUERIES["select_conversation_heads"]).fetchall()),
        ("response", connection.execute(QUERIES["select_recent_responses"], (since,)).fetchall()),
    )
    return [
        SavePoint(rows.user_of(own), kind, name, workflow, commit)
        for kind, points in found
        for own, workflow, name, commit in points
    ]


def _finish(
    connection: Connection,
    own: str,
    record: ResponseRecord,
    commits: Sequence[Commit],
    guard: Guard | None,
    events: Sequence[bytes],
    move: ConversationMove | None,
    key: IdempotencyKey | None,
) -> None:
    log_ended_at = None
    if guard is not None:
        lease_until = turn_rows.end(connection, own, record.id, guard, events)
        log_ended_at = lease_until if record.completed_at is None else record.completed_at
    response_rows.insert(connection, own, record, log_ended_at)
    rows.insert_commits(connection, own, commits, TurnConflictError)
    response_rows.put_heard(connection, own, record)
    # Every stored response can be continued, so the commit it names must be there.
    if not any(commit.id == record.commit for commit in commits) and not rows.is_stored(connection, own, record.commit):
        raise TurnConflictError(
            f"Response {record.id} names commit {record.commit}, which is neither stored nor handed over. "
            "Nothing was stored."
        )
    if move is not None:
        conversation_rows.move(connection, own, record.commit, move)
    if key is not None:
        response_rows.put_key(connection, own, key, record)
    reached(CrashPoint.FINISHING)
