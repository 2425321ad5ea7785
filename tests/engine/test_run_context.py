"""What a workflow function gets from its context, and where it gets nothing."""

import asyncio
from typing import Any

import pytest

from agent_host import (
    CustomEvent,
    InMemoryCheckpointStorage,
    RetryPolicy,
    RunContext,
    TextDelta,
    get_run_context,
    step,
    workflow,
)
from agent_host.errors import WorkflowRunnerException

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


async def test_inside_a_step_there_is_only_the_side_effect() -> None:
    """Steps, questions, outputs, reads and writes inside a step are refused; who runs it can be asked."""
    seen: list[Any] = []

    @step
    async def inner(text: str) -> str:
        return text

    @step
    async def outer(what: str, *, ctx: RunContext) -> str:
        assert ctx is get_run_context()
        seen.append((ctx.session_id, len(ctx.idempotency_key), ctx.turn, ctx.is_streaming()))
        if what == "step":
            await inner(what)
        elif what == "ask":
            await ctx.request_info(what, str)
        elif what == "yield":
            await ctx.yield_output(what)
        elif what == "stream":
            await ctx.yield_output(TextDelta(what))
        elif what == "read":
            ctx.get_state(what)
        elif what == "write":
            ctx.set_state(what, what)
        return what

    @workflow
    async def nesting(what: str, ctx: RunContext) -> str:
        return await outer(what, ctx=ctx) if what == "given" else await outer(what)  # type: ignore[call-arg]  # left out

    made = nesting.build()
    for refused in ("step", "ask", "yield", "stream", "read", "write"):
        with pytest.raises(WorkflowRunnerException, match="inside the step 'outer'; a step is one side effect"):
            await made.run(refused)
    assert (await made.run("given", turn=7)).get_outputs() == ["given"]
    assert seen[-1] == ("default", 36, 7, False)


async def test_the_context_is_only_for_the_functions_own_run() -> None:
    """A task that outlives the function, or a thread of its own, is told so."""
    kept: list[Any] = []
    begun: list[Any] = []

    @workflow
    async def leaving(text: str, ctx: RunContext) -> str:
        kept.append(ctx)
        begun.append(ctx.step("late", kept.append, text))
        with pytest.raises(WorkflowRunnerException, match="called in a thread of its own"):
            await asyncio.to_thread(ctx.get_state, "x")
        return text

    await leaving.build().run("x")
    for late in (lambda: kept[0].set_state("a", 1), lambda: kept[0].now(), lambda: kept[0].request_info("a", str)):
        with pytest.raises(WorkflowRunnerException, match="after its handler has ended"):
            late()
    with pytest.raises(WorkflowRunnerException, match="calls late after its handler has ended"):
        await begun[0]
    assert len(kept) == 1
    assert get_run_context() is None


async def test_plain_functions_can_be_steps_too() -> None:
    """`ctx.step` takes any function, under a name of its own; usage counts once, an event is told by each attempt."""
    fails = [True]

    @workflow(retry=RetryPolicy(delay=0))
    async def telling(text: str, ctx: RunContext) -> str:
        found: str = await ctx.step("shout", str.upper, text)
        await ctx.add_event(CustomEvent("warning", found))
        ctx.add_usage(input_tokens=2)
        if fails.pop() if fails else False:
            raise ConnectionError
        return found

    result = await telling.build().run("a")
    assert [event.data for event in result if event.type == "warning" and event.executor_id] == ["A", "A"]
    assert result.get_outputs() == ["A"]


async def test_text_is_shown_while_it_is_made() -> None:
    """Pieces of text are told at once, and settle as one output."""

    @workflow
    async def talking(text: str, ctx: RunContext) -> None:
        for piece in text.split("-"):
            await ctx.yield_output(TextDelta(piece))

    events = [event async for event in talking.build().run("a-b", stream=True)]
    assert [event.data for event in events if event.type == "output_delta"] == ["a", "b"]
    assert [event.data for event in events if event.type == "output"] == ["ab"]


@STORAGES
async def test_state_belongs_to_the_session(storage: Any) -> None:
    """What a run writes, the next run of the session reads, and no other session."""

    @workflow
    async def counting(text: str, ctx: RunContext) -> int:
        ctx.set_state("count", ctx.get_state("count", 0) + 1)
        count: int = ctx.get_state("count")
        return count

    made = counting.build(checkpoint_storage=storage and storage())
    outputs = [(await made.run("x", session_id=session)).get_outputs()[0] for session in "aab"]
    assert outputs == [1, 2, 1]
