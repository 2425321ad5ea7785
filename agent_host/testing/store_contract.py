"""The rules of `agent_host.stores.base`, as tests that every store must pass.

Subclass `StoreContract` in a test module, name the class `Test...`, and give it `make_store`. The first word of
each test's docstring is the number of its rule. A test reaches a store through its public verbs only; what needs
a fault inside a store (a crash, a damaged row, a full disk) is tested beside that store.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent_host.engine.checkpoint import INLINE, blob_hash, cells_of
from agent_host.engine.ports import CommitLog
from agent_host.errors import (
    CheckpointNotFoundError,
    StoreClosedError,
    TurnConflictError,
    WorkflowCheckpointException,
    WorkflowConflictError,
)
from agent_host.stores import ResumePoint, SavePoint, Store
from agent_host.stores.records import Compaction, Guard
from agent_host.testing.commit_log_contract import BODY, ROOT, CommitLogContract, bare, child
from agent_host.testing.conversation_contract import ConversationContract
from agent_host.testing.records import background, conversation, foreground, response
from agent_host.testing.response_contract import ResponseContract
from agent_host.testing.retention_contract import RetentionContract
from agent_host.testing.turn_contract import TurnContract


class StoreContract(CommitLogContract, TurnContract, ResponseContract, RetentionContract, ConversationContract, ABC):
    """Every rule of `Store` and of its `CommitLog`; subclasses say how a store is made.

    Those about turns in flight, about what is asked of finished responses, about what is forgotten, and about
    conversations are in the classes it inherits from.
    """

    @abstractmethod
    async def make_store(self, tmp_path: Path) -> Store:
        """A new and empty store, not opened."""

    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[Store]:
        store = await self.make_store(tmp_path)
        await store.open()
        yield store
        await store.aclose()

    @pytest.fixture
    async def log(self, store: Store) -> CommitLog:
        return store.commit_log()

    # --- Everywhere ------------------------------------------------------------------------------------------

    async def test_users_do_not_see_each_other(self, store: Store) -> None:
        """R1: another user's response, commit and blob answer as unknown ones; the same ids can be used by both."""
        first = child(ROOT, "one", BODY)
        await store.finish("ann", response("1", ROOT, first), [ROOT, first])
        for stranger in ("bob", "", "ANN"):
            assert await store.resolve(stranger, "resp_1") is None
            assert await store.read_response(stranger, "resp_1") is None
            assert await store.read_chain(stranger, first.id) == []
            assert await store.read_blobs(stranger, [blob_hash(BODY)]) == {}
        await store.finish("bob", replace(response("1", ROOT, first), body=b"bob's"), [first])
        ours = await store.read_response("ann", "resp_1")
        assert ours is not None
        assert ours.body == b"body"

    async def test_a_turn_cannot_begin_at_a_strangers_commit(self, store: Store) -> None:
        """R1: as a parent, and as a response's commit, another user's commit is unknown too."""
        first = child(ROOT, "one")
        await store.finish("ann", response("1", ROOT, first), [ROOT, first])
        second = child(first, "two")
        with pytest.raises(TurnConflictError):
            await store.finish("bob", response("2", first, second), [second])
        with pytest.raises(TurnConflictError):
            await store.finish("bob", response("2", first, first), [])

    async def test_every_user_reads_the_root(self, store: Store) -> None:
        """R2: a root and its blobs, stored with one user's turn, are read and continued by any other."""
        first = child(ROOT, "one")
        await store.finish("ann", response("1", ROOT, first), [ROOT, first])
        assert await store.read_chain("bob", ROOT.id) == [bare(ROOT)]
        assert await store.read_blobs("bob", ROOT.blobs) == ROOT.blobs
        second = child(ROOT, "two")
        await store.finish("bob", response("2", ROOT, second), [second])
        assert await store.read_chain("bob", second.id) == [bare(second), bare(ROOT)]

    async def test_no_user_name_reaches_the_system_partition(self, store: Store) -> None:
        """R2: what a user called "*" stores is read by that user alone, and longer names are not mistaken for it."""
        first = child(ROOT, "one", BODY)
        await store.finish("*", response("1", ROOT, first), [ROOT, first])
        assert await store.read_chain("*", first.id) == [bare(first), bare(ROOT)]
        for stranger in ("", "**", "ann"):
            assert await store.read_chain(stranger, first.id) == []
            assert await store.read_blobs(stranger, [blob_hash(BODY)]) == {}

    async def test_what_was_stored_is_seen_at_once(self, store: Store) -> None:
        """R3: a read that begins after a write has returned sees it, fifty times in a row."""
        last = ROOT
        for number in range(50):
            commit = child(last, f"c{number}", b"\x00\x00%d" % number)
            await store.finish("", response(str(number), last, commit), [ROOT, commit])
            assert await store.resolve("", f"resp_{number}") == ResumePoint(f"resp_{number}", commit.id, "completed")
            assert (await store.read_chain("", commit.id))[0] == bare(commit)
            last = commit

    async def test_a_cancelled_finish_is_whole_or_nothing(self, store: Store) -> None:
        """R4: when the cancelled caller has returned, the turn is stored with its commit and blobs, or nothing is."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        for pauses in range(4):
            name = f"cancelled{pauses}"
            commit = child(ROOT, name, BODY + name.encode())
            task = asyncio.ensure_future(store.finish("", response(name, ROOT, commit), [commit]))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            stored = await store.read_response("", f"resp_{name}") is not None
            assert bool(await store.read_chain("", commit.id)) is stored
            assert bool(await store.read_blobs("", commit.blobs)) is stored

    async def test_a_failing_turn_does_not_harm_its_neighbours(self, store: Store) -> None:
        """R5: of sixty turns finished at once every third is a conflict, and exactly the others are stored."""
        await store.finish("", response("taken", ROOT, ROOT), [ROOT])
        turns = []
        for number in range(60):
            commit = child(ROOT, f"c{number}", b"\x00\x00%d" % number)
            record = response("taken" if number % 3 == 0 else str(number), ROOT, commit)
            turns.append((record, commit))
        results = await asyncio.gather(
            *(store.finish("", record, [commit]) for record, commit in turns), return_exceptions=True
        )
        for (record, commit), result in zip(turns, results, strict=True):
            refused = record.id == "resp_taken"
            assert isinstance(result, TurnConflictError) if refused else result is None
            assert bool(await store.read_chain("", commit.id)) is not refused
            assert bool(await store.read_blobs("", commit.blobs)) is not refused

    # --- Opening and closing ---------------------------------------------------------------------------------

    async def test_open_may_be_repeated(self, store: Store) -> None:
        """R6: opening an open store changes nothing."""
        await store.finish("", response("1", ROOT, ROOT), [ROOT])
        await store.open()
        assert await store.holds_root(ROOT.id)

    async def test_a_store_that_is_not_open_says_so(self, tmp_path: Path) -> None:
        """R7: before `open` and after `aclose` every verb raises; `aclose` may be repeated, `open` may not follow."""
        store = await self.make_store(tmp_path)
        with pytest.raises(StoreClosedError):
            await store.holds_root(ROOT.id)
        await store.open()
        await store.aclose()
        await store.aclose()
        for verb in (
            store.resolve("", "resp_1"),
            store.read_chain("", ROOT.id),
            store.read_blobs("", [blob_hash(BODY)]),
            store.finish("", response("1", ROOT, ROOT), [ROOT]),
            store.read_response("", "resp_1"),
            store.holds_root(ROOT.id),
            store.save_points(0),
            store.read_calls("", ROOT.id),
            store.find_call("", "call_1"),
            store.find_items("", ["msg_1"]),
            store.find_key("", "key", 0),
            store.admit("", foreground("1")),
            store.admit("", background("1"), [ROOT]),
            store.release("", "resp_1"),
            store.take("", "resp_1", "me", now=0, until=10),
            store.read_turn("", "resp_1"),
            store.is_in_flight("", "resp_1"),
            store.renew("me", [("", "resp_1")], 10),
            store.step("", Guard("resp_1", "me"), [], []),
            store.record("", Guard("resp_1", "me"), {}),
            store.recorded("", "resp_1"),
            store.append([]),
            store.read_events("", "resp_1", -1, 10),
            store.lapsed(0),
            store.delete_response("", "resp_1"),
            store.create_conversation("", conversation("1"), []),
            store.read_conversation("", "conv_1"),
            store.update_conversation("", "conv_1", b""),
            store.delete_conversation("", "conv_1"),
            store.add_items("", "conv_1", []),
            store.list_items("", "conv_1", after=None, limit=1, newest_first=False),
            store.read_item("", "conv_1", "msg_1"),
            store.delete_item("", "conv_1", "msg_1"),
            store.waiting_items("", "conv_1"),
            store.keep_compaction("", Compaction("handle", 100, b"")),
            store.read_compaction("", "handle"),
            store.expire(0, 0),
            store.commit_log().commit([ROOT], None),
            store.commit_log().collect(),
            store.open(),
        ):
            with pytest.raises(StoreClosedError):
                await verb

    async def test_a_store_that_was_never_opened_can_be_closed(self, tmp_path: Path) -> None:
        """R7: closing needs no opening."""
        store = await self.make_store(tmp_path)
        await store.aclose()

    async def test_closing_lets_what_has_begun_end(self, tmp_path: Path) -> None:
        """R7: a turn that waits while the store is closed is stored and answered, not dropped."""
        store = await self.make_store(tmp_path)
        await store.open()
        turns = [store.finish("", response(str(number), ROOT, ROOT), [ROOT]) for number in range(20)]
        tasks = [asyncio.ensure_future(turn) for turn in turns]
        await asyncio.sleep(0)
        await asyncio.gather(store.aclose(), store.aclose())
        assert await asyncio.gather(*tasks) == [None] * 20

    # --- Reading ---------------------------------------------------------------------------------------------

    async def test_resolve(self, store: Store) -> None:
        """R8: a response's commit and status, whatever the status; None for an unknown response."""
        first = child(ROOT, "one")
        await store.finish("", response("1", ROOT, first), [ROOT, first])
        await store.finish("", replace(response("2", first, first), status="failed"), [])
        assert await store.resolve("", "resp_1") == ResumePoint("resp_1", first.id, "completed")
        assert await store.resolve("", "resp_2") == ResumePoint("resp_2", first.id, "failed")
        assert await store.resolve("", "resp_3") is None

    async def test_a_chain_ends_at_the_nearest_complete_commit(self, store: Store) -> None:
        """R9: newest first, back to the nearest complete commit and no further, without blobs."""
        one = child(ROOT, "one", BODY)
        two = child(one, "two", complete=True)
        three = child(two, "three")
        four = child(three, "four")
        await store.finish("", response("1", ROOT, four), [ROOT, one, two, three, four])
        assert await store.read_chain("", four.id) == [bare(four), bare(three), bare(two)]
        assert await store.read_chain("", two.id) == [bare(two)]
        assert await store.read_chain("", one.id) == [bare(one), bare(ROOT)]
        assert await store.read_chain("", "chk_unknown") == []

    async def test_a_removed_cell_stays_removed(self, store: Store) -> None:
        """R9: a delta is read as it was written, removals and order of the commits included."""
        one = replace(child(ROOT, "one"), delta={"a": None, "c": INLINE + b"\x00\x00c"})
        await store.finish("", response("1", ROOT, one), [ROOT, one])
        assert cells_of(await store.read_chain("", one.id)) == {"b": ROOT.delta["b"], "c": one.delta["c"]}

    async def test_any_number_of_blobs_is_read(self, store: Store) -> None:
        """R10: thousands of hashes in one call, the unknown absent, the empty question answered."""
        bodies = [b"\x00\x00%d" % number for number in range(2500)]
        one = child(ROOT, "one", *bodies)
        await store.finish("", response("1", ROOT, one), [ROOT, one])
        asked = [*one.blobs, *ROOT.blobs, blob_hash(b"unknown"), next(iter(one.blobs))]
        assert await store.read_blobs("", asked) == {**one.blobs, **ROOT.blobs}
        assert await store.read_blobs("", []) == {}
        for count in (1, 2, 4, 5, 17, 256, 257):
            some = dict(list(one.blobs.items())[:count])
            assert await store.read_blobs("", some.keys()) == some

    async def test_a_response_is_read_as_it_was_written(self, store: Store) -> None:
        """R11: every field, bytes of any value included; None for an unknown response."""
        full = replace(
            response("1", ROOT, ROOT),
            previous_response_id="resp_0",
            conversation="conv_1",
            body=bytes(range(256)) * 400,
            input=b"",
        )
        unfinished = replace(response("2", ROOT, ROOT), status="cancelled", completed_at=None)
        await store.finish("", full, [ROOT])
        await store.finish("", unfinished, [])
        assert await store.read_response("", "resp_1") == full
        assert await store.read_response("", "resp_2") == unfinished
        assert await store.read_response("", "resp_3") is None

    async def test_holds_root(self, store: Store) -> None:
        """R12: true for a stored root only; another commit is not a root."""
        first = child(ROOT, "one")
        assert not await store.holds_root(ROOT.id)
        await store.finish("ann", response("1", ROOT, first), [ROOT, first])
        assert await store.holds_root(ROOT.id)
        assert not await store.holds_root(first.id)

    async def test_save_points_of_every_user(self, store: Store) -> None:
        """R17: heads whatever their age, responses from a time on, each with its user, workflow and commit."""
        first = child(ROOT, "one")
        second = replace(child(ROOT, "two"), workflow="other")
        await store.finish("ann", replace(response("old", ROOT, first), created_at=99), [ROOT, first])
        await store.finish("ann", response("new", ROOT, first), [])
        await store.finish("*", replace(response("failed", ROOT, ROOT), status="failed", created_at=500), [])
        await store.commit_log("ann").commit([second], None)
        await store.commit_log("").move_head("support", "s2", ROOT.id, None)
        expected = {
            SavePoint("", "session", "s2", "support", ROOT.id),
            SavePoint("ann", "session", "s1", "other", second.id),
            SavePoint("ann", "response", "resp_new", "support", first.id),
            SavePoint("*", "response", "resp_failed", "support", ROOT.id),
        }
        found = await store.save_points(100)
        assert set(found) == expected
        assert len(found) == 4
        assert SavePoint("ann", "response", "resp_old", "support", first.id) in await store.save_points(0)
        assert {point.kind for point in await store.save_points(501)} == {"session"}

    # --- Finishing a turn ------------------------------------------------------------------------------------

    async def test_finish_stores_commits_blobs_and_response(self, store: Store) -> None:
        """R13: after `finish` a turn can be continued from its commit, with everything it needs."""
        first = child(ROOT, "one", BODY)
        second = child(first, "two")
        await store.finish("", response("1", ROOT, second), [ROOT, first, second])
        point = await store.resolve("", "resp_1")
        assert point is not None
        assert await store.read_chain("", point.commit) == [bare(second), bare(first), bare(ROOT)]
        assert await store.read_blobs("", first.blobs) == first.blobs

    async def test_what_a_response_is_continued_from_is_not_deleted(self, store: Store) -> None:
        """R26: the commit with which a turn has ended stays with its response; those on the way there may go."""
        first = child(ROOT, "one", session="resp_1")
        second = child(first, "two", BODY, session="resp_1")
        await store.finish("", response("1", ROOT, second), [ROOT, first, second])
        with pytest.raises(WorkflowCheckpointException, match="resp_1"):
            await store.commit_log().delete(second.id)
        assert await store.commit_log().delete(first.id)
        assert [commit.id for commit in await store.read_chain("", second.id)] == [second.id]

    async def test_a_response_whose_commit_is_gone_is_told(self, store: Store) -> None:
        """R17: it is among the save points, though nobody knows any more whose workflow it was."""
        commit = child(ROOT, "one")  # of another session, so that its going is not noticed
        await store.finish("", response("1", ROOT, commit), [ROOT, commit])
        await store.commit_log().delete(commit.id)
        assert await store.save_points(0) == [SavePoint("", "response", "resp_1", "", commit.id)]

    async def test_a_response_id_is_used_once(self, store: Store) -> None:
        """R14: a second turn with the same id is a conflict; its commits and blobs are not stored."""
        await store.finish("", response("1", ROOT, ROOT), [ROOT])
        commit = child(ROOT, "again", BODY)
        with pytest.raises(TurnConflictError, match="resp_1"):
            await store.finish("", response("1", ROOT, commit), [commit])
        assert await store.read_chain("", commit.id) == []
        assert await store.read_blobs("", commit.blobs) == {}
        assert await store.read_response("", "resp_1") == response("1", ROOT, ROOT)

    async def test_one_of_two_turns_with_one_id_wins(self, store: Store) -> None:
        """R14: of two turns finished at once under one id exactly one is stored."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        commits = [child(ROOT, "left"), child(ROOT, "right")]
        results = await asyncio.gather(
            *(store.finish("", response("1", ROOT, commit), [commit]) for commit in commits), return_exceptions=True
        )
        assert sorted(type(result).__name__ for result in results) == ["NoneType", "TurnConflictError"]
        stored = [bool(await store.read_chain("", commit.id)) for commit in commits]
        assert stored == [result is None for result in results]

    async def test_a_commit_needs_its_parent(self, store: Store) -> None:
        """R15: a commit whose parent is nowhere is a conflict, and nothing of the turn is stored."""
        await store.finish("", response("0", ROOT, ROOT), [ROOT])
        good = child(ROOT, "good", BODY)
        orphan = child(child(good, "missing"), "orphan")
        with pytest.raises(TurnConflictError, match="chk_missing"):
            await store.finish("", response("1", ROOT, orphan), [good, orphan])
        assert await store.resolve("", "resp_1") is None
        assert await store.read_chain("", good.id) == []
        assert await store.read_blobs("", good.blobs) == {}

    async def test_a_parent_stands_before_its_child(self, store: Store) -> None:
        """R15: a parent later in the same call does not count."""
        one = child(ROOT, "one")
        two = child(one, "two")
        with pytest.raises(TurnConflictError):
            await store.finish("", response("1", ROOT, two), [ROOT, two, one])

    async def test_a_commit_without_parent_is_complete(self, store: Store) -> None:
        """R15: a beginning that does not hold all of its cells could never be read, so it is refused."""
        with pytest.raises(TurnConflictError):
            lost = replace(child(ROOT, "lost"), parent=None)
            await store.finish("", response("1", lost, lost), [lost])

    async def test_a_response_names_a_stored_commit(self, store: Store) -> None:
        """R15: a response whose commit is neither stored nor handed over could not be continued; it is refused."""
        with pytest.raises(TurnConflictError, match="chk_root"):
            await store.finish("", response("1", ROOT, ROOT), [])
        assert await store.read_response("", "resp_1") is None

    async def test_what_is_stored_is_left_as_it_is(self, store: Store) -> None:
        """R16: a commit or blob handed over again changes nothing, and is no conflict."""
        one = child(ROOT, "one", BODY)
        await store.finish("", response("1", ROOT, one), [ROOT, one])
        changed = replace(one, signature="other", delta={})
        two = child(one, "two", BODY)
        await store.finish("", response("2", ROOT, two), [ROOT, changed, two])
        assert await store.read_chain("", two.id) == [bare(two), bare(one), bare(ROOT)]
        assert await store.read_blobs("", one.blobs) == one.blobs

    # --- The engine's face; its other rules are those of CommitLogContract ----------------------------------------

    async def test_the_log_and_the_store_read_the_same(self, store: Store) -> None:
        """R23: what a turn stored the log reads, and the other way round."""
        one = child(ROOT, "one", BODY)
        await store.finish("ann", response("1", ROOT, one), [ROOT, one])
        log = store.commit_log("ann")
        assert await log.chain(one.id) == await store.read_chain("ann", one.id)
        assert await log.blobs([*one.blobs, *ROOT.blobs]) == {**one.blobs, **ROOT.blobs}
        assert await log.chain("chk_unknown") == []
        await log.commit([child(one, "two")], None)
        assert [commit.id for commit in await store.read_chain("ann", "chk_two")] == ["chk_two", "chk_one", "chk_root"]

    async def test_sessions_of_users_are_apart(self, store: Store) -> None:
        """R27: another user's head, commits and deletions are as if they were not there."""
        ann, bob = store.commit_log("ann"), store.commit_log("bob")
        one = child(ROOT, "one", BODY)
        two = child(one, "two")
        await ann.commit([ROOT, one, two], None)
        assert await bob.head("support", "s1") is None
        assert await bob.chain(one.id) == []
        assert await bob.blobs(one.blobs) == {}
        assert await bob.commits("support") == [bare(ROOT)]
        assert not await bob.delete(one.id)
        with pytest.raises(CheckpointNotFoundError):
            await bob.move_head("support", "s1", one.id, None)
        with pytest.raises(WorkflowConflictError):
            await bob.commit([two], None)
        assert await ann.chain(two.id) == [bare(two), bare(one), bare(ROOT)]

    async def test_collecting_is_for_one_user(self, store: Store) -> None:
        """R29: it removes what this user's commits no longer need and nothing of another user's, nor a root's."""
        ann, bob = store.commit_log("ann"), store.commit_log("bob")
        one, gone = child(ROOT, "one"), child(child(ROOT, "one"), "gone", BODY)
        for log in (ann, bob):
            await log.commit([ROOT, one, gone], None)
            await log.move_head("support", "s1", one.id, gone.id)
        await store.finish("cleo", response("1", ROOT, gone), [one, gone])
        assert await ann.delete(gone.id)
        assert await bob.collect() == 0
        assert await ann.collect() == 1
        assert await ann.blobs([*gone.blobs, *ROOT.blobs]) == ROOT.blobs
        assert await bob.blobs(gone.blobs) == gone.blobs
        assert await store.commit_log("cleo").collect() == 0
        assert await store.read_blobs("cleo", gone.blobs) == gone.blobs

    async def test_notes_of_users_are_apart(self, store: Store) -> None:
        """R32: two users with a session of one name note and forget each for themselves."""
        ann, bob = store.commit_log("ann"), store.commit_log("bob")
        one = child(ROOT, "one")
        for log in (ann, bob):
            await log.commit([ROOT, one], None)
        await ann.record("support", "s1", one.id, {"a": b"ann"})
        assert await bob.recorded("support", "s1", one.id) == {}
        await bob.record("support", "s1", one.id, {"a": b"bob"})
        await bob.commit([child(one, "two")], one.id)
        assert await ann.recorded("support", "s1", one.id) == {"a": b"ann"}
