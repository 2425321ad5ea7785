"""The event log of a turn: its writers take turns, and what is left belongs to the next process."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_host.server.event_log import FLUSH_SIZE, EventLog
from agent_host.stores.records import Guard
from agent_host.testing.commit_log_contract import ROOT
from agent_host.testing.records import background
from tests.server.unsteady import UnsteadyStore

CREATED: Any = {"type": "response.created", "sequence_number": 0}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[UnsteadyStore]:
    """A store with a turn that this process has taken."""
    store = UnsteadyStore(tmp_path / "host.db")
    await store.open()
    await store.admit("", background("1"), [ROOT])
    assert await store.take("", "resp_1", "me", now=0, until=10)
    yield store
    await store.aclose()


async def test_what_was_told_is_stored_when_a_turn_is_left(store: UnsteadyStore) -> None:
    """A client that has just been given the turn learns its id from the stream, also if the host goes down then."""
    events = EventLog(store)
    log = events.open_turn("", Guard("resp_1", "me"))
    log.tell([CREATED])
    await log.close()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 1
    await events.aclose()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 1


async def test_what_was_told_too_late_is_not_stored(store: UnsteadyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn with another owner gets no events of its former one, not even when that owner takes it again."""
    monkeypatch.setattr(store, "event_pause", 60)
    events = EventLog(store)
    log = events.open_turn("", Guard("resp_1", "me"))
    log.tell([CREATED])
    assert await store.take("", "resp_1", "another", now=1, until=1, by_force=True)
    await log.close()
    assert await store.take("", "resp_1", "me", now=2, until=10)
    await events.aclose()
    assert await store.read_events("", "resp_1", -1, 10) == []


async def test_a_superstep_that_ends_beside_events_voids_no_guard(store: UnsteadyStore) -> None:
    """Events that wait behind a superstep go with it, or after it: the turn stays its owner's."""
    lost: list[Any] = []
    events = EventLog(store, lost.append)
    log = events.open_turn("", Guard("resp_1", "me"))
    gate = store.hold("append")
    log.tell([CREATED])
    await gate.reached.wait()
    log.tell([{**CREATED, "sequence_number": 1, "text": "x" * FLUSH_SIZE}])
    step = asyncio.create_task(log.step([]))
    await asyncio.sleep(0)
    gate.open()
    await step
    await log.step([])
    await events.aclose()
    assert lost == []
    assert len(await store.read_events("", "resp_1", -1, 10)) == 2


async def test_who_writes_for_a_turn_of_another_owner_hears_of_it(store: UnsteadyStore) -> None:
    """The first events that are refused say so, once."""
    lost: list[Any] = []
    events = EventLog(store, lost.append)
    log = events.open_turn("", Guard("resp_1", "me"))
    assert await store.take("", "resp_1", "another", now=1, until=1, by_force=True)
    for _ in range(2):
        log.tell([CREATED])
        await asyncio.sleep(0.1)
    assert lost == [("", "resp_1")]
    await events.aclose()


async def test_what_a_superstep_settles_is_written_with_it(store: UnsteadyStore) -> None:
    """Not before: if the superstep is not stored, another attempt tells the same again. What was live is not kept."""
    events = EventLog(store)
    log = events.open_turn("", Guard("resp_1", "me"))
    log.tell([CREATED])
    log.hold_back()
    log.tell([CREATED, CREATED])
    assert await events._flush()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 1
    await log.step([])
    assert len(await store.read_events("", "resp_1", -1, 10)) == 3
    log.tell([CREATED])
    assert await events._flush()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 4
    log.hold_back()
    log.tell([CREATED])
    await log.close()
    await events.aclose()
    assert len(await store.read_events("", "resp_1", -1, 10)) == 4
