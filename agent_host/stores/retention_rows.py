"""What of the rows may go: old responses, and commits that nothing needs. Functions of a connection.

Rule 1: what is to go is looked at again in the transaction in which it goes.
Rule 2: a commit that stays holds the same cells as before. The only one that was read through a commit that goes takes
its changes over; a commit that several are read through stays. What was heard on the way to a commit stays known.
Rule 3: commits are looked at from the newest to the oldest. A parent was stored before its children, so what was
needed only by unneeded commits is unneeded when its turn comes.
"""

from collections.abc import Collection, Sequence

import msgspec

from agent_host.engine.checkpoint import cells_of
from agent_host.stores import response_rows, rows
from agent_host.stores.base import SYSTEM
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import CommitName, Freed

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[str]).decode

_WINDOW = 2_000
"""Rows that one transaction looks at: some milliseconds."""

MOST_BYTES = 4_000_000
"""What one transaction removes, or a little more: some tens of milliseconds."""

Held = Collection[tuple[str, str]]
"""Partition and commit of what a turn in memory has begun from."""


def forget_responses(connection: Connection, before: float, limit: int) -> Freed:
    """Remove the oldest responses from before a time, unless what they ask is unanswered."""
    freed = Freed()
    for own, response_id, size in connection.execute(QUERIES["select_old_responses"], (before, limit)).fetchall():
        events: int = connection.execute(QUERIES["sum_events"], (own, response_id)).fetchone()[0]
        response_rows.delete(connection, own, response_id)
        freed += Freed(1, size + events)
        if freed.size > MOST_BYTES:
            break
    return freed


def forget_events(connection: Connection, before: float, limit: int) -> Freed:
    """Remove the events of the responses that ended first of those before a time."""
    freed = Freed()
    for own, response_id in connection.execute(QUERIES["select_old_logs"], (before, limit)).fetchall():
        freed += Freed(1, connection.execute(QUERIES["sum_events"], (own, response_id)).fetchone()[0])
        connection.execute(QUERIES["delete_events"], (own, response_id))
        connection.execute(QUERIES["note_log_gone"], (own, response_id))
        if freed.size > MOST_BYTES:
            break
    return freed


def forget_keys(connection: Connection, before: float, limit: int) -> Freed:
    """Remove the oldest idempotency keys from before a time."""
    found = connection.execute(QUERIES["select_old_keys"], (before, limit)).fetchall()
    for own, key in found:
        connection.execute(QUERIES["delete_key"], (own, key))
    return Freed(len(found))


def forget_compactions(connection: Connection, before: float, limit: int) -> Freed:
    """Remove the oldest compactions from before a time."""
    found = connection.execute(QUERIES["select_old_compactions"], (before, limit)).fetchall()
    for place, _ in found:
        connection.execute(QUERIES["delete_compaction"], (place,))
    return Freed(len(found), sum(size for _, size in found))


def place_behind(connection: Connection) -> int:
    """The place behind the newest commit."""
    place: int = connection.execute(QUERIES["last_commit"]).fetchone()[0]
    return place


def find_unneeded(connection: Connection, behind: int) -> tuple[list[CommitName], int]:
    """The unneeded commits among those next before a place, newest first, and the place of the oldest of these."""
    first = max(behind - _WINDOW, 0)
    found = connection.execute(QUERIES["select_unneeded_commits"], (behind, first)).fetchall()
    return [CommitName(rows.user_of(own), id_) for own, id_ in found], first


def find_unneeded_roots(connection: Connection, in_use: Collection[str]) -> list[CommitName]:
    """The roots that nothing begins at, without those in use."""
    found = connection.execute(QUERIES["select_unneeded_roots"]).fetchall()
    return [CommitName(None, id_) for (id_,) in found if id_ not in in_use]


def prune(connection: Connection, names: Sequence[CommitName], roots: Collection[str], held: Held) -> Freed:
    """Remove those of these commits that are unneeded still."""
    freed = Freed()
    for name in names:
        if name.user is None:
            freed += _prune_root(connection, name, roots)
        else:
            freed += _prune(connection, rows.partition(name.user), name.id, held)
    return freed


def _prune_root(connection: Connection, name: CommitName, in_use: Collection[str]) -> Freed:
    if name not in find_unneeded_roots(connection, in_use):
        return Freed()
    (delta,) = connection.execute(QUERIES["select_delta"], (SYSTEM, name.id)).fetchone()
    connection.execute(QUERIES["delete_commit"], (SYSTEM, name.id))
    return Freed(1, len(delta))


def _prune(connection: Connection, own: str, commit_id: str, held: Held) -> Freed:
    found = connection.execute(QUERIES["find_place"], (own, commit_id)).fetchone()
    if found is None or (own, commit_id) in held or not _is_unneeded(connection, own, commit_id, found[0]):
        return Freed()
    _, parent, delta, is_complete, heard = found
    children = connection.execute(QUERIES["select_incomplete_children"], (own, commit_id)).fetchall()
    if len(children) > 1:
        return Freed()
    size = len(delta)
    for child, distance in children:
        size -= _hand_over(connection, own, commit_id, delta, child, distance if is_complete else None)
    for child, heard_since in connection.execute(QUERIES["select_children"], (commit_id, own)).fetchall():
        connection.execute(QUERIES["move_child"], (parent, _joined(heard, heard_since), own, child))
    connection.execute(QUERIES["delete_calls"], (own, commit_id))
    connection.execute(QUERIES["delete_commit"], (own, commit_id))
    return Freed(1, size)


def _is_unneeded(connection: Connection, own: str, commit_id: str, place: int) -> bool:
    unneeded = connection.execute(QUERIES["select_unneeded_commits"], (place + 1, place)).fetchone() is not None
    # A turn in flight stands at a commit of its own or at its first; this asks for any of them.
    return unneeded and rows.find_continued(connection, own, commit_id) is None


def _hand_over(connection: Connection, own: str, commit_id: str, delta: bytes, child: str, distance: int | None) -> int:
    """Let a child hold what it was read through; `distance` is its own if that is complete. Returns what it grew by."""
    (before,) = connection.execute(QUERIES["select_delta"], (own, child)).fetchone()
    if distance is not None:
        after = rows.encoded(cells_of(rows.select_chain(connection, own, child)))
        connection.execute(QUERIES["shorten_distances"], (child, own, distance, own))
        connection.execute(QUERIES["complete_commit"], (after, own, child))
    else:
        upper = rows.delta_of(delta, f"Commit {commit_id}")
        after = rows.encoded(upper | rows.delta_of(before, f"Commit {child}"))
        # The distances of the child and its heirs are one too long from now on: the next complete commit comes sooner.
        # To change all of their rows, again and again as one commit after the other goes, would cost more.
        connection.execute(QUERIES["replace_delta"], (after, own, child))
    return len(after) - len(before)


def _joined(heard: bytes | None, heard_since: bytes | None) -> bytes | None:
    """The ids of what was heard until a commit and after it, as they are stored."""
    if heard is None or heard_since is None:
        return heard or heard_since
    return _encode(list(dict.fromkeys((*_decode(heard), *_decode(heard_since)))))
