"""Background turns in flight as rows, with their notes and their event log: functions of a connection.

Rule 1: whatever a turn writes stands behind `claim`, which lets the owner of the guard through and nobody else.
Rule 2: a turn has a row as long as it is in flight; its events outlive it.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.checkpoint import Commit
from agent_host.errors import ConversationLockedError, GuardLostError, TurnConflictError
from agent_host.stores import response_rows, rows
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import Append, Guard, IdempotencyKey, Lapsed, TurnInFlight

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


def insert(connection: Connection, own: str, turn: TurnInFlight, commits: Sequence[Commit], keys_since: float) -> None:
    """Store a turn that waits to be begun, or refuse it as `Store.admit` does."""
    if response_rows.resolve(connection, own, turn.id) is not None:
        raise _taken(turn)
    if turn.key is not None:
        _refuse_made(connection, own, turn.key, keys_since)
    rows.insert_commits(connection, own, commits, TurnConflictError)
    if not rows.is_stored(connection, own, turn.start_commit):
        raise TurnConflictError(
            f"Response {turn.id} is to start from commit {turn.start_commit}, which is neither stored nor handed "
            "over. Nothing was stored."
        )
    if connection.execute(QUERIES["insert_turn"], _row(own, turn)).rowcount != 1:
        refuse_beside(connection, own, turn, keys_since)
        raise _taken(turn)
    connection.execute(QUERIES["insert_turn_request"], (own, turn.id, turn.request))
    reached(CrashPoint.ADMITTED_INSIDE)


def _taken(turn: TurnInFlight) -> TurnConflictError:
    return TurnConflictError(f"Response {turn.id} exists or is in flight already. Nothing was stored; use a new id.")


def refuse_beside(connection: Connection, own: str, turn: TurnInFlight, keys_since: float) -> None:
    """Raise what `Store.admit` raises if another turn has the turn's conversation or its key, or had that."""
    if turn.conversation is not None:
        other = connection.execute(QUERIES["find_turn_in_conversation"], (own, turn.conversation)).fetchone()
        if other is not None:
            raise locked(turn.conversation, other[0])
    if turn.key is not None:
        other = connection.execute(QUERIES["find_turn_with_key"], (own, turn.key.key)).fetchone()
        if other is not None:
            raise key_in_use(turn.key, other[0])
        _refuse_made(connection, own, turn.key, keys_since)


def _refuse_made(connection: Connection, own: str, key: IdempotencyKey, since: float) -> None:
    made = response_rows.find_key(connection, own, key.key, since)
    if made is not None:
        raise key_in_use(key, made[1])


def locked(conversation: str, response_id: str) -> ConversationLockedError:
    """The error of a turn whose conversation has another one in flight."""
    return ConversationLockedError(
        f"Conversation {conversation} has response {response_id} in flight. Wait for its end, or cancel it."
    )


def key_in_use(key: IdempotencyKey, response_id: str) -> TurnConflictError:
    """The error of a turn whose key stands for another one."""
    return TurnConflictError(
        f"Response {response_id} was asked for under the idempotency key {key.key!r}. Give that one, or use another "
        "key."
    )


def read(connection: Connection, own: str, response_id: str) -> TurnInFlight | None:
    """A turn in flight; None if there is none."""
    row = connection.execute(QUERIES["select_turn"], (own, response_id)).fetchone()
    return None if row is None else _turn(row)


def find_lapsed(connection: Connection, now: float) -> list[Lapsed]:
    """The turns of every user that nobody works on, the oldest first."""
    found = connection.execute(QUERIES["select_lapsed_turns"], (now,)).fetchall()
    return [Lapsed(rows.user_of(row[0]), _turn(row)) for row in found]


def take(
    connection: Connection, own: str, response_id: str, owner: str, now: float, until: float, by_force: bool
) -> TurnInFlight | None:
    """Give a turn another owner; None if there is none or its owner keeps it."""
    taken = connection.execute(QUERIES["take_turn"], (owner, until, own, response_id, now, by_force))
    return read(connection, own, response_id) if taken.rowcount == 1 else None


def renew(connection: Connection, owner: str, ids: Collection[tuple[str, str]], until: float) -> set[tuple[str, str]]:
    """Move the leases of an owner's turns; those that are not the owner's are returned."""
    return {
        (user, response_id)
        for user, response_id in ids
        if connection.execute(QUERIES["renew_turn"], (until, rows.partition(user), response_id, owner)).rowcount != 1
    }


def give_back(connection: Connection, own: str, response_id: str, owner: str, has_begun: bool) -> None:
    """End an owner's lease of a turn, and do not count the attempt that has begun, if one has."""
    connection.execute(QUERIES["give_back_turn"], (has_begun, own, response_id, owner))


def let_lease_lapse(connection: Connection, own: str, response_id: str) -> bool:
    """Take a turn from its owner; False if there is no such turn."""
    return connection.execute(QUERIES["let_lease_lapse"], (own, response_id)).rowcount == 1


def let_leases_lapse(connection: Connection) -> None:
    """Take every turn from its owner, whose process is gone."""
    connection.execute(QUERIES["let_leases_lapse"])


def claim(connection: Connection, own: str, guard: Guard, events: Sequence[bytes]) -> None:
    """Write events behind those of the turn, maybe none; `GuardLostError` unless the guard holds."""
    row = (len(events), own, guard.response_id, guard.owner, guard.last_sequence)
    if connection.execute(QUERIES["claim_turn"], row).rowcount != 1:
        raise GuardLostError(
            f"Response {guard.response_id} has ended, or is not owned by {guard.owner} with event "
            f"{guard.last_sequence} as its last any more. Nothing was stored; leave it to its owner."
        )
    if events:
        first, last = guard.last_sequence + 1, guard.last_sequence + len(events)
        connection.execute(QUERIES["insert_events"], (own, guard.response_id, first, last, _encode(events)))


def begin(connection: Connection, own: str, guard: Guard, events: Sequence[bytes]) -> None:
    """Count an attempt at a turn."""
    claim(connection, own, guard, events)
    connection.execute(QUERIES["begin_turn"], (own, guard.response_id))


def step(connection: Connection, own: str, guard: Guard, commits: Sequence[Commit], events: Sequence[bytes]) -> None:
    """Store a superstep and let the turn stand at its last commit."""
    claim(connection, own, guard, events)
    rows.insert_commits(connection, own, commits, TurnConflictError)
    if commits:
        connection.execute(QUERIES["move_turn"], (commits[-1].id, own, guard.response_id))
    connection.execute(QUERIES["delete_turn_notes"], (own, guard.response_id))
    reached(CrashPoint.STEPPING)


def record(connection: Connection, own: str, guard: Guard, entries: Mapping[str, bytes]) -> None:
    """Note what is finished of the turn's superstep."""
    claim(connection, own, guard, ())
    for name, body in entries.items():
        connection.execute(QUERIES["put_turn_note"], (own, guard.response_id, name, body))


def recorded(connection: Connection, own: str, response_id: str) -> dict[str, bytes]:
    """What is noted of the turn's superstep."""
    return dict(connection.execute(QUERIES["select_turn_notes"], (own, response_id)).fetchall())


def append(connection: Connection, batch: Sequence[Append]) -> set[str]:
    """Write events of many turns; the ids of those whose guard does not hold are returned."""
    void: set[str] = set()
    for addition in batch:
        try:
            claim(connection, rows.partition(addition.user), addition.guard, addition.events)
        except GuardLostError:
            void.add(addition.guard.response_id)
    reached(CrashPoint.APPENDING)
    return void


def read_events(connection: Connection, own: str, response_id: str, after: int, limit: int) -> list[bytes]:
    """The events behind a sequence number, at most so many."""
    found = connection.execute(QUERIES["select_events"], (own, response_id, after, max(limit, 0))).fetchall()
    behind = [
        body
        for first, bodies in found
        for sequence, body in enumerate(_decode(bodies), start=first)
        if sequence > after
    ]
    return behind[: max(limit, 0)]


def end(connection: Connection, own: str, response_id: str, guard: Guard, events: Sequence[bytes]) -> float:
    """Write the last events of a turn and end it; returns until when its lease was."""
    if guard.response_id != response_id:
        raise GuardLostError(f"The guard is that of response {guard.response_id}, not of {response_id}.")
    claim(connection, own, guard, events)
    until: float = connection.execute(QUERIES["find_turn"], (own, response_id)).fetchone()[0]
    forget(connection, own, response_id)
    return until


def is_in_flight(connection: Connection, own: str, response_id: str) -> bool:
    """Whether there is such a turn."""
    return connection.execute(QUERIES["find_turn"], (own, response_id)).fetchone() is not None


def release(connection: Connection, own: str, response_id: str) -> None:
    """Remove a turn that will not be finished, and its events; nothing if there is none."""
    if is_in_flight(connection, own, response_id):
        forget(connection, own, response_id)
        connection.execute(QUERIES["delete_events"], (own, response_id))


def forget(connection: Connection, own: str, response_id: str) -> None:
    """Remove a turn's row, its request and its notes."""
    connection.execute(QUERIES["delete_turn"], (own, response_id))
    connection.execute(QUERIES["delete_turn_request"], (own, response_id))
    connection.execute(QUERIES["delete_turn_notes"], (own, response_id))


def _turn(row: Sequence[Any]) -> TurnInFlight:
    _, id_, start_commit, created_at, conversation, key, fingerprint, request, status, commit, attempt, last = row
    return TurnInFlight(
        id=id_,
        start_commit=start_commit,
        created_at=created_at,
        conversation=conversation,
        background=True,
        key=None if key is None else IdempotencyKey(key, fingerprint),
        request=request,
        status=status,
        commit=commit,
        attempt=attempt,
        last_sequence=last,
    )


def _row(own: str, turn: TurnInFlight) -> Sequence[str | int | bytes | None]:
    """The row of a turn that waits to be begun, whatever it has been before."""
    return (
        own,
        turn.id,
        turn.start_commit,
        turn.start_commit,
        turn.created_at,
        turn.conversation,
        turn.key.key if turn.key is not None else None,
        turn.key.fingerprint if turn.key is not None else None,
        "queued",
        0,
        -1,
    )
