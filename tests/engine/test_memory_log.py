"""The commit log in memory keeps the same rules as every store's."""

import pytest

from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.testing.commit_log_contract import BODY, ROOT, CommitLogContract, child


class TestMemoryLog(CommitLogContract):
    @pytest.fixture
    async def log(self) -> CommitLog:
        return MemoryLog()

    async def test_a_cancelled_commit_is_whole_or_nothing(self, log: CommitLog) -> None:
        """A commit in memory never waits, so that it has ended before it could be cancelled."""
        await log.commit([ROOT], None)
        commit = child(ROOT, "one", BODY, session="one")
        committing = log.commit([commit], None)
        with pytest.raises(StopIteration):
            committing.send(None)  # type: ignore[attr-defined]
        assert await log.head("support", "one") == commit.id
        assert await log.chain(commit.id)
