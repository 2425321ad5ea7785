"""What a process holds of its turns in flight in the platform's storage, and what it does when one goes another way."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from agent_host.errors import GuardLostError, StoreError
from agent_host.stores.foundry.store import FoundryStore
from agent_host.stores.records import Append, IdempotencyKey, TurnInFlight
from agent_host.testing.commit_log_contract import ROOT
from agent_host.testing.records import background, begun, response
from tests.foundry.platform_store import IDS, finish, platform_store, process, read_state, turn
from tests.foundry.stand_in import Project, Recorded


def held(store: FoundryStore) -> int:
    """For how many turns in flight families are kept open."""
    return sum(place.turns for place in store._places.open_of())


def is_head(request: Recorded) -> bool:
    return request.method in ("PUT", "POST") and request.key.startswith("f/")


async def test_who_leaves_while_a_turn_is_stored_leaves_nothing_half_done(platform: Project) -> None:
    """It is stored, shown, and held no more, although nobody waits for that."""
    async with process(platform) as store:
        guard = await begun(store, "a")
        platform.latency = 0.1
        platform.clear()
        asked = asyncio.create_task(
            store.finish("", response("a", ROOT, ROOT), [], guard=guard, key=IdempotencyKey("k", b"f"))
        )
        await asyncio.sleep(0.05)
        for _ in range(3):
            asked.cancel()
            await asyncio.sleep(0.02)
        with suppress(asyncio.CancelledError):
            await asked
        assert await store.read_response("", "resp_a") is not None
        assert len(platform.records.responses) == 1
        assert held(store) == 0


@pytest.mark.parametrize("verb", ["begin", "step", "record", "append", "renew", "finish"])
async def test_a_turn_that_another_process_has_taken_is_held_no_more(platform: Project, verb: str) -> None:
    """Whichever of its writes finds that out; then its family may be closed like any other."""
    async with process(platform) as store, process(platform) as other:
        guard = await begun(store, "a")
        assert held(store) == 1
        assert await other.take("", "resp_a", "other", now=0, until=10, by_force=True) is not None
        match verb:
            case "append":
                assert await store.append([Append("", guard, (b"{}",))]) == {"resp_a"}
            case "renew":
                assert await store.renew("me", [("", "resp_a")], 20) == {("", "resp_a")}
            case "finish":
                with pytest.raises(GuardLostError):
                    await store.finish("", response("a", ROOT, ROOT), [], guard=guard)
            case _:
                arguments: tuple[Any, ...] = {"begin": ([],), "step": ([], []), "record": ({"x": b"y"},)}[verb]
                with pytest.raises(GuardLostError):
                    await getattr(store, verb)("", guard, *arguments)
        assert (held(store), held(other)) == (0, 1)


async def test_a_turn_that_cannot_be_released_is_held_no_more(platform: Project) -> None:
    """Nobody tries a second time, and the turn can still be taken up."""
    async with process(platform) as store:
        await store.admit("", background("a"), [ROOT])
        platform.fail(500, 100)
        with pytest.raises(StoreError):
            await store.release("", "resp_a")
        platform.faults.clear()
        assert held(store) == 0
        assert [lapsed.turn.id for lapsed in await store.lapsed(0)] == ["resp_a"]


async def test_a_start_that_the_storage_has_failed_is_made_up_for(platform: Project) -> None:
    """What an earlier process of the session has left is taken from it when the store opens at last."""
    async with process(platform, session="S") as dead:
        await begun(dead, "a")
        store = platform_store(platform, session="S")
        platform.fail(500, 100, is_head)
        with pytest.raises(StoreError):
            await store.open()
        platform.faults.clear()
        await store.open()
        assert [lapsed.turn.id for lapsed in await store.lapsed(0)] == ["resp_a"]
        await store.aclose()


async def test_a_key_that_cannot_be_noted_makes_no_failure_of_what_is_stored(platform: Project) -> None:
    """The response has it all the same."""
    async with process(platform) as store:
        await store.commit_log().commit([ROOT], None)
        platform.fail(500, 100, lambda request: request.key.startswith("k/"))
        await store.finish("", response("a", ROOT, ROOT), [ROOT], key=IdempotencyKey("k", b"f"))
        platform.faults.clear()
        assert await store.read_response("", "resp_a") is not None


@pytest.mark.parametrize("is_admitted", [False, True])
async def test_a_turn_is_stored_where_its_state_is_also_if_that_is_not_open(
    platform: Project, is_admitted: bool
) -> None:
    """A process may remember a state for longer than its family is open, and the turn's id may have another key."""
    first = turn()
    second = turn(first, key=IDS.partition_key())
    async with process(platform) as store:
        await finish(store, "ann", first)
    async with process(platform) as store:
        if is_admitted:
            await store.admit("ann", TurnInFlight(second.record.id, first.commit.id, 0))
        await finish(store, "ann", second)
    async with process(platform) as store:
        await read_state(store, "ann", second.record.id)
