"""Which family a record is in, and that it is found there: by its id, by what continues it, and by nobody else."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from agent_host.engine.checkpoint import blob_hash
from agent_host.errors import TurnConflictError
from agent_host.ids import key_of
from agent_host.stores.foundry import place as place_module
from agent_host.stores.foundry.store import FoundryStore
from agent_host.stores.records import Compaction, Conversation, ConversationMove, Item, OpenCall, TurnInFlight
from agent_host.testing.commit_log_contract import ROOT
from tests.foundry.platform_store import IDS, Turn, finish, process, read_state, turn
from tests.foundry.stand_in import Project


def families(project: Project) -> set[str]:
    """The keys of the families that are stored."""
    return {key.rpartition("/")[2] for _, key in project.sizes() if key.startswith("f/")}


def keys_of(*turns: Turn) -> set[str | None]:
    return {key_of(each.record.id) for each in turns}


async def assert_is_found(store: FoundryStore, user: str, made: Turn, *bodies: bytes) -> None:
    """Everything that is stored of a turn is found by its ids."""
    record = made.record
    assert await store.read_response(user, record.id) == replace(record, heard=())
    found = await store.find_items(user, record.items)
    assert set(found) == set(record.items)
    heard = await store.read_heard(user, record.commit)
    assert heard[0].response_id == record.id
    assert {blob_hash(body) for body in bodies} <= (await read_state(store, user, record.id)).keys()


async def test_chains_lie_apart_and_their_branches_together(platform: Project) -> None:
    """Each chain is one family with all that continues it, and a new process finds every turn by its id alone."""
    async with process(platform) as store:
        one, other = turn(None, b"one"), turn(None, b"other")
        left, right = turn(one, b"left"), turn(one, b"right")
        last = turn(left, b"last")
        for each in (one, other, left, right, last):
            await finish(store, "ann", each)
    assert families(platform) == keys_of(one, other)
    for each, bodies in ((one, [b"one"]), (last, [b"one", b"left", b"last"]), (right, [b"one", b"right"])):
        async with process(platform) as store:
            await assert_is_found(store, "ann", each, *bodies)


async def test_a_response_with_another_key_than_what_it_continues_is_found_by_its_id(platform: Project) -> None:
    """The family of its key points to the one it is in, also in a new process; its items and questions are found."""
    one = turn(None, b"one")
    two = turn(one, b"two", key=IDS.partition_key())
    question = OpenCall(IDS.new("call", key_of(two.record.id)), "request")
    three = turn(two, b"three", key=IDS.partition_key(), calls=(question,))
    async with process(platform) as store:
        for each in (one, two, three):
            await finish(store, "ann", each)
    for each in (two, three):
        async with process(platform) as store:
            await assert_is_found(store, "ann", each, b"one", b"two")
    async with process(platform) as store:
        assert set(await store.find_items("ann", [*one.record.items, *three.record.items])) == {
            *one.record.items,
            *three.record.items,
        }
    async with process(platform) as store:
        await read_state(store, "ann", three.record.id)
        assert await store.find_call("ann", question.call_id) == three.commit.id
        assert await store.read_calls("ann", three.commit.id) == [question]
    async with process(platform) as store:
        four = turn(three, b"four", key=IDS.partition_key())
        await read_state(store, "ann", three.record.id)
        await finish(store, "ann", four)
        assert await store.delete_response("ann", two.record.id)
    async with process(platform) as store:
        await assert_is_found(store, "ann", four, b"one", b"two", b"three", b"four")
        assert await store.read_response("ann", two.record.id) is None


async def test_items_with_one_key_are_found_in_all_families_that_have_it(platform: Project) -> None:
    """Some are in the family of the key and others in the one of a turn that has got an id with this key."""
    one, other = turn(None, b"one"), turn(None, b"other")
    two = turn(one, b"two", key=key_of(other.record.id))
    async with process(platform) as store:
        for each in (one, other, two):
            await finish(store, "ann", each)
    async with process(platform) as store:
        ids = [*other.record.items, *two.record.items]
        assert set(await store.find_items("ann", ids)) == set(ids)


async def test_a_turn_that_continues_another_key_is_stored_once(platform: Project) -> None:
    """Its id is taken wherever it is found: neither its own family nor another one takes it again."""
    one = turn(None, b"one")
    two = turn(one, b"two", key=IDS.partition_key())
    async with process(platform) as store:
        await finish(store, "ann", one)
        await finish(store, "ann", two)
        with pytest.raises(TurnConflictError):
            await finish(store, "ann", two)


async def test_items_and_questions_of_many_families_are_found_at_once(platform: Project) -> None:
    """Ids of several conversations in one question, some of which are unknown, are answered as one store does."""
    made = [turn(None, b"%d" % number) for number in range(4)]
    async with process(platform) as store:
        for each in made:
            await finish(store, "ann", each)
    unknown = [IDS.new("msg"), IDS.new("msg", key_of(made[0].record.id)), "msg_elsewhere"]
    ids = [id for each in made for id in each.record.items]
    async with process(platform) as store:
        assert set(await store.find_items("ann", [*ids, *unknown])) == set(ids)
        assert await store.find_call("ann", "call_unknown") is None


async def test_another_user_sees_nothing_of_it(platform: Project) -> None:
    """Whatever another user's ids are, they answer as unknown ones, in the process that has them open and in another.

    The same ids may be used by both.
    """
    one = turn(None, b"secret")
    two = turn(one, b"more", key=IDS.partition_key(), calls=(OpenCall("call_1", "request"),))
    conversation = Conversation(IDS.new("conv"), 100, b"{}")
    handle = IDS.new("cmp")
    async with process(platform) as store:
        await finish(store, "ann", one)
        await finish(store, "ann", two)
        await store.create_conversation("ann", conversation, [Item("msg_1", b"{}")])
        await store.keep_compaction("ann", Compaction(handle, 100, b"[]"))
        for stranger in ("bob", "", "*", "*ann"):
            await assert_sees_nothing(store, stranger, one, two, conversation, handle)
    async with process(platform) as store:
        for stranger in ("bob", ""):
            await assert_sees_nothing(store, stranger, one, two, conversation, handle)
            await finish(store, stranger, one)
        assert not await store.delete_response("bob", two.record.id)
        await assert_is_found(store, "ann", two, b"secret", b"more")


async def assert_sees_nothing(
    store: FoundryStore, user: str, one: Turn, two: Turn, conversation: Conversation, handle: str
) -> None:
    for made in (one, two):
        assert await store.resolve(user, made.record.id) is None
        assert await store.read_response(user, made.record.id) is None
        assert await store.read_chain(user, made.commit.id) == []
        assert await store.read_heard(user, made.commit.id) == []
        assert await store.read_calls(user, made.commit.id) == []
        assert await store.find_items(user, made.record.items) == {}
        assert await store.read_archive(user, made.record.id) is None
    assert await store.read_blobs(user, [blob_hash(b"secret"), blob_hash(b"more")]) == {}
    assert await store.find_call(user, "call_1") is None
    assert await store.read_conversation(user, conversation.id) is None
    assert await store.find_items(user, ["msg_1"]) == {}
    assert await store.read_compaction(user, handle) is None


# --- Families that are put to rest -------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two families stay open, and none that is not needed."""
    monkeypatch.setattr(place_module, "MOST_OPEN", 2)
    monkeypatch.setattr(place_module, "IDLE", 0.0)


async def test_more_families_than_stay_open_lose_nothing(platform: Project, small: None, tmp_path: Path) -> None:
    """Thirty chains go on in turns, and each is found whole, by a process that has never more than a few open."""
    chains = [turn(None, b"%d" % number) for number in range(30)]
    async with process(platform, cache=tmp_path) as store:
        for each in chains:
            await finish(store, "ann", each)
        for round in range(3):
            for number, each in enumerate(chains):
                await read_state(store, "ann", each.record.id)
                chains[number] = turn(each, b"%d %d" % (number, round))
                await finish(store, "ann", chains[number])
                assert len(store._places.open_of()) <= 3
        for number, each in enumerate(chains):
            await assert_is_found(store, "ann", each, b"%d" % number, b"%d 2" % number)


async def test_families_at_the_same_time_are_not_taken_from_each_other(platform: Project, small: None) -> None:
    """Turns that run beside each other, in more families than stay open, all end as they would alone."""
    async with process(platform) as store:

        async def run(number: int) -> Turn:
            made = turn(None, b"%d" % number)
            for step in range(3):
                await store.admit("ann", TurnInFlight(made.record.id, made.record.start_commit, 100), [ROOT])
                await finish(store, "ann", made)
                await read_state(store, "ann", made.record.id)
                made = turn(made, b"%d %d" % (number, step))
            return made

        made = await asyncio.gather(*map(run, range(20)))
        for each in made:
            assert await store.resolve("ann", str(each.record.previous_response_id)) is not None


async def test_a_turn_in_flight_keeps_its_family(platform: Project, small: None) -> None:
    """Its conversation stays locked, whatever else is used meanwhile."""
    async with process(platform) as store:
        conversation = Conversation(IDS.new("conv"), 100, b"{}")
        await store.create_conversation("ann", conversation, [])
        made = turn(None, b"one", key=key_of(conversation.id), conversation=conversation.id)
        await store.admit("ann", TurnInFlight(made.record.id, ROOT.id, 100, conversation.id))
        for _ in range(10):
            await finish(store, "ann", turn(None, b"other"))
        other = turn(None, b"two", key=key_of(conversation.id))
        with pytest.raises(Exception, match="in flight"):
            await store.admit("ann", TurnInFlight(other.record.id, ROOT.id, 100, conversation.id))
        await finish(store, "ann", made, move=ConversationMove(conversation.id, None))
        for _ in range(10):
            await finish(store, "ann", turn(None, b"other"))
        assert (await store.read_conversation("ann", conversation.id)) is not None
        await store.admit("ann", TurnInFlight(other.record.id, ROOT.id, 100, conversation.id))
        await store.release("ann", other.record.id)


async def test_more_families_may_be_in_use_than_are_kept(platform: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all are in use, one more is opened all the same."""
    monkeypatch.setattr(place_module, "MOST_OPEN", 2)
    async with process(platform) as store:
        made = [turn(None, b"%d" % number) for number in range(5)]
        for each in made:
            await finish(store, "ann", each)
        for each in made:
            await assert_is_found(store, "ann", each)


async def test_a_verb_that_walks_over_families_does_not_fail_where_one_is_put_to_rest(
    platform: Project, small: None
) -> None:
    """What asks every open family meets some that are resting by then, and is answered all the same."""
    async with process(platform) as store:
        made = [turn(None, b"%d" % number) for number in range(3)]
        for each in made:
            await finish(store, "ann", each)
        walking = [store.read_blobs("ann", [blob_hash(b"unknown")]), store.lapsed(100), store.save_points(0)]
        others = [finish(store, "ann", turn(None, b"other")) for _ in range(10)]
        await asyncio.gather(*walking, *others)
