"""Responses as rows, with their items, questions and idempotency keys: functions of a connection.

Rule 1: an item belongs to the response that brought it first of those that are stored; what holds its bytes is found
through that.
Rule 2: questions lie beside their commit, so that whoever continues from there finds them.
Rule 3: what a state has heard outlives the responses that brought it: what is not kept with them is kept at commits.
"""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from agent_host.crash_points import CrashPoint, reached
from agent_host.errors import GuardLostError, TurnConflictError
from agent_host.stores import rows
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import Compaction, Heard, IdempotencyKey, OpenCall, ResponseRecord, ResumePoint

# Where these two stand in a row of a response; the columns before them are the first fields of `ResponseRecord`.
_BACKGROUND, _ITEMS = 11, 12

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


def insert(connection: Connection, own: str, record: ResponseRecord, log_ended_at: float | None) -> None:
    """Store a response with its items and questions; `TurnConflictError` if the user has one of that id.

    That is a `GuardLostError` of one that runs in the background: only its owner can end it.
    """
    row = (*_row(own, record, log_ended_at), own, record.id)
    if connection.execute(QUERIES["insert_response"], row).rowcount != 1:
        raise _exists(connection, own, record)
    for item_id in record.items:
        connection.execute(QUERIES["insert_item_place"], (own, item_id, record.id))
    if record.calls:
        last = connection.execute(QUERIES["select_last_call"], (own, record.commit)).fetchone()[0]
        for position, call in enumerate(record.calls, start=0 if last is None else last + 1):
            connection.execute(
                QUERIES["insert_call"], (own, record.id, position, record.commit, call.call_id, call.request_id)
            )


def put_heard(connection: Connection, own: str, record: ResponseRecord) -> None:
    """Note at the commit of a response what its turn has heard and said, if that is more than its own items."""
    if record.heard and record.heard != record.items:
        connection.execute(QUERIES["put_heard"], (_encode(record.heard), own, record.commit))


def read_heard(connection: Connection, own: str, commit_id: str) -> list[Heard]:
    """What the turns on the way to a commit have heard, newest first."""
    found = connection.execute(QUERIES["select_heard"], (own, commit_id, own))
    return [Heard(response_id, _decode(items)) for response_id, items in found]


def _exists(connection: Connection, own: str, record: ResponseRecord) -> TurnConflictError:
    if connection.execute(QUERIES["find_turn"], (own, record.id)).fetchone() is None:
        return TurnConflictError(f"Response {record.id} exists already. Nothing was stored; use a new id.")
    return GuardLostError(
        f"Response {record.id} runs in the background and ends under the guard of its owner. Nothing was stored."
    )


def resolve(connection: Connection, own: str, response_id: str) -> ResumePoint | None:
    """Where a response is continued, finished or in flight; None if there is none."""
    row = connection.execute(QUERIES["select_resume_point"], (own, response_id) * 2).fetchone()
    return None if row is None else ResumePoint(*row)


def read(connection: Connection, own: str, response_id: str) -> ResponseRecord | None:
    """A response with its items and questions; None if there is none."""
    row = connection.execute(QUERIES["select_response"], (own, response_id)).fetchone()
    if row is None:
        return None
    calls = connection.execute(QUERIES["select_calls_of_response"], (own, response_id)).fetchall()
    values = list(row)
    values[_BACKGROUND:] = [
        bool(row[_BACKGROUND]),
        tuple(OpenCall(*call) for call in calls),
        () if row[_ITEMS] is None else _decode(row[_ITEMS]),
    ]
    return ResponseRecord(*values)


def delete(connection: Connection, own: str, response_id: str) -> bool:
    """Remove a response with its events, the places of its items, and its questions unless they are still needed."""
    record = read(connection, own, response_id)
    if record is None:
        return False
    if record.items and record.commit != record.start_commit:
        connection.execute(QUERIES["keep_heard"], (_encode(record.items), own, record.commit, response_id))
    connection.execute(QUERIES["delete_response"], (own, response_id))
    reached(CrashPoint.DELETING_RESPONSE)
    connection.execute(QUERIES["delete_events"], (own, response_id))
    for item_id in record.items:
        connection.execute(QUERIES["delete_item_place"], (own, item_id, response_id))
    forget_calls(connection, own, record.commit)
    return True


def forget_calls(connection: Connection, own: str, commit_id: str) -> None:
    """Remove the questions that were asked at a commit from which nothing is continued any more."""
    if rows.find_continued(connection, own, commit_id) is None:
        connection.execute(QUERIES["delete_calls"], (own, commit_id))


def read_calls(connection: Connection, own: str, commit_id: str) -> list[OpenCall]:
    """The questions that were asked at a commit, in order."""
    return [OpenCall(*row) for row in connection.execute(QUERIES["select_calls"], (own, commit_id)).fetchall()]


def find_call(connection: Connection, own: str, call_id: str) -> str | None:
    """The commit at which a question was asked; None if there is no such question."""
    row = connection.execute(QUERIES["find_call"], (own, call_id)).fetchone()
    return None if row is None else str(row[0])


def find_items(connection: Connection, own: str, ids: Collection[str]) -> dict[str, tuple[bytes, ...]]:
    """What holds the bytes of items, by the ids of the items; those that nothing holds are absent."""
    found: dict[str, tuple[bytes, ...]] = {}
    for item_id, body in _select(connection, QUERIES["select_conversation_items_by_id"], own, ids):
        found[item_id] = (body,)
    held: dict[str, tuple[bytes, ...]] = {}
    for item_id, response_id in _select(connection, QUERIES["select_item_places"], own, ids):
        if response_id not in held:
            held[response_id] = connection.execute(QUERIES["select_bytes_of_items"], (own, response_id)).fetchone()
        found[item_id] = held[response_id]
    return found


def _select(connection: Connection, query: str, own: str, ids: Collection[str]) -> list[Any]:
    found: list[Any] = []
    for batch in rows.batches(set(ids)):
        found += connection.execute(rows.with_marks(query, batch), (own, *batch)).fetchall()
    return found


def put_key(connection: Connection, own: str, key: IdempotencyKey, record: ResponseRecord) -> None:
    """Let a key stand for a response from the time on at which that was created."""
    connection.execute(QUERIES["put_key"], (own, key.key, key.fingerprint, record.id, record.created_at))


def find_key(connection: Connection, own: str, key: str, since: float) -> tuple[bytes, str] | None:
    """The fingerprint and the response that a key stands for since a time; None if for nothing."""
    row = connection.execute(QUERIES["find_key"], (own, key, since) * 2).fetchone()
    return None if row is None else (row[0], row[1])


def put_compaction(connection: Connection, own: str, compaction: Compaction) -> None:
    """Store what a handle stands for."""
    heard = _encode(compaction.heard)
    row = (own, compaction.handle, compaction.created_at, compaction.items, compaction.commit, heard)
    connection.execute(QUERIES["put_compaction"], row)


def read_compaction(connection: Connection, own: str, handle: str) -> Compaction | None:
    """What a handle stands for; None for an unknown one."""
    row = connection.execute(QUERIES["select_compaction"], (own, handle)).fetchone()
    if row is None:
        return None
    handle, created_at, items, commit, heard = row
    return Compaction(handle, created_at, items, commit, _decode(heard))


def _row(own: str, record: ResponseRecord, log_ended_at: float | None) -> Sequence[str | int | float | bytes | None]:
    return (
        own,
        record.id,
        record.previous_response_id,
        record.start_commit,
        record.commit,
        record.conversation,
        record.status,
        record.created_at,
        record.completed_at,
        record.delta_lengths,
        record.input,
        record.body,
        record.background,
        _encode(record.items) if record.items else None,
        log_ended_at,
    )
