"""Sessions: fork, history, what runs next, stopping, and the end of requests."""

import asyncio
import operator
from datetime import timedelta
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.runner import Run, RunOptions
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.head_publisher import HeadPublisher, blobs_with_root, head_view
from agent_host.errors import (
    CheckpointNotFoundError,
    StateConflictError,
    UnknownRequestError,
    WorkflowBusyError,
    WorkflowCheckpointException,
    WorkflowConflictError,
    WorkflowRunnerException,
    WorkflowValidationError,
)
from tests.engine.graphs import Pinger, RefusingLog, SlowLog, both_ways, counting, ping_pong

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


# --- Fork and history --------------------------------------------------------------------------------------------


@STORAGES
async def test_a_fork_goes_its_own_way(storage: Any) -> None:
    """A fork starts with the state of its checkpoint; afterwards neither session sees the other."""
    workflow = counting(storage and storage())
    await workflow.run("a", session_id="one")
    point = await workflow.create_checkpoint("one")
    assert await workflow.fork(point, "two") == point
    assert (await workflow.run("b", session_id="one")).get_outputs() == ["2: a b"]
    assert (await workflow.run("c", session_id="two")).get_outputs() == ["2: a c"]
    assert (await workflow.run("d", session_id="one")).get_outputs() == ["3: a b d"]


@STORAGES
async def test_a_fork_into_a_session_that_exists_is_refused(storage: Any) -> None:
    """A fork never replaces what a session holds."""
    workflow = counting(storage and storage())
    await workflow.run("a", session_id="one")
    point = await workflow.create_checkpoint("one")
    with pytest.raises(WorkflowConflictError, match="session 'one' exists already"):
        await workflow.fork(point, "one")
    with pytest.raises(CheckpointNotFoundError, match="chk_unknown"):
        await workflow.fork("chk_unknown", "two")
    assert (await workflow.run("b", session_id="one")).get_outputs() == ["2: a b"]
    assert (await workflow.run("b", session_id="two")).get_outputs() == ["1: b"]


async def test_a_fork_writes_nothing_but_a_head() -> None:
    """No commit is copied: the parent of the fork's first commit is the checkpoint it was made at."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    await workflow.run("a")
    point = await workflow.create_checkpoint()
    before = await storage.list_checkpoint_ids(workflow_name="counting")
    await workflow.fork(point, "two")
    assert await storage.list_checkpoint_ids(workflow_name="counting") == before
    await workflow.run("b", session_id="two")
    assert [info.checkpoint_id for info in await workflow.history("two")][2] == point


async def test_history_goes_back_to_the_beginning() -> None:
    """Newest first, one entry for each boundary, linked by parents, numbered without a gap, across sessions."""
    workflow = ping_pong(InMemoryCheckpointStorage())
    await workflow.run(1)
    await workflow.fork(await workflow.create_checkpoint(), "two")
    await workflow.run(0, session_id="two")
    history = await workflow.history("two")
    assert [info.kind for info in history] == ["step", "input", "step", "step", "input", "root"]
    assert [info.seq for info in history] == [5, 4, 3, 2, 1, 0]
    assert [info.step for info in history] == [3, 2, 2, 1, 0, 0]
    assert [info.session_id for info in history] == ["two", "two", "default", "default", "default", ""]
    assert [info.previous_checkpoint_id for info in history] == [*[info.checkpoint_id for info in history][1:], None]
    assert all(info.timestamp.endswith("+00:00") for info in history)
    assert await workflow.history("unknown") == []


async def test_pruning_keeps_what_was_made_last() -> None:
    """After a reset the newest checkpoints are those of the new beginning, though their numbers are smaller."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    for text in "abcde":
        await workflow.run(text)
    await workflow.reset()
    await workflow.run("x")
    await storage.prune("counting", keep_last=2)
    assert [info.kind for info in await workflow.history()] == ["step", "input", "root"]
    assert len(await storage.list_checkpoint_ids(workflow_name="counting", session_id="default")) == 2


async def test_history_reads_no_values() -> None:
    """Looking at the past of a session does not load a single blob."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    for number in range(40):
        await workflow.run("x" * 600 + str(number))
    read: list[Any] = []
    storage.log.blobs = lambda hashes: read.append(hashes)  # type: ignore[method-assign,assignment]  # a spy
    assert len(await workflow.history()) == 81
    assert read == []


async def test_history_needs_a_storage() -> None:
    """A session that lives in the process keeps no past, and says what to do about it."""
    with pytest.raises(WorkflowCheckpointException, match="has no checkpoint storage, so its sessions have no history"):
        await counting().history()


async def test_what_runs_next_can_be_told_for_any_checkpoint() -> None:
    """The answer follows the graph and the queue of that commit, and calls no handler."""
    workflow = both_ways(InMemoryCheckpointStorage())
    await workflow.run("x")
    told = [await workflow.next_executors(info.checkpoint_id) for info in await workflow.history()]
    assert told == [[], ["join"], ["left", "right"], ["split"], []]
    assert await workflow.next_executors() == []


# --- Stop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["step", "turn"])
@STORAGES
async def test_a_stopped_run_can_be_continued(storage: Any, durability: Any) -> None:
    """stop() lets the superstep finish, keeps what is queued, and a later run comes to the same result."""

    class Slow(Pinger):
        @handler
        async def play(self, left: int, ctx: WorkflowContext[int, str]) -> None:
            await asyncio.sleep(0)
            await super().play(left, ctx)

    ping, pong = Slow("ping"), Slow("pong")
    builder = WorkflowBuilder(start_executor=ping, name="slow", checkpoint_storage=storage and storage())
    workflow = builder.add_edge(ping, pong).add_edge(pong, ping).build()
    stream = workflow.run(5, stream=True, durability=durability)
    async for event in stream:
        if event.type == "executor_invoked" and event.iteration == 2:
            stream.stop()
    result = await stream.get_final_response()
    assert [event.iteration for event in result if event.type == "superstep_completed"] == [1, 2]
    assert result.get_final_state() is WorkflowRunState.IDLE
    assert await workflow.next_executors() == ["ping"]
    with pytest.raises(WorkflowCheckpointException, match="queued messages"):
        await workflow.create_checkpoint()
    assert (await workflow.run(durability=durability)).get_outputs() == ["pong saw [4, 2, 0]"]


# --- Requests ----------------------------------------------------------------------------------------------------


class Asking(Executor):
    """Asks about each text in the way it was told to, and yields what it hears."""

    def __init__(self, **how: Any) -> None:
        super().__init__("asking")
        self.how = how

    @handler
    async def ask(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.request_info(text, str, request_id=f"about {text}", **self.how)

    @response_handler
    async def heard(self, request: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{request}: {answer}")


def asking(storage: CheckpointStorage | None = None, **how: Any) -> Workflow:
    return WorkflowBuilder(start_executor=Asking(**how), name="asking", checkpoint_storage=storage).build()


async def run_at(workflow: Workflow, now: float, message: Any = None, answers: Any = None) -> list[Any]:
    """One run of the default session at a given time; its events."""
    storage = workflow._storage
    assert storage is not None
    definition = await workflow.definition()
    storage.bind(definition.codec)
    head, view = await head_view(storage.log, workflow.name, "default", definition.root)
    lane = await Lane.open("default", definition, view, blobs_with_root(definition.root, storage.log.blobs))
    events: list[Any] = []
    publisher = HeadPublisher(storage.log, "default", head, definition.root)
    run = Run(lane, publisher, events.append, RunOptions(clock=lambda: now))
    if answers is not None:
        await run.answer(answers)
    elif message is not None:
        await run.start(message)
    else:
        await run.resume()
    await run.to_rest()
    return events


def outputs(events: list[Any]) -> list[Any]:
    return [event.data for event in events if event.type == "output"]


@pytest.mark.parametrize("period", [60, timedelta(minutes=1)])
async def test_an_expired_request_takes_its_default(period: Any) -> None:
    """After its time the next run takes the default as the answer, whatever that run is for."""
    workflow = asking(InMemoryCheckpointStorage(), expires_in=period, default="silence")
    await run_at(workflow, 1000.0, "a")
    assert outputs(await run_at(workflow, 1059.9)) == []
    assert outputs(await run_at(workflow, 1060.0)) == ["a: silence"]
    assert outputs(await run_at(workflow, 2000.0)) == []


async def test_an_expired_request_without_default_is_dropped_with_a_warning() -> None:
    """Nobody can answer it any more, and the run says so."""
    workflow = asking(InMemoryCheckpointStorage(), expires_in=60)
    await run_at(workflow, 1000.0, "a")
    events = await run_at(workflow, 1100.0, "b")
    (warning,) = [event.data for event in events if event.type == "warning"]
    assert "'about a' of 'asking' has expired without an answer" in warning
    with pytest.raises(UnknownRequestError, match="about a"):
        await run_at(workflow, 1101.0, answers={"about a": "late"})
    assert outputs(await run_at(workflow, 1102.0, answers={"about b": "in time"})) == ["b: in time"]


async def test_an_answer_after_its_time_is_refused() -> None:
    """The error says why; the request itself is settled by the next run."""
    workflow = asking(InMemoryCheckpointStorage(), expires_in=60, default="silence")
    await run_at(workflow, 1000.0, "a")
    with pytest.raises(UnknownRequestError, match="can no longer be answered: it has expired"):
        await run_at(workflow, 1060.0, answers={"about a": "late"})
    assert outputs(await run_at(workflow, 1061.0)) == ["a: silence"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"default": "x"}, "only together with expires_in"),
        ({"default": 1, "expires_in": 1}, "must be a str, as its answer; got a int"),
        ({"expires_in": 0}, "expires_in must be positive"),
        ({"expires_in": timedelta(seconds=-1)}, "expires_in must be positive"),
    ],
)
async def test_an_expiry_that_makes_no_sense_is_refused(how: dict[str, Any], message: str) -> None:
    """The handler that asks is told, and nothing is asked."""

    @executor(id="start")
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    class Odd(Asking):
        how: dict[str, Any]

        @handler
        async def ask(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.request_info(text, str, **how)

    odd = Odd()
    with pytest.raises(WorkflowRunnerException, match=message):
        await WorkflowBuilder(start_executor=start).add_edge(start, odd).build().run("a")


@STORAGES
async def test_pending_requests_can_be_cancelled(storage: Any) -> None:
    """The named ones, or all; what is cancelled cannot be answered, the rest can."""
    workflow = asking(storage and storage())
    for text in ("a", "b", "c"):
        await workflow.run(text)
    assert await workflow.cancel_pending_requests(["about b"]) == ["about b"]
    with pytest.raises(UnknownRequestError, match=r"'about b'.*open: 'about a', 'about c'"):
        await workflow.run(responses={"about b": "x"})
    assert (await workflow.run(responses={"about a": "x"})).get_outputs() == ["a: x"]
    assert await workflow.cancel_pending_requests() == ["about c"]
    assert (await workflow.run()).get_final_state() is WorkflowRunState.IDLE
    assert await workflow.cancel_pending_requests() == []


@STORAGES
async def test_cancelling_an_unknown_request_changes_nothing(storage: Any) -> None:
    """All ids are checked before any request is dropped."""
    workflow = asking(storage and storage())
    await workflow.run("a")
    with pytest.raises(UnknownRequestError, match="about z"):
        await workflow.cancel_pending_requests(["about a", "about z"])
    assert (await workflow.run(responses={"about a": "x"})).get_outputs() == ["a: x"]


async def test_cancelling_requests_during_a_run_is_refused() -> None:
    """A run owns its session, for cancelling requests as for everything else."""
    log = SlowLog()
    workflow = asking(CheckpointStorage(log))
    log.stop = "before"
    run = asyncio.ensure_future(workflow.run("a"))
    await log.stopped.wait()
    with pytest.raises(WorkflowBusyError):
        await workflow.cancel_pending_requests()
    with pytest.raises(WorkflowBusyError):
        await workflow.fork("chk", "default")
    log.go_on.set()
    await run


async def test_the_pause_of_a_session_is_its_head() -> None:
    """The event of a request names the checkpoint that holds it, which is what can also be asked for later."""
    workflow = asking(InMemoryCheckpointStorage())
    (event,) = (await workflow.run("a")).get_request_info_events()
    assert event.checkpoint_id is not None
    assert await workflow.resolve_pause_checkpoint_id(["about a"]) == event.checkpoint_id
    assert await workflow.resolve_pause_checkpoint_id() == event.checkpoint_id


async def test_no_checkpoint_is_the_pause_of_a_request_that_is_not_open() -> None:
    """A request that was answered, or never asked, is an error that names those that are open."""
    storage = InMemoryCheckpointStorage()
    workflow = asking(storage)
    await workflow.run("a")
    await workflow.run("b")
    await workflow.run(responses={"about a": "yes"})
    head = await workflow.get_last_checkpoint_id()
    assert await workflow.resolve_pause_checkpoint_id(["about b"]) == head
    for unknown in ("about a", "about c"):
        with pytest.raises(UnknownRequestError, match=f"No request '{unknown}' is open .*open: 'about b'"):
            await workflow.resolve_pause_checkpoint_id(["about b", unknown])
    with pytest.raises(UnknownRequestError):
        await workflow.resolve_pause_checkpoint_id(["about b"], session_id="another")


async def test_a_session_in_this_process_has_no_checkpoint_of_its_pause() -> None:
    """Without a storage the requests are known, but no checkpoint holds them."""
    workflow = asking(None)
    await workflow.run("a")
    assert await workflow.resolve_pause_checkpoint_id(["about a"]) is None
    with pytest.raises(UnknownRequestError):
        await workflow.resolve_pause_checkpoint_id(["about c"])


# --- Reducers ----------------------------------------------------------------------------------------------------


def adding(storage: CheckpointStorage | None, reducers: Any) -> Workflow:
    """Three executors add their part to the shared state `total` in one superstep; a fourth yields what came of it."""

    @executor(id="split")
    async def split(numbers: list[int], ctx: WorkflowContext[list[int]]) -> None:
        await ctx.send_message(numbers)

    class Part(Executor):
        def __init__(self, number: int) -> None:
            super().__init__(f"part{number}")
            self.number = number

        @handler
        async def add(self, numbers: list[int], ctx: WorkflowContext[int]) -> None:
            await asyncio.sleep(0.001 * (3 - self.number))  # the last one finishes first
            before = ctx.get_state("total", [])
            ctx.set_state("total", [numbers[self.number]])
            assert ctx.get_state("total") == [*before, numbers[self.number]]
            await ctx.send_message(self.number)

    @executor(id="show")
    async def show(parts: list[int], ctx: WorkflowContext[int, list[int]]) -> None:
        await ctx.yield_output(ctx.get_state("total"))

    parts = [Part(number) for number in range(3)]
    builder = WorkflowBuilder(start_executor=split, name="adding", checkpoint_storage=storage, state=reducers)
    return builder.add_fan_out_edges(split, parts).add_fan_in_edges(parts, show).build()


@STORAGES
async def test_a_reducer_puts_the_writes_of_siblings_together(storage: Any) -> None:
    """Their order is that of the calls, not of who finished first; the next run adds to what is there."""
    workflow = adding(storage and storage(), {"total": operator.add})
    assert (await workflow.run([1, 2, 3])).get_outputs() == [[1, 2, 3]]
    assert (await workflow.run([4, 5, 6])).get_outputs() == [[1, 2, 3, 4, 5, 6]]
    await workflow.reset()
    assert (await workflow.run([7, 8, 9])).get_outputs() == [[7, 8, 9]]


async def test_without_a_reducer_the_writes_of_siblings_are_an_error() -> None:
    """The error names both executors, the key and the remedy."""
    with pytest.raises(StateConflictError, match=r"'part0' and 'part1' both wrote .*'total'.*give the key a reducer"):
        await adding(None, None).run([1, 2, 3])


async def test_a_reducer_that_fails_names_its_key() -> None:
    """The user's own error is the cause, and the session stands where it was."""

    def broken(current: Any, written: Any) -> Any:
        raise ValueError("broken")

    workflow = adding(None, {"total": broken})
    with pytest.raises(StateConflictError, match=r"reducer of the shared state 'total' failed.*ValueError: broken"):
        await workflow.run([1, 2, 3])


async def test_updates_of_one_executor_add_up() -> None:
    """Each write of a key with a reducer is an update, also several of one handler."""

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str, int]) -> None:
        for number in (1, 2, 3):
            ctx.set_state("sum", number)
        await ctx.yield_output(ctx.get_state("sum"))

    workflow = WorkflowBuilder(start_executor=x, state={"sum": operator.add}).build()
    assert (await workflow.run("a")).get_outputs() == [6]
    assert (await workflow.run("a")).get_outputs() == [12]


# --- A storage that fails ----------------------------------------------------------------------------------------


async def test_a_run_may_go_on_without_its_checkpoints() -> None:
    """With on_checkpoint_error="warn" a failed save is a warning, and the next one that works holds everything."""
    log = RefusingLog()
    workflow = ping_pong(CheckpointStorage(log))
    log.left, log.refusals = 2, 3
    result = await workflow.run(5, on_checkpoint_error="warn")
    warnings = [event.data for event in result if event.type == "warning"]
    assert warnings == ["The checkpoint could not be stored: disk full. The run goes on without it."] * 3
    assert result.get_outputs() == ["pong saw [4, 2, 0]"]
    history = await workflow.history()
    assert [info.step for info in history] == [6, 5, 1, 0, 0]
    assert (await workflow.run(1)).get_outputs() == ["pong saw [4, 2, 0, 0]"]


async def test_a_storage_that_fails_fails_the_run() -> None:
    """By default the error is a WorkflowCheckpointException whose cause is the storage's own."""
    log = RefusingLog()
    log.left = 0
    with pytest.raises(WorkflowCheckpointException, match="could not be stored: disk full") as caught:
        await ping_pong(CheckpointStorage(log)).run(1)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_lost_session_is_never_only_a_warning() -> None:
    """Another process that moved the head ends the run even with on_checkpoint_error="warn"."""
    log = SlowLog()
    log.stop = "before"
    run = asyncio.ensure_future(ping_pong(CheckpointStorage(log)).run(3, on_checkpoint_error="warn"))
    await log.stopped.wait()
    await ping_pong(CheckpointStorage(log)).run(1)
    log.go_on.set()
    with pytest.raises(WorkflowConflictError):
        await run


async def test_an_unnamed_workflow_takes_no_storage() -> None:
    """Its checkpoints could not be told from those of any other unnamed workflow, for a run as for the builder."""
    workflow = WorkflowBuilder(start_executor=Asking()).build()
    storage = InMemoryCheckpointStorage()
    for use in (lambda **more: workflow.run("a", **more), workflow.create_checkpoint, workflow.reset):
        with pytest.raises(WorkflowValidationError, match="needs a name"):
            await use(checkpoint_storage=storage)


async def test_a_workflow_may_be_called_workflow() -> None:
    """It has a name, and takes a storage."""
    workflow = WorkflowBuilder(start_executor=Asking(), name="workflow").build()
    storage = InMemoryCheckpointStorage()
    assert (await workflow.run("a", checkpoint_storage=storage)).checkpoint_id is not None


async def test_a_reset_session_is_idle_again() -> None:
    """The status and the timeline tell what happened, and a reset puts the status back."""
    workflow = asking()
    result = await workflow.run("a", include_status_events=True)
    states = [event.state for event in result.status_timeline()]
    assert states == [WorkflowRunState.IN_PROGRESS, WorkflowRunState.IDLE_WITH_PENDING_REQUESTS]
    assert workflow.status is WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    await workflow.reset()
    assert workflow.status is WorkflowRunState.IDLE
    assert workflow.get_intermediate_executors() == []
