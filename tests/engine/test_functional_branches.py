"""Questions and steps of several tasks of one workflow function, at the same time."""

import asyncio
from typing import Any

import pytest

from agent_host import (
    InMemoryCheckpointStorage,
    RetryPolicy,
    RunContext,
    WorkflowRunState,
    step,
    workflow,
)
from agent_host.engine.functional import replay
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import UnknownRequestError
from tests.engine.functions import World, asked, gathering, warnings_of

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


@pytest.mark.parametrize("log", [None, MemoryLog], ids=["no storage", "a process for each run"])
async def test_questions_of_several_branches_are_open_together(log: Any) -> None:
    """They can be answered in any order and number; answers that come together are one execution."""
    world, kept = World(), log and log()
    made = gathering(world, kept)
    assert sorted(asked(await made.run(["a", "b", "c", "d"]))) == ["a", "b", "c", "d"]
    made = gathering(world, kept) if log else made
    result = await made.run(responses={"c": "3"})
    assert (result.get_outputs(), asked(result)) == ([], {})
    assert result.get_final_state() is WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    assert sorted(asked(await made.run())) == ["a", "b", "d"]
    made = gathering(world, kept) if log else made
    result = await made.run(responses={"d": "4", "a": "1", "b": "2"})
    assert result.get_outputs() == [["a 1", "b 2", "c 3", "d 4"]]
    assert warnings_of(result) == []
    assert world.calls.count("execute") == 3
    assert sorted(call for call in world.calls if call != "execute") == [
        f"{what} {name}" for what in ("finish", "prepare") for name in "abcd"
    ]


async def test_questions_can_be_asked_before_any_is_awaited() -> None:
    """A question is open when it is called; its id, if none is given, stays with its place."""

    @workflow
    async def both(text: str, ctx: RunContext) -> list[Any]:
        return list(await asyncio.gather(ctx.request_info("int?", int), ctx.request_info("str?", str)))

    made = both.build()
    ids = {data: name for name, data in asked(await made.run("x")).items()}
    await made.run(responses={ids["str?"]: "a"})
    assert asked(await made.run()) == {ids["int?"]: "int?"}
    assert (await made.run(responses={ids["int?"]: 5})).get_outputs() == [[5, "a"]]
    assert not set(ids.values()) & set(asked(await made.run("y")))


async def test_a_task_group_cuts_off_no_step() -> None:
    """What runs beside a question is finished and recorded, though the group cancels its tasks."""
    calls: list[str] = []

    @step
    async def slow() -> str:
        calls.append("begin")
        await asyncio.sleep(0.02)
        calls.append("end")
        return "slow"

    @workflow
    async def grouped(text: str, ctx: RunContext) -> list[str]:
        async with asyncio.TaskGroup() as group:
            working = group.create_task(slow())
            asking = group.create_task(ctx.request_info("?", str, request_id="q"))
        return [working.result(), asking.result()]

    made = grouped.build()
    await made.run("x")
    assert calls == ["begin", "end"]
    assert (await made.run(responses={"q": "a"})).get_outputs() == [["slow", "a"]]
    assert calls == ["begin", "end"]


@pytest.mark.parametrize("swallow", ["gather", "except"])
async def test_nothing_new_is_done_past_an_open_question(swallow: str) -> None:
    """A function that swallows the signal that ends it gets no further, and goes on properly with the answer."""
    calls: list[str] = []

    @step
    async def save(found: list[str]) -> str:
        calls.append(repr(found))
        return "saved"

    async def branch(ctx: RunContext) -> str:
        return await ctx.request_info("?", str, request_id="q")

    @workflow
    async def swallowing(text: str, ctx: RunContext) -> str:
        if swallow == "gather":
            found: list[Any] = await asyncio.gather(branch(ctx), return_exceptions=True)
        else:
            try:
                found = [await branch(ctx)]
            except Exception:  # noqa: BLE001 - it must not catch the signal
                calls.append("caught")
            except BaseException:  # noqa: BLE001 - it catches the signal
                found = ["signal"]
        await ctx.yield_output("on")
        return await save(found)

    made = swallowing.build()
    result = await made.run("x")
    assert (result.get_outputs(), asked(result), calls) == ([], {"q": "?"}, [])
    assert (await made.run(responses={"q": "a"})).get_outputs() == ["on", "saved"]
    assert calls == ["['a']"]


async def test_a_task_that_a_question_ends_is_no_cancellation() -> None:
    """A function that stands where the question's own clean-up has cancelled something waits for the answer too."""

    @workflow
    async def tidy(text: str, ctx: RunContext) -> str:
        background = asyncio.create_task(asyncio.sleep(30 if text == "x" else 0))

        async def ask() -> str:
            try:
                return await ctx.request_info("?", str, request_id="q")
            except BaseException:
                background.cancel()
                raise

        asking = asyncio.create_task(ask())
        if not asking.done():
            await asyncio.wait([asking])
        if asking.exception() is not None:
            await background
        background.cancel()
        return asking.result()

    made = tidy.build()
    assert asked(await made.run("x")) == {"q": "?"}
    assert (await made.run(responses={"q": "a"})).get_outputs() == ["a"]


async def test_a_run_that_is_cancelled_beside_a_question_asks_nothing() -> None:
    """Whoever cancels the run gets it cancelled; the session stands where it stood."""
    begun = asyncio.Event()

    @workflow
    async def slow(text: str, ctx: RunContext) -> str:
        asking = asyncio.create_task(ctx.request_info("?", str, request_id="q"))
        await asyncio.wait([asking])
        begun.set()
        await asyncio.sleep(30)
        return "never"

    made = slow.build()
    run = asyncio.ensure_future(made.run("x"))
    await begun.wait()
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    with pytest.raises(UnknownRequestError):
        await made.run(responses={"q": "a"})


async def test_a_branch_that_waits_for_the_answer_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can only go on after the answer is ended meanwhile, and so is what merely hangs about."""
    monkeypatch.setattr(replay, "PATIENCE", 0.02)

    @workflow
    async def waiting(text: str, ctx: RunContext) -> str:
        told: asyncio.Queue[str] = asyncio.Queue()

        async def listen() -> str:
            ctx.get_state("x")
            return await told.get()

        async def ask() -> str:
            await told.put(await ctx.request_info("?", str, request_id="q"))
            return "asked"

        return " ".join(await asyncio.gather(listen(), ask()))

    made = waiting.build()
    assert asked(await made.run("x")) == {"q": "?"}
    assert (await made.run(responses={"q": "a"})).get_outputs() == ["a asked"]


@STORAGES
async def test_a_branch_that_fails_beside_a_question_fails_the_run(storage: Any) -> None:
    """The question is not asked then; the next attempt asks it, once."""
    fails = [True]

    async def failing(ctx: RunContext) -> None:
        ctx.get_state("x")
        await asyncio.sleep(0.01)
        if fails.pop() if fails else False:
            raise ConnectionError("down")

    @workflow(retry=RetryPolicy(delay=0) if storage is None else None)
    async def both(text: str, ctx: RunContext) -> list[Any]:
        await ctx.yield_output("begin")
        return list(await asyncio.gather(ctx.request_info("?", str, request_id="q"), failing(ctx)))

    made = both.build(checkpoint_storage=storage and storage())
    if storage is not None:
        with pytest.raises(ConnectionError, match="down"):
            await made.run("x")
        with pytest.raises(UnknownRequestError):
            await made.run(responses={"q": "a"})
    result = await (made.run("x") if storage is None else made.run())
    assert (result.get_outputs(), asked(result)) == (["begin"], {"q": "?"})
    assert (await made.run(responses={"q": "a"})).get_outputs() == [["a", None]]
