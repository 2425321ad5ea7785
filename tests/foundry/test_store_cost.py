"""What a turn costs: round trips one after the other, requests and bytes."""

import time
from pathlib import Path

import pytest

from agent_host.ids import key_of
from agent_host.stores.foundry.store import FoundryStore
from agent_host.stores.records import Conversation, ConversationMove, Item, TurnInFlight
from tests.foundry.platform_store import IDS, Turn, finish, noise, process, read_state, turn
from tests.foundry.stand_in import Project

STATE = 510 * 1024


@pytest.fixture
async def first(platform: Project) -> Turn:
    """A turn whose state is just under 512 KB, stored by a process that is gone; from then on answers take time.

    It is in two segments and the tail of the head.
    """
    made = turn(None, noise(1, STATE - 100_000))
    async with process(platform) as store:
        await finish(store, "ann", made)
        for seed in range(5):
            made = turn(made, noise(seed, 20_000))
            await finish(store, "ann", made)
    (head,) = (value for key, value in platform.items("agent_host").items() if key.startswith("f/"))
    assert (len(head["segments"]), bool(head["tail"])) == (2, True)
    platform.latency = 0.05
    return made


async def begin(store: FoundryStore, previous: Turn) -> Turn:
    """What a turn does before its first superstep; the turn."""
    await read_state(store, "ann", previous.record.id)
    made = turn(previous, noise(3, 2000))
    await store.admit("ann", TurnInFlight(made.record.id, previous.commit.id, 100))
    return made


async def test_a_turn_in_a_new_process_takes_three_round_trips_before_and_three_after(
    platform: Project, first: Turn
) -> None:
    """With an empty disk: the head and the parts that it reaches; then the new parts, the head, and the showing."""
    async with process(platform) as store:
        began = time.monotonic()
        made = await begin(store, first)
        begun = time.monotonic()
        # The head, then all parts at once: one less than a turn may take.
        assert platform.rounds(began, begun) == 2
        await finish(store, "ann", made)
        assert 1 <= platform.rounds(begun, time.monotonic()) <= 3


async def test_a_turn_of_a_family_that_is_in_use_asks_for_its_head_at_most(platform: Project, first: Turn) -> None:
    """One round trip before a turn, also when the copy is old, and two after it."""
    async with process(platform) as store:
        previous = first
        for is_old in (True, False, True):
            if is_old:
                await store.read_response("ann", previous.record.id)
                for place in store._places.open_of("ann"):
                    place.family.synced_at = float("-inf")
            began = time.monotonic()
            made = await begin(store, previous)
            begun = time.monotonic()
            assert platform.rounds(began, begun) <= (1 if is_old else 0)
            await finish(store, "ann", made)
            assert platform.rounds(begun, time.monotonic()) <= 3
            previous = made


async def test_a_large_change_is_published_in_the_same_number_of_round_trips(platform: Project, first: Turn) -> None:
    """All parts are written at once, before the head."""
    async with process(platform) as store:
        await read_state(store, "ann", first.record.id)
        made = turn(first, noise(4, 5_000_000))
        began = time.monotonic()
        await finish(store, "ann", made)
        assert 1 <= platform.rounds(began, time.monotonic()) <= 3


async def test_a_turn_of_the_platforms_conversation_takes_as_many(platform: Project) -> None:
    """What others have put there is asked for together with the head."""
    conversation = Conversation(IDS.new("conv"), 100, b"{}")
    platform.latency = 0.05
    platform.add_to_conversation(conversation.id, [{"id": IDS.new("msg"), "type": "message"}])
    head, made = None, None
    for number in range(2):
        async with process(platform) as store:
            began = time.monotonic()
            found = await store.adopt_conversation("ann", conversation)
            waiting = await store.waiting_items("ann", conversation.id)
            assert found.head == head
            assert len(waiting.items) == 1 - number
            if found.head is not None:
                await store.read_chain("ann", found.head)
                await store.read_calls("ann", found.head)
                await store.read_heard("ann", found.head)
            made = turn(made, noise(5, STATE), key=key_of(conversation.id), conversation=conversation.id)
            await store.admit("ann", TurnInFlight(made.record.id, made.record.start_commit, 100, conversation.id))
            begun = time.monotonic()
            assert 1 <= platform.rounds(began, begun) <= 3
            move = ConversationMove(conversation.id, head, (Item(IDS.new("msg"), b"{}"),), waiting.position)
            await finish(store, "ann", made, move=move)
            head = made.commit.id
            assert 1 <= platform.rounds(begun, time.monotonic()) <= 3


async def test_a_long_chain_costs_as_much_at_its_end_as_at_its_beginning(platform: Project, tmp_path: Path) -> None:
    """Bytes and requests of two hundred turns, each in a process of its own with the session's disk, stay flat."""
    previous: Turn | None = None
    sizes, counts = [], []
    for number in range(200):
        platform.clear()
        async with process(platform, cache=tmp_path) as store:
            if previous is not None:
                await read_state(store, "ann", previous.record.id)
            previous = turn(previous, noise(number, 3000))
            await finish(store, "ann", previous)
        # What the platform shows names everything that was said before; that is its own demand.
        sizes.append(sum(request.size for request in platform.requests if request.store))
        counts.append(len(platform.requests))
    assert sum(sizes[100:]) <= 1.3 * sum(sizes[:100])
    assert sum(counts[100:]) <= 1.1 * sum(counts[:100])
    assert max(counts) <= 12
