"""The event log of a turn that its process leaves to the next one."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_host.server.event_log import EventLog
from agent_host.stores import Store, open_store
from agent_host.stores.records import Guard
from agent_host.testing.commit_log_contract import ROOT
from agent_host.testing.records import background

CREATED: Any = {"type": "response.created", "sequence_number": 0}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store with a turn that this process has taken."""
    store = open_store(f"sqlite:///{tmp_path}/host.db")
    await store.open()
    await store.admit("", background("1"), [ROOT])
    assert await store.take("", "resp_1", "me", now=0, until=10)
    yield store
    await store.aclose()


async def test_what_was_told_is_stored_when_a_turn_is_left(store: Store) -> None:
    """A client that has just been given the turn learns its id from the stream, also if the host goes down then."""
    events = EventLog(store)
    log = events.open_turn("", Guard("resp_1", "me"))
    log.tell([CREATED])
    await log.close()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 1
    await events.aclose()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 1


async def test_what_was_told_too_late_is_not_stored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn with another owner gets no events of its former one, not even when that owner takes it again."""
    monkeypatch.setattr("agent_host.server.event_log.FLUSH_AFTER", 60)
    events = EventLog(store)
    log = events.open_turn("", Guard("resp_1", "me"))
    log.tell([CREATED])
    assert await store.take("", "resp_1", "another", now=1, until=1, by_force=True)
    await log.close()
    assert await store.take("", "resp_1", "me", now=2, until=10)
    await events.aclose()
    assert await store.read_events("", "resp_1", -1, 10) == []
