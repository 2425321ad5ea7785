"""The engine's face of a store in families."""

from collections.abc import Awaitable, Callable, Sequence

from agent_host.engine.checkpoint import Commit
from agent_host.stores.database import Database
from agent_host.stores.sql_commit_log import SqlCommitLog


class SharingCommitLog(SqlCommitLog):
    """The commit log of one user; `share` gives the roots that it stores to everybody."""

    def __init__(self, database: Database, user: str, share: Callable[[Sequence[Commit]], Awaitable[None]]) -> None:
        super().__init__(database, user)
        self._share = share

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        """Store the commits and make the last one the head, or raise `WorkflowConflictError` and change nothing."""
        await super().commit(commits, expected_head)
        await self._share(commits)
