"""What is particular about the commit log in memory; the rules of all logs are tested in `test_storages.py`."""

import pytest

from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.testing.commit_log_contract import BODY, ROOT, child


async def test_a_commit_in_memory_never_waits() -> None:
    """It has ended before it could be cancelled."""
    log = MemoryLog()
    await log.commit([ROOT], None)
    commit = child(ROOT, "one", BODY, session="one")
    committing = log.commit([commit], None)
    with pytest.raises(StopIteration):
        committing.send(None)
    assert await log.head("support", "one") == commit.id
    assert await log.chain(commit.id)
