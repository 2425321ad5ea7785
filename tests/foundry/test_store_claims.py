"""Idempotency keys across processes: of all who ask with a key, one is served."""

import asyncio
from typing import Any

import pytest

from agent_host.errors import TurnConflictError
from agent_host.stores.foundry import claims
from agent_host.stores.foundry.claims import HELD
from agent_host.stores.foundry.store import FoundryStore
from agent_host.stores.records import IdempotencyKey, TurnInFlight
from agent_host.testing.commit_log_contract import ROOT
from tests.foundry.platform_store import Turn, finish, process, turn
from tests.foundry.stand_in import Project

KEY = IdempotencyKey("once", b"fingerprint")


async def admit(store: FoundryStore, made: Turn, user: str = "ann", **more: Any) -> None:
    """Begin a turn under the key."""
    turn = TurnInFlight(made.record.id, made.record.start_commit, 100, key=KEY, **more)
    await store.admit(user, turn, [ROOT] if more.get("background") else [])


@pytest.mark.parametrize("background", [False, True])
async def test_of_two_processes_one_gets_the_key(platform: Project, background: bool) -> None:
    """Asked at the same moment, one admits the turn, and the other one names the response that has the key."""
    platform.latency = 0.01
    async with process(platform) as one, process(platform) as two:
        for _ in range(5):
            turns = [turn(), turn()]
            ends = await asyncio.gather(
                *(admit(store, made, background=background) for store, made in zip((one, two), turns, strict=True)),
                return_exceptions=True,
            )
            (winner,) = [number for number, end in enumerate(ends) if end is None]
            loser = ends[1 - winner]
            assert isinstance(loser, TurnConflictError)
            assert turns[winner].record.id in str(loser)
            for store in (one, two):
                assert await store.find_key("ann", "once", 0) == (b"fingerprint", turns[winner].record.id)
                assert await store.find_key("bob", "once", 0) is None
            await (one, two)[winner].release("ann", turns[winner].record.id)
            assert await two.find_key("ann", "once", 0) is None


async def test_a_key_stands_for_the_response_it_brought(platform: Project) -> None:
    """A new process answers with it, until the response is deleted or the key is too old."""
    made, other = turn(), turn()
    async with process(platform) as store:
        await admit(store, made)
        await finish(store, "ann", made, key=KEY)
        with pytest.raises(TurnConflictError):
            await admit(store, other)
    async with process(platform) as store:
        assert await store.find_key("ann", "once", 0) == (b"fingerprint", made.record.id)
        with pytest.raises(TurnConflictError, match=made.record.id):
            await admit(store, other)
    platform.clock.ahead += HELD + 1
    async with process(platform) as store:
        assert await store.find_key("ann", "once", made.record.created_at + 1) is None
        assert await store.find_key("ann", "once", 0) == (b"fingerprint", made.record.id)
        assert await store.delete_response("ann", made.record.id)
        assert await store.find_key("ann", "once", 0) is None
        await admit(store, other)


async def test_the_key_of_a_process_that_has_died_is_free_after_a_while(platform: Project) -> None:
    """A turn that nobody can see keeps its key for so long, and then another one gets it."""
    dead = await process(platform).__aenter__()
    made, other = turn(), turn()
    await admit(dead, made)
    async with process(platform) as store:
        platform.clock.ahead += HELD - 5
        with pytest.raises(TurnConflictError, match=made.record.id):
            await admit(store, other)
        platform.clock.ahead += 10
        await admit(store, other)
        assert await store.find_key("ann", "once", 0) == (b"fingerprint", other.record.id)
    await dead.aclose()


async def test_the_key_of_a_sessions_last_process_is_free_at_once(platform: Project) -> None:
    """Only one process of a session runs at a time, so the claim of another one is that of a dead one."""
    async with process(platform, session="S") as store:
        await admit(store, turn())
    async with process(platform, session="T") as stranger:
        assert await stranger.find_key("ann", "once", 0) is not None
    async with process(platform, session="S") as store:
        assert await store.find_key("ann", "once", 0) is None
        await admit(store, turn())


async def test_a_long_turn_keeps_its_key(platform: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process renews it as long as the turn runs, and no longer."""
    monkeypatch.setattr(claims, "HELD", 0.3)
    async with process(platform) as one, process(platform) as two:
        made = turn()
        await admit(one, made)
        await asyncio.sleep(0.8)
        assert await two.find_key("ann", "once", 0) == (b"fingerprint", made.record.id)
        await finish(one, "ann", made, key=KEY)
        await asyncio.sleep(0.2)
        platform.clear()
        await asyncio.sleep(0.3)
        assert platform.requests == []


async def test_a_turn_that_is_refused_leaves_no_key(platform: Project) -> None:
    """Where the turn itself is refused, the key that was taken for it is free at once, for other processes too."""
    made = turn()
    async with process(platform) as store:
        await finish(store, "ann", made)
        with pytest.raises(TurnConflictError):
            await admit(store, made, background=True)
        async with process(platform) as other:
            assert await other.find_key("ann", "once", 0) is None
            await admit(other, turn())


async def test_a_claim_whose_answer_is_lost_is_a_claim(platform: Project) -> None:
    """The turn is admitted, and has the key until it is taken back."""
    made = turn()
    async with process(platform) as store:
        platform.cut(when=lambda request: request.key.startswith("k/") and request.method == "POST")
        await admit(store, made)
        async with process(platform) as other:
            with pytest.raises(TurnConflictError, match=made.record.id):
                await admit(other, turn())
            await store.release("ann", made.record.id)
            await admit(other, turn())


async def test_a_turn_gives_up_only_a_key_that_is_its_own(platform: Project) -> None:
    """A turn that took longer than its key was held does not free it for a third while another one has it."""
    slow, fast = turn(), turn()
    async with process(platform) as one, process(platform) as two:
        await admit(one, slow)
        platform.clock.ahead += HELD + 1
        await admit(two, fast)
        await one.release("ann", slow.record.id)
        async with process(platform) as three:
            with pytest.raises(TurnConflictError, match=fast.record.id):
                await admit(three, turn())
