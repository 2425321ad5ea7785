"""The rules of `agent_host.stores.base` about turns in flight, their event log and their end.

Part of `agent_host.testing.store_contract`: the first word of each test's docstring is the number of its rule.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_host.errors import ConversationLockedError, GuardLostError, TurnConflictError, WorkflowCheckpointException
from agent_host.stores import Store
from agent_host.stores.records import (
    Append,
    ConversationMove,
    Guard,
    IdempotencyKey,
    Lapsed,
    ResumePoint,
    TurnInFlight,
)
from agent_host.testing.commit_log_contract import BODY, ROOT, bare, child
from agent_host.testing.records import background, begun, conversation, foreground, item, response

KEY = IdempotencyKey("key", b"fingerprint")


async def attempts(store: Store) -> int:
    """How many attempts at the first turn count."""
    turn = await store.read_turn("", "resp_1")
    assert turn is not None
    return turn.attempt


class TurnContract:
    """The rules about turns in flight; subclasses give a fixture `store`."""

    # --- Everywhere ------------------------------------------------------------------------------------------

    async def test_turns_of_users_are_apart(self, store: Store) -> None:
        """R1: another user's turn answers as an unknown one to every verb, and both may have the same id and key."""
        guard = await begun(store, "1", user="ann", conversation="conv_1", key=KEY)
        await store.step("ann", guard, [child(ROOT, "one")], [b"a"])
        await store.record("ann", guard.after(1), {"note": b"ann"})
        for stranger in ("bob", "", "*"):
            assert await store.read_turn(stranger, "resp_1") is None
            assert await store.resolve(stranger, "resp_1") is None
            assert await store.take(stranger, "resp_1", "me", now=99, until=100, by_force=True) is None
            assert await store.renew("me", [(stranger, "resp_1")], 20) == {(stranger, "resp_1")}
            assert await store.read_events(stranger, "resp_1", -1, 10) == []
            assert await store.recorded(stranger, "resp_1") == {}
            assert await store.find_key(stranger, "key", 0) is None
            assert await store.append([Append(stranger, guard.after(1), (b"b",))]) == {"resp_1"}
            for write in (
                store.step(stranger, guard.after(1), [], [b"b"]),
                store.record(stranger, guard.after(1), {"note": b"other"}),
                store.finish(stranger, response("1", ROOT, ROOT), [], guard=guard.after(1)),
            ):
                with pytest.raises(GuardLostError):
                    await write
            await store.release(stranger, "resp_1")
        await store.admit("bob", foreground("2", conversation="conv_1", key=KEY))
        await store.release("bob", "resp_2")
        await store.finish("cleo", response("1", ROOT, ROOT), [])
        theirs = await begun(store, "1", user="bob", conversation="conv_1", key=KEY)
        await store.renew("me", [("bob", "resp_1")], 50)
        await store.step("bob", theirs, [child(ROOT, "two")], [b"b"])
        await store.record("bob", theirs.after(1), {"note": b"bob"})
        assert [found.user for found in await store.lapsed(10)] == ["ann"]
        ours = await store.read_turn("ann", "resp_1")
        assert ours == background(
            "1", conversation="conv_1", key=KEY, status="in_progress", commit="chk_one", attempt=1, last_sequence=0
        )
        ended = replace(response("1", ROOT, ROOT), completed_at=5)
        await store.finish("bob", ended, [], guard=theirs.after(1), events=[b"c"])
        assert await store.delete_response("bob", "resp_1")
        assert await store.read_turn("ann", "resp_1") == ours
        assert await store.recorded("ann", "resp_1") == {"note": b"ann"}
        assert await store.read_events("ann", "resp_1", -1, 10) == [b"a"]
        await begun(store, "1", user="bob", conversation="conv_1", key=KEY)
        await store.release("bob", "resp_1")
        assert await store.read_turn("ann", "resp_1") == ours
        assert await store.recorded("ann", "resp_1") == {"note": b"ann"}
        assert await store.read_events("ann", "resp_1", -1, 10) == [b"a"]

    async def test_a_cancelled_admission_is_whole_or_nothing(self, store: Store) -> None:
        """R4: when the cancelled caller has returned, the turn is in flight with its conversation, or all is free."""
        for pauses in range(6):
            turn = background(f"cancelled{pauses}", conversation=f"conv_{pauses}", key=IdempotencyKey(f"{pauses}", b""))
            task = asyncio.ensure_future(store.admit("", turn, [ROOT]))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])  # it may have been quicker
            if await store.read_turn("", turn.id) is None:
                await store.admit("", foreground("after", conversation=turn.conversation, key=turn.key))
                await store.release("", "resp_after")
            else:
                with pytest.raises(ConversationLockedError):
                    await store.admit("", foreground("after", conversation=turn.conversation))
                await store.release("", turn.id)
                await store.admit("", foreground("after", conversation=turn.conversation))
                await store.release("", "resp_after")

    async def test_a_cancelled_step_is_whole_or_nothing(self, store: Store) -> None:
        """R4: when the cancelled caller has returned, commit, events and place of the turn are there, or none is."""
        for pauses in range(4):
            name = f"cancelled{pauses}"
            guard = await begun(store, name)
            commit = child(ROOT, name, BODY)
            task = asyncio.ensure_future(store.step("", guard, [commit], [b"a", b"b"]))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stored = bool(await store.read_chain("", commit.id))
            turn = await store.read_turn("", guard.response_id)
            assert turn is not None
            assert (turn.commit, turn.last_sequence) == ((commit.id, 1) if stored else (ROOT.id, -1))
            assert await store.read_events("", guard.response_id, -1, 9) == ([b"a", b"b"] if stored else [])

    async def test_a_cancelled_finish_ends_the_turn_if_it_is_stored(self, store: Store) -> None:
        """R4: a foreground turn is in flight no more exactly if its response is stored."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        outcomes = set()
        for pauses in range(4):
            name = f"cancelled{pauses}"
            await store.admit("", foreground(name, key=KEY))
            task = asyncio.ensure_future(store.finish("", response(name, ROOT, ROOT), []))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stored = await store.read_response("", f"resp_{name}") is not None
            assert (await store.find_key("", "key", 0) is None) is stored
            await store.release("", f"resp_{name}")
            outcomes.add(stored)
        assert True in outcomes

    async def test_turns_that_step_together_do_not_harm_each_other(self, store: Store) -> None:
        """R5: of thirty steps at once every third has lost its guard, and exactly the others are stored."""
        guards = [await begun(store, f"{number}") for number in range(30)]
        results = await asyncio.gather(
            *(
                store.step("", replace(guard, owner="other") if number % 3 == 0 else guard, [], [b"%d" % number])
                for number, guard in enumerate(guards)
            ),
            return_exceptions=True,
        )
        for number, (guard, result) in enumerate(zip(guards, results, strict=True)):
            refused = number % 3 == 0
            assert isinstance(result, GuardLostError) if refused else result is None
            assert await store.read_events("", guard.response_id, -1, 9) == ([] if refused else [b"%d" % number])

    async def test_resolve_of_turns_in_flight(self, store: Store) -> None:
        """R8: a background turn has its status, and the last commit of its own if it has made one; a foreground turn
        in flight is unknown."""
        await store.admit("", foreground("1"))
        await store.admit("", background("2"), [ROOT])
        assert await store.resolve("", "resp_1") is None
        assert await store.resolve("", "resp_2") == ResumePoint("resp_2", "", "queued")
        await store.take("", "resp_2", "me", now=0, until=10)
        await store.step("", Guard("resp_2", "me"), [child(ROOT, "one")], [])
        assert await store.resolve("", "resp_2") == ResumePoint("resp_2", "chk_one", "in_progress")

    # --- Finishing -------------------------------------------------------------------------------------------

    async def test_finish_under_a_guard_ends_the_turn(self, store: Store) -> None:
        """R33: the last events are written, the turn is in flight no more, and what its steps committed stays."""
        guard = await begun(store, "1", conversation="conv_1")
        one = child(ROOT, "one", BODY)
        two = child(one, "two")
        await store.step("", guard, [one], [b"a"])
        record = replace(response("1", ROOT, two), background=True)
        await store.finish("", record, [two], guard=guard.after(1), events=[b"b", b"c"])
        assert await store.read_turn("", "resp_1") is None
        assert await store.read_response("", "resp_1") == record
        assert await store.resolve("", "resp_1") == ResumePoint("resp_1", two.id, "completed")
        assert await store.read_events("", "resp_1", -1, 10) == [b"a", b"b", b"c"]
        assert await store.read_chain("", two.id) == [bare(two), bare(one), bare(ROOT)]
        await store.admit("", foreground("2", conversation="conv_1"))

    async def test_finish_ends_the_foreground_turn(self, store: Store) -> None:
        """R33: without a guard the admitted turn of that id is over, and its conversation is free; one that was never
        admitted can be finished too."""
        await store.admit("", foreground("1", conversation="conv_1"))
        await store.finish("", response("2", ROOT, ROOT), [ROOT])
        with pytest.raises(ConversationLockedError):
            await store.admit("", foreground("3", conversation="conv_1"))
        await store.finish("", response("1", ROOT, ROOT), [])
        await store.admit("", foreground("3", conversation="conv_1"))

    async def test_a_finish_that_is_refused_leaves_the_turn_in_flight(self, store: Store) -> None:
        """R33: a turn is over only when its end is stored, in the foreground and in the background."""
        guard = await begun(store, "1", conversation="conv_1")
        await store.admit("", foreground("2", conversation="conv_2"))
        nowhere = child(ROOT, "nowhere")
        with pytest.raises(TurnConflictError):
            await store.finish("", response("1", ROOT, nowhere), [], guard=guard, events=[b"a"])
        with pytest.raises(TurnConflictError):
            await store.finish("", response("2", ROOT, nowhere), [])
        for name in ("conv_1", "conv_2"):
            with pytest.raises(ConversationLockedError):
                await store.admit("", foreground("3", conversation=name))
        assert await store.read_events("", "resp_1", -1, 10) == []
        await store.finish("", response("1", ROOT, ROOT), [], guard=guard)

    async def test_a_background_turn_ends_under_its_own_guard(self, store: Store) -> None:
        """R14: without a guard, or with that of another turn, it cannot be finished by way of its id."""
        await begun(store, "1")
        other = await begun(store, "2")
        for guard in (None, other):
            with pytest.raises(TurnConflictError, match="resp_1"):
                await store.finish("", response("1", ROOT, ROOT), [], guard=guard)
        assert await store.read_response("", "resp_1") is None
        assert await store.read_turn("", "resp_1") is not None
        assert await store.read_turn("", "resp_2") is not None

    # --- Admission -------------------------------------------------------------------------------------------

    async def test_an_id_is_admitted_once(self, store: Store) -> None:
        """R35: an id in flight is refused to both kinds of turn, one that was finished to a background turn."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        await store.admit("", foreground("1"))
        await store.admit("", background("2"))
        for turn in (foreground("1"), background("1"), background("2"), background("0")):
            with pytest.raises(TurnConflictError, match=turn.id):
                await store.admit("", turn)
        assert await store.read_turn("", "resp_0") is None
        assert await store.read_turn("", "resp_1") is None

    async def test_a_conversation_has_one_turn_in_flight(self, store: Store) -> None:
        """R35: whichever kind the first is and the second, the second is refused by name and has changed nothing."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        for first in (foreground("1", conversation="conv_1"), background("1", conversation="conv_1")):
            await store.admit("", first)
            for second in (foreground("2", conversation="conv_1"), background("2", conversation="conv_1")):
                with pytest.raises(ConversationLockedError, match="resp_1"):
                    await store.admit("", second, [replace(ROOT, id="chk_other_root")])
                assert await store.read_turn("", "resp_2") is None
                assert not await store.holds_root("chk_other_root")
            await store.admit("", foreground("3", conversation="conv_2"))
            await store.admit("", foreground("2"))
            for name in ("resp_1", "resp_2", "resp_3"):
                await store.release("", name)

    @pytest.mark.parametrize("kinds", [(foreground, foreground), (foreground, background), (background, background)])
    async def test_of_two_turns_at_once_one_is_admitted(
        self, store: Store, kinds: list[Callable[..., TurnInFlight]]
    ) -> None:
        """R35: in one conversation or under one key, exactly one of two that are admitted at the same moment, in
        either order."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        wishes: list[dict[str, Any]] = [{"conversation": "conv_1"}, {"key": KEY}]
        for number, shared in enumerate(wishes * 2):
            turns = [kind(f"{number}{side}", **shared) for side, kind in enumerate(kinds)]
            turns = turns[::-1] if number > 1 else turns
            results = await asyncio.gather(*(store.admit("", turn) for turn in turns), return_exceptions=True)
            refused = [result for result in results if result is not None]
            assert len(refused) == 1
            assert isinstance(refused[0], ConversationLockedError if "conversation" in shared else TurnConflictError)
            for turn in turns:
                await store.release("", turn.id)

    async def test_a_key_has_one_turn_in_flight(self, store: Store) -> None:
        """R35: a second turn under a key in flight is refused, naming the first, whichever kinds they are."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        for first in (foreground("1", key=KEY), background("1", key=KEY)):
            await store.admit("", first)
            for second in (foreground("2", key=KEY), background("2", key=KEY)):
                with pytest.raises(TurnConflictError, match="resp_1"):
                    await store.admit("", second)
            await store.release("", "resp_1")

    async def test_a_key_that_stands_for_a_response_is_refused(self, store: Store) -> None:
        """R35: whichever kind of turn asks, naming the response, and nothing has changed; later the key is free."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT], key=KEY)
        for turn in (foreground("1", key=KEY), background("1", key=KEY)):
            with pytest.raises(TurnConflictError, match="resp_0"):
                await store.admit("", turn, keys_since=100)
            assert not await store.is_in_flight("", "resp_1")
            await store.admit("", turn, keys_since=100.5)
            await store.release("", "resp_1")
            await store.admit("ann", turn, [ROOT], keys_since=100)
            await store.release("ann", "resp_1")

    async def test_a_background_turn_is_kept_as_it_was_admitted(self, store: Store) -> None:
        """R36: with request, conversation and key, and with the commits that it was given; queued, never begun."""
        turn = background("1", conversation="conv_1", key=KEY, request=bytes(range(256)) * 100)
        await store.admit("ann", turn, [ROOT])
        assert await store.read_turn("ann", "resp_1") == replace(turn, commit=ROOT.id)
        assert await store.read_chain("ann", ROOT.id) == [bare(ROOT)]
        assert await store.read_blobs("ann", ROOT.blobs) == ROOT.blobs
        assert await store.read_turn("ann", "resp_2") is None
        assert await store.read_response("ann", "resp_1") is None
        asked = [("ann", "resp_1"), ("ann", "resp_2"), ("", "resp_1")]
        assert [await store.is_in_flight(user, name) for user, name in asked] == [True, False, False]

    async def test_a_background_turn_starts_from_what_is_stored(self, store: Store) -> None:
        """R36: a turn whose starting commit is nowhere could never begin; it is refused."""
        with pytest.raises(TurnConflictError, match="chk_root"):
            await store.admit("", background("1", conversation="conv_1"))
        assert await store.read_turn("", "resp_1") is None
        await store.admit("", foreground("1", conversation="conv_1"))

    async def test_what_a_turn_in_flight_needs_is_not_deleted(self, store: Store) -> None:
        """R26: nor is the commit that a background turn began at, nor the one at which it stands; the steps between
        them may go, and blobs of its commits are not collected (R29)."""
        log = store.commit_log()
        start = child(ROOT, "start")
        await log.commit([ROOT, start], None)
        await log.move_head("support", "s1", ROOT.id, start.id)
        guard = await begun(store, "1", start_commit=start.id)
        one = child(start, "one", session="resp_1")
        two = child(one, "two", BODY, session="resp_1")
        await store.step("", guard, [one, two], [])
        for commit in (start, two):
            with pytest.raises(WorkflowCheckpointException, match="resp_1"):
                await log.delete(commit.id)
        assert await log.delete(one.id)
        assert await log.collect() == 0
        assert await store.read_blobs("", two.blobs) == two.blobs

    async def test_release(self, store: Store) -> None:
        """R37: id, conversation and key of either kind are free again, its events are gone; an unknown turn and a
        finished one are no error, and nothing happens to the latter."""
        await begun(store, "1", conversation="conv_1", key=KEY)
        await store.append([Append("", Guard("resp_1", "me"), (b"a",))])
        await store.release("", "resp_1")
        assert await store.read_turn("", "resp_1") is None
        assert await store.read_events("", "resp_1", -1, 10) == []
        await store.admit("", foreground("1", conversation="conv_1", key=KEY))
        await store.release("", "resp_1")
        guard = await begun(store, "1", conversation="conv_1", key=KEY)
        await store.finish("", response("1", ROOT, ROOT), [], guard=guard, events=[b"a"])
        await store.release("", "resp_1")
        await store.release("", "resp_unknown")
        assert await store.read_response("", "resp_1") == response("1", ROOT, ROOT)
        assert await store.read_events("", "resp_1", -1, 10) == [b"a"]

    # --- Owners and leases -----------------------------------------------------------------------------------

    async def test_take(self, store: Store) -> None:
        """R38: a queued turn, one whose lease has lapsed, and any by force; the owner keeps it otherwise."""
        await store.admit("", background("1"), [ROOT])
        first = await store.take("", "resp_1", "ann", now=0, until=10)
        assert first == background("1", commit=ROOT.id, status="in_progress")
        assert await store.take("", "resp_1", "bob", now=9, until=19) is None
        second = await store.take("", "resp_1", "bob", now=10, until=20)
        assert second == background("1", commit=ROOT.id, status="in_progress")
        third = await store.take("", "resp_1", "cleo", now=11, until=21, by_force=True)
        assert third == background("1", commit=ROOT.id, status="in_progress")
        assert await store.take("", "resp_2", "ann", now=0, until=10, by_force=True) is None

    async def test_who_takes_a_turn_learns_where_it_stands(self, store: Store) -> None:
        """R38: the last commit and the last event of the former owner are the new one's beginning."""
        guard = await begun(store, "1")
        one = child(ROOT, "one")
        await store.step("", guard, [one], [b"a", b"b"])
        turn = await store.take("", "resp_1", "other", now=10, until=20)
        assert turn == background("1", commit=one.id, status="in_progress", attempt=1, last_sequence=1)
        await store.step("", Guard("resp_1", "other", 1), [child(one, "two")], [b"c"])
        assert await store.read_events("", "resp_1", -1, 10) == [b"a", b"b", b"c"]

    async def test_one_of_two_owners_takes_a_turn(self, store: Store) -> None:
        """R38: of eight that take a turn at the same moment exactly one has it."""
        await store.admit("", background("1"), [ROOT])
        taken = await asyncio.gather(*(store.take("", "resp_1", f"{n}", now=0, until=10) for n in range(8)))
        winners = [str(number) for number, turn in enumerate(taken) if turn is not None]
        assert len(winners) == 1
        await store.step("", Guard("resp_1", winners[0]), [], [b"a"])

    async def test_renew(self, store: Store) -> None:
        """R39: leases of the owner's turns move; a turn of another owner, a finished and an unknown one are told."""
        await begun(store, "1")
        await begun(store, "2", owner="other")
        ended = await begun(store, "3", user="ann")
        await begun(store, "4", user="ann")
        await store.finish("ann", response("3", ROOT, ROOT), [], guard=ended)
        ids = [("", "resp_1"), ("", "resp_2"), ("ann", "resp_3"), ("ann", "resp_4"), ("", "resp_5")]
        assert await store.renew("me", ids, 20) == {("", "resp_2"), ("ann", "resp_3"), ("", "resp_5")}
        assert [lapsed.turn.id for lapsed in await store.lapsed(19)] == ["resp_2"]
        assert await store.renew("me", [], 30) == set()

    async def test_a_turn_that_was_left_in_order(self, store: Store) -> None:
        """R59: the next owner need not wait, and the attempt is not counted; nobody else can give a turn back."""
        guard = await begun(store, "1")
        await store.give_back("", "resp_1", "somebody else", has_begun=True)
        await store.give_back("ann", "resp_1", guard.owner, has_begun=True)
        assert await store.take("", "resp_1", "early", now=1, until=2) is None
        await store.give_back("", "resp_1", guard.owner, has_begun=True)
        assert [lapsed.turn.id for lapsed in await store.lapsed(0)] == ["resp_1"]
        with pytest.raises(GuardLostError):
            await store.step("", guard, [], [b"a"])
        taken = await store.take("", "resp_1", "next", now=1, until=2)
        assert taken is not None
        assert taken.attempt == 0

    async def test_an_attempt_counts_from_its_beginning(self, store: Store) -> None:
        """R69: turns that are taken, or given back before they begin, count none; a commit begins the count again."""
        guard = await begun(store, "1")
        assert await attempts(store) == 1
        await store.take("", "resp_1", "other", now=10, until=20)
        await store.give_back("", "resp_1", "other", has_begun=False)
        await store.take("", "resp_1", "other", now=10, until=20)
        assert await attempts(store) == 1
        with pytest.raises(GuardLostError):
            await store.begin("", guard, [b"late"])
        guard = Guard("resp_1", "other")
        await store.begin("", guard, [b"a"])
        assert await attempts(store) == 2
        await store.step("", guard.after(1), [], [b"b"])
        assert await attempts(store) == 2
        await store.step("", guard.after(2), [child(ROOT, "one")], [])
        assert await attempts(store) == 1
        assert await store.read_events("", "resp_1", -1, 10) == [b"a", b"b"]

    async def test_a_void_guard_writes_nothing(self, store: Store) -> None:
        """R40: whether the owner or the last event is another one, or the turn has ended, no verb changes anything."""
        guard = await begun(store, "1")
        await store.step("", guard, [], [b"a"])
        await store.record("", guard.after(1), {"kept": b"1"})
        await store.take("", "resp_1", "new", now=10, until=20)
        late = child(ROOT, "late", BODY)

        async def refused(void: Guard) -> None:
            for write in (
                store.step("", void, [late], [b"b"]),
                store.record("", void, {"late": b"1"}),
                store.finish("", response("1", ROOT, late), [late], guard=void, events=[b"b"]),
            ):
                with pytest.raises(GuardLostError, match="resp_1"):
                    await write
            assert await store.append([Append("", void, (b"b",))]) == {"resp_1"}
            assert await store.read_chain("", late.id) == []
            assert await store.read_blobs("", late.blobs) == {}

        for void in (guard.after(1), Guard("resp_1", "new"), Guard("resp_1", "new", 1), Guard("resp_1", "")):
            await refused(void)
            assert await store.read_response("", "resp_1") is None
            assert await store.read_events("", "resp_1", -1, 10) == [b"a"]
            assert await store.recorded("", "resp_1") == {"kept": b"1"}
        await store.finish("", response("1", ROOT, ROOT), [], guard=Guard("resp_1", "new", 0))
        await refused(Guard("resp_1", "new", 0))

    async def test_one_of_two_writers_keeps_the_guard(self, store: Store) -> None:
        """R40: of two that write at the same place at the same moment exactly one is stored, whatever they write."""
        for number in range(5):
            guard = await begun(store, f"{number}")
            one = child(ROOT, f"{number}")
            results = await asyncio.gather(
                store.step("", guard, [one], [b"step"]),
                store.finish("", response(f"{number}", ROOT, ROOT), [], guard=guard, events=[b"end"]),
                return_exceptions=True,
            )
            assert sorted(type(result).__name__ for result in results) == ["GuardLostError", "NoneType"]
            stepped = results[0] is None
            assert await store.read_events("", guard.response_id, -1, 9) == ([b"step"] if stepped else [b"end"])
            assert bool(await store.read_chain("", one.id)) is stepped

    # --- Steps, notes and events -----------------------------------------------------------------------------

    async def test_step(self, store: Store) -> None:
        """R41: commits, blobs and events are stored and the turn stands at the last commit; with a missing parent
        nothing has changed."""
        guard = await begun(store, "1")
        one = child(ROOT, "one", BODY)
        two = child(one, "two")
        await store.step("", guard, [one, two], [b"a", b"b"])
        turn = await store.read_turn("", "resp_1")
        assert turn is not None
        assert (turn.commit, turn.last_sequence) == (two.id, 1)
        assert await store.read_chain("", two.id) == [bare(two), bare(one), bare(ROOT)]
        assert await store.read_blobs("", one.blobs) == one.blobs
        orphan = child(child(two, "missing"), "orphan")
        with pytest.raises(TurnConflictError, match="chk_missing"):
            await store.step("", guard.after(2), [orphan], [b"c"])
        assert await store.read_turn("", "resp_1") == turn
        assert await store.read_events("", "resp_1", -1, 10) == [b"a", b"b"]
        await store.step("", guard.after(2), [], [b"c"])
        assert await store.read_turn("", "resp_1") == replace(turn, last_sequence=2)

    async def test_notes_of_a_turn(self, store: Store) -> None:
        """R42: entries add up and replace by key; they survive another owner and go with a step or the end."""
        guard = await begun(store, "1")
        assert await store.recorded("", "resp_1") == {}
        await store.record("", guard, {"a": b"1", "b": b"1"})
        await store.record("", guard, {"b": b"2", "c": bytes(range(256))})
        await store.take("", "resp_1", "other", now=10, until=20)
        noted = {"a": b"1", "b": b"2", "c": bytes(range(256))}
        assert await store.recorded("", "resp_1") == noted
        await store.append([Append("", Guard("resp_1", "other"), (b"event",))])
        assert await store.recorded("", "resp_1") == noted
        await store.step("", Guard("resp_1", "other", 0), [child(ROOT, "one")], [])
        assert await store.recorded("", "resp_1") == {}
        await store.record("", Guard("resp_1", "other", 0), {"d": b"1"})
        await store.finish("", response("1", ROOT, ROOT), [], guard=Guard("resp_1", "other", 0))
        assert await store.recorded("", "resp_1") == {}

    async def test_append(self, store: Store) -> None:
        """R43: events of many turns and users at once, several times of one turn; those with a void guard are told
        and nothing of them is added."""
        one = await begun(store, "1")
        two = await begun(store, "2", user="ann")
        three = await begun(store, "3")
        void = await store.append(
            [
                Append("", one, (b"a", b"b")),
                Append("ann", two, (b"c",)),
                Append("", replace(three, owner="other"), (b"lost",)),
                Append("", one.after(2), (b"d",)),
                Append("", Guard("resp_4", "me"), (b"lost",)),
                Append("", three, ()),
            ]
        )
        assert void == {"resp_3", "resp_4"}
        assert await store.read_events("", "resp_1", -1, 10) == [b"a", b"b", b"d"]
        assert await store.read_events("ann", "resp_2", -1, 10) == [b"c"]
        assert await store.read_events("", "resp_3", -1, 10) == []
        assert await store.append([]) == set()

    async def test_read_events(self, store: Store) -> None:
        """R44: from any place, at most as many as asked, however they were written; none for what has no log."""
        guard = await begun(store, "1")
        written: list[bytes] = []
        for size in (1, 3, 1, 7, 2):
            events = tuple(b"%d" % number for number in range(len(written), len(written) + size))
            await store.append([Append("", guard.after(len(written)), events)])
            written += events
        for after in range(-1, len(written) + 1):
            for limit in range(len(written) + 2):
                expected = written[after + 1 : after + 1 + limit]
                assert await store.read_events("", "resp_1", after, limit) == expected
        await store.finish("", response("2", ROOT, ROOT), [], events=[b"of a foreground turn"])
        assert await store.read_events("", "resp_2", -1, 10) == []
        assert await store.read_events("", "resp_3", -1, 10) == []

    async def test_lapsed(self, store: Store) -> None:
        """R45: of every user the queued turns and those whose lease has lapsed, no others."""
        queued = background("1", created_at=3)
        await store.admit("ann", queued, [ROOT])
        await begun(store, "2", user="*", created_at=2)
        await store.admit("", foreground("3"))
        ended = await begun(store, "4")
        await store.finish("", response("4", ROOT, ROOT), [], guard=ended)
        expected = Lapsed("ann", replace(queued, commit=ROOT.id))
        assert await store.lapsed(9.9) == [expected]
        stuck = background("2", created_at=2, commit=ROOT.id, status="in_progress", attempt=1)
        assert await store.lapsed(10) == [Lapsed("*", stuck), expected]

    async def test_opening_again_lets_no_lease_lapse(self, store: Store) -> None:
        """R45: an open store that is opened once more leaves its own turns their owners."""
        guard = await begun(store, "1")
        await store.open()
        assert await store.lapsed(9) == []
        await store.step("", guard, [], [b"a"])

    # --- Idempotency keys ------------------------------------------------------------------------------------

    async def test_find_key(self, store: Store) -> None:
        """R49: a key is found in flight and finished, of both kinds of turn, and only since a time."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        for turn in (foreground("1", key=KEY), background("2", key=KEY)):
            await store.admit("", turn)
            assert await store.find_key("", "key", 100) == (KEY.fingerprint, turn.id)
            assert await store.find_key("", "key", 100.5) is None
            await store.release("", turn.id)
            assert await store.find_key("", "key", 0) is None
        await store.finish("", response("3", ROOT, ROOT), [], key=KEY)
        assert await store.find_key("", "key", 100) == (KEY.fingerprint, "resp_3")
        assert await store.find_key("", "key", 100.5) is None
        assert await store.find_key("", "other", 0) is None
        assert await store.find_key("ann", "key", 0) is None

    async def test_a_key_is_used_again(self, store: Store) -> None:
        """R49: it then stands for the later response, in flight and finished; a deleted response is not found."""
        await store.finish("", response("1", ROOT, ROOT), [ROOT], key=KEY)
        later = IdempotencyKey("key", b"other")
        for kind in (foreground, background):
            await store.admit("", kind("2", created_at=500, key=later), keys_since=200)
            assert await store.find_key("", "key", 200) == (b"other", "resp_2")
            await store.release("", "resp_2")
        await store.finish("", replace(response("2", ROOT, ROOT), created_at=500), [], key=later)
        assert await store.find_key("", "key", 200) == (b"other", "resp_2")
        await store.delete_response("", "resp_2")
        assert await store.find_key("", "key", 0) is None

    async def test_a_key_of_a_refused_turn_is_not_kept(self, store: Store) -> None:
        """R49: a turn that could not be finished leaves the key to what it stood for."""
        await store.create_conversation("", conversation("1"), [item("1")])
        for move in (None, ConversationMove("conv_1", "chk_unknown")):
            with pytest.raises(TurnConflictError):
                await store.finish("", response("1", ROOT, ROOT), [ROOT] if move else [], move=move, key=KEY)
        assert await store.find_key("", "key", 0) is None
