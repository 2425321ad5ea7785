"""A superstep happens entirely or not at all."""

import asyncio
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    executor,
    handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import (
    StateConflictError,
    WorkflowCheckpointException,
    WorkflowConvergenceException,
    WorkflowRunnerException,
)
from tests.engine.graphs import RefusingLog, ping_pong

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


class Fragile(Executor):
    """Counts, writes shared state, sends and yields, and then fails as long as it is told to."""

    def __init__(self) -> None:
        super().__init__("fragile")
        self.count = 0
        self.calls: list[str] = []

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        self.calls.append(text)
        seen = ctx.get_state("seen", 0)
        ctx.set_state("seen", seen + 1)
        await ctx.send_message(text)
        await ctx.yield_output(f"{self.count} {seen}")
        if Failing.now:
            raise LookupError(f"cannot take {text}")


class Failing:
    now = False


@pytest.fixture
def failing() -> Any:
    Failing.now = True
    yield Failing
    Failing.now = False


def fragile(storage: Any) -> Any:
    heard: list[str] = []

    @executor
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        heard.append(text)
        await ctx.send_message(text)

    @executor
    async def end(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"end {text}")

    worker = Fragile()
    made = storage() if storage else None
    workflow = WorkflowBuilder(start_executor=start, name="fragile", checkpoint_storage=made)
    return workflow.add_chain([start, worker, end]).build(), worker, heard, made


@STORAGES
async def test_a_failed_superstep_can_be_tried_again_where_it_failed(storage: Any, failing: Any) -> None:
    """The queue stands as before it: `run()` calls the failed executor again, not the start, with clean state."""
    workflow, worker, heard, _ = fragile(storage)
    with pytest.raises(LookupError, match="cannot take a"):
        await workflow.run("a")
    with pytest.raises(LookupError):
        await workflow.run()
    failing.now = False
    result = await workflow.run()
    assert result.get_outputs() == ["1 0", "end a"]
    assert heard == ["a"]
    assert (worker.count, worker.calls) == (1, ["a"])


@STORAGES
async def test_nothing_of_a_failed_superstep_reaches_the_next_input(storage: Any, failing: Any) -> None:
    """State, shared state, messages and outputs of a failed superstep are gone, and a new input is taken at once."""
    workflow, worker, _, made = fragile(storage)
    with pytest.raises(LookupError):
        await workflow.run("a")
    assert (worker.count, worker.calls) == (0, [])
    failing.now = False
    result = await workflow.run("b")
    assert result.get_outputs() == ["1 0", "end b"]
    assert "dropped" in next(event for event in result if event.type == "warning").data
    if made is not None:
        latest = await made.get_latest(workflow_name="fragile")
        assert latest.state == {"seen": 1}


@STORAGES
async def test_in_turn_mode_a_failure_undoes_the_whole_turn(storage: Any, failing: Any) -> None:
    """With one commit at rest the session stands where the run found it, in a store and in memory."""
    failing.now = False
    workflow, worker, heard, _ = fragile(storage)
    await workflow.run("a", durability="turn")
    before = await workflow.get_last_checkpoint_id()
    failing.now = True
    with pytest.raises(LookupError):
        await workflow.run("b", durability="turn")
    assert await workflow.get_last_checkpoint_id() == before
    assert (worker.count, worker.calls) == (1, ["a"])
    failing.now = False
    assert (await workflow.run(durability="turn")).get_outputs() == []
    assert (await workflow.run("c", durability="turn")).get_outputs() == ["2 1", "end c"]
    assert heard == ["a", "b", "c"]


async def test_an_error_keeps_its_type_and_names_the_executor(failing: Any) -> None:
    """The exception of a handler is raised as it is, with a note that says where it comes from."""
    workflow, *_ = fragile(None)
    with pytest.raises(LookupError) as caught:
        await workflow.run("a")
    assert "'fragile'" in caught.value.__notes__[0]
    events = []
    with pytest.raises(LookupError):
        async for event in workflow.run("a", stream=True):
            events.append(event)
    failed = next(event for event in events if event.type == "executor_failed")
    assert (failed.executor_id, failed.details.error_type) == ("fragile", "LookupError")
    assert "cannot take a" in failed.details.message
    assert events[-1].state is WorkflowRunState.FAILED
    assert not [event for event in events if event.type == "output"]


def siblings(*workers: Any, storage: Any = None) -> Any:
    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    builder = WorkflowBuilder(start_executor=split, name="siblings", checkpoint_storage=storage)
    return builder.add_fan_out_edges(split, list(workers)).build()


async def test_when_one_executor_fails_its_siblings_are_cancelled_and_awaited() -> None:
    """The run raises the error only after every sibling has ended, and nothing of them is kept."""
    entered = asyncio.Event()
    ends: list[str] = []

    @executor
    async def slow(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output("never")
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ends.append("slow")

    @executor
    async def bad(text: str, ctx: WorkflowContext) -> None:
        await entered.wait()
        raise KeyError(text)

    workflow = siblings(slow, bad)
    with pytest.raises(KeyError):
        await workflow.run("x")
    assert ends == ["slow"]
    assert workflow.status is WorkflowRunState.FAILED


async def test_when_several_fail_the_first_is_raised_and_all_are_told() -> None:
    """Each failure is an `executor_failed` event; the error of the first invocation is raised."""
    both = asyncio.Barrier(2)

    @executor
    async def one(text: str, ctx: WorkflowContext) -> None:
        await both.wait()
        raise ValueError("one")

    @executor
    async def two(text: str, ctx: WorkflowContext) -> None:
        await both.wait()
        raise TypeError("two")

    events = []
    with pytest.raises(ValueError, match="one"):
        async for event in siblings(one, two).run("x", stream=True):
            events.append(event)
    failed = {event.executor_id for event in events if event.type == "executor_failed"}
    assert failed == {"one", "two"}


@pytest.mark.parametrize("alone", [True, False])
async def test_a_handler_whose_own_task_was_cancelled_has_failed(alone: bool) -> None:
    """A cancellation that nobody asked of the run is a failure, never a missing result."""

    @executor
    async def impatient(text: str, ctx: WorkflowContext) -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    @executor
    async def fine(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output("fine")

    workflow = WorkflowBuilder(start_executor=impatient).build() if alone else siblings(impatient, fine)
    with pytest.raises(WorkflowRunnerException, match="awaited something that was cancelled"):
        await workflow.run("x")
    assert workflow.status is WorkflowRunState.FAILED


@STORAGES
async def test_two_executors_that_write_one_key_are_an_error(storage: Any) -> None:
    """Which value wins would depend on luck: the run fails, names both and the key, and nothing is written."""

    @executor
    async def one(text: str, ctx: WorkflowContext) -> None:
        ctx.set_state("winner", "one")

    @executor
    async def two(text: str, ctx: WorkflowContext) -> None:
        ctx.set_state("winner", "two")

    made = storage() if storage else None
    with pytest.raises(StateConflictError, match="'one' and 'two' both wrote the shared state 'winner'"):
        await siblings(one, two, storage=made).run("x")
    if made:
        assert (await made.get_latest(workflow_name="siblings")).state == {}


@STORAGES
async def test_reaching_the_limit_of_supersteps_keeps_what_is_queued(storage: Any) -> None:
    """The run raises; with a higher limit the session goes on from there."""
    workflow = ping_pong(storage() if storage else None)
    with pytest.raises(WorkflowConvergenceException, match="within 3 supersteps; 1 messages"):
        await workflow.run(9, max_iterations=3)
    result = await workflow.run(max_iterations=7)
    assert result.get_outputs() == ["pong saw [8, 6, 4, 2, 0]"]


async def test_the_limit_counts_the_supersteps_of_one_run() -> None:
    """Many short runs of one session never add up to the limit."""
    workflow = ping_pong()
    for _ in range(5):
        await workflow.run(2, max_iterations=3)
    with pytest.raises(WorkflowConvergenceException):
        await workflow.run(3, max_iterations=3)


async def test_a_failing_store_fails_the_run_and_leaves_no_trace() -> None:
    """What could not be published is not the session's state: the status tells the last commit that is stored."""
    log = RefusingLog()
    workflow = ping_pong(CheckpointStorage(log))
    await workflow.run(1)
    log.left = 1
    events = []
    with pytest.raises(WorkflowCheckpointException, match="disk full"):
        async for event in workflow.run(3, stream=True):
            events.append(event)
    assert workflow.status is WorkflowRunState.FAILED
    last_completed = [event for event in events if event.type == "superstep_started"][-1]
    assert events[-1].checkpoint_id == last_completed.checkpoint_id
    log.left = None
    assert (await workflow.run()).get_outputs() == ["pong saw [0, 2, 0]"]
