"""Commits and blobs as rows: functions of a connection that the verbs of the SQL stores are made of.

Rule 1: a user's rows lie in the user's partition, roots and their blobs in the system's; `partition` and
`home_of` alone decide which.
Rule 2: what is read is checked: a damaged delta and a gap in a chain are errors, and `checked` makes a body without
its hash one.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar

import msgspec

from agent_host.engine.checkpoint import Commit, blob_hash, body_references
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.errors import AgentHostError, CheckpointDecodeError
from agent_host.stores.base import SYSTEM
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES

T = TypeVar("T")

# Far below the number of values that any SQLite allows in one statement (999 before 3.32). Statements are prepared
# once for each size, so there are few sizes; what is missing to a size is filled with a repetition.
_BATCH_SIZES = (1, 4, 16, 64, 256)

# Where these two stand in a row of a commit; the columns are in the order of the fields of `Commit`.
_DELTA, _COMPLETE = 9, 10

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, bytes | None]).decode


def partition(user: str) -> str:
    """The partition of a user, never the system's: a user called like it gets a longer name."""
    return SYSTEM + user if user.startswith(SYSTEM) else user


def user_of(own: str) -> str:
    """The user whose partition this is."""
    return own[len(SYSTEM) :] if own.startswith(SYSTEM) else own


def home_of(commit: Commit, own: str) -> str:
    """The partition in which a commit and its blobs are stored."""
    return SYSTEM if commit.kind == "root" else own


def insert_commits(connection: Connection, own: str, commits: Sequence[Commit], refusal: type[AgentHostError]) -> None:
    """Store commits with their blobs, those that are stored already excepted; `refusal` if a parent is missing."""
    earlier: set[str] = set()
    for commit in commits:
        _check_parent(connection, own, commit, earlier, refusal)
        earlier.add(commit.id)
        home = home_of(commit, own)
        connection.execute(QUERIES["insert_commit"], _commit_row(home, commit))
        for hash_, body in commit.blobs.items():
            connection.execute(QUERIES["insert_blob"], (home, hash_, body))


def _check_parent(
    connection: Connection, own: str, commit: Commit, earlier: set[str], refusal: type[AgentHostError]
) -> None:
    if commit.parent is None:
        if not commit.complete:
            raise refusal(f"Commit {commit.id} has no parent and does not hold all of its cells. Nothing was stored.")
    elif commit.parent not in earlier and not (
        is_stored(connection, own, commit.parent) or is_stored(connection, own, commit.id)
    ):
        raise refusal(
            f"The parent {commit.parent} of commit {commit.id} is not stored, so it could not be read back. "
            "Nothing was stored; start again from a stored commit."
        )


def find_continued(connection: Connection, own: str, commit_id: str) -> str | None:
    """What is continued from a commit, in words; None if nothing is.

    That is a response that has ended there, its turn having made the commit, begun and ended at it, or asked something
    at it; a conversation that stands there; a background turn that stands there or began there; or a compaction.
    """
    row = connection.execute(QUERIES["find_continued"], (own, commit_id) * 5 + (commit_id, own, commit_id)).fetchone()
    return None if row is None else f"{row[0]} {row[1]}"


def is_stored(connection: Connection, own: str, commit_id: str) -> bool:
    """Whether the user may read such a commit."""
    return connection.execute(QUERIES["find_commit"], (own, commit_id)).fetchone() is not None


def is_own(connection: Connection, own: str, commit_id: str) -> bool:
    """Whether the user has such a commit that is not a root."""
    found = connection.execute(QUERIES["find_commit"], (own, commit_id)).fetchone()
    return found is not None and found[0] != "root"


def select_chain(connection: Connection, own: str, commit_id: str) -> list[Commit]:
    """A commit and its ancestors back to a complete one, newest first; empty if it is unknown."""
    rows = connection.execute(QUERIES["select_chain"], (own, commit_id, own)).fetchall()
    chain = []
    for row in rows:
        chain.append(commit_of(row))
        if chain[-1].kind == "root":
            break  # what else of the user has its id is nothing that was made of it
    if chain and not chain[-1].complete:
        raise CheckpointDecodeError(
            f"Commit {commit_id} cannot be read: its ancestor {chain[-1].parent} is missing. Restore the store from "
            "a backup, or continue from another response."
        )
    return chain


def select_blobs(connection: Connection, own: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
    """The bodies of blobs, the user's own before the system's, unchecked; those that are not stored are absent."""
    bodies: dict[bytes, bytes] = {}
    wanted: Collection[bytes] = set(hashes)
    for home in (own, SYSTEM):
        for batch in batches(wanted):
            rows = connection.execute(with_marks(QUERIES["select_blobs"], batch), (home, *batch)).fetchall()
            bodies.update(rows)
        wanted = [hash_ for hash_ in wanted if hash_ not in bodies]
    return bodies


def checked(bodies: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The same bodies; `CheckpointDecodeError` if one does not have its hash."""
    for hash_, body in bodies.items():
        if not _is_sound(hash_, body):
            raise CheckpointDecodeError(
                f"Blob {hash_.hex()} is damaged: its bytes do not have this hash. Restore the store from a backup."
            )
    return bodies


def _is_sound(hash_: bytes, body: object) -> bool:
    return isinstance(body, bytes) and blob_hash(body) == hash_  # a damaged row may hold anything


def delete_unneeded_blobs(connection: Connection, own: str) -> int:
    """Remove a user's blobs that none of the user's commits needs; returns how many.

    Roots and their blobs lie in the system's partition and stay.
    """
    found = connection.execute(QUERIES["select_blob_heads"], (own,)).fetchall()
    references = {hash_: body_references(body) for hash_, body in found}
    needed = needed_blobs(
        (
            delta_of(row[0], f"A commit of user {user_of(own)!r}")
            for row in connection.execute(QUERIES["select_deltas"], (own,)).fetchall()
        ),
        references,
    )
    unneeded = references.keys() - needed
    for hash_ in unneeded:
        connection.execute(QUERIES["delete_blob"], (own, hash_))
    return len(unneeded)


def batches(keys: Iterable[T]) -> Iterator[list[T]]:
    """The keys in lists that one statement can take; a list may end with repetitions of its first."""
    rest = iter(keys)
    while batch := list(islice(rest, _BATCH_SIZES[-1])):
        size = next(size for size in _BATCH_SIZES if size >= len(batch))
        yield batch + batch[:1] * (size - len(batch))


def with_marks(query: str, batch: Sequence[object]) -> str:
    """The statement with one `?` for each key in the place of its three dots."""
    return query.replace("...", ", ".join("?" * len(batch)))


def encoded(cells: Mapping[str, bytes | None]) -> bytes:
    """The stored form of a delta."""
    return _encode(dict(cells))


def commit_of(row: Sequence[Any]) -> Commit:
    """The commit that a row holds; `CheckpointDecodeError` if its delta is damaged."""
    values = list(row)
    values[_DELTA] = delta_of(values[_DELTA], f"Commit {row[0]}")
    values[_COMPLETE] = bool(values[_COMPLETE])
    return Commit(*values)


def delta_of(stored: bytes, owner: str) -> dict[str, bytes | None]:
    """What a stored delta holds; `CheckpointDecodeError` naming its owner if it is damaged."""
    try:
        return _decode(stored)
    except (msgspec.DecodeError, TypeError) as error:
        raise CheckpointDecodeError(f"{owner} is damaged ({error}). Restore the store from a backup.") from error


def _commit_row(home: str, commit: Commit) -> tuple[Any, ...]:
    return (
        home,
        commit.id,
        commit.parent,
        commit.workflow,
        commit.session_id,
        commit.kind,
        commit.seq,
        commit.step,
        commit.created_at,
        commit.signature,
        encoded(commit.delta),
        commit.complete,
        commit.distance,
    )
