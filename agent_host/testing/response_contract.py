"""The rules of `agent_host.stores.base` about questions, items, deletion, compactions and retention.

Part of `agent_host.testing.store_contract`: the first word of each test's docstring is the number of its rule.
"""

from dataclasses import replace

import pytest

from agent_host.errors import TurnConflictError, WorkflowCheckpointException
from agent_host.stores import Store
from agent_host.stores.records import Compaction, ConversationMove, Freed, Heard, IdempotencyKey, OpenCall
from agent_host.testing.commit_log_contract import BODY, ROOT, bare, child
from agent_host.testing.records import background, begun, conversation, foreground, item, response

CALLS = (OpenCall("call_1", "request 1"), OpenCall("call_0", "request 0"))


class ResponseContract:
    """The rules about what is asked of finished responses; subclasses give a fixture `store`."""

    async def test_responses_of_users_are_apart(self, store: Store) -> None:
        """R1: another user's questions, items, compactions and deletions are as if they were not there."""
        one = child(ROOT, "one")
        record = replace(response("1", ROOT, one), calls=CALLS, items=("msg_1",))
        await store.finish("ann", record, [ROOT, one])
        await store.keep_compaction("ann", Compaction("handle", 100, b"items"))
        for stranger in ("bob", "", "*"):
            assert await store.read_calls(stranger, one.id) == []
            assert await store.find_call(stranger, "call_1") is None
            assert await store.find_items(stranger, ["msg_1"]) == {}
            assert await store.read_compaction(stranger, "handle") is None
            assert not await store.delete_response(stranger, "resp_1")
        await store.finish("bob", replace(record, body=b"bob's"), [one])
        assert await store.read_response("ann", "resp_1") == record
        await store.keep_compaction("bob", Compaction("handle", 200, b"bob's"))
        assert await store.find_items("ann", ["msg_1"]) == {"msg_1": (b"input", b"body")}
        assert await store.find_items("bob", ["msg_1"]) == {"msg_1": (b"input", b"bob's")}
        assert await store.delete_response("bob", "resp_1")
        assert await store.read_response("ann", "resp_1") == record
        assert await store.read_calls("ann", one.id) == list(CALLS)
        assert await store.find_items("ann", ["msg_1"]) == {"msg_1": (b"input", b"body")}
        assert await store.read_compaction("ann", "handle") == Compaction("handle", 100, b"items")

    async def test_a_response_is_read_with_its_questions_and_items(self, store: Store) -> None:
        """R11: in their order, whoever else has them; and whether it ran in the background."""
        items = ("msg_2", "msg_1", 'odd "id"\n,')
        first = replace(response("1", ROOT, ROOT), calls=CALLS, items=items, background=True)
        second = replace(response("2", ROOT, ROOT), calls=(OpenCall("call_2", "request 1"),), items=items[::-1])
        await store.finish("", first, [ROOT])
        await store.finish("", second, [])
        assert await store.read_response("", "resp_1") == first
        assert await store.read_response("", "resp_2") == second

    # --- Questions -------------------------------------------------------------------------------------------

    async def test_questions_are_found(self, store: Store) -> None:
        """R47: by their commit in the order in which they were asked, and the commit by a question."""
        one = child(ROOT, "one")
        await store.finish("", replace(response("1", ROOT, one), calls=CALLS), [ROOT, one])
        await store.finish("", replace(response("0", one, one), calls=(OpenCall("call_2", "request 1"),)), [])
        await store.finish("", response("failed", one, one), [])
        assert await store.read_calls("", one.id) == [*CALLS, OpenCall("call_2", "request 1")]
        assert await store.read_calls("", ROOT.id) == []
        for call in ("call_0", "call_1", "call_2"):
            assert await store.find_call("", call) == one.id
        assert await store.find_call("", "call_3") is None

    async def test_questions_of_a_refused_turn_are_not_stored(self, store: Store) -> None:
        """R47: a turn that could not be finished has asked nothing and brought nothing (R48)."""
        await store.finish("", response("1", ROOT, ROOT), [ROOT])
        with pytest.raises(TurnConflictError):
            await store.finish("", replace(response("1", ROOT, ROOT), calls=CALLS, items=("msg_1",)), [])
        with pytest.raises(TurnConflictError):
            await store.finish("", replace(response("2", ROOT, child(ROOT, "no")), calls=CALLS, items=("msg_1",)), [])
        assert await store.find_call("", "call_1") is None
        assert await store.find_items("", ["msg_1"]) == {}

    # --- Items -----------------------------------------------------------------------------------------------

    async def test_items_are_found(self, store: Store) -> None:
        """R48: any number of them, with the response that brought them first or the conversation they are in."""
        many = tuple(f"msg_{number}" for number in range(700))
        await store.finish("", replace(response("1", ROOT, ROOT), items=many), [ROOT])
        again = replace(response("2", ROOT, ROOT), items=("msg_1", "new"), input=b"other", body=b"")
        await store.finish("", again, [])
        await store.create_conversation("", conversation("1"), [item("own"), item("2")])
        found = await store.find_items("", [*many, "new", "msg_own", "unknown", "msg_1"])
        first = (b"input", b"body")
        assert found == {**dict.fromkeys(many, first), "new": (b"other", b""), "msg_own": (b"own",)}
        assert await store.find_items("", []) == {}

    async def test_read_heard(self, store: Store) -> None:
        """R66: newest first, along the commits, whatever becomes of the responses."""
        one, two = child(ROOT, "one", session="resp_1"), child(ROOT, "other", session="resp_other")
        step = child(one, "step", session="resp_2")
        end = child(step, "end", session="resp_2")
        await store.finish("", replace(response("1", ROOT, one), heard=("a", "b")), [ROOT, one])
        await store.finish("", replace(response("2", one, end), heard=("c",)), [step, end])
        await store.finish("", replace(response("3", end, end), status="failed"), [])
        await store.finish("", replace(response("other", ROOT, two), heard=("d",)), [two])
        assert await store.delete_response("", "resp_2")
        newest, first = Heard("resp_2", ("c",)), Heard("resp_1", ("a", "b"))
        assert await store.read_heard("", end.id) == [newest, first]
        assert await store.read_heard("", one.id) == [first]
        assert await store.read_heard("", ROOT.id) == await store.read_heard("", "unknown") == []
        assert await store.read_heard("somebody else", end.id) == []

    # --- Deletion --------------------------------------------------------------------------------------------

    async def test_delete_response(self, store: Store) -> None:
        """R46: the response, its events, items and questions go; its commits and the responses after it stay."""
        guard = await begun(store, "1")
        one = child(ROOT, "one", BODY, session="resp_1")
        two = child(one, "two", session="resp_2")
        record = replace(response("1", ROOT, one), background=True, calls=CALLS, items=("msg_1",))
        await store.finish("", record, [one], guard=guard, events=[b"a"])
        after = replace(response("2", one, two), previous_response_id="resp_1", items=("msg_2",))
        await store.finish("", after, [two])
        assert await store.delete_response("", "resp_1")
        assert await store.read_response("", "resp_1") is None
        assert await store.resolve("", "resp_1") is None
        assert await store.read_events("", "resp_1", -1, 10) == []
        assert await store.find_items("", ["msg_1", "msg_2"]) == {"msg_2": (b"input", b"body")}
        assert await store.read_calls("", one.id) == []
        assert await store.find_call("", "call_1") is None
        assert await store.read_response("", "resp_2") == after
        assert await store.read_chain("", two.id) == [bare(two), bare(one), bare(ROOT)]
        assert await store.read_blobs("", one.blobs) == one.blobs
        assert not await store.delete_response("", "resp_1")

    async def test_an_item_stays_with_the_response_that_brought_it(self, store: Store) -> None:
        """R46: a response that has repeated an item of an earlier one does not take it along."""
        for name in ("1", "2"):
            await store.finish("", replace(response(name, ROOT, ROOT), items=("msg_1",)), [ROOT])
        assert await store.delete_response("", "resp_2")
        assert await store.find_items("", ["msg_1"]) == {"msg_1": (b"input", b"body")}

    async def test_an_item_is_found_as_long_as_a_response_has_it(self, store: Store) -> None:
        """R48: if the response that brought it first is deleted, the next one that brought it is what holds it."""
        for name in ("3", "1", "2"):
            record = replace(response(name, ROOT, ROOT), items=("msg_1",), body=name.encode())
            await store.finish("", record, [ROOT])
        for name in ("3", "1", "2"):
            assert await store.find_items("", ["msg_1"]) == {"msg_1": (b"input", name.encode())}
            assert await store.delete_response("", f"resp_{name}")
        assert await store.find_items("", ["msg_1"]) == {}

    async def test_only_finished_responses_are_deleted(self, store: Store) -> None:
        """R46: False for an unknown one and for one in flight, which goes on."""
        guard = await begun(store, "1")
        await store.admit("", foreground("2", conversation="conv_1"))
        for name in ("resp_1", "resp_2", "resp_3"):
            assert not await store.delete_response("", name)
        await store.finish("", response("1", ROOT, ROOT), [], guard=guard)
        await store.finish("", response("2", ROOT, ROOT), [])

    async def test_questions_stay_as_long_as_somebody_can_answer_them(self, store: Store) -> None:
        """R46: another response or a conversation at the same commit keeps them, and the last one takes them along."""
        one = child(ROOT, "one", session="resp_1")
        await store.create_conversation("", conversation("1"), [])
        asked = replace(response("1", ROOT, one), calls=CALLS)
        await store.finish("", asked, [ROOT, one], move=ConversationMove("conv_1", None))
        await store.finish("", replace(response("failed", one, one), status="failed"), [])
        assert await store.delete_response("", "resp_1")
        assert await store.read_calls("", one.id) == list(CALLS)
        assert await store.delete_response("", "resp_failed")
        assert await store.find_call("", "call_1") == one.id
        assert await store.delete_conversation("", "conv_1")
        assert await store.read_calls("", one.id) == []
        assert await store.find_call("", "call_1") is None

    async def test_questions_of_two_responses_at_one_commit(self, store: Store) -> None:
        """R46: as long as one of those who have asked is there, its questions are."""
        one = child(ROOT, "one")
        for number, call in enumerate(CALLS):
            await store.finish("", replace(response(f"{number}", ROOT, one), calls=(call,)), [ROOT, one])
        assert await store.delete_response("", "resp_0")
        left = await store.read_response("", "resp_1")
        assert left is not None
        assert left.calls == CALLS[1:]
        assert await store.find_call("", "call_0") == one.id
        assert await store.delete_response("", "resp_1")
        assert await store.read_calls("", one.id) == []

    async def test_questions_of_a_turn_in_flight_stay(self, store: Store) -> None:
        """R46: a background turn that answers them may have to begin again, so they are kept until it has ended."""
        one = child(ROOT, "one", session="resp_1")
        await store.finish("", replace(response("1", ROOT, one), calls=CALLS), [ROOT, one])
        await store.admit("", background("2", start_commit=one.id))
        assert await store.delete_response("", "resp_1")
        assert await store.read_calls("", one.id) == list(CALLS)

    async def test_what_a_response_brought_into_a_conversation_stays(self, store: Store) -> None:
        """R46: the items of the conversation are still listed, and found there."""
        await store.create_conversation("", conversation("1"), [])
        move = ConversationMove("conv_1", None, (item("1"),))
        await store.finish("", replace(response("1", ROOT, ROOT), items=("msg_1",)), [ROOT], move=move)
        assert await store.delete_response("", "resp_1")
        assert await store.list_items("", "conv_1", after=None, limit=9, newest_first=False) == ([item("1")], False)
        assert await store.find_items("", ["msg_1"]) == {"msg_1": (b"1",)}

    async def test_a_failed_response_keeps_the_commit_of_a_deleted_one(self, store: Store) -> None:
        """R26: a response that is continued from where it began keeps that commit, whoever made it."""
        one = child(ROOT, "one", session="resp_1")
        await store.finish("", response("1", ROOT, one), [ROOT, one])
        await store.finish("", replace(response("failed", one, one), status="failed"), [])
        await store.delete_response("", "resp_1")
        with pytest.raises(WorkflowCheckpointException, match="resp_failed"):
            await store.commit_log().delete(one.id)
        await store.delete_response("", "resp_failed")
        assert await store.commit_log().delete(one.id)

    async def test_what_another_user_continues_keeps_no_commit(self, store: Store) -> None:
        """R27: a commit that both have is kept for the one who continues it, and deleted for the other."""
        one = child(ROOT, "one", session="resp_1")
        await store.create_conversation("ann", conversation("1"), [])
        asked = replace(response("1", ROOT, one), calls=CALLS)
        await store.finish("ann", asked, [ROOT, one], move=ConversationMove("conv_1", None))
        await store.finish("ann", replace(response("failed", one, one), status="failed"), [])
        await store.admit("ann", background("2", start_commit=one.id))
        await store.keep_compaction("ann", Compaction("handle", 100, b"", one.id))
        log = store.commit_log("bob")
        await log.commit([ROOT, one], None)
        await log.move_head("support", "resp_1", ROOT.id, one.id)
        assert await log.delete(one.id)
        with pytest.raises(WorkflowCheckpointException):
            await store.commit_log("ann").delete(one.id)

    # --- Compactions and retention ---------------------------------------------------------------------------

    async def test_compactions(self, store: Store) -> None:
        """R57: what was stored under a handle is given back, with and without a commit; None for an unknown handle."""
        one = child(ROOT, "one")
        await store.commit_log().commit([ROOT, one], None)
        await store.commit_log().move_head("support", "s1", ROOT.id, one.id)
        kept = [Compaction("a", 100, bytes(range(256)), one.id), Compaction("b", 101, b"")]
        for compaction in kept:
            await store.keep_compaction("", compaction)
        assert [await store.read_compaction("", handle) for handle in "ab"] == kept
        assert await store.read_compaction("", "c") is None
        with pytest.raises(WorkflowCheckpointException, match="compaction"):
            await store.commit_log().delete(one.id)

    async def test_expire(self, store: Store) -> None:
        """R58: the events of what ended before a time and older keys go, of every user; all else stays."""
        for user, ended in (("ann", 500), ("*", 600)):
            guard = await begun(store, "1", user=user, created_at=ended)
            record = replace(response("1", ROOT, ROOT), background=True, created_at=ended, completed_at=ended)
            key = IdempotencyKey("key", b"fingerprint")
            await store.finish(user, record, [], guard=guard, events=[b"a"], key=key)
        running = await begun(store, "2", user="ann", created_at=1)
        await store.step("ann", running, [], [b"b"])
        for count in (1, 0):
            assert (await store.forget_events(600, 9)).count == count
            assert await store.forget_keys(600, 9) == Freed(count)
            assert await store.read_events("ann", "resp_1", -1, 10) == []
            assert await store.find_key("ann", "key", 0) is None
            assert await store.read_response("ann", "resp_1") is not None
            assert await store.read_events("*", "resp_1", -1, 10) == [b"a"]
            assert await store.find_key("*", "key", 0) is not None
            assert await store.read_events("ann", "resp_2", -1, 10) == [b"b"]
        assert (await store.forget_keys(601, 9)).count == 1
        assert await store.find_key("*", "key", 0) is None
        assert await store.read_events("*", "resp_1", -1, 10) == [b"a"]
        assert (await store.forget_events(601, 9)).count == 1
        assert await store.read_events("*", "resp_1", -1, 10) == []

    async def test_what_is_kept_for_a_while_goes_in_steps(self, store: Store) -> None:
        """R58: so many at most in one step, the oldest first."""
        for number in (3, 1, 2):
            guard = await begun(store, str(number), created_at=number)
            record = replace(response(str(number), ROOT, ROOT), background=True, created_at=number, completed_at=number)
            key = IdempotencyKey(f"key {number}", b"fingerprint")
            await store.finish("", record, [], guard=guard, events=[b"a"], key=key)
        for forget in (store.forget_events, store.forget_keys):
            assert (await forget(10, 2)).count == 2
        assert [await store.read_events("", f"resp_{number}", -1, 9) != [] for number in (1, 2, 3)] == [0, 0, 1]
        assert [await store.find_key("", f"key {number}", 0) is not None for number in (1, 2, 3)] == [0, 0, 1]

    async def test_events_of_what_has_no_end_time_are_kept_from_the_last_lease_on(self, store: Store) -> None:
        """R58: a response without the time of its end has ended when its lease would have."""
        guard = await begun(store, "1")
        await store.renew("me", [("", "resp_1")], 700)
        await store.finish("", replace(response("1", ROOT, ROOT), completed_at=None), [], guard=guard, events=[b"a"])
        await store.forget_events(700, 9)
        assert await store.read_events("", "resp_1", -1, 10) == [b"a"]
        await store.forget_events(701, 9)
        assert await store.read_events("", "resp_1", -1, 10) == []
