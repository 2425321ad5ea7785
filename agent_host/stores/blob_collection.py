"""Removing the blobs that no stored commit needs, in steps between which others write.

A mark is made by reading all commits, some at a time, in the order in which they were stored; then blobs that it does
not reach are removed, some at a time. Nothing stands still meanwhile, and no blob is missed:

- A commit that is stored later has a higher place. Each transaction that removes blobs reads those first.
- A commit whose cells are completed takes them from its ancestors, which were stored and therefore read before it.

The mark takes about 100 bytes of memory for each blob that is needed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from agent_host.engine.checkpoint import body_references
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.stores import rows
from agent_host.stores.base import SYSTEM
from agent_host.stores.database import Connection, Database
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import Freed
from agent_host.stores.retention_rows import MOST_BYTES

_COMMITS_READ = 500
_BLOBS_READ = 2_000
_BLOBS_REMOVED = 64
"""What one transaction reads or removes: some milliseconds."""

_Place = tuple[int, str]
_Needed = dict[str, set[bytes]]


class _MarkOutdated(Exception):
    """The newest commit that was read is gone."""


class BlobCollection:
    """One collection: the mark, and what was removed by it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._needed: _Needed = {}
        self._last: _Place = (0, "")
        self.freed = Freed()

    async def run(self) -> Freed:
        """Mark, then remove; what cannot be told for sure is left to the next collection."""
        with suppress(_MarkOutdated):
            await self._mark()
            await self._sweep()
        return self.freed

    async def _mark(self) -> None:
        direct: _Needed = {}
        last: _Place | None = self._last
        while last is not None:
            self._last = last
            last = await self._database.read(partial(_read_commits, behind=last, direct=direct))
        names: dict[bytes, Sequence[bytes]] = {}
        for first in range(0, await self._database.read(_last_blob), _BLOBS_READ):
            names |= await self._database.read(partial(_read_naming, behind=first))
        for own, hashes in direct.items():
            self._needed[own] = _closed(hashes, names)

    async def _sweep(self) -> None:
        for first in range(0, await self._database.read(_last_blob), _BLOBS_READ):
            unneeded = await self._database.read(partial(self._find_unneeded, behind=first))
            for some in _steps(unneeded):
                self._last, freed = await self._database.write(partial(self._remove, unneeded=some))
                self.freed += freed

    def _find_unneeded(self, connection: Connection, behind: int) -> list[tuple[str, bytes, int]]:
        found = connection.execute(QUERIES["select_blob_names"], (behind, behind + _BLOBS_READ)).fetchall()
        return [(own, hash_, size) for own, hash_, size in found if not self._is_needed(own, hash_)]

    def _is_needed(self, own: str, hash_: bytes) -> bool:
        # What the system's partition holds is read by every user.
        if own == SYSTEM:
            return any(hash_ in needed for needed in self._needed.values())
        return hash_ in self._needed.get(own, ())

    def _remove(self, connection: Connection, unneeded: Sequence[tuple[str, bytes]]) -> tuple[_Place, Freed]:
        """Remove blobs that are unneeded still; also returns the newest commit by which that was told.

        What this adds to the mark may stay if the transaction is undone: it keeps more, not less.
        """
        last = self._catch_up(connection)
        freed = Freed()
        for own, hash_ in unneeded:
            found = connection.execute(QUERIES["select_blob_size"], (own, hash_)).fetchone()
            if found is not None and not self._is_needed(own, hash_):
                connection.execute(QUERIES["delete_blob"], (own, hash_))
                freed += Freed(1, found[0])
        return last, freed

    def _catch_up(self, connection: Connection) -> _Place:
        direct: _Needed = {}
        last, place = self._last, _read_commits(connection, self._last, direct)
        while place is not None:
            last, place = place, _read_commits(connection, place, direct)
        for own, hashes in direct.items():
            needed = self._needed.setdefault(own, set())
            waiting = hashes - needed
            while waiting:
                needed |= waiting
                bodies = rows.select_blobs(connection, own, waiting)
                waiting = {child for body in bodies.values() for child in body_references(body)} - needed
        return last


def _steps(blobs: Iterable[tuple[str, bytes, int]]) -> Iterator[list[tuple[str, bytes]]]:
    """The blobs, as many at a time as one transaction removes."""
    step: list[tuple[str, bytes]] = []
    bytes_ = 0
    for own, hash_, size in blobs:
        step.append((own, hash_))
        bytes_ += size
        if len(step) == _BLOBS_REMOVED or bytes_ > MOST_BYTES:
            yield step
            step, bytes_ = [], 0
    if step:
        yield step


def _last_blob(connection: Connection) -> int:
    place: int = connection.execute(QUERIES["last_blob"]).fetchone()[0]
    return place


def _read_commits(connection: Connection, behind: _Place, direct: _Needed) -> _Place | None:
    """Add what the commits next behind a place name to `direct`, by partition; the last of them, None without any.

    Raises `_MarkOutdated` if the commit at the place is gone: the places behind it may have been given again.
    """
    if behind[0] and connection.execute(QUERIES["find_commit_at"], behind).fetchone() is None:
        raise _MarkOutdated
    last = None
    for place, own, id_, delta in connection.execute(
        QUERIES["select_deltas_behind"], (behind[0], _COMMITS_READ)
    ).fetchall():
        direct.setdefault(own, set()).update(needed_blobs([rows.delta_of(delta, f"Commit {id_}")], {}))
        last = (place, id_)
    return last


def _read_naming(connection: Connection, behind: int) -> dict[bytes, Sequence[bytes]]:
    found = connection.execute(QUERIES["select_naming_blobs"], (behind, behind + _BLOBS_READ)).fetchall()
    return {hash_: body_references(body) for hash_, body in found}


def _closed(hashes: Iterable[bytes], names: Mapping[bytes, Sequence[bytes]]) -> set[bytes]:
    """These blobs and all that they need."""
    waiting, needed = set(hashes), set[bytes]()
    while waiting:
        needed |= waiting
        waiting = {child for blob in waiting for child in names.get(blob, ())} - needed
    return needed
