"""What a SQL store forgets: each step one transaction that is short, so that turns hardly wait for it."""

from collections.abc import Callable, Collection, Sequence
from functools import partial

from agent_host.stores import retention_rows
from agent_host.stores.blob_collection import BlobCollection
from agent_host.stores.database import Database
from agent_host.stores.records import CommitName, Freed


class SqlRetention:
    """The verbs of `Store` about retention; `held` names what turns in memory have begun from."""

    def __init__(self, database: Database, held: Callable[[], retention_rows.Held]) -> None:
        self._database = database
        self._held = held

    async def forget_responses(self, before: float, limit: int) -> Freed:
        """Remove the oldest responses."""
        return await self._database.write(partial(retention_rows.forget_responses, before=before, limit=limit))

    async def forget_compactions(self, before: float, limit: int) -> Freed:
        """Remove the oldest compactions."""
        return await self._database.write(partial(retention_rows.forget_compactions, before=before, limit=limit))

    async def forget_events(self, before: float, limit: int) -> Freed:
        """Remove the events of the responses that ended first."""
        return await self._database.write(partial(retention_rows.forget_events, before=before, limit=limit))

    async def forget_keys(self, before: float, limit: int) -> Freed:
        """Remove the oldest idempotency keys."""
        return await self._database.write(partial(retention_rows.forget_keys, before=before, limit=limit))

    async def unneeded_commits(self, limit: int, roots: Collection[str]) -> list[CommitName]:
        """The newest commits that nothing needs, newest first, and then the roots."""
        found: list[CommitName] = []
        place = await self._database.read(retention_rows.place_behind)
        while place > 0 and len(found) < limit:
            more, place = await self._database.read(partial(retention_rows.find_unneeded, behind=place))
            found += more
        found += await self._database.read(partial(retention_rows.find_unneeded_roots, in_use=roots))
        return found[:limit]

    async def prune(self, names: Sequence[CommitName], roots: Collection[str]) -> Freed:
        """Remove those of these commits that nothing needs still."""
        return await self._database.write(
            lambda connection: retention_rows.prune(connection, names, roots, self._held())
        )

    async def collect_blobs(self) -> Freed:
        """Remove the blobs that no stored commit needs."""
        return await BlobCollection(self._database).run()
