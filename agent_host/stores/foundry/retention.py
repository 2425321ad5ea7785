"""What is forgotten, and what is told of what is stored, in the families that a process has used.

Every family has its own copy of the roots; they count once.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from operator import attrgetter

from agent_host.stores.base import SYSTEM
from agent_host.stores.database import Connection
from agent_host.stores.description import describe, total
from agent_host.stores.foundry.place import Places
from agent_host.stores.records import CommitName, Description, Freed
from agent_host.stores.sql_store import SqlStore

_ALL = 1_000_000


class FamilyRetention:
    """The verbs of `Store` about retention, over all families that are open; those opened first go first."""

    def __init__(self, places: Places) -> None:
        self._places = places

    async def forget_events(self, before: float, limit: int) -> Freed:
        """Remove the events of the responses that ended first of those before a time."""
        return await self._from_each(lambda sql, left: sql.forget_events(before, left), limit)

    async def forget_keys(self, before: float, limit: int) -> Freed:
        """Remove the oldest idempotency keys from before a time."""
        return await self._from_each(lambda sql, left: sql.forget_keys(before, left), limit)

    async def forget_responses(self, before: float, limit: int) -> Freed:
        """Remove the oldest responses from before a time, without those that wait for an answer."""
        return await self._from_each(lambda sql, left: sql.forget_responses(before, left), limit)

    async def forget_compactions(self, before: float, limit: int) -> Freed:
        """Remove the oldest compactions from before a time."""
        return await self._from_each(lambda sql, left: sql.forget_compactions(before, left), limit)

    async def unneeded_commits(self, limit: int, roots: Collection[str] = ()) -> list[CommitName]:
        """The commits that nothing needs, newest first."""
        places = self._places.open_of()
        found = [await place.copy.unneeded_commits(limit, roots) for place in places]
        own = [name for names in found for name in names if name.user is not None]
        # A root that nothing begins from in one family may be needed in another one.
        everywhere = set.intersection(*map(set, found)) if found else set()
        return [*own, *sorted((each for each in everywhere if each.user is None), key=attrgetter("id"))][:limit]

    async def prune(self, names: Sequence[CommitName], roots: Collection[str] = ()) -> Freed:
        """Remove commits that nothing needs."""
        freed = Freed()
        for place in self._places.open_of():
            own = [name for name in names if name.user == place.user]
            freed += await place.sql.prune(own, roots) if own else Freed()
        shared = [name for name in names if name.user is None]
        unneeded = [name for name in await self.unneeded_commits(_ALL, roots) if name in shared] if shared else []
        for name in unneeded:
            self._places.forget_root(name.id)
            gone = [await place.sql.prune([name], roots) for place in self._places.open_of()]
            freed += max(gone, key=attrgetter("count"))
        return freed

    async def collect_blobs(self) -> Freed:
        """Remove the blobs that no stored commit needs."""
        freed, of_roots = Freed(), Freed()
        for place in self._places.open_of():
            before = await place.family.peek(_blobs_of_roots)
            freed += await place.sql.collect_blobs()
            after = await place.family.peek(_blobs_of_roots)
            gone = Freed(before.count - after.count, before.size - after.size)
            freed = Freed(freed.count - gone.count, freed.size - gone.size)
            of_roots = max(of_roots, gone, key=attrgetter("count"))
        return freed + of_roots

    async def describe(self) -> Description:
        """What this process has seen, added up."""
        places = self._places.open_of()
        parts = [await place.family.imagine(describe if place is places[0] else _without_roots) for place in places]
        users = {place.user for place, part in zip(places, parts, strict=True) if part.users}
        return replace(total(parts), users=len(users))

    async def _from_each(self, verb: Callable[[SqlStore, int], Awaitable[Freed]], limit: int) -> Freed:
        freed = Freed()
        for place in sorted(self._places.open_of(), key=attrgetter("number")):
            if freed.count < limit:
                freed += await verb(place.sql, limit - freed.count)
        return freed


def _blobs_of_roots(connection: Connection) -> Freed:
    """How much a family's copies of the roots take."""
    found = connection.execute(
        "SELECT COUNT(*), COALESCE(SUM(LENGTH(body)), 0) FROM blobs WHERE user_id = ?", (SYSTEM,)
    ).fetchone()
    return Freed(*found)


def _without_roots(connection: Connection) -> Description:
    """What a family holds besides the roots, of which each family has a copy."""
    for table in ("commits", "blobs"):
        connection.execute(f"DELETE FROM {table} WHERE user_id = ?", (SYSTEM,))
    return describe(connection)
