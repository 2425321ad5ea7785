"""One run at a time in a session, and what becomes of runs that nobody waits for any more."""

import asyncio
import contextvars
import gc
from collections.abc import Callable

import pytest

from agent_host import (
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    executor,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import WorkflowBusyError, WorkflowCheckpointException, WorkflowRunnerException
from tests.engine.graphs import SlowLog, counting


class Waiting:
    """A workflow whose executor waits for the test, and a note of how its waiting ended."""

    def __init__(self, storage: CheckpointStorage | None = None) -> None:
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ends: list[str] = []

        @executor(id="waiter")
        async def wait(text: str, ctx: WorkflowContext[str, str]) -> None:
            self.entered.set()
            try:
                if text != "quick":
                    await self.go_on.wait()
            except asyncio.CancelledError:
                self.ends.append("cancelled")
                raise
            self.ends.append("done")
            await ctx.yield_output(text)

        self.workflow = WorkflowBuilder(start_executor=wait, name="waiting", checkpoint_storage=storage).build()


async def test_a_second_run_of_a_session_is_refused_before_anything_changes() -> None:
    """Of two runs started in the same tick the first runs and the second is refused without a trace."""
    storage = InMemoryCheckpointStorage()
    waiting = Waiting(storage)
    first, second = (asyncio.ensure_future(waiting.workflow.run(text)) for text in ("first", "second"))
    await waiting.entered.wait()
    for _ in range(3):
        await asyncio.sleep(0)
    assert second.done()
    with pytest.raises(WorkflowBusyError, match="'default'"):
        await second
    assert len(await storage.list_checkpoint_ids(workflow_name="waiting")) == 2  # the root and the first input
    waiting.go_on.set()
    assert (await first).get_outputs() == ["first"]


async def test_other_sessions_run_while_one_is_busy() -> None:
    """The claim on a session keeps no other session from running."""
    waiting = Waiting()
    running = asyncio.ensure_future(waiting.workflow.run("slow", session_id="one"))
    await waiting.entered.wait()
    assert (await waiting.workflow.run("quick", session_id="two")).get_outputs() == ["quick"]
    waiting.go_on.set()
    assert (await running).get_outputs() == ["slow"]


async def test_a_stream_that_is_being_read_keeps_its_session() -> None:
    """A second run is refused while somebody iterates over the first, though nobody keeps the stream itself."""
    waiting = Waiting()
    types = []
    async for event in waiting.workflow.run("slow", stream=True):
        types.append(event.type)
        if event.type == "executor_invoked":
            with pytest.raises(WorkflowBusyError, match="session_id"):
                await waiting.workflow.run("quick")
            waiting.go_on.set()
    assert waiting.ends == ["done"]
    assert "output" in types


async def test_a_stream_dropped_unread_blocks_nobody() -> None:
    """A stream that was never iterated has claimed nothing and runs nothing."""
    workflow = counting()
    stream = workflow.run("never", stream=True)
    for _ in range(3):
        await asyncio.sleep(0)
    assert (await workflow.run("a")).get_outputs() == ["1: a"]
    del stream
    assert (await workflow.run("b")).get_outputs() == ["2: a b"]


async def test_leaving_a_stream_early_ends_its_run_and_frees_the_session() -> None:
    """After `break` the next run works at once, and the tasks of the first have ended by then."""
    waiting = Waiting()
    async for event in waiting.workflow.run("slow", stream=True):
        if event.type == "executor_invoked":
            await waiting.entered.wait()
            break
    assert (await waiting.workflow.run("quick")).get_outputs() == ["quick"]
    assert waiting.ends == ["cancelled", "done"]


async def test_a_late_finalizer_leaves_a_newer_run_alone() -> None:
    """A dropped stream that is collected late gives back its own claim, never that of a newer run."""
    waiting = Waiting()
    stream = waiting.workflow.run("slow", stream=True)
    await anext(aiter(stream))
    await waiting.entered.wait()
    cycle = [stream]
    cycle.append(cycle)  # type: ignore[arg-type]
    closing = asyncio.ensure_future(stream.close())
    await closing
    waiting.entered.clear()
    newer = asyncio.ensure_future(waiting.workflow.run("newer"))
    await waiting.entered.wait()
    del stream, cycle
    gc.collect()
    await asyncio.sleep(0)
    with pytest.raises(WorkflowBusyError):
        await waiting.workflow.run("quick")
    waiting.go_on.set()
    assert (await newer).get_outputs() == ["newer"]


async def test_a_claim_is_given_back_only_by_its_owner() -> None:
    """A run that ends after another has claimed the session does not free it."""
    workflow = counting()
    old = await workflow._claims.take((0, "s"))
    workflow._claims._taken.clear()
    new = await workflow._claims.take((0, "s"))
    workflow._claims.give_back((0, "s"), old)
    assert workflow._claims.holder((0, "s")) is new
    workflow._claims.give_back((0, "s"), new)
    assert workflow._claims.holder((0, "s")) is None


async def test_a_storage_given_to_one_run_is_forgotten_after_it() -> None:
    """A run's own storage is not used by the next run, even if its stream was abandoned."""
    storage = InMemoryCheckpointStorage()
    workflow = counting()
    async for _ in workflow.run("a", stream=True, checkpoint_storage=storage, session_id="s"):
        break
    before = len(await storage.list_checkpoint_ids(workflow_name="counting"))
    assert (await workflow.run("b", session_id="s")).checkpoint_id is None
    assert len(await storage.list_checkpoint_ids(workflow_name="counting")) == before


@pytest.mark.parametrize("how", ["cancel", "close", "drop"])
async def test_a_run_that_was_ended_from_outside_is_cancelled(how: str) -> None:
    """However a run is ended, its state is CANCELLED and its executors have ended."""
    waiting = Waiting()
    workflow = waiting.workflow
    if how == "cancel":
        running = asyncio.ensure_future(workflow.run("slow"))
        await waiting.entered.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    else:
        stream = workflow.run("slow", stream=True)
        await anext(stream.__aiter__())
        await waiting.entered.wait()
        if how == "close":
            await stream.close()
        del stream
        await _until(lambda: waiting.ends == ["cancelled"])
        await _until(lambda: workflow.status is not WorkflowRunState.IN_PROGRESS)
    assert waiting.ends == ["cancelled"]
    assert workflow.status is WorkflowRunState.CANCELLED
    assert (await workflow.run("quick")).get_final_state() is WorkflowRunState.IDLE


async def _until(holds: Callable[[], bool]) -> None:
    for _ in range(100):
        if holds():
            return
        await asyncio.sleep(0)
    assert holds()


async def test_a_refused_input_ends_as_failed() -> None:
    """A run whose input nobody takes does not stay in progress."""
    workflow = counting()
    with pytest.raises(WorkflowRunnerException, match="takes str"):
        await workflow.run(5)
    assert workflow.status is WorkflowRunState.FAILED
    events = []
    with pytest.raises(WorkflowRunnerException):
        async for event in workflow.run(5, stream=True):
            events.append(event)
    assert [event.type for event in events] == ["started", "status", "failed", "status"]
    assert events[-1].state is WorkflowRunState.FAILED


async def test_the_result_of_a_closed_stream_is_an_error() -> None:
    """`get_final_response` says that the run did not end."""
    waiting = Waiting()
    async with waiting.workflow.run("slow", stream=True) as stream:
        await anext(stream.__aiter__())
    with pytest.raises(WorkflowRunnerException, match="closed"):
        await stream.get_final_response()
    assert [event async for event in stream] == []


async def test_a_stream_can_be_left_and_taken_up_again() -> None:
    """While the stream is held, reading can stop and go on; the result has every event."""
    stream = counting().run("a", stream=True)
    async for _ in stream:
        break
    result = await stream.get_final_response()
    assert result.get_outputs() == ["1: a"]
    assert (await stream.get_final_response()) is result


async def test_a_reader_that_is_cancelled_ends_the_run() -> None:
    """Cancelling the task that reads a stream cancels and awaits the run."""
    waiting = Waiting()
    stream = waiting.workflow.run("slow", stream=True)

    async def read() -> None:
        async for _ in stream:
            pass

    reading = asyncio.ensure_future(read())
    await waiting.entered.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert waiting.ends == ["cancelled"]


async def test_leaving_a_stream_awaits_all_of_its_tasks() -> None:
    """`close` returns when every executor has finished its own cleanup, even if closing is cancelled meanwhile."""
    entered, cleaning, clean = [asyncio.Event(), asyncio.Event()], asyncio.Event(), asyncio.Event()
    cleaned: list[int] = []

    def worker(number: int) -> object:
        @executor(id=f"worker{number}")
        async def work(text: str, ctx: WorkflowContext) -> None:
            entered[number].set()
            try:
                await asyncio.Event().wait()
            finally:
                cleaning.set()
                await clean.wait()
                cleaned.append(number)

        return work

    @executor
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    workflow = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, [worker(0), worker(1)]).build()
    stream = workflow.run("go", stream=True)
    reading = asyncio.ensure_future(stream.get_final_response())
    for event in entered:
        await event.wait()
    closing = asyncio.ensure_future(stream.close())
    await cleaning.wait()
    closing.cancel()
    await asyncio.sleep(0)
    assert not closing.done()
    clean.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert sorted(cleaned) == [0, 1]
    with pytest.raises(WorkflowRunnerException):
        await reading


async def test_context_variables_of_a_handler_survive_a_stream_that_ends_elsewhere() -> None:
    """A handler can reset the variable it set, though another task ends the stream."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    entered = asyncio.Event()
    ends: list[str] = []

    @executor
    async def tracing(text: str, ctx: WorkflowContext) -> None:
        token = variable.set("inside")
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            variable.reset(token)
            ends.append(variable.get())

    stream = WorkflowBuilder(start_executor=tracing).build().run("go", stream=True)

    async def begin() -> None:
        await anext(stream.__aiter__())
        await entered.wait()

    await asyncio.create_task(begin(), context=contextvars.Context())
    await asyncio.create_task(stream.close(), context=contextvars.Context())
    assert ends == ["unset"]


@pytest.mark.parametrize("stop", ["before", "after"])
async def test_cancelling_while_a_commit_is_written_leaves_an_old_or_a_new_head(stop: str) -> None:
    """The head is the commit before or the one being written, whole, and the next run works."""
    log = SlowLog()
    storage = CheckpointStorage(log)
    workflow = counting(storage)
    await workflow.run("a")
    old = await workflow.get_last_checkpoint_id()
    log.stop = stop
    running = asyncio.ensure_future(workflow.run("b"))
    await log.stopped.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    head = await storage.get_latest(workflow_name="counting")
    assert head is not None
    assert (head.checkpoint_id == old) is (stop == "before")
    assert head.executor_states == {"counter": {"count": 1, "history": ["a"]}}
    assert head.messages == ({} if stop == "before" else {"counter": ["b"]})
    expected = "2: a c" if stop == "before" else "2: a b"
    assert (await (workflow.run("c") if stop == "before" else workflow.run())).get_outputs() == [expected]


async def test_no_checkpoint_is_made_or_reset_during_a_run() -> None:
    """`create_checkpoint` and `reset` are refused while the session runs."""
    waiting = Waiting(InMemoryCheckpointStorage())
    running = asyncio.ensure_future(waiting.workflow.run("slow"))
    await waiting.entered.wait()
    for refused in (waiting.workflow.create_checkpoint(), waiting.workflow.reset()):
        with pytest.raises(WorkflowBusyError):
            await refused
    waiting.go_on.set()
    await running
    assert await waiting.workflow.create_checkpoint() == await waiting.workflow.get_last_checkpoint_id()


async def test_no_checkpoint_is_made_over_queued_messages() -> None:
    """`create_checkpoint` refuses a session whose last run did not finish, and says what to do."""

    @executor
    async def failing(text: str, ctx: WorkflowContext) -> None:
        raise ValueError("no")

    for storage in (None, InMemoryCheckpointStorage()):
        workflow: Workflow = WorkflowBuilder(start_executor=failing, name="f", checkpoint_storage=storage).build()
        with pytest.raises(ValueError, match="no"):
            await workflow.run("a")
        with pytest.raises(WorkflowCheckpointException, match=r"reset\(\)"):
            await workflow.create_checkpoint()
        await workflow.reset()
        assert await workflow.create_checkpoint() == (await workflow.definition()).root.id


async def test_a_session_needs_a_name() -> None:
    """The empty session id belongs to no conversation."""
    with pytest.raises(ValueError, match="session_id"):
        await counting().run("a", session_id="")
