"""The rules of a commit log, as tests that every one must pass, whether it belongs to a store or stands alone.

Subclass `CommitLogContract` in a test module, name the class `Test...`, and give it a fixture `log`: a new and empty
commit log. The first word of each test's docstring is the number of its rule in `agent_host.stores.base.CommitLog`.
"""

import asyncio
import contextlib
import itertools
from dataclasses import replace

import pytest

from agent_host.engine.checkpoint import BLOB, INLINE, Commit, blob_hash, cells_of
from agent_host.engine.ports import CommitLog
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException, WorkflowConflictError

BODY = b"\x00\x00hello"
ROOT_BODY = b"\x00\x00pristine"

ROOT = Commit(
    id="chk_root",
    parent=None,
    workflow="support",
    session_id="",
    kind="root",
    seq=0,
    step=0,
    created_at=1.0,
    signature="sig",
    delta={"a": INLINE + b"\x00\x00a0", "b": BLOB + blob_hash(ROOT_BODY)},
    complete=True,
    distance=0,
    blobs={blob_hash(ROOT_BODY): ROOT_BODY},
)


def child(parent: Commit, name: str, *bodies: bytes, session: str = "s1", complete: bool = False) -> Commit:
    """A commit after `parent`, with one cell of its own and a cell for each body."""
    cells: dict[str, bytes | None] = dict(cells_of([parent])) if complete else {}
    cells |= {f"own/{name}": INLINE + b"\x00\x00" + name.encode()}
    cells |= {f"blob/{name}/{i}": BLOB + blob_hash(body) for i, body in enumerate(bodies)}
    return Commit(
        id=f"chk_{name}",
        parent=parent.id,
        workflow=parent.workflow,
        session_id=session,
        kind="response",
        seq=parent.seq + 1,
        step=parent.step + 1,
        created_at=parent.created_at + 1,
        signature=parent.signature,
        delta=cells,
        complete=complete,
        distance=0 if complete else parent.distance + 1,
        blobs={blob_hash(body): body for body in bodies},
    )


def nested(payload: bytes, *children: bytes) -> bytes:
    """A body that needs further bodies."""
    return len(children).to_bytes(2, "big") + b"".join(blob_hash(child) for child in children) + payload


def bodies(*found: bytes) -> dict[bytes, bytes]:
    """Bodies by hash."""
    return {blob_hash(body): body for body in found}


def inlining(commit: Commit, key: str, *children: bytes) -> Commit:
    """The commit with one more cell, which stands in the commit itself and needs further bodies."""
    return replace(commit, delta={**commit.delta, key: INLINE + nested(b"inline", *children)})


def bare(commit: Commit) -> Commit:
    """The commit as it is read back: its blobs are read apart."""
    return replace(commit, blobs={})


class CommitLogContract:
    """The rules of `CommitLog` that need no second user."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    async def test_a_session_begins_without_head(self, log: CommitLog) -> None:
        """R20: None until the first commit, then the newest commit; sessions and workflows do not mix."""
        assert await log.head("support", "s1") is None
        one = child(ROOT, "one")
        await log.commit([ROOT, one], None)
        assert await log.head("support", "s1") == one.id
        assert await log.head("support", "s2") is None
        assert await log.head("other", "s1") is None

    async def test_commit_moves_the_head(self, log: CommitLog) -> None:
        """R21: commits and blobs are stored, and the last is the head; no commits, no change."""
        one, two = child(ROOT, "one", BODY), child(child(ROOT, "one"), "two")
        await log.commit([ROOT, one], None)
        await log.commit([two], one.id)
        await log.commit([], "whatever")
        assert await log.head("support", "s1") == two.id
        assert await log.chain(two.id) == [bare(two), bare(one), bare(ROOT)]

    async def test_a_moved_head_is_a_conflict(self, log: CommitLog) -> None:
        """R21: with another head than expected nothing is stored, commits and blobs included."""
        one = child(ROOT, "one")
        await log.commit([ROOT, one], None)
        late = child(ROOT, "late", BODY)
        for expected in (None, ROOT.id, "chk_unknown"):
            with pytest.raises(WorkflowConflictError):
                await log.commit([late], expected)
        with pytest.raises(WorkflowConflictError):
            await log.commit([replace(late, session_id="s2")], one.id)
        assert await log.head("support", "s1") == one.id
        assert await log.chain(late.id) == []
        assert await log.blobs(late.blobs) == {}

    async def test_one_of_many_writers_wins(self, log: CommitLog) -> None:
        """R21: of ten commits on one head exactly one is stored."""
        one = child(ROOT, "one")
        await log.commit([ROOT, one], None)
        rivals = [child(one, f"rival{number}") for number in range(10)]
        results = await asyncio.gather(*(log.commit([rival], one.id) for rival in rivals), return_exceptions=True)
        assert [type(result) for result in results].count(WorkflowConflictError) == 9
        winner = rivals[results.index(None)]
        assert await log.head("support", "s1") == winner.id
        assert [bool(await log.chain(rival.id)) for rival in rivals] == [rival is winner for rival in rivals]

    async def test_a_commit_without_its_parent_is_a_conflict(self, log: CommitLog) -> None:
        """R21: a commit that could not be read back is not stored, and the head stays."""
        orphan = child(child(ROOT, "missing"), "orphan", BODY)
        with pytest.raises(WorkflowConflictError, match="chk_missing"):
            await log.commit([ROOT, orphan], None)
        assert await log.head("support", "s1") is None
        assert await log.chain(ROOT.id) == []
        assert await log.blobs(orphan.blobs) == {}

    async def test_what_is_stored_may_come_again(self, log: CommitLog) -> None:
        """R21: a stored commit is left as it is, and its parent may have been deleted since."""
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two")
        await log.commit([ROOT, one, two], None)
        assert await log.delete(one.id)
        before = await log.chain(two.id)
        beside = child(ROOT, "beside", BODY)
        await log.commit([beside, replace(two, signature="other")], two.id)
        assert await log.chain(two.id) == before
        assert await log.head("support", "s1") == two.id
        assert await log.blobs(beside.blobs) == beside.blobs

    async def test_move_head(self, log: CommitLog) -> None:
        """R22: a head moves to any stored commit, back and to a root too, under the condition of `commit`."""
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two")
        await log.commit([ROOT, one, two], None)
        with pytest.raises(WorkflowConflictError):
            await log.move_head("support", "s1", one.id, ROOT.id)
        with pytest.raises(CheckpointNotFoundError):
            await log.move_head("support", "s1", "chk_unknown", two.id)
        assert await log.head("support", "s1") == two.id
        await log.move_head("support", "s1", one.id, two.id)
        await log.move_head("support", "s2", ROOT.id, None)
        assert await log.head("support", "s1") == one.id
        assert await log.head("support", "s2") == ROOT.id

    async def test_commits_are_listed_in_order(self, log: CommitLog) -> None:
        """R24: by time and then by number, of the workflow with its root or of one session."""
        one = child(ROOT, "one", BODY)
        two = replace(child(one, "two"), created_at=one.created_at)
        other = replace(child(ROOT, "other", session="s2"), created_at=0.5)
        stranger = replace(child(ROOT, "stranger", session="s1"), workflow="other")
        await log.commit([ROOT, one, two], None)
        await log.commit([other], None)
        await log.commit([stranger], None)
        assert await log.commits("support") == [bare(other), bare(ROOT), bare(one), bare(two)]
        assert await log.commits("support", "s1") == [bare(one), bare(two)]
        assert await log.commits("support", "s3") == []

    async def test_deleting_keeps_descendants_readable(self, log: CommitLog) -> None:
        """R25: after deleting commits in the middle of two branches every descendant has the same cells as before."""
        chain = [ROOT]
        for number in range(6):
            chain.append(child(chain[-1], f"c{number}", b"\x00\x00%d" % number))
        branch = replace(child(chain[2], "branch", session="s2"), delta={"a": None})
        await log.commit(chain, None)
        await log.commit([branch], None)
        heirs = [branch, *chain[3:]]
        before = {commit.id: cells_of(await log.chain(commit.id)) for commit in heirs}
        assert await log.delete(chain[2].id)
        assert await log.delete(chain[1].id)
        assert not await log.delete(chain[2].id)
        assert await log.chain(chain[2].id) == []
        assert {commit.id: cells_of(await log.chain(commit.id)) for commit in heirs} == before

    async def test_deleting_keeps_distances_true(self, log: CommitLog) -> None:
        """R25: `distance` still tells how many commits back the nearest complete one is."""
        chain = [ROOT]
        for number in range(5):
            chain.append(child(chain[-1], f"c{number}"))
        await log.commit(chain, None)
        await log.delete(chain[2].id)
        for commit in (chain[1], *chain[3:]):
            read = await log.chain(commit.id)
            assert read[0].distance == len(read) - 1

    async def test_heads_and_roots_are_not_deleted(self, log: CommitLog) -> None:
        """R26: nothing changes; a head that has moved away leaves its commit deletable."""
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two")
        await log.commit([ROOT, one, two], None)
        for kept in (two, ROOT):
            with pytest.raises(WorkflowCheckpointException):
                await log.delete(kept.id)
        assert len(await log.chain(two.id)) == 3
        await log.move_head("support", "s1", one.id, two.id)
        assert await log.delete(two.id)

    # --- Collecting ------------------------------------------------------------------------------------------

    async def test_collecting_keeps_what_a_commit_reaches(self, log: CommitLog) -> None:
        """R29: what heads, commits behind them, forks, other sessions and roots need stays, also below other blobs."""
        leaf, middle = nested(b"leaf"), nested(b"middle", nested(b"leaf"))
        top = nested(b"top", middle)
        one = child(ROOT, "one", BODY)
        deep = inlining(replace(child(one, "deep", top), blobs=bodies(leaf, middle, top)), "pair", leaf)
        fork = child(one, "fork", b"\x00\x00fork", session="s2")
        other = replace(child(ROOT, "other", b"\x00\x00other", session="s1"), workflow="other")
        await log.commit([ROOT, one, deep], None)
        await log.commit([fork], None)
        await log.commit([other], None)
        await log.move_head("support", "s1", one.id, deep.id)
        held = {**ROOT.blobs, **one.blobs, **deep.blobs, **fork.blobs, **other.blobs}
        before = {commit.id: await log.chain(commit.id) for commit in (deep, fork, other)}
        assert await log.collect() == 0
        assert await log.blobs(held) == held
        assert {commit.id: await log.chain(commit.id) for commit in (deep, fork, other)} == before

    async def test_collecting_removes_what_nothing_reaches(self, log: CommitLog) -> None:
        """R29: after a commit is deleted its own blobs go, with those below them; what others share with it stays."""
        shared, lost = nested(b"shared"), nested(b"lost", nested(b"below"), nested(b"shared"))
        one = child(ROOT, "one", shared)
        gone = replace(child(one, "gone", lost), blobs=bodies(shared, lost, nested(b"below")))
        after = child(gone, "after", BODY)
        after = replace(after, delta={**after.delta, "blob/gone/0": None})
        fork = child(one, "fork", session="s2")
        await log.commit([ROOT, one, gone, after], None)
        await log.commit([fork], None)
        whole = cells_of(await log.chain(after.id))
        assert await log.delete(gone.id)
        assert await log.collect() == 2
        assert await log.collect() == 0
        assert await log.blobs([*gone.blobs]) == bodies(shared)
        assert cells_of(await log.chain(after.id)) == whole
        assert await log.blobs([*after.blobs, *ROOT.blobs]) == {**after.blobs, **ROOT.blobs}

    async def test_what_was_collected_can_be_stored_again(self, log: CommitLog) -> None:
        """R29: a blob that went is not taken for stored when a later commit brings it again."""
        one, gone = child(ROOT, "one"), child(child(ROOT, "one"), "gone", BODY)
        await log.commit([ROOT, one, gone], None)
        await log.move_head("support", "s1", one.id, gone.id)
        assert await log.delete(gone.id)
        assert await log.collect() == 1
        again = child(one, "again", BODY)
        await log.commit([again], one.id)
        assert await log.blobs(again.blobs) == again.blobs

    async def test_collecting_while_others_commit(self, log: CommitLog) -> None:
        """R29: commits that are made while blobs are collected keep every blob."""
        lanes = []
        for number in range(4):
            lane = [ROOT]
            for step in range(5):
                name = f"c{number}-{step}"
                lane.append(child(lane[-1], name, b"\x00\x00" + name.encode(), session=f"s{number}"))
            lanes.append(lane)

        async def grow(lane: list[Commit]) -> None:
            await log.commit(lane[:2], None)
            for before, commit in itertools.pairwise(lane[1:]):
                await log.commit([commit], before.id)

        await asyncio.gather(*(grow(lane) for lane in lanes), *(log.collect() for _ in range(5)))
        for lane in lanes:
            held = {blob: body for commit in lane for blob, body in commit.blobs.items()}
            assert await log.blobs(held) == held
            assert [commit.id for commit in await log.chain(lane[-1].id)] == [commit.id for commit in reversed(lane)]

    # --- Notes -----------------------------------------------------------------------------------------------

    async def test_notes_are_read_as_they_were_recorded(self, log: CommitLog) -> None:
        """R30: entries add up, a later one replaces an earlier one of its key, and any bytes and names come back."""
        one = child(ROOT, "one")
        await log.commit([ROOT, one], None)
        assert await log.recorded("support", "s1", one.id) == {}
        await log.record("support", "s1", one.id, {"a": b"1", "b/\u00e4 \n": b"", "": bytes(range(256))})
        await log.record("support", "s1", one.id, {"a": b"2", "c": b"3"})
        await log.record("support", "s1", one.id, {})
        expected = {"a": b"2", "b/\u00e4 \n": b"", "": bytes(range(256)), "c": b"3"}
        assert await log.recorded("support", "s1", one.id) == expected

    async def test_notes_of_another_head_are_a_conflict(self, log: CommitLog) -> None:
        """R31: nothing is noted for a commit that is not the head, nor for a session that has never committed."""
        one = child(ROOT, "one")
        await log.commit([ROOT, one], None)
        await log.record("support", "s1", one.id, {"a": b"1"})
        for session, head in (("s1", ROOT.id), ("s1", "chk_unknown"), ("s2", one.id)):
            with pytest.raises(WorkflowConflictError):
                await log.record("support", session, head, {"a": b"2"})
            assert await log.recorded("support", session, head) == {}
        assert await log.recorded("support", "s1", one.id) == {"a": b"1"}

    async def test_notes_go_with_the_head(self, log: CommitLog) -> None:
        """R32: a commit and a move of the head forget them, also when the head comes back to where it was."""
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two")
        await log.commit([ROOT, one], None)
        await log.record("support", "s1", one.id, {"a": b"1"})
        with pytest.raises(WorkflowConflictError):
            await log.commit([two], ROOT.id)
        assert await log.recorded("support", "s1", one.id) == {"a": b"1"}
        await log.commit([two], one.id)
        assert await log.recorded("support", "s1", one.id) == {}
        assert await log.recorded("support", "s1", two.id) == {}
        await log.move_head("support", "s1", one.id, two.id)
        assert await log.recorded("support", "s1", one.id) == {}
        await log.record("support", "s1", one.id, {"b": b"2"})
        await log.move_head("support", "s1", one.id, one.id)
        assert await log.recorded("support", "s1", one.id) == {}

    async def test_notes_belong_to_one_session(self, log: CommitLog) -> None:
        """R32: a fork at the same commit, another session and another workflow neither see nor forget them."""
        one = child(ROOT, "one")
        stranger = replace(child(ROOT, "stranger"), workflow="other")
        await log.commit([ROOT, one], None)
        await log.commit([stranger], None)
        await log.move_head("support", "fork", one.id, None)
        await log.record("support", "s1", one.id, {"a": b"1"})
        assert await log.recorded("support", "fork", one.id) == {}
        assert await log.recorded("other", "s1", stranger.id) == {}
        await log.record("support", "fork", one.id, {"a": b"fork"})
        await log.commit([child(one, "two", session="fork")], one.id)
        await log.move_head("other", "s1", ROOT.id, stranger.id)
        assert await log.recorded("support", "s1", one.id) == {"a": b"1"}

    async def test_notes_outlive_deleting_and_collecting(self, log: CommitLog) -> None:
        """R32: what happens to other commits and to blobs leaves them alone."""
        one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two", BODY)
        await log.commit([ROOT, one, two], None)
        await log.record("support", "s1", two.id, {"a": b"1"})
        assert await log.delete(one.id)
        await log.collect()
        assert await log.recorded("support", "s1", two.id) == {"a": b"1"}

    # --- Cancelling ------------------------------------------------------------------------------------------

    async def test_a_cancelled_commit_is_whole_or_nothing(self, log: CommitLog) -> None:
        """R28: when the cancelled caller has returned, head and commit agree."""
        await log.commit([ROOT], None)
        for pauses in range(4):
            session = f"s{pauses}"
            commit = child(ROOT, session, BODY, session=session)
            task = asyncio.ensure_future(log.commit([commit], None))
            for _ in range(pauses):
                await asyncio.sleep(0)
            task.cancel()
            # A log that has finished before it could be cancelled has simply finished.
            with contextlib.suppress(asyncio.CancelledError):
                await task
            assert (await log.head("support", session) == commit.id) is bool(await log.chain(commit.id))
