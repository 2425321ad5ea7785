"""What every checkpoint storage promises its users, as tests.

Subclass `CheckpointStorageContract` in a test module, name the class `Test...`, and give it a fixture `make_storage`:
an async function that makes storages, each of them new and empty. What a storage promises the engine is in
`commit_log_contract.py`; its `log` must pass that too.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_host.engine.builder import WorkflowBuilder
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.handlers import handler, response_handler
from agent_host.engine.running.context import WorkflowContext
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage, InMemoryCheckpointStorage
from agent_host.engine.storage.workflow_checkpoint import WorkflowCheckpoint
from agent_host.engine.workflow import Workflow
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException

NAME = "diary"
LONG = "dear diary, " * 50  # longer than what stands in a commit itself


class Diary(Executor):
    """Remembers every text, and passes the first ones on to itself; a question is left open."""

    def __init__(self) -> None:
        super().__init__("diary")
        self.pages: list[str] = []

    @handler
    async def write(self, page: str, ctx: WorkflowContext[str, str]) -> None:
        self.pages.append(page)
        ctx.set_state("last", page)
        if page.startswith("again "):
            await ctx.send_message(page.removeprefix("again "))
        elif page.startswith("ask "):
            await ctx.request_info(page, str)
        else:
            await ctx.yield_output(page)

    @response_handler
    async def take(self, question: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        self.pages.append(answer)
        await ctx.yield_output(answer)


def diary(storage: CheckpointStorage, name: str = NAME) -> Workflow:
    """A workflow whose state grows with every message, its checkpoints in this storage."""
    executor = Diary()
    return (
        WorkflowBuilder(start_executor=executor, name=name, checkpoint_storage=storage)
        .add_edge(executor, executor)
        .build()
    )


def content(checkpoint: WorkflowCheckpoint) -> tuple[Any, ...]:
    """All that a checkpoint says, but for how it is stored and what went before."""
    return (
        checkpoint.checkpoint_id,
        checkpoint.workflow_name,
        checkpoint.session_id,
        checkpoint.kind,
        checkpoint.seq,
        checkpoint.step,
        checkpoint.timestamp,
        checkpoint.graph_signature_hash,
        checkpoint.state,
        checkpoint.messages,
        checkpoint.executor_states,
        checkpoint.waiting_in_joins,
        checkpoint.pending_request_info_events,
    )


class CheckpointStorageContract:
    """What `save`, `load`, `list_checkpoints`, `list_checkpoint_ids`, `get_latest`, `delete` and `prune` promise."""

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def storage(self, make_storage: Callable[[], Awaitable[CheckpointStorage]]) -> CheckpointStorage:
        return await make_storage()

    # --- Reading ---------------------------------------------------------------------------------------------

    async def test_a_checkpoint_is_loaded_by_its_id(self, storage: CheckpointStorage) -> None:
        """It says which workflow, session and state it is of; an unknown id raises."""
        result = await diary(storage).run("one", session_id="s1")
        assert result.checkpoint_id is not None
        loaded = await storage.load(result.checkpoint_id)
        assert (loaded.workflow_name, loaded.session_id, loaded.kind) == (NAME, "s1", "step")
        assert loaded.executor_states == {"diary": {"pages": ["one"]}}
        assert loaded.state == {"last": "one"}
        with pytest.raises(CheckpointNotFoundError, match="chk_unknown"):
            await storage.load("chk_unknown")

    async def test_what_is_loaded_can_be_changed_without_harm(self, storage: CheckpointStorage) -> None:
        """Each look at a value gives a new one, and nothing done to it reaches the store or another look."""
        result = await diary(storage).run(LONG)
        loaded = await storage.load(result.checkpoint_id or "")
        loaded.executor_states["diary"]["pages"].append("forged")
        loaded.state["last"] = "forged"
        assert loaded.executor_states == {"diary": {"pages": [LONG]}}
        assert (await storage.load(result.checkpoint_id or "")).state == {"last": LONG}

    async def test_checkpoints_are_listed_oldest_first(self, storage: CheckpointStorage) -> None:
        """Of a workflow with its initial state, or of one session; ids and checkpoints in one order."""
        workflow, other = diary(storage), diary(storage, "other")
        await workflow.run("one", session_id="s1")
        await other.run("two", session_id="s1")
        await workflow.run("three", session_id="s2")
        listed = await storage.list_checkpoints(workflow_name=NAME)
        assert [c.kind for c in listed] == ["root", "input", "step", "input", "step"]
        assert [c.session_id for c in listed] == ["", "s1", "s1", "s2", "s2"]
        assert [c.checkpoint_id for c in listed] == await storage.list_checkpoint_ids(workflow_name=NAME)
        ids = await storage.list_checkpoint_ids(workflow_name=NAME, session_id="s2")
        assert ids == [c.checkpoint_id for c in listed[3:]]
        assert await storage.list_checkpoint_ids(workflow_name="unknown") == []

    async def test_the_latest_is_the_head_of_the_session(self, storage: CheckpointStorage) -> None:
        """Not the newest by time: a session that was put back stands where it was put, and none has another's."""
        workflow = diary(storage)
        first = await workflow.run("one")
        await workflow.run("two")
        await workflow.run(checkpoint_id=first.checkpoint_id)
        latest = await storage.get_latest(workflow_name=NAME)
        assert latest is not None
        assert latest.checkpoint_id == first.checkpoint_id
        assert await storage.get_latest(workflow_name=NAME, session_id="s2") is None

    async def test_iterations_count_from_the_last_input(self, storage: CheckpointStorage) -> None:
        """In steps and in whole turns alike; queued messages that go on later count on."""
        workflow = diary(storage)
        await workflow.run("one")
        await workflow.run("again again two")
        counts = [c.iteration_count for c in await storage.list_checkpoints(workflow_name=NAME)]
        assert counts == [0, 0, 1, 0, 1, 2, 3]
        turn = await workflow.run("again three", durability="turn")
        assert (await storage.load(turn.checkpoint_id or "")).iteration_count == 2

    # --- Saving ----------------------------------------------------------------------------------------------

    async def test_a_history_is_copied(
        self, storage: CheckpointStorage, make_storage: Callable[[], Awaitable[CheckpointStorage]]
    ) -> None:
        """Saved one after the other in another storage, checkpoints, order, parents and head are the same there."""
        workflow = diary(storage)
        for page in ("one", LONG, "again two", "ask three"):
            await workflow.run(page)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        copy = await make_storage()
        copied = diary(copy)
        for _ in range(2):
            assert [await copy.save(c) for c in listed] == [c.checkpoint_id for c in listed]
        found = await copy.list_checkpoints(workflow_name=NAME)
        assert [content(c) for c in found] == [content(c) for c in listed]
        assert [c.previous_checkpoint_id for c in found] == [c.previous_checkpoint_id for c in listed]
        assert [c.iteration_count for c in found] == [c.iteration_count for c in listed]
        assert (await copied.run(responses=await self._answers(copy))).get_outputs() == ["answer"]

    @staticmethod
    async def _answers(storage: CheckpointStorage) -> dict[str, str]:
        latest = await storage.get_latest(workflow_name=NAME)
        assert latest is not None
        return dict.fromkeys(latest.pending_request_info_events, "answer")

    async def test_a_single_checkpoint_stands_alone(
        self, storage: CheckpointStorage, make_storage: Callable[[], Awaitable[CheckpointStorage]]
    ) -> None:
        """Without its parent it is whole, names none, becomes its session's head, and can be run from."""
        workflow = diary(storage)
        for page in ("one", LONG):
            result = await workflow.run(page)
        copy = await make_storage()
        copied = diary(copy)
        await copy.save(await storage.load(result.checkpoint_id or ""))
        alone = await copy.get_latest(workflow_name=NAME)
        assert alone is not None
        assert alone.previous_checkpoint_id is None
        assert alone.executor_states == {"diary": {"pages": ["one", LONG]}}
        await copied.run("three")
        latest = await copy.get_latest(workflow_name=NAME)
        assert latest is not None
        assert latest.executor_states == {"diary": {"pages": ["one", LONG, "three"]}}

    async def test_saving_leaves_a_session_where_it_stands(
        self, storage: CheckpointStorage, make_storage: Callable[[], Awaitable[CheckpointStorage]]
    ) -> None:
        """An older checkpoint, or one of another branch, is added without moving a head that is there already."""
        workflow = diary(storage)
        first = await workflow.run("one")
        await workflow.run("two")
        listed = await storage.list_checkpoints(workflow_name=NAME)
        copy = await make_storage()
        copied = diary(copy)
        await copy.save(listed[-1])
        forked = await copied.run("fork", session_id="s2", checkpoint_id=listed[-1].checkpoint_id)
        await copied.run(session_id="default", checkpoint_id=forked.checkpoint_id)
        for checkpoint in reversed(listed):
            await copy.save(checkpoint)
            latest = await copy.get_latest(workflow_name=NAME)
            assert latest is not None
            assert latest.checkpoint_id == forked.checkpoint_id
        assert content(await copy.load(first.checkpoint_id or "")) == content(listed[2])

    # --- Removing --------------------------------------------------------------------------------------------

    async def test_deleting_keeps_the_others(self, storage: CheckpointStorage) -> None:
        """One that is no head goes, once, and those after it read as before; a head and the initial state stay."""
        workflow = diary(storage)
        for page in ("one", LONG, "three"):
            await workflow.run(page)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        before = {c.checkpoint_id: content(c) for c in listed}
        gone = listed[3].checkpoint_id
        assert await storage.delete(gone)
        assert not await storage.delete(gone)
        for kept in (listed[0], listed[-1]):
            with pytest.raises(WorkflowCheckpointException):
                await storage.delete(kept.checkpoint_id)
        del before[gone]
        after = {c.checkpoint_id: content(c) for c in await storage.list_checkpoints(workflow_name=NAME)}
        assert after == before

    async def test_pruning_keeps_the_newest(self, storage: CheckpointStorage) -> None:
        """Of every session its newest and the initial state stay and read as before; the removed ids are returned."""
        workflow = diary(storage)
        for session in ("s1", "s2"):
            for page in ("one", LONG, "three"):
                await workflow.run(page, session_id=session)
        before = {c.checkpoint_id: content(c) for c in await storage.list_checkpoints(workflow_name=NAME)}
        removed = await storage.prune(NAME, session_id="s1", keep_last=2)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        assert [c.kind for c in listed if c.session_id == "s1"] == ["input", "step"]
        assert len([c for c in listed if c.session_id == "s2"]) == 6
        assert [key for key in before if key not in removed] == [c.checkpoint_id for c in listed]
        assert len(removed) == 4
        assert len(await storage.prune(NAME, keep_last=1)) == 6
        for checkpoint in await storage.list_checkpoints(workflow_name=NAME):
            assert content(checkpoint) == before[checkpoint.checkpoint_id]
        assert (await workflow.run("four", session_id="s1")).get_outputs() == ["four"]

    async def test_pruning_keeps_what_is_young(self, storage: CheckpointStorage) -> None:
        """`older_than` is an age in seconds; with `keep_last` a checkpoint must be beyond both to go."""
        workflow = diary(storage)
        for page in ("one", "two"):
            await workflow.run(page)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        middle = listed[2].commit.created_at
        assert await storage.prune(NAME, older_than=10, now=lambda: middle + 5) == []
        assert await storage.prune(NAME, older_than=10, keep_last=9, now=lambda: middle + 100) == []
        with pytest.raises(ValueError, match="keep_last, older_than or both"):
            await storage.prune(NAME)
        removed = await storage.prune(NAME, older_than=10, now=lambda: middle + 100)
        assert removed == [c.checkpoint_id for c in listed[1:4]]

    async def test_pruning_keeps_heads_and_pins(self, storage: CheckpointStorage) -> None:
        """A head stays wherever its session stands, also one that was forked, and so does what was made by hand."""
        workflow = diary(storage)
        first = await workflow.run("one")
        await workflow.run(session_id="fork", checkpoint_id=first.checkpoint_id)
        await workflow.run("two")
        source = InMemoryCheckpointStorage()
        await diary(source).run("by hand", session_id="pinned")
        pinned = await source.get_latest(workflow_name=NAME, session_id="pinned")
        assert pinned is not None
        await storage.save(as_manual(pinned))
        await workflow.run("later", session_id="pinned")
        await storage.prune(NAME, keep_last=0)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        assert [c.kind for c in listed if c.session_id == "pinned"] == ["manual", "step"]
        assert first.checkpoint_id in [c.checkpoint_id for c in listed]
        await storage.prune(NAME, keep_last=0, keep_kinds=frozenset())
        listed = await storage.list_checkpoints(workflow_name=NAME)
        assert [(c.kind, c.session_id) for c in listed if c.session_id != "default"] == [
            ("root", ""),
            ("step", "pinned"),
        ]

    async def test_pruning_keeps_pauses(self, storage: CheckpointStorage) -> None:
        """A checkpoint with an open request stays as long as pauses are kept, also when it is answered elsewhere."""
        workflow = diary(storage)
        paused = await workflow.run("ask one")
        await workflow.run(responses=await self._answers(storage))
        await workflow.run("two")
        await storage.prune(NAME, keep_last=1)
        listed = await storage.list_checkpoints(workflow_name=NAME)
        assert paused.checkpoint_id in [c.checkpoint_id for c in listed]
        removed = await storage.prune(NAME, keep_last=1, keep_pauses=False)
        assert paused.checkpoint_id in removed

    async def test_pruning_frees_what_nothing_needs(self, storage: CheckpointStorage) -> None:
        """Values of removed checkpoints are gone; those that a surviving one still has are there."""
        workflow = diary(storage)
        await workflow.run(LONG)
        await workflow.run("short")
        listed = await storage.list_checkpoints(workflow_name=NAME)
        values = {blob for checkpoint in listed for blob in checkpoint._bodies}
        needed = set(listed[-1]._bodies) | set(listed[0]._bodies)
        assert values > needed
        await storage.prune(NAME, keep_last=1)
        assert set(await storage.log.blobs(values)) == needed


def as_manual(checkpoint: WorkflowCheckpoint) -> WorkflowCheckpoint:
    """The checkpoint as if a user had made it by hand."""
    return replace(checkpoint, commit=replace(checkpoint.commit, kind="manual"))
