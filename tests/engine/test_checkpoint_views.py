"""What a checkpoint shows of nested workflows, and what retention makes of their open requests."""

from dataclasses import replace

import pytest

from agent_host import InMemoryCheckpointStorage
from agent_host.engine.checkpoint import Commit
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.retention import Retention
from agent_host.errors import CheckpointDecodeError, WorkflowCheckpointException
from agent_host.testing.commit_log_contract import BODY, ROOT, child


def cell(value: object) -> bytes:
    return Codec().encode(value).reference


CELLS: dict[str, bytes | None] = {
    "s/topic": cell("outer"),
    "x/clerk/count": cell(1),
    "q/000000": cell(["clerk", None, "message", None, None, "outer message"]),
    "r/one": cell(["one", "clerk", "outer question", "str"]),
    "w/sub/1/s/topic": cell("inner"),
    "w/sub/1/x/worker/count": cell(2),
    "w/sub/1/e/join/worker/000000": cell(["worker", None, "message", None, None, "waiting"]),
    "w/sub/2/w/deep/7/q/000000": cell(["worker", None, "message", None, None, "deep message"]),
    "w/sub/2/w/deep/7/r/two": cell(["two", "worker", "deep question", "str", 12.5, []]),
}


async def stored(delta: dict[str, bytes | None]) -> CheckpointStorage:
    log = MemoryLog()
    await log.commit([replace(ROOT, delta={}), replace(child(ROOT, "one"), delta=delta)], None)
    return CheckpointStorage(log, Codec())


async def test_nested_workflows_are_shown_apart() -> None:
    """The outer values are the outer workflow's own, and each instance, at any depth, has its own under its path."""
    whole = await (await stored(CELLS)).load("chk_one")
    assert whole.state == {"topic": "outer"}
    assert whole.executor_states == {"clerk": {"count": 1}}
    assert whole.messages == {"clerk": ["outer message"]}
    assert whole.waiting_in_joins == {}
    assert whole.pending_request_info_events == {"one": "outer question"}
    first, second = (("sub", 1),), (("sub", 2), ("deep", 7))
    nested = whole.nested
    assert set(nested) == {first, second}
    assert nested[first].state == {"topic": "inner"}
    assert nested[first].executor_states == {"worker": {"count": 2}}
    assert nested[first].waiting_in_joins == {("join", "worker"): ["waiting"]}
    assert nested[second].messages == {"worker": ["deep message"]}
    assert nested[second].pending_request_info_events == {"two": "deep question"}
    assert {view.path for view in nested.values()} == set(nested)
    assert {view.checkpoint_id for view in nested.values()} == {whole.checkpoint_id}
    assert nested[second].nested == {}


async def test_a_view_is_not_saved_for_the_whole() -> None:
    """A part under the id of the whole would lose the rest."""
    (view, *_) = (await (await stored(CELLS)).load("chk_one")).nested.values()
    other = InMemoryCheckpointStorage()
    with pytest.raises(ValueError, match="Save the whole checkpoint"):
        await other.save(view)
    assert await other.list_checkpoint_ids(workflow_name="support") == []


async def test_what_is_known_without_types() -> None:
    """Before a storage knows any type it tells kinds, places and sizes; looking at a value says what to do."""
    storage = await stored(CELLS)
    untyped = await CheckpointStorage(storage.log).load("chk_one")
    assert untyped.metadata == {
        "kind": "response",
        "session_id": "s1",
        "seq": 1,
        "step": 1,
        "iteration_count": 0,
        "bytes": sum(len(reference or b"") for reference in CELLS.values()),
    }
    with pytest.raises(WorkflowCheckpointException, match="codec="):
        _ = untyped.state


async def test_a_request_at_any_depth_is_a_pause() -> None:
    """A commit is a pause from the one that asks to the one that takes the answer, across manifests and forks."""
    log = MemoryLog()
    asks = replace(child(ROOT, "asks"), delta={"w/sub/1/r/one": cell(["one"])})
    waits = child(asks, "waits")
    whole = replace(child(waits, "whole"), complete=True, distance=0, delta={"w/sub/1/r/one": cell(["one"])})
    answered = replace(child(whole, "answered"), delta={"w/sub/1/r/one": None})
    fork = child(waits, "fork", session="s2")
    last = child(answered, "last")
    await log.commit([ROOT, asks, waits, whole, answered, last], None)
    await log.commit([fork, child(fork, "next", session="s2")], None)
    storage = CheckpointStorage(log)
    assert await storage.prune("support", keep_last=0) == [answered.id]
    assert await storage.prune("support", keep_last=0, keep_pauses=False) == [asks.id, waits.id, whole.id, fork.id]


def numbered(count: int) -> list[Commit]:
    return [replace(child(ROOT, str(n)), seq=n, created_at=float(n), kind="step") for n in range(count)]


@pytest.mark.parametrize(
    ("retention", "removable"),
    [
        (Retention(3, None, frozenset(), False), "012"),
        (Retention(0, None, frozenset(), False), "012345"),
        (Retention(9, None, frozenset(), False), ""),
        (Retention(None, 4.0, frozenset(), False), "0123"),
        (Retention(3, 2.0, frozenset(), False), "01"),
        (Retention(1, 5.0, frozenset(), False), "01234"),
        (Retention(0, None, frozenset({"step"}), False), ""),
        (Retention(0, None, frozenset({"input"}), True), "02345"),
    ],
)
def test_what_may_go(retention: Retention, removable: str) -> None:
    """Only what no rule keeps: number, age, kind, pause."""
    commits = numbered(6)
    found = retention.removable(commits, (), {"chk_1"})
    assert found == [f"chk_{digit}" for digit in removable]
    kept = retention.removable(commits, {"chk_0"}, {"chk_1"})
    assert kept == [f"chk_{digit}" for digit in removable if digit != "0"]


async def test_a_store_that_lacks_or_forged_a_blob_says_so() -> None:
    """Loading names the blob that is missing, or whose bytes are not those it stands for."""
    log = MemoryLog()
    one = child(ROOT, "one", BODY)
    await log.commit([ROOT, one], None)
    storage = CheckpointStorage(log)
    (hash_,) = one.blobs
    log._blobs[hash_] = b"\x00\x00forged"
    with pytest.raises(CheckpointDecodeError, match=f"{hash_.hex()} is damaged"):
        await storage.load(one.id)
    del log._blobs[hash_]
    with pytest.raises(CheckpointDecodeError, match=f"lacks the blob {hash_.hex()}"):
        await storage.load(one.id)
