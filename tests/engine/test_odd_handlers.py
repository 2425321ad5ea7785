"""Handlers, hooks and conditions that do what they should not: the run ends with a clear error, and nothing hangs."""

import asyncio
import gc
import threading
from typing import Any

import pytest

from agent_host import (
    Executor,
    ExecutorTimeoutError,
    RetryPolicy,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    config,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import (
    HandlerError,
    WorkflowCheckpointException,
    WorkflowRunnerException,
    WorkflowValidationError,
)
from tests.engine.graphs import MemoryLog, World
from tests.engine.test_sessions import asking

PATIENCE = 20


async def test_a_plain_handler_may_raise_stop_iteration() -> None:
    """`next()` of nothing in a thread fails the run instead of hanging it, for handlers and for steps."""

    @executor(id="plain")
    def plain(text: str, ctx: WorkflowContext[str]) -> None:
        next(iter(()))

    @executor(id="stepping")
    async def stepping(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.step("next", lambda: next(iter(())))

    for one in (plain, stepping):
        with pytest.raises(RuntimeError, match="raised StopIteration"):
            await asyncio.wait_for(WorkflowBuilder(start_executor=one).build().run("x"), PATIENCE)


async def test_waiting_for_a_thread_is_not_working() -> None:
    """With more calls than threads each call has its whole timeout, and none is made that was given up."""
    calls: list[str] = []

    @executor(id="slow", timeout=2.0)
    def slow(text: str, ctx: WorkflowContext[str, str]) -> None:
        threading.Event().wait(0.15)
        calls.append(text)
        ctx.yield_output(text)

    workflow = WorkflowBuilder(start_executor=slow).build()
    results = await asyncio.gather(*(workflow.run(str(n), session_id=str(n)) for n in range(100)))
    assert [result.get_outputs() for result in results] == [[str(n)] for n in range(100)]
    assert len(calls) == 100


async def test_a_thread_that_is_left_behind_takes_nobodys_place() -> None:
    """However many calls have hung, other plain handlers find a thread."""
    go_on = threading.Event()

    @executor(id="hanging", timeout=0.02)
    def hanging(text: str, ctx: WorkflowContext[str]) -> None:
        go_on.wait(PATIENCE)

    @executor(id="quick")
    def quick(text: str, ctx: WorkflowContext[str, str]) -> None:
        ctx.yield_output(text)

    stuck, fine = WorkflowBuilder(start_executor=hanging).build(), WorkflowBuilder(start_executor=quick).build()
    try:
        for number in range(40):
            with pytest.raises(ExecutorTimeoutError):
                await stuck.run("x", session_id=str(number))
        assert (await asyncio.wait_for(fine.run("y"), PATIENCE)).get_outputs() == ["y"]
    finally:
        go_on.set()


async def test_a_stream_ends_although_a_handler_swallows_its_cancellation() -> None:
    """Closing comes back, and the run makes no further superstep."""
    began, later = asyncio.Event(), []

    @executor(id="deaf")
    async def deaf(text: str, ctx: WorkflowContext[str]) -> None:
        began.set()
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            await ctx.send_message(text)

    @executor(id="next")
    async def after(text: str, ctx: WorkflowContext[str]) -> None:
        later.append(text)

    workflow = WorkflowBuilder(start_executor=deaf).add_edge(deaf, after).build()
    stream = workflow.run("x", stream=True)
    reading = asyncio.ensure_future(stream.get_final_response())
    await began.wait()
    await asyncio.wait_for(stream.close(), PATIENCE)
    with pytest.raises(WorkflowRunnerException, match="closed before its run ended"):
        await reading
    assert later == []
    assert workflow.status is WorkflowRunState.CANCELLED


async def test_a_stream_that_is_forgotten_leaves_no_task() -> None:
    """A run that waits for a reader who is gone is ended and awaited, not destroyed."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))

    @executor(id="one")
    async def one(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    workflow = WorkflowBuilder(start_executor=one).add_edge(one, one).build()

    async def leave() -> None:
        stream = workflow.run("x", stream=True)
        async for event in stream:
            if event.type == "superstep_completed":
                break
        await asyncio.sleep(0)
        cycle: list[Any] = [stream]
        cycle.append(cycle)

    await leave()
    gc.collect()
    for _ in range(5):
        await asyncio.sleep(0)
    assert told == []
    assert workflow.status is WorkflowRunState.CANCELLED


@pytest.mark.parametrize("where", ["condition", "hook"])
@pytest.mark.parametrize("what", ["exit", "cancelled"])
async def test_conditions_and_hooks_end_no_process_and_cancel_nobody(where: str, what: str) -> None:
    """What only a caller may do is an error of the run: its status is FAILED."""

    async def misbehave() -> bool:
        if what == "exit":
            raise SystemExit(3)
        raise asyncio.CancelledError

    begun: list[str] = []

    class Hooked(Executor):
        async def on_checkpoint_save(self) -> dict[str, Any]:
            if where == "hook" and begun:
                await misbehave()
            return {}

        async def on_checkpoint_restore(self, state: dict[str, Any]) -> None: ...

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str]) -> None:
            begun.append(text)
            await ctx.send_message(text)

    @executor(id="end")
    async def end(text: str, ctx: WorkflowContext[str]) -> None: ...

    hooked = Hooked("hooked")
    condition = (lambda text: misbehave()) if where == "condition" else None
    workflow = WorkflowBuilder(start_executor=hooked).add_edge(hooked, end, condition).build()
    with pytest.raises(WorkflowRunnerException, match=r"sys.exit\(3\)" if what == "exit" else "was cancelled"):
        await workflow.run("x")
    assert workflow.status is WorkflowRunState.FAILED


class Odd(BaseException):
    """What no library should raise."""


async def test_a_base_exception_ends_the_run_as_failed() -> None:
    """It reaches the caller as it is, and the status does not stay IN_PROGRESS."""

    @executor(id="odd")
    async def odd(text: str, ctx: WorkflowContext[str]) -> None:
        raise Odd

    workflow = WorkflowBuilder(start_executor=odd).build()
    with pytest.raises(Odd):
        await workflow.run("x")
    assert workflow.status is WorkflowRunState.FAILED


def test_a_handler_that_yields_is_refused() -> None:
    """A generator would run to nothing; the error says what to use."""

    async def talk(text: str, ctx: WorkflowContext[str]) -> Any:
        yield text

    def tell(text: str, ctx: WorkflowContext[str]) -> Any:
        yield text

    for one in (talk, tell):
        with pytest.raises(HandlerError, match=r"has a `yield`.*ctx\.yield_output"):
            executor(id="x")(one)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"durability": "Turn"}, "durability is one of 'step', 'turn'; got 'Turn'"),
        ({"on_checkpoint_error": "ignore"}, "on_checkpoint_error is one of 'fail', 'warn'"),
        ({"max_iterations": 0}, "max_iterations must be a whole number, at least 1; got 0"),
        ({"max_iterations": "3"}, "max_iterations must be a whole number, at least 1; got '3'"),
    ],
)
async def test_an_option_that_does_not_exist_is_refused(given: dict[str, Any], message: str) -> None:
    """A word that is not known never silently stores nothing."""

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str]) -> None: ...

    with pytest.raises(ValueError, match=message):
        await WorkflowBuilder(start_executor=x).build().run("x", **given)


def test_policies_of_the_wrong_kind_are_refused_where_they_are_given() -> None:
    """The error names the executor or the parameter, before anything runs."""
    wrong: Any = 3
    for options in ({"retry": wrong}, {"timeout": "5"}):
        with pytest.raises(WorkflowValidationError, match="of executor 'x' must be"):
            executor(id="x", **options)(_nothing)
    for retry_on in ([ValueError], ValueError, ("ValueError",)):
        with pytest.raises(WorkflowValidationError, match="tuple of exception classes"):
            RetryPolicy(retry_on=retry_on)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(WorkflowValidationError, match=r"state\['n'\] must be a plain function"):
        WorkflowBuilder(start_executor=executor(id="x")(_nothing), state={"n": "add"})  # type: ignore[dict-item]  # likewise


async def _nothing(text: str) -> None: ...


def test_a_long_retry_has_a_bounded_pause() -> None:
    """However often a call is tried, the pause stays within its bound."""
    assert RetryPolicy(max_attempts=10_000, delay=1, backoff=2).pause(5_000, ConnectionError()) == 30


# --- Notes -------------------------------------------------------------------------------------------------------


class Charging(Executor):
    """Charges each text in a step, and fails while it is told to."""

    world: World = config()

    def __init__(self, world: World) -> None:
        super().__init__("charging")
        self.world = world

    @handler
    async def charge(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        receipt = await ctx.step("charge", self._charge, text)
        if text in self.world.failing:
            raise ConnectionError(text)
        await ctx.yield_output(receipt)

    async def _charge(self, text: str) -> str:
        self.world.calls.append(text)
        return f"receipt {text}"


def charging(world: World, log: MemoryLog) -> Any:
    kept = CheckpointStorage(log)
    return WorkflowBuilder(start_executor=Charging(world), name="charging", checkpoint_storage=kept).build()


async def test_a_failed_branch_leaves_nothing_to_the_session() -> None:
    """What a run from an older checkpoint has done is no part of the superstep in which the session stands."""
    world, log = World(), MemoryLog()
    world.failing = {"one", "two"}
    workflow = charging(world, log)
    with pytest.raises(ConnectionError):
        await workflow.run("one")
    first = await workflow.get_last_checkpoint_id()
    with pytest.raises(ConnectionError):
        await workflow.run("two")
    with pytest.raises(ConnectionError):
        await workflow.run(checkpoint_id=first)
    world.failing.clear()
    assert (await charging(world, log).run()).get_outputs() == ["receipt two"]
    assert world.calls == ["one", "two", "one"]


async def test_a_request_that_expires_does_not_repeat_finished_work() -> None:
    """A run that goes on finishes its superstep with its notes first; expired requests are settled afterwards."""
    world, log = World(), MemoryLog()

    class Asking(Charging):
        @handler
        async def charge(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            if text == "ask":
                await ctx.request_info("?", str, request_id="q", expires_in=0.01, default="silence")
            else:
                await super().charge(text, ctx)

        @response_handler
        async def heard(self, question: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.yield_output(answer)

    def build() -> Any:
        kept = CheckpointStorage(log)
        return WorkflowBuilder(start_executor=Asking(world), name="charging", checkpoint_storage=kept).build()

    await build().run("ask", session_id="s")
    world.failing = {"hat"}
    with pytest.raises(ConnectionError):
        # The question has not expired yet for this run, and is open while the charge is repeated.
        await build().run("hat", session_id="s")
    await asyncio.sleep(0.02)
    world.failing.clear()
    outputs = (await build().run(session_id="s")).get_outputs()
    assert sorted(outputs) in (["receipt hat", "silence"], ["receipt hat"])
    assert world.calls == ["hat"]


async def test_a_note_that_cannot_be_stored_follows_the_policy_of_checkpoints() -> None:
    """With "fail" it is a WorkflowCheckpointException, with "warn" a warning; the step's result counts all the same."""

    class NoNotes(MemoryLog):
        async def record(self, *arguments: Any) -> None:
            raise OSError("disk full")

    with pytest.raises(WorkflowCheckpointException, match="disk full"):
        await charging(World(), NoNotes()).run("hat")
    result = await charging(World(), NoNotes()).run("hat", on_checkpoint_error="warn")
    assert result.get_outputs() == ["receipt hat"]
    assert any("disk full" in event.data for event in result if event.type == "warning")


async def test_a_question_whose_checkpoint_is_not_stored_names_none() -> None:
    """An event never names a checkpoint that nobody could find."""

    class Full(MemoryLog):
        async def commit(self, *arguments: Any) -> None:
            raise OSError("disk full")

    result = await asking(CheckpointStorage(Full())).run("a", on_checkpoint_error="warn")
    (event,) = result.get_request_info_events()
    assert event.checkpoint_id is None
