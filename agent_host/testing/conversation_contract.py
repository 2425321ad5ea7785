"""The rules of `agent_host.stores.base` about conversations and their items.

Part of `agent_host.testing.store_contract`: the first word of each test's docstring is the number of its rule.
"""

import asyncio
from dataclasses import replace

import pytest

from agent_host.errors import TurnConflictError, UnknownItemError, WorkflowCheckpointException
from agent_host.stores import SavePoint, Store
from agent_host.stores.records import Conversation, ConversationMove, Guard, Item, Waiting
from agent_host.testing.commit_log_contract import BODY, ROOT, child
from agent_host.testing.records import background, begun, conversation, item, response


async def names(store: Store, user: str = "") -> list[str]:
    """The ids of all items of conv_1, oldest first."""
    page = await store.list_items(user, "conv_1", after=None, limit=1000, newest_first=False)
    assert page is not None
    assert not page[1]
    return [found.id.removeprefix("msg_") for found in page[0]]


def waiting_ids(waiting: Waiting) -> list[str]:
    """The names of the items that wait."""
    return [found.id.removeprefix("msg_") for found in waiting.items]


class ConversationContract:
    """The rules about conversations; subclasses give a fixture `store`."""

    async def test_a_conversation_of_somebody_else_is_adopted(self, store: Store) -> None:
        """R70: it is there from then on, and stored with its first turn; one that is there stays as it stands."""
        given = conversation("1")
        assert await store.adopt_conversation("ann", given) == given
        assert await store.read_conversation("ann", "conv_1") == given
        assert await store.read_conversation("bob", "conv_1") is None
        one = child(ROOT, "one", session="resp_1")
        move = ConversationMove("conv_1", None, (item("a"),))
        await store.finish("ann", replace(response("1", ROOT, one), conversation="conv_1"), [ROOT, one], move=move)
        again = await store.adopt_conversation("ann", replace(given, created_at=9, metadata=b"other"))
        assert again == replace(given, head=one.id)
        assert await store.read_item("ann", "conv_1", "msg_a") == item("a")
        assert (await store.waiting_items("ann", "conv_1")).items == ()

    async def test_conversations_of_users_are_apart(self, store: Store) -> None:
        """R1: another user's conversation answers as an unknown one to every verb, and both may have the same ids."""
        await store.create_conversation("ann", conversation("1"), [item("1")])
        for stranger in ("bob", "", "*"):
            assert await store.read_conversation(stranger, "conv_1") is None
            assert await store.update_conversation(stranger, "conv_1", b"other") is None
            assert await store.add_items(stranger, "conv_1", [item("2")]) is None
            assert await store.list_items(stranger, "conv_1", after=None, limit=9, newest_first=False) is None
            assert await store.read_item(stranger, "conv_1", "msg_1") is None
            assert not await store.delete_item(stranger, "conv_1", "msg_1")
            assert await store.waiting_items(stranger, "conv_1") == Waiting()
            assert await store.find_items(stranger, ["msg_1"]) == {}
            assert not await store.delete_conversation(stranger, "conv_1")
            with pytest.raises(TurnConflictError):
                await store.finish(stranger, response("1", ROOT, ROOT), [ROOT], move=ConversationMove("conv_1", None))
        waiting = await store.waiting_items("ann", "conv_1")
        await store.create_conversation("bob", conversation("1"), [item("0"), item("1")])
        await store.update_conversation("bob", "conv_1", b"bob's")
        await store.add_items("bob", "conv_1", [item("2")])
        assert await store.read_conversation("ann", "conv_1") == conversation("1")
        assert await names(store, "bob") == ["0", "1", "2"]
        await store.add_items("ann", "conv_1", [item("3")])
        assert await names(store, "ann") == ["1", "3"]
        newest = await store.list_items("ann", "conv_1", after=None, limit=9, newest_first=True)
        assert newest == ([item("3"), item("1")], False)
        position = (await store.waiting_items("bob", "conv_1")).position
        move = ConversationMove("conv_1", None, (item("4"),), position)
        await store.finish("bob", response("1", ROOT, ROOT), [ROOT], move=move)
        assert await store.delete_item("bob", "conv_1", "msg_1")
        assert (await store.waiting_items("ann", "conv_1")).items == (*waiting.items, item("3"))
        assert await store.delete_conversation("bob", "conv_1")
        assert await store.read_conversation("ann", "conv_1") == conversation("1")
        assert await names(store, "ann") == ["1", "3"]

    async def test_cancelled_changes_are_whole_or_nothing(self, store: Store) -> None:
        """R4: when the cancelled caller has returned, all of its items are there or none; so with a deletion."""
        await store.create_conversation("", conversation("1"), [])
        expected: list[str] = []
        for pauses in range(4):
            added = [f"{pauses}{number}" for number in range(3)]
            task: asyncio.Future[object] = asyncio.ensure_future(
                store.add_items("", "conv_1", [item(name) for name in added])
            )
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            there = await names(store)
            assert there in (expected, expected + added)
            expected = there
        await store.add_items("", "conv_1", [item("last")])
        task = asyncio.ensure_future(store.delete_conversation("", "conv_1"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gone = await store.read_conversation("", "conv_1") is None
        assert (await store.read_item("", "conv_1", "msg_last") is None) is gone

    # --- The end of a turn -----------------------------------------------------------------------------------

    async def test_a_turn_moves_its_conversation(self, store: Store) -> None:
        """R34: the head goes to the response's commit, and the turn's items stand behind those that were there."""
        await store.create_conversation("", conversation("1"), [item("a")])
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two")
        move = ConversationMove("conv_1", None, (item("b"), item("c")))
        await store.finish("", response("1", ROOT, one), [ROOT, one], move=move)
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=one.id)
        move = ConversationMove("conv_1", one.id, (item("d"),))
        await store.finish("", response("2", one, two), [two], move=move)
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=two.id)
        assert await names(store) == ["a", "b", "c", "d"]

    async def test_a_background_turn_moves_its_conversation(self, store: Store) -> None:
        """R34: under its guard, and only with its end."""
        await store.create_conversation("", conversation("1"), [])
        guard = await begun(store, "1", conversation="conv_1")
        one = child(ROOT, "one")
        await store.step("", guard, [one], [])
        assert await store.read_conversation("", "conv_1") == conversation("1")
        await store.finish("", response("1", ROOT, one), [], guard=guard, move=ConversationMove("conv_1", None))
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=one.id)

    async def test_a_conversation_that_moved_on_is_a_conflict(self, store: Store) -> None:
        """R34: with another head than expected, or without the conversation, nothing of the turn is stored and the
        turn is still in flight."""
        await store.create_conversation("", conversation("1"), [item("a")])
        one = child(ROOT, "one")
        await store.finish("", response("1", ROOT, one), [ROOT, one], move=ConversationMove("conv_1", None))
        late = child(ROOT, "late", BODY)
        guard = await begun(store, "2")
        position = (await store.waiting_items("", "conv_1")).position
        for name, expected in (("conv_1", None), ("conv_1", ROOT.id), ("conv_1", ""), ("conv_2", None)):
            move = ConversationMove(name, expected, (item("b"),), position)
            for claimed in (None, guard):
                record = response("2" if claimed else "3", ROOT, late)
                with pytest.raises(TurnConflictError, match=name):
                    await store.finish("", record, [late], guard=claimed, events=[b"a"], move=move)
                assert await store.read_response("", record.id) is None
        assert await store.read_chain("", late.id) == []
        assert await store.read_blobs("", late.blobs) == {}
        assert await store.read_events("", "resp_2", -1, 10) == []
        assert await store.read_turn("", "resp_2") is not None
        assert await names(store) == ["a"]
        assert waiting_ids(await store.waiting_items("", "conv_1")) == ["a"]
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=one.id)

    async def test_one_of_two_turns_moves_a_conversation(self, store: Store) -> None:
        """R34: of two turns that end at the same moment in one conversation exactly one is stored."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        await store.create_conversation("", conversation("1"), [])
        commits = [child(ROOT, "left"), child(ROOT, "right")]
        results = await asyncio.gather(
            *(
                store.finish(
                    "", response(commit.id, ROOT, commit), [commit],
                    move=ConversationMove("conv_1", None, (item(commit.id),)),
                )
                for commit in commits
            ),
            return_exceptions=True,
        )  # fmt: skip
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "TurnConflictError"]
        winner = commits[results.index(None)]
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=winner.id)
        assert await names(store) == [winner.id]

    async def test_an_item_that_a_turn_repeats_keeps_its_place(self, store: Store) -> None:
        """R34: a turn whose items are partly there already adds the others."""
        await store.create_conversation("", conversation("1"), [item("a"), item("b")])
        move = ConversationMove("conv_1", None, (Item("msg_a", b"changed"), item("c"), item("c")))
        await store.finish("", response("1", ROOT, ROOT), [ROOT], move=move)
        assert await names(store) == ["a", "b", "c"]
        assert await store.read_item("", "conv_1", "msg_a") == item("a")

    # --- What waits ------------------------------------------------------------------------------------------

    async def test_items_wait_for_the_next_turn(self, store: Store) -> None:
        """R56: the first items and those added later wait in order; once a turn that has read them ends, none does."""
        await store.create_conversation("", conversation("1"), [item("b"), item("a")])
        await store.add_items("", "conv_1", [item("c")])
        waiting = await store.waiting_items("", "conv_1")
        assert waiting.items == (item("b"), item("a"), item("c"))
        move = ConversationMove("conv_1", None, (item("own"),), waiting.position)
        await store.finish("", response("1", ROOT, ROOT), [ROOT], move=move)
        assert (await store.waiting_items("", "conv_1")).items == ()
        assert await store.waiting_items("", "conv_2") == Waiting()

    async def test_items_added_during_a_turn_wait_for_the_one_after(self, store: Store) -> None:
        """R34: what counts as taken in is what the turn has read, and the items of the turn itself never wait."""
        await store.create_conversation("", conversation("1"), [item("a")])
        position = (await store.waiting_items("", "conv_1")).position
        await store.add_items("", "conv_1", [item("b")])
        move = ConversationMove("conv_1", None, (item("own"),), position)
        await store.finish("", response("1", ROOT, ROOT), [ROOT], move=move)
        waiting = await store.waiting_items("", "conv_1")
        assert waiting_ids(waiting) == ["b"]
        assert await names(store) == ["a", "b", "own"]
        # A turn that has failed took nothing in.
        await store.finish("", response("2", ROOT, ROOT), [], move=ConversationMove("conv_1", ROOT.id))
        assert await store.waiting_items("", "conv_1") == waiting

    async def test_a_deleted_item_does_not_wait(self, store: Store) -> None:
        """R55: it enters no turn; what is added in its place later is not mistaken for what a turn has read."""
        await store.create_conversation("", conversation("1"), [item("a"), item("b")])
        read = await store.waiting_items("", "conv_1")
        assert await store.delete_item("", "conv_1", "msg_b")
        assert waiting_ids(await store.waiting_items("", "conv_1")) == ["a"]
        await store.add_items("", "conv_1", [item("c")])
        await store.finish(
            "", response("1", ROOT, ROOT), [ROOT], move=ConversationMove("conv_1", None, (), read.position)
        )
        assert waiting_ids(await store.waiting_items("", "conv_1")) == ["c"]

    # --- Conversations ---------------------------------------------------------------------------------------

    async def test_a_conversation_is_created_once(self, store: Store) -> None:
        """R50: with its items in order; an id that is taken, or an item twice, changes nothing."""
        kept = Conversation("conv_1", 123, bytes(range(256)))
        await store.create_conversation("", kept, [item("b"), item("a")])
        for again in (kept, conversation("1")):
            with pytest.raises(TurnConflictError, match="conv_1"):
                await store.create_conversation("", again, [item("c")])
        with pytest.raises(TurnConflictError, match="msg_a"):
            await store.create_conversation("", conversation("2"), [item("a"), item("a")])
        assert await store.read_conversation("", "conv_1") == kept
        assert await store.read_conversation("", "conv_2") is None
        assert await names(store) == ["b", "a"]

    async def test_an_update_changes_the_metadata(self, store: Store) -> None:
        """R51: and neither the head nor the items; an unknown conversation is not made by it."""
        await store.create_conversation("", conversation("1"), [item("a")])
        await store.finish("", response("1", ROOT, ROOT), [ROOT], move=ConversationMove("conv_1", None))
        expected = Conversation("conv_1", 100, b"new", ROOT.id)
        assert await store.update_conversation("", "conv_1", b"new") == expected
        assert await store.read_conversation("", "conv_1") == expected
        assert await names(store) == ["a"]
        assert await store.update_conversation("", "conv_2", b"new") is None
        assert await store.read_conversation("", "conv_2") is None

    async def test_a_conversation_is_deleted(self, store: Store) -> None:
        """R52: with its items; the responses of its turns stay, and another conversation with the same items."""
        for name in ("1", "2"):
            await store.create_conversation("", conversation(name), [item("a")])
        record = replace(response("1", ROOT, ROOT), conversation="conv_1")
        await store.finish("", record, [ROOT], move=ConversationMove("conv_1", None, (item("b"),)))
        assert await store.delete_conversation("", "conv_1")
        assert not await store.delete_conversation("", "conv_1")
        assert await store.read_conversation("", "conv_1") is None
        assert await store.read_item("", "conv_1", "msg_a") is None
        assert await store.find_items("", ["msg_b"]) == {}
        assert await store.read_response("", "resp_1") == record
        assert await store.read_item("", "conv_2", "msg_a") == item("a")
        await store.create_conversation("", conversation("1"), [])
        assert await names(store) == []

    async def test_a_conversation_keeps_its_head(self, store: Store) -> None:
        """R26: the commit that a conversation stands at stays, however old, until the conversation has moved or gone;
        it is among the save points (R17)."""
        log = store.commit_log()
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two", complete=True)
        await store.create_conversation("", conversation("1"), [])
        await store.create_conversation("", conversation("2"), [])
        await store.finish("", response("1", ROOT, one), [ROOT, one], move=ConversationMove("conv_1", None))
        assert await store.save_points(1000) == [SavePoint("", "conversation", "conv_1", "support", one.id)]
        with pytest.raises(WorkflowCheckpointException, match="conv_1"):
            await log.delete(one.id)
        await store.finish("", response("2", one, two), [two], move=ConversationMove("conv_1", one.id))
        assert await log.delete(one.id)
        with pytest.raises(WorkflowCheckpointException, match="conv_1"):
            await log.delete(two.id)
        await store.delete_conversation("", "conv_1")
        assert await log.delete(two.id)

    # --- Items -----------------------------------------------------------------------------------------------

    async def test_items_are_added(self, store: Store) -> None:
        """R53: behind those that are there, all or none; with one that is there already, or twice, none."""
        await store.create_conversation("", conversation("1"), [item("a")])
        assert await store.add_items("", "conv_1", [item("c"), item("b")]) == conversation("1")
        for added in ([item("d"), item("a")], [item("d"), item("d")]):
            with pytest.raises(TurnConflictError, match=added[1].id):
                await store.add_items("", "conv_1", added)
        assert await names(store) == ["a", "c", "b"]
        assert waiting_ids(await store.waiting_items("", "conv_1")) == ["a", "c", "b"]
        assert await store.add_items("", "conv_1", []) == conversation("1")
        assert await store.add_items("", "conv_2", [item("a")]) is None

    async def test_items_added_at_once_stand_together(self, store: Store) -> None:
        """R53: of twenty calls at the same moment every one has its items side by side and in order, none is lost."""
        await store.create_conversation("", conversation("1"), [])
        await asyncio.gather(
            *(store.add_items("", "conv_1", [item(f"{number}/{n}") for n in range(3)]) for number in range(20))
        )
        found = await names(store)
        assert sorted(found[::3]) == sorted(f"{number}/0" for number in range(20))
        for at in range(0, 60, 3):
            number = found[at].partition("/")[0]
            assert found[at : at + 3] == [f"{number}/{n}" for n in range(3)]

    async def test_pages_of_items(self, store: Store) -> None:
        """R54: in both directions, from the end or behind any item, and whether more follow; deleted items are in
        none."""
        await store.create_conversation("", conversation("1"), [item(f"{number}") for number in range(6)])
        await store.delete_item("", "conv_1", "msg_2")
        for newest_first in (False, True):
            order = [f"msg_{number}" for number in (0, 1, 3, 4, 5)]
            order = order[::-1] if newest_first else order
            for after in (None, *order):
                rest = order if after is None else order[order.index(after) + 1 :]
                for limit in range(1, 7):
                    page = await store.list_items("", "conv_1", after=after, limit=limit, newest_first=newest_first)
                    assert page is not None
                    assert [found.id for found in page[0]] == rest[:limit]
                    assert page[1] is (len(rest) > limit)

    async def test_pages_of_what_is_not_there(self, store: Store) -> None:
        """R54: None for an unknown conversation; an unknown, deleted or foreign item to begin behind is an error."""
        await store.create_conversation("", conversation("1"), [item("a")])
        await store.create_conversation("", conversation("2"), [item("b")])
        await store.delete_item("", "conv_1", "msg_a")
        for newest_first in (False, True):
            assert await store.list_items("", "conv_3", after="x", limit=9, newest_first=newest_first) is None
            for after in ("msg_a", "msg_b", "msg_unknown"):
                with pytest.raises(UnknownItemError, match=after):
                    await store.list_items("", "conv_1", after=after, limit=9, newest_first=newest_first)
            assert await store.list_items("", "conv_1", after=None, limit=9, newest_first=newest_first) == ([], False)

    async def test_items_are_read_and_deleted(self, store: Store) -> None:
        """R55: None and False for what is not there, deleted or of another conversation; the head does not move."""
        body = bytes(range(256)) * 40
        await store.create_conversation("", conversation("1"), [Item("msg_a", body), item("b")])
        await store.create_conversation("", conversation("2"), [item("b")])
        await store.finish("", response("1", ROOT, ROOT), [ROOT], move=ConversationMove("conv_1", None))
        assert await store.read_item("", "conv_1", "msg_a") == Item("msg_a", body)
        assert await store.delete_item("", "conv_1", "msg_a")
        assert not await store.delete_item("", "conv_1", "msg_a")
        assert not await store.delete_item("", "conv_3", "msg_b")
        assert await store.read_item("", "conv_1", "msg_a") is None
        assert await store.read_item("", "conv_2", "msg_a") is None
        assert await store.find_items("", ["msg_a"]) == {}
        assert await store.delete_item("", "conv_1", "msg_b")
        assert await store.read_item("", "conv_2", "msg_b") == item("b")
        assert await store.read_conversation("", "conv_1") == replace(conversation("1"), head=ROOT.id)
        await store.add_items("", "conv_1", [item("a")])
        assert await names(store) == ["a"]

    async def test_a_turn_in_a_deleted_conversation_is_a_conflict(self, store: Store) -> None:
        """R52: a conversation may be deleted under a turn in flight, which then cannot end in it."""
        await store.create_conversation("", conversation("1"), [])
        guard = await begun(store, "1", conversation="conv_1")
        await store.delete_conversation("", "conv_1")
        with pytest.raises(TurnConflictError, match="conv_1"):
            await store.finish("", response("1", ROOT, ROOT), [], guard=guard, move=ConversationMove("conv_1", None))
        await store.finish("", response("1", ROOT, ROOT), [], guard=Guard("resp_1", "me"))
        assert await store.read_turn("", background("1").id) is None
