"""A failed superstep repeats only what had not finished; a failed call may be tried again by policy."""

import asyncio
import math
import threading
from typing import Any

import pytest

from agent_host import (
    Executor,
    ExecutorTimeoutError,
    InMemoryCheckpointStorage,
    RetryPolicy,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    config,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import (
    WorkflowConflictError,
    WorkflowConvergenceException,
    WorkflowRunnerException,
    WorkflowValidationError,
)
from tests.engine.graphs import Flaky, World

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


class Worker(Executor):
    """Notes that it was called, keeps what it saw, writes shared state, and fails while it is told to."""

    world: World = config()

    def __init__(self, id: str, world: World) -> None:
        super().__init__(id)
        self.world = world
        self.seen: list[str] = []

    @handler
    async def work(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        world = self.world
        world.calls.append(self.id)
        self.seen.append(text)
        ctx.set_state(f"by {self.id}", len(self.seen))
        if self.id in world.waiting:
            await world.waiting[self.id].wait()
        else:
            await asyncio.sleep(0)
        if self.id in world.failing:
            raise ValueError(f"{self.id} is broken")
        await ctx.send_message(f"{self.id}:{text}:{len(self.seen)}")
        await ctx.yield_output(f"out of {self.id}")


class Hooked(Worker):
    """The same, saving itself by hooks."""

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"seen": self.seen}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]


def fan(world: World, storage: CheckpointStorage | None, *, kind: type[Worker] = Worker) -> Workflow:
    """`split` sends a text to `a`, `b` and `c`; `join` yields what they send."""

    @executor(id="split")
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor(id="join")
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(" ".join(texts))

    workers = [kind(name, world) for name in "abc"]
    builder = WorkflowBuilder(start_executor=split, name="fan", checkpoint_storage=storage)
    return builder.add_fan_out_edges(split, workers).add_fan_in_edges(workers, join).build()


OUTPUTS = ["out of a", "out of b", "out of c", "a:x:1 b:x:1 c:x:1"]


@STORAGES
@pytest.mark.parametrize("kind", [Worker, Hooked], ids=["attributes", "hooks"])
async def test_finished_siblings_are_not_called_again(storage: Any, kind: type[Worker]) -> None:
    """After one of three siblings has failed, a retry calls only that one, to the result of a straight run."""
    world = World()
    workflow = fan(world, storage and storage(), kind=kind)
    world.failing = {"b"}
    world.waiting["b"] = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, world.waiting["b"].set)
    with pytest.raises(ValueError, match="b is broken"):
        await workflow.run("x")
    assert world.calls == ["a", "b", "c"]
    world.failing.clear()
    assert (await workflow.run()).get_outputs() == OUTPUTS
    assert world.calls == ["a", "b", "c", "b"]
    assert (await workflow.run("y")).get_outputs()[-1] == "a:y:2 b:y:2 c:y:2"


@STORAGES
async def test_what_failed_twice_still_does_not_repeat_the_others(storage: Any) -> None:
    """Notes of the first attempt serve the third one too."""
    world = World()
    workflow = fan(world, storage and storage())
    world.failing = {"c"}
    for _ in range(2):
        with pytest.raises(ValueError, match="c is broken"):
            await workflow.run("x") if not world.calls else await workflow.run()
    world.failing.clear()
    assert (await workflow.run()).get_outputs() == OUTPUTS
    assert sorted(world.calls) == ["a", "b", "c", "c", "c"]


async def test_a_finished_call_is_noted_while_its_siblings_still_run() -> None:
    """Killed in the middle of a superstep, a new process calls only those that had not finished."""
    world, storage = World(), InMemoryCheckpointStorage()
    world.waiting["c"] = asyncio.Event()
    run = asyncio.ensure_future(fan(world, storage).run("x"))
    while len(await notes_of(storage.log)) < 2 and not run.done():
        await asyncio.sleep(0.001)
    log = copy_of(storage.log)  # what a killed process leaves behind
    run.cancel()
    await asyncio.wait([run])
    world.waiting.clear()
    assert (await fan(world, CheckpointStorage(log)).run()).get_outputs() == OUTPUTS
    assert world.calls == ["a", "b", "c", "c"]


async def notes_of(log: Any) -> dict[str, bytes]:
    head = await log.head("fan", "default")
    return await log.recorded("fan", "default", head) if head else {}


def copy_of(log: Any) -> MemoryLog:
    copied = MemoryLog()
    for name, value in vars(log).items():
        setattr(copied, name, {key: dict(inner) if isinstance(inner, dict) else inner for key, inner in value.items()})
    return copied


async def test_a_fork_sees_no_notes_of_another_session() -> None:
    """A session that starts from the same commit calls everything itself."""
    world, storage = World(), InMemoryCheckpointStorage()
    workflow = fan(world, storage)
    world.failing = {"c"}
    with pytest.raises(ValueError, match="c is broken"):
        await workflow.run("x", session_id="one")
    world.failing.clear()
    head = await workflow.get_last_checkpoint_id("one")
    assert head is not None
    await workflow.fork(head, "two")
    await workflow.run(session_id="two")
    assert sorted(world.calls) == ["a", "a", "b", "b", "c", "c"]
    await workflow.run(session_id="one")
    assert sorted(world.calls) == ["a", "a", "b", "b", "c", "c", "c"]


async def test_going_back_to_a_commit_uses_no_notes() -> None:
    """A run from an earlier checkpoint is a branch: it calls everything itself."""
    world, storage = World(), InMemoryCheckpointStorage()
    workflow = fan(world, storage)
    await workflow.run("x")
    before = (await workflow.history())[2].checkpoint_id
    assert await workflow.next_executors(before) == ["a", "b", "c"]
    await workflow.run(checkpoint_id=before)
    assert sorted(world.calls) == ["a", "a", "b", "b", "c", "c"]


async def test_a_new_input_forgets_notes() -> None:
    """After a failure a new message starts a superstep of its own, for which nothing is noted."""
    world = World()
    workflow = fan(world, None)
    world.failing = {"c"}
    with pytest.raises(ValueError, match="c is broken"):
        await workflow.run("x")
    world.failing.clear()
    result = await workflow.run("y")
    assert result.get_outputs()[-1] == "a:y:1 b:y:1 c:y:1"
    assert sorted(world.calls) == ["a", "a", "b", "b", "c", "c"]


async def test_calls_of_one_executor_are_noted_one_by_one() -> None:
    """Of three messages to one executor the third fails; the retry begins there, on the state the second left."""
    world = World()

    @executor(id="several")
    async def several(text: str, ctx: WorkflowContext[str]) -> None:
        for number in range(3):
            await ctx.send_message(f"{text}{number}")

    class Third(Executor):
        def __init__(self) -> None:
            super().__init__("third")
            self.seen: list[str] = []

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            world.calls.append(text)
            self.seen.append(text)
            ctx.set_state("count", ctx.get_state("count", 0) + 1)
            if text == "x2" and world.failing:
                raise ValueError("third is broken")
            await ctx.yield_output(f"{' '.join(self.seen)} {ctx.get_state('count')}")

    third = Third()
    builder = WorkflowBuilder(start_executor=several, name="n", checkpoint_storage=InMemoryCheckpointStorage())
    workflow = builder.add_edge(several, third).build()
    world.failing = {"third"}
    with pytest.raises(ValueError, match="third is broken"):
        await workflow.run("x")
    world.failing.clear()
    assert (await workflow.run()).get_outputs() == ["x0 1", "x0 x1 2", "x0 x1 x2 3"]
    assert world.calls == ["x0", "x1", "x2", "x2"]


async def test_a_finished_call_is_noted_before_the_next_one_of_its_executor_ends() -> None:
    """Killed in the second of two calls of the only executor, a new process does not repeat the first."""
    world, storage = World(), InMemoryCheckpointStorage()

    @executor(id="split")
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"{text}1")
        await ctx.send_message(f"{text}2")

    class Slow(Executor):
        world: World = config()

        @handler
        async def work(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.world.calls.append(text)
            if text in self.world.waiting:
                await self.world.waiting[text].wait()
            await ctx.yield_output(text)

    def build(log: MemoryLog) -> Workflow:
        slow = Slow("slow")
        slow.world = world
        builder = WorkflowBuilder(start_executor=split, name="fan", checkpoint_storage=CheckpointStorage(log))
        return builder.add_edge(split, slow).build()

    world.waiting["x2"] = asyncio.Event()
    run = asyncio.ensure_future(build(storage.log).run("x"))  # type: ignore[arg-type]  # it is a memory log
    while not await notes_of(storage.log) and not run.done():
        await asyncio.sleep(0.001)
    log = copy_of(storage.log)
    run.cancel()
    await asyncio.wait([run])
    world.waiting.clear()
    assert (await build(log).run()).get_outputs() == ["x1", "x2"]
    assert world.calls == ["x1", "x2", "x2"]


async def test_what_cannot_be_noted_is_called_again() -> None:
    """An output may hold anything that nobody stores; such a call is repeated instead of failing the run."""
    calls: list[str] = []
    fails = [True]

    @executor(id="start")
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor(id="odd")
    async def odd(text: str, ctx: WorkflowContext[str, Any]) -> None:
        calls.append("odd")
        await ctx.yield_output([threading.Lock()])

    @executor(id="fragile")
    async def fragile(text: str, ctx: WorkflowContext[str]) -> None:
        await asyncio.sleep(0.01)
        calls.append("fragile")
        if fails:
            raise ValueError("broken")

    builder = WorkflowBuilder(start_executor=start, name="n", checkpoint_storage=InMemoryCheckpointStorage())
    workflow = builder.add_fan_out_edges(start, [odd, fragile]).build()
    with pytest.raises(ValueError, match="broken"):
        await workflow.run("x")
    fails.clear()
    await workflow.run()
    assert calls == ["odd", "fragile", "odd", "fragile"]


async def test_a_note_on_a_moved_head_ends_the_run() -> None:
    """A process that has lost its session hears of it at its next note, before it does more."""
    world, storage = World(), InMemoryCheckpointStorage()
    world.waiting["c"] = asyncio.Event()
    run = asyncio.ensure_future(fan(world, storage).run("x"))
    while len(world.calls) < 3 and not run.done():
        await asyncio.sleep(0)
    await fan(World(), CheckpointStorage(storage.log)).run("another process")
    world.waiting["c"].set()
    with pytest.raises(WorkflowConflictError):
        await run


@STORAGES
async def test_a_note_is_not_taken_for_the_call_of_another_executor(storage: Any) -> None:
    """Where a condition has changed its mind since the failure, the call that takes the noted one's place is made."""
    called: list[str] = []
    flaky, way = Flaky(1), ["left"]

    @executor(id="source")
    async def source(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    def reached(name: str) -> Executor:
        @executor(id=name)
        async def work(text: str, ctx: WorkflowContext) -> None:
            called.append(name)

        return work

    @executor(id="failing")
    async def failing(text: str, ctx: WorkflowContext) -> None:
        flaky()

    builder = WorkflowBuilder(start_executor=source, name="w", checkpoint_storage=storage and storage())
    builder.add_edge(source, reached("left"), lambda text: way == ["left"])
    builder.add_edge(source, reached("right"), lambda text: way == ["right"])
    workflow = builder.add_edge(source, failing).build()
    with pytest.raises(ConnectionError):
        await workflow.run("x")
    way[:] = ["right"]
    await workflow.run()
    assert called == ["left", "right"]


@STORAGES
async def test_a_note_is_not_taken_for_a_call_of_another_kind(storage: Any) -> None:
    """Where a condition no longer lets a message pass, the answer that takes its place in the superstep is heard."""
    heard: list[str] = []
    flaky, way = Flaky(1), ["open"]

    class Desk(Executor):
        @handler
        async def ask(self, text: str, ctx: WorkflowContext[str]) -> None:
            await ctx.request_info(text, str, request_id=self.id)
            await ctx.send_message(text)

        @handler
        async def send(self, number: int, ctx: WorkflowContext[bytes]) -> None:
            await ctx.send_message(b"a message")

        @handler
        async def take(self, message: bytes, ctx: WorkflowContext) -> None:
            heard.append("message")

        @response_handler
        async def hear(self, request: str, answer: str, ctx: WorkflowContext) -> None:
            if self.id == "failing":
                flaky()
            heard.append(answer)

    desk, failing = Desk("desk"), Desk("failing")
    builder = WorkflowBuilder(start_executor=desk, name="w", checkpoint_storage=storage and storage())
    builder.add_edge(desk, desk, lambda value: isinstance(value, bytes) and way == ["open"])
    workflow = builder.add_edge(desk, failing, lambda value: isinstance(value, str)).build()
    await workflow.run("ask")
    with pytest.raises(WorkflowConvergenceException):
        await workflow.run(1, max_iterations=1)
    with pytest.raises(ConnectionError):
        await workflow.run(responses={"desk": "one", "failing": "two"})
    assert heard == ["message", "one"]
    way[:] = ["closed"]
    await workflow.run()
    assert heard == ["message", "one", "one", "two"]


# --- Retry policies ----------------------------------------------------------------------------------------------


class Trying(Executor):
    """Changes its state, its message and shared state before it fails."""

    flaky: Flaky = config()

    def __init__(self, flaky: Flaky, retry: RetryPolicy | None) -> None:
        super().__init__("trying", retry=retry)
        self.flaky = flaky
        self.tries = 0

    @handler
    async def take(self, words: list[str], ctx: WorkflowContext[str, str]) -> None:
        self.tries += 1
        words.append("changed")
        ctx.set_state("count", ctx.get_state("count", 0) + 1)
        await ctx.yield_output(TextDelta(f"try {self.flaky.calls + 1}"))
        self.flaky()
        await ctx.yield_output(f"{self.tries} {words} {ctx.get_state('count')}")


@STORAGES
async def test_a_retry_starts_from_what_the_first_attempt_found(storage: Any) -> None:
    """State, message and shared state of failed attempts leave no trace; the result is that of the last attempt."""
    flaky = Flaky(2)
    trying = Trying(flaky, RetryPolicy(max_attempts=3, delay=0))
    workflow = WorkflowBuilder(start_executor=trying, name="n", checkpoint_storage=storage and storage()).build()
    result = await workflow.run(["a"])
    assert result.get_outputs() == ["try 3", "1 ['a', 'changed'] 1"]
    assert flaky.calls == 3
    assert [e.details.message for e in result if e.type == "executor_failed" and e.details] == [
        "failure 1",
        "failure 2",
    ]
    assert [e.data for e in result if e.type == "warning"] == [
        "Executor 'trying' failed with ConnectionError: failure 1; it is called again in 0 s.",
        "Executor 'trying' failed with ConnectionError: failure 2; it is called again in 0 s.",
    ]


async def test_deltas_of_a_failed_attempt_have_keys_of_their_own() -> None:
    """Whoever shows text while it is made can tell what belongs to an attempt that has failed."""
    workflow = WorkflowBuilder(start_executor=Trying(Flaky(1), RetryPolicy(delay=0))).build()
    events = [event async for event in workflow.run(["a"], stream=True)]
    first, second = [event.output for event in events if event.type == "output_delta"]
    failed = next(event.output for event in events if event.type == "executor_failed")
    settled = [event.output for event in events if event.type == "output"]
    assert first is not None and second is not None and failed is not None
    assert (first.attempt, second.attempt, failed.attempt) == (0, 1, 0)
    assert settled[0] == second


async def test_the_last_failure_stands() -> None:
    """After max_attempts the error fails the run, and the session stands where it was."""
    flaky = Flaky(5)
    workflow = WorkflowBuilder(start_executor=Trying(flaky, RetryPolicy(max_attempts=2, delay=0))).build()
    with pytest.raises(ConnectionError, match="failure 2"):
        await workflow.run(["a"])
    assert flaky.calls == 2
    assert await workflow.next_executors() == ["trying"]


@pytest.mark.parametrize(
    ("attempt", "error", "pause"),
    [
        (1, ConnectionError(), 1.0),
        (2, ConnectionError(), 3.0),
        (3, ConnectionError(), 5.0),
        (4, ConnectionError(), None),
        (1, ValueError(), None),
        (1, WorkflowRunnerException(), None),
        (1, ExecutorTimeoutError(), 1.0),
    ],
)
def test_when_a_policy_tries_again(attempt: int, error: Exception, pause: float | None) -> None:
    """The pause grows up to its bound; only named errors are tried again, and none of the engine but a timeout."""
    policy = RetryPolicy(4, delay=1.0, backoff=3.0, max_delay=5.0, retry_on=(OSError, WorkflowRunnerException))
    assert policy.pause(attempt, error) == pause


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_attempts": 0}, "max_attempts of a RetryPolicy must be a whole number, at least 1; got 0"),
        ({"max_attempts": 2.5}, "max_attempts of a RetryPolicy must be a whole number, at least 1; got 2.5"),
        ({"delay": -1}, "delay of a RetryPolicy must be a number, not negative; got -1"),
        ({"backoff": "2"}, "backoff of a RetryPolicy must be a number, not negative; got '2'"),
        ({"max_delay": math.nan}, "max_delay of a RetryPolicy must be a number, not negative; got nan"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], message: str) -> None:
    """The numbers of a policy are checked where it is made."""
    with pytest.raises(WorkflowValidationError, match=message):
        RetryPolicy(**given)


# --- Timeouts ----------------------------------------------------------------------------------------------------


async def test_a_handler_that_takes_too_long_fails() -> None:
    """The error names executor and timeout; the handler is cancelled."""
    ended: list[str] = []

    @executor(id="slow", timeout=0.01)
    async def slow(text: str, ctx: WorkflowContext[str, str]) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(text)

    with pytest.raises(ExecutorTimeoutError, match=r"Executor 'slow' took longer than its timeout of 0\.01 s"):
        await WorkflowBuilder(start_executor=slow).build().run("x")
    assert ended == ["x"]


async def test_a_timeout_of_the_handlers_own_is_its_own_error() -> None:
    """A TimeoutError that the handler raises is not taken for the executor's timeout."""

    @executor(id="own", timeout=30)
    async def own(text: str, ctx: WorkflowContext[str, str]) -> None:
        raise TimeoutError("the database")

    with pytest.raises(TimeoutError, match="the database") as caught:
        await WorkflowBuilder(start_executor=own).build().run("x")
    assert not isinstance(caught.value, ExecutorTimeoutError)


async def test_a_plain_function_that_takes_too_long_is_left_behind() -> None:
    """A thread cannot be cancelled: the run fails in time, and what the function does later has no effect."""
    go_on, late = threading.Event(), []

    @executor(id="blocking", timeout=0.02)
    def blocking(text: str, ctx: WorkflowContext[str, str]) -> None:
        go_on.wait(10)
        try:
            ctx.yield_output("too late")
        except WorkflowRunnerException as error:
            late.append(str(error))

    with pytest.raises(ExecutorTimeoutError):
        await WorkflowBuilder(start_executor=blocking).build().run("x")
    go_on.set()
    async with asyncio.timeout(10):
        while not late:
            await asyncio.sleep(0.001)
    assert "calls yield_output after its handler has ended" in late[0]


async def test_a_timeout_can_be_tried_again() -> None:
    """A call that took too long once succeeds the second time."""
    waits = [30.0, 0.0]

    @executor(id="slow", timeout=0.01, retry=RetryPolicy(max_attempts=2, delay=0))
    async def slow(text: str, ctx: WorkflowContext[str, str]) -> None:
        await asyncio.sleep(waits.pop(0))
        await ctx.yield_output(text)

    assert (await WorkflowBuilder(start_executor=slow).build().run("x")).get_outputs() == ["x"]


@pytest.mark.parametrize("timeout", [0, -1.5])
def test_a_timeout_must_be_positive(timeout: float) -> None:
    """A timeout that nothing can keep is refused where it is given."""
    with pytest.raises(WorkflowValidationError, match="must be positive"):
        executor(id="x", timeout=timeout)(_nothing)


async def _nothing(text: str) -> None: ...
