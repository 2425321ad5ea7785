"""Text that leaves piece by piece, functions in threads, and what handlers see of their run."""

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from agent_host import (
    CustomEvent,
    InMemoryCheckpointStorage,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
)
from agent_host.engine.events import OutputKey, WorkflowEventSource
from agent_host.engine.running.watchdog import Watchdog
from tests.engine.graphs import both_ways

DURABILITIES = pytest.mark.parametrize("durability", ["step", "turn"])


@DURABILITIES
async def test_pieces_of_text_become_one_output_under_the_same_key(durability: Any) -> None:
    """Pieces in a row are joined; another output ends them; each key names superstep, invocation and number."""

    @executor
    async def teller(text: str, ctx: WorkflowContext[str, str]) -> None:
        assert ctx.is_streaming()
        for piece in ("Hel", "", "lo"):
            await ctx.yield_output(TextDelta(piece))
        await ctx.yield_output("whole")
        await ctx.yield_output(TextDelta("again"))

    stream = WorkflowBuilder(start_executor=teller).build().run("x", stream=True, durability=durability)
    events = [event async for event in stream]
    deltas = [(event.data, event.output) for event in events if event.type == "output_delta"]
    first, second, third = (OutputKey(1, 0, number) for number in range(3))
    assert deltas == [("Hel", first), ("lo", first), ("again", third)]
    outputs = [(event.data, event.output, event.streamed) for event in events if event.type == "output"]
    assert outputs == [("Hello", first, True), ("whole", second, False), ("again", third, True)]
    result = await stream.get_final_response()
    assert result.get_outputs() == ["Hello", "whole", "again"]
    assert not [event for event in result if event.type == "output_delta"]


async def test_a_piece_of_text_leaves_while_its_handler_still_works() -> None:
    """The delta is heard before the handler goes on."""
    heard = asyncio.Event()

    @executor
    async def teller(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("a"))
        await heard.wait()
        await ctx.yield_output(TextDelta("b"))

    async for event in WorkflowBuilder(start_executor=teller).build().run("x", stream=True):
        if event.type == "output_delta":
            heard.set()
    assert heard.is_set()


async def test_text_of_a_failed_superstep_is_no_output() -> None:
    """What was shown of it was shown; neither the outputs nor the next try have it."""
    fail = [True]

    @executor
    async def teller(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("some"))
        if fail.pop():
            raise ValueError("no")
        await ctx.yield_output(TextDelta(" more"))

    workflow = WorkflowBuilder(start_executor=teller).build()
    events = []
    with pytest.raises(ValueError, match="no"):
        async for event in workflow.run("x", stream=True):
            events.append(event)
    assert [event.type for event in events if event.type.startswith("output")] == ["output_delta"]
    fail.append(False)
    assert (await workflow.run()).get_outputs() == ["some more"]


async def test_the_pieces_of_hidden_executors_stay_hidden() -> None:
    """Deltas follow the designation of their executor."""

    @executor
    async def hidden(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("hidden"))
        await ctx.send_message(text)

    @executor
    async def comment(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("comment"))
        await ctx.send_message(text)

    @executor
    async def answer(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("answer"))

    builder = WorkflowBuilder(start_executor=hidden, output_from=[answer], intermediate_output_from=[comment])
    stream = builder.add_chain([hidden, comment, answer]).build().run("x", stream=True)
    events = [event async for event in stream]
    assert [(e.data, e.intermediate) for e in events if e.type == "output_delta"] == [
        ("comment", True),
        ("answer", False),
    ]


@DURABILITIES
async def test_settled_events_come_in_one_order(durability: Any) -> None:
    """Numbers never go back, and an output comes after its executor has ended and before its superstep has."""
    stream = both_ways(InMemoryCheckpointStorage()).run("x", stream=True, durability=durability)
    events = [event async for event in stream]
    assert [event.sequence for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[0] == "started"
    assert types[-4:] == ["executor_completed", "output", "superstep_completed", "status"]


async def test_own_events_and_usage_of_a_handler() -> None:
    """`add_event` puts events into the stream when the superstep has merged; unknown usage fields are refused."""

    @executor
    async def noting(text: str, ctx: WorkflowContext) -> None:
        ctx.add_usage(input_tokens=2)
        ctx.add_usage(input_tokens=3, output_tokens=1)
        await ctx.add_event(CustomEvent("warning", "careful"))
        with pytest.raises(TypeError, match="Unknown usage field 'tokens'"):
            ctx.add_usage(tokens=1)

    result = await WorkflowBuilder(start_executor=noting).build().run("x")
    assert [(event.executor_id, event.data) for event in result if event.type == "warning"] == [("noting", "careful")]


async def test_an_event_says_whether_a_handler_or_the_engine_tells_it() -> None:
    """A handler tells its own events, also warnings; outputs, calls and the engine's warnings are the engine's."""

    @executor
    async def noting(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.add_event(CustomEvent("progress", "half"))
        await ctx.add_event(CustomEvent("warning", "careful"))
        await ctx.yield_output(text)
        await ctx.send_message("to nobody")

    result = await WorkflowBuilder(start_executor=noting).build().run("x")
    own = [(event.type, event.data) for event in result if event.origin is WorkflowEventSource.EXECUTOR]
    others = {event.type for event in result if event.origin is WorkflowEventSource.FRAMEWORK}
    assert own == [("progress", "half"), ("warning", "careful")]
    assert {"output", "executor_invoked", "warning", "superstep_started"} <= others


async def test_what_a_handler_sees_of_its_run() -> None:
    """Session, superstep, checkpoint, sender and turn."""
    seen: list[Any] = []

    @executor
    async def first(text: str, ctx: WorkflowContext[str]) -> None:
        seen.append((ctx.session_id, ctx.executor_id, ctx.iteration, ctx.get_source_executor_id(), ctx.turn))
        seen.append(ctx.checkpoint_id)
        await ctx.send_message(text)

    @executor
    async def second(text: str, ctx: WorkflowContext[str]) -> None:
        seen.append((ctx.iteration, ctx.source_executor_ids, ctx.is_streaming()))
        seen.append(ctx.checkpoint_id)

    storage = InMemoryCheckpointStorage()
    builder = WorkflowBuilder(start_executor=first, name="w", checkpoint_storage=storage).add_edge(first, second)
    await builder.build().run("x", session_id="s", turn={"user": "u"})
    ids = await storage.list_checkpoint_ids(workflow_name="w", session_id="s")
    assert seen == [("s", "first", 1, "first", {"user": "u"}), ids[0], (2, ["first"], False), ids[1]]


# --- Threads ------------------------------------------------------------------------------------------------------


async def test_plain_functions_run_in_a_worker_thread() -> None:
    """They may block, use every verb of the context without awaiting, and see the caller's context variables."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("from the caller")
    loop_goes_on = threading.Event()
    seen: list[Any] = []

    @executor
    def work(text: str, ctx: WorkflowContext[str, str]) -> None:
        assert loop_goes_on.wait(10)
        seen.append((threading.current_thread() is threading.main_thread(), variable.get()))
        variable.set("changed")
        ctx.set_state("key", text)
        ctx.yield_output(TextDelta("a"))
        ctx.yield_output(TextDelta("b"))
        ctx.send_message(ctx.get_state("key") + "!")

    @executor
    def silent(text: str) -> None:
        seen.append(text)

    workflow = WorkflowBuilder(start_executor=work).add_edge(work, silent).build()
    asyncio.get_running_loop().call_soon(loop_goes_on.set)
    result = await workflow.run("x")
    assert seen == [(False, "from the caller"), "x!"]
    assert result.get_outputs() == ["ab"]
    assert variable.get() == "from the caller"


async def test_a_function_in_a_thread_is_awaited_when_its_run_is_cancelled() -> None:
    """It cannot be stopped, so the run ends only when it has: the next run never meets it."""
    entered, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    @executor
    def work(text: str) -> None:
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(10)
        ended.append(text)

    workflow = WorkflowBuilder(start_executor=work).build()
    running = asyncio.ensure_future(workflow.run("x"))
    await entered.wait()
    running.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not running.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended == ["x"]


async def test_an_error_in_a_thread_is_an_error_of_its_executor() -> None:
    """The exception arrives with its type and the note that names the executor."""

    @executor
    def work(text: str) -> None:
        raise KeyError(text)

    with pytest.raises(KeyError) as caught:
        await WorkflowBuilder(start_executor=work).build().run("x")
    assert "'work'" in caught.value.__notes__[0]


class _Reported(logging.Handler):
    """Keeps what is logged, and says when something was."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.happened = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        self.happened.set()


class _Looking(Watchdog):
    """Lets a test wait until it has looked at a loop some more times."""

    def __init__(self) -> None:
        super().__init__(limit=0.02, interval=0.002)
        self.looks = threading.Semaphore(0)

    def _look_at(self, entry: Any) -> None:
        super()._look_at(entry)
        self.looks.release()


Block = Callable[[], None]


async def _report_of(make: Callable[[Block], Workflow]) -> str:
    """What is logged about a workflow that blocks the loop, with the function it is made of, until somebody looks."""
    reported, dog = _Reported(), _Looking()
    logger = logging.getLogger("agent_host.engine")
    logger.addHandler(reported)

    def block() -> None:
        assert reported.happened.wait(10)  # blocks the loop
        while dog.looks.acquire(blocking=False):
            pass
        for _ in range(3):
            assert dog.looks.acquire(timeout=10)

    try:
        with dog.watching():
            await make(block).run("x")
    finally:
        logger.removeHandler(reported)
    (text,) = reported.texts
    return text


def _blamed(report: str) -> str:
    """Who is said to block the loop, before the stack."""
    return report.partition(" s by ")[2].partition(";")[0]


def _in_the_handler(block: Block) -> Workflow:
    @executor(id="stubborn")
    async def stubborn(text: str, ctx: WorkflowContext) -> None:
        block()

    return WorkflowBuilder(start_executor=stubborn).build()


def _in_a_task(block: Block) -> Workflow:
    @executor(id="stubborn")
    async def stubborn(text: str, ctx: WorkflowContext) -> None:
        await asyncio.gather(asyncio.sleep(0), calling())

    async def calling() -> None:
        await asyncio.sleep(0)
        block()

    return WorkflowBuilder(start_executor=stubborn).build()


def _from_a_thread(block: Block) -> Workflow:
    loop = asyncio.get_running_loop()

    @executor(id="stubborn")
    def stubborn(text: str, ctx: WorkflowContext) -> None:
        blocked = threading.Event()
        loop.call_soon_threadsafe(lambda: (block(), blocked.set()))
        assert blocked.wait(10)

    return WorkflowBuilder(start_executor=stubborn).build()


def _in_a_condition(block: Block) -> Workflow:
    @executor(id="asking")
    async def asking(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor(id="answering")
    async def answering(text: str, ctx: WorkflowContext) -> None: ...

    return WorkflowBuilder(start_executor=asking).add_edge(asking, answering, lambda text: block() is None).build()


async def test_a_handler_that_blocks_the_loop_is_reported() -> None:
    """The log names the executor and shows the line at which it stands, once."""
    text = await _report_of(_in_the_handler)
    assert _blamed(text) == "executor 'stubborn'"
    assert "# blocks the loop" in text


@pytest.mark.parametrize("make", [_in_a_task, _from_a_thread])
async def test_what_a_handler_has_started_blocks_in_its_name(make: Callable[[Block], Workflow]) -> None:
    """A task of a handler, and what its worker thread hands to the loop, are reported under the executor."""
    assert _blamed(await _report_of(make)) == "executor 'stubborn'"


@pytest.mark.parametrize("make", [_in_the_handler, _in_a_task])
def test_a_loop_that_shows_no_callbacks_is_reported_like_others(make: Callable[[Block], Workflow]) -> None:
    """On a loop that is not written in Python, too, the executor of the task that runs is known."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert _blamed(runner.run(_report_of(make))) == "executor 'stubborn'"


async def test_code_between_handlers_blocks_in_nobodys_name() -> None:
    """A condition that blocks after a handler has ended is not blamed on that handler's executor."""
    assert _blamed(await _report_of(_in_a_condition)) == "code outside of any executor"
