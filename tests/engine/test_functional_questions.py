"""A workflow function that asks goes on with the answer as if it had waited."""

import asyncio
from typing import Any, Never

import pytest

from agent_host import (
    InMemoryCheckpointStorage,
    RunContext,
    StepMismatchError,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    WorkflowRunState,
    executor,
    handler,
    response_handler,
    step,
    workflow,
)
from agent_host.engine.executors.executor import Executor
from agent_host.engine.nested import SubWorkflowRequestMessage, SubWorkflowResponseMessage
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import UnknownRequestError, UnsupportedValueError, WorkflowException, WorkflowRunnerException
from tests.engine.functions import Draft, Verdict, World, asked, gathering, journal_of, publishing, warnings_of
from tests.engine.graphs import CountingLog, Stopped, StoppingLog

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


# --- One question after the other --------------------------------------------------------------------------------


@pytest.mark.parametrize("log", [None, MemoryLog], ids=["no storage", "a process for each run"])
async def test_an_answer_takes_the_function_on(log: Any) -> None:
    """Each question ends the run; what was done and told before it is neither done nor told again."""
    world, kept = World(), log and log()
    made = publishing(world, kept)
    result = await made.run("cats")
    assert result.get_final_state() is WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    assert result.get_outputs() == ["about cats"]
    ((first, draft),) = asked(result).items()
    assert draft == Draft("cats", 1)
    made = publishing(world, kept) if log else made
    result = await made.run(responses={first: Verdict(False, "more")})
    assert (result.get_outputs(), [event.data for event in result if event.type == "status"]) == (["heard more"], [])
    ((second, draft),) = asked(result).items()
    assert draft == Draft("cats", 2) and second != first
    made = publishing(world, kept) if log else made
    result = await made.run(responses={second: Verdict(True, "fine")})
    assert result.get_outputs() == ["heard fine", "cats 2 (fine) of 2"]
    assert result.get_final_state() is WorkflowRunState.IDLE
    assert world.calls == ["execute", "write 1", "execute", "write 2", "execute", "publish 2"]
    with pytest.raises(UnknownRequestError):
        await made.run(responses={second: Verdict(True)})


async def test_the_journal_is_kept_while_the_function_waits() -> None:
    """An entry is a cell of its own, written once; when the function has returned there is none."""
    log = CountingLog()
    made = publishing(World(), log)
    (first,) = asked(await made.run("cats"))
    kept = await journal_of(log, "publishing")
    assert len(kept) == 7  # input, output, step, state, event, usage, question
    before = len(log.written)
    (second,) = asked(await made.run(responses={first: Verdict(False)}))
    written = {key for commit in log.written[before:] for key in commit.delta if key.startswith("j/")}
    assert len(written & set(kept)) == 1  # the question, which has its answer now
    assert len(await journal_of(log, "publishing")) == len(kept) + 6
    await made.run(responses={second: Verdict(True)})
    assert await journal_of(log, "publishing") == []


async def _to_the_end(world: World, log: Any, told: list[Any]) -> int:
    """Run with a new workflow for each run; go on after every stop. Returns how often it was stopped."""
    stops, answers = 0, [Verdict(False, "more"), Verdict(True, "fine")]
    arguments: tuple[Any, ...] = ("cats",)
    options: dict[str, Any] = {}
    while True:
        try:
            stream = publishing(world, log).run(*arguments, stream=True, **options)
            events = [event async for event in stream]
        except Stopped:
            stops += 1
            log.left = None
            arguments, options = (), {}
            continue
        told += [event.data for event in events if event.type == "output"]
        questions = [event.request_id for event in events if event.type == "request_info"]
        if not questions:
            return stops
        arguments, options = (), {"responses": {questions[0]: answers.pop(0)}}


BOUNDARIES = 6


async def test_the_number_of_boundaries_is_known() -> None:
    """The run that the next test stops everywhere has as many commits as that test assumes."""
    log = StoppingLog()
    log.left = 100
    assert await _to_the_end(World(), log, []) == 0
    assert 100 - log.left == BOUNDARIES


@pytest.mark.parametrize("stop_after", range(1, BOUNDARIES + 1))
async def test_stopping_at_any_boundary_repeats_no_step(stop_after: int) -> None:
    """A process that dies right after any commit is followed by one that does only what is left to do."""
    world, log = World(), StoppingLog()
    log.left = stop_after
    assert await _to_the_end(world, log, []) == 1
    assert [call for call in world.calls if call != "execute"] == ["write 1", "write 2", "publish 2"]
    assert await journal_of(log, "publishing") == []


@pytest.mark.parametrize("number", range(1, 4))
async def test_stopping_at_any_execution_tells_every_output_once(number: int) -> None:
    """A process that dies inside the function has told nothing of that execution, and the next one tells it all."""
    executions = []

    def die(name: str) -> None:
        if name == "execute":
            executions.append(name)
            if len(executions) == number:
                raise Stopped

    told: list[Any] = []
    world = World(die)
    assert await _to_the_end(world, CountingLog(), told) == 1
    assert told == ["about cats", "heard more", "heard fine", "cats 2 (fine) of 2"]
    assert [call for call in world.calls if call != "execute"] == ["write 1", "write 2", "publish 2"]


async def test_a_branch_from_a_question_takes_another_answer() -> None:
    """Two answers to one question lead to two conversations, which share the steps before it and no key after it."""
    keys: list[str] = []
    calls: list[str] = []

    @step
    async def pay(answer: str, key: str) -> str:
        keys.append(key)
        return f"paid {answer}"

    @step
    async def prepare() -> str:
        calls.append("prepare")
        return "prepared"

    @workflow
    async def paying(text: str, ctx: RunContext) -> list[str]:
        told = [await prepare(), str(ctx.uuid()), ctx.now().isoformat()]
        how = await ctx.request_info("how?", str, request_id="how")
        return [*told, await pay(how, ctx.idempotency_key)]

    made = paying.build(checkpoint_storage=InMemoryCheckpointStorage())
    pause = (await made.run("x")).checkpoint_id
    one, two = [
        (await made.run(responses={"how": how}, checkpoint_id=pause)).get_outputs()[0] for how in ("cash", "card")
    ]
    assert (one[-1], two[-1]) == ("paid cash", "paid card")
    assert one[:-1] == two[:-1]
    assert calls == ["prepare"] and len(set(keys)) == 2


@STORAGES
async def test_what_the_function_knows_stays_the_same(storage: Any) -> None:
    """Time, ids and state are those of the first execution, in all later ones."""
    seen: list[list[Any]] = []

    @workflow
    async def knowing(text: str, ctx: RunContext) -> None:
        seen.append([ctx.now(), ctx.uuid(), ctx.uuid(), ctx.get_state("a"), ctx.get_state("b", "none")])
        ctx.set_state("a", text)
        ctx.set_state("b", text)
        seen[-1].append(ctx.get_state("a"))
        await ctx.request_info("one", str, request_id="one")
        await ctx.request_info("two", str, request_id="two")

    made = knowing.build(checkpoint_storage=storage and storage())
    await made.run("x")
    await made.run(responses={"one": "1"})
    await made.run(responses={"two": "2"})
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][3:] == [None, "none", "x"]
    assert len(set(seen[0][:3])) == 3
    await made.run("y")
    assert seen[3][3:] == ["x", "x", "y"]
    assert not set(map(str, seen[0][:3])) & set(map(str, seen[3][:3]))


async def test_streamed_text_is_not_told_again() -> None:
    """Pieces of a text that stood before the question are shown once, and are one entry of the journal."""
    log = MemoryLog()

    @workflow
    async def talking(text: str, ctx: RunContext) -> None:
        for piece in "ab":
            await ctx.yield_output(TextDelta(piece))
        await ctx.request_info("on?", bool, request_id="on")
        for piece in "cd":
            await ctx.yield_output(TextDelta(piece))

    made = talking.build(checkpoint_storage=CheckpointStorage(log))
    assert (await made.run("x")).get_outputs() == ["ab"]
    assert len(await journal_of(log, "talking")) == 3  # input, text, question
    events = [event async for event in made.run(responses={"on": True}, stream=True)]
    assert [event.data for event in events if event.type in ("output", "output_delta")] == ["c", "d", "cd"]


# --- Answers -----------------------------------------------------------------------------------------------------


@STORAGES
async def test_a_wrong_answer_is_refused_before_it_is_taken(storage: Any) -> None:
    """The question stays open, and the function is not executed."""
    world, kept = World(), storage and storage()
    made = publishing(world, kept and kept.log)
    (name,) = asked(await made.run("cats"))
    with pytest.raises(WorkflowRunnerException, match="must be a Verdict, not a str"):
        await made.run(responses={name: "fine"})
    assert world.calls.count("execute") == 1
    assert (await made.run(responses={name: Verdict(True, "!")})).get_outputs()[-1] == "cats 1 (!) of 1"


@pytest.mark.parametrize("wanted", [list[str], dict[str, int] | None])
async def test_an_answer_that_is_wrong_inside_is_never_heard(wanted: Any) -> None:
    """Whether it is refused or asked for again: the function only hears what it has asked for."""

    @workflow
    async def asking(text: str, ctx: RunContext) -> Any:
        return await ctx.request_info("?", wanted, request_id="q")

    made = asking.build(checkpoint_storage=InMemoryCheckpointStorage())
    await made.run("x")
    try:
        result = await made.run(responses={"q": [1]})
    except WorkflowRunnerException as error:
        told = [str(error)]
    else:
        assert asked(result) == {"q": "?"}
        told = warnings_of(result)
    assert "request 'q' must be a" in told[0]
    good = ["a"] if wanted == list[str] else {"a": 1}
    assert (await made.run(responses={"q": good})).get_outputs() == [good]


@STORAGES
async def test_a_new_input_ends_what_waited(storage: Any) -> None:
    """The function begins afresh, with a warning; the old question is closed, and nobody can answer it."""
    world, kept = World(), storage and storage()
    made = publishing(world, kept and kept.log)
    (old,) = asked(await made.run("cats"))
    result = await made.run("dogs")
    assert any(f"ended what asked '{old}'" in warning for warning in warnings_of(result))
    assert world.calls == ["execute", "write 1", "execute", "write 1"]
    (new,) = asked(result)
    if kept is not None:
        assert len(await journal_of(kept.log, "publishing")) == 7
    with pytest.raises(UnknownRequestError, match=old):
        await made.run(responses={old: Verdict(True)})
    assert (await made.run(responses={new: Verdict(True, "good")})).get_outputs() == [
        "heard good", "dogs 1 (good) of 2",
    ]  # fmt: skip
    await made.run("owls")
    assert await made.cancel_pending_requests()


async def test_each_executor_sees_its_own_answers() -> None:
    """Of the answers that come together, an executor finds those to its own questions."""
    seen: dict[str, dict[str, Any]] = {}

    class Asker(Executor):
        @handler
        async def begin(self, text: str, ctx: WorkflowContext[str]) -> None:
            for number in range(2):
                await ctx.request_info(text, str, request_id=f"{self.id}{number}")
            await ctx.send_message(text)

        @response_handler
        async def hear(self, text: str, answer: str, ctx: WorkflowContext[str]) -> None:
            seen[self.id] = ctx._attempt.answers()

    a, b = Asker("a"), Asker("b")
    made = WorkflowBuilder(start_executor=a).add_edge(a, b).build()
    await made.run("x")
    await made.run(responses={"b1": "1", "a0": "2", "b0": "3"})
    assert seen == {"a": {"a0": "2"}, "b": {"b1": "1", "b0": "3"}}


async def test_an_answer_that_comes_when_nothing_waits_is_told() -> None:
    """A question that the function has not waited for is over when it returns."""
    executions = []

    @workflow
    async def racing(text: str, ctx: RunContext) -> str:
        executions.append(text)
        names = ["a", "b"] if len(executions) == 1 else ["a"]
        return (await asyncio.gather(*(ctx.request_info("?", str, request_id=name) for name in names)))[0]

    made = racing.build()
    await made.run("x")
    result = await made.run(responses={"a": "1"})
    assert result.get_outputs() == ["1"]
    assert any("returned without the answer to 'b'" in warning for warning in warnings_of(result))
    with pytest.raises(UnknownRequestError, match="'b'"):
        await made.run(responses={"b": "2"})
    assert len(executions) == 2


async def test_an_expired_question_has_its_default() -> None:
    """After its time the next run takes the default as the answer; a question that was dropped is asked again."""

    @workflow
    async def asking(text: str, ctx: RunContext) -> str:
        first = await ctx.request_info("?", str, request_id="a", expires_in=0.001, default="late")
        return f"{first} {await ctx.request_info('?', str, request_id='b')}"

    made = asking.build()
    await made.run("x")
    await asyncio.sleep(0.002)
    assert asked(await made.run()) == {"b": "?"}
    assert (await made.run(responses={"b": "now"})).get_outputs() == ["late now"]


async def test_a_dropped_question_is_asked_again() -> None:
    """When the function comes back to a question that was cancelled, it still needs the answer."""
    made = gathering(World())
    await made.run(["a", "b"])
    assert await made.cancel_pending_requests(["b"]) == ["b"]
    assert sorted(asked(await made.run(responses={"a": "1"}))) == ["b"]
    assert (await made.run(responses={"b": "2"})).get_outputs() == [["a 1", "b 2"]]


async def test_a_changed_program_is_noticed() -> None:
    """A function that comes another way than the one whose journal it finds is told so, with both names."""
    log = MemoryLog()

    def version(name: str) -> Workflow:
        @workflow(name="changing")
        async def changing(text: str, ctx: RunContext) -> Any:
            await ctx.step(name, str.upper, text)
            return await ctx.request_info("?", str, request_id="q")

        return changing.build(checkpoint_storage=CheckpointStorage(log))

    await version("old").run("x")
    with pytest.raises(StepMismatchError, match=r"makes the step 'new' where an earlier attempt recorded .* 'old'"):
        await version("new").run(responses={"q": "a"})
    assert (await version("old").run()).get_outputs() == ["a"]


async def test_what_could_not_be_asked_is_refused() -> None:
    """Ids that are open, and types that could not be restored, are errors that name them."""

    class Hidden:
        pass

    @workflow
    async def twice(text: str, ctx: RunContext) -> None:
        await asyncio.gather(*(ctx.request_info("?", str, request_id="q") for _ in range(2)))

    @workflow
    async def hidden(thing: Hidden, ctx: RunContext) -> None:
        await ctx.request_info("?", str)

    with pytest.raises(WorkflowException, match="'q' is open already"):
        await twice.build().run("x")
    with pytest.raises(UnsupportedValueError, match=r"'the input'.*Hidden"):
        await hidden.build().run(Hidden())


# --- Inside another workflow -------------------------------------------------------------------------------------


def outer(nested: Workflow, *, propagate: bool, log: MemoryLog) -> Workflow:
    """The function, between an executor that answers its questions with their own text and one that yields."""

    class Around(Executor):
        @handler
        async def begin(self, text: str, ctx: WorkflowContext[list[str]]) -> None:
            await ctx.send_message(text.split())

        @handler
        async def answer(
            self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]
        ) -> None:
            data = request.source_event.data
            await ctx.send_message(request.create_response(f"<{data}>"), target_id=request.executor_id)

    @executor
    async def last(found: list[str], ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(", ".join(found))

    around, inner = Around("around"), WorkflowExecutor(nested, "inner", propagate_request=propagate)
    builder = WorkflowBuilder(start_executor=around, name="outer", checkpoint_storage=CheckpointStorage(log))
    builder.add_edge(around, inner).add_edge(inner, last)
    return (builder if propagate else builder.add_edge(inner, around)).build()


async def test_the_workflow_around_can_answer() -> None:
    """The questions of a nested function are messages to an executor, whose answers take it on."""
    world = World()
    result = await outer(gathering(world), propagate=False, log=MemoryLog()).run("a b")
    assert result.get_outputs() == ["a <a>, b <b>"]
    assert sorted(call for call in world.calls if call != "execute") == [
        "finish a", "finish b", "prepare a", "prepare b",
    ]  # fmt: skip


async def test_questions_go_through_the_workflow_around() -> None:
    """Questions of a nested function can be open requests of the outer workflow, over processes."""
    world, log = World(), MemoryLog()

    async def run(*arguments: Any, **options: Any) -> Any:
        return await outer(gathering(world), propagate=True, log=log).run(*arguments, **options)

    assert sorted(asked(await run("a b"))) == ["a", "b"]
    assert (await run(responses={"b": "2"})).get_outputs() == []
    assert (await run(responses={"a": "1"})).get_outputs() == ["a 1, b 2"]
    assert world.calls.count("prepare a") == world.calls.count("finish b") == 1
    assert [key for key in await _cells(log) if "/j/" in key] == []


async def _cells(log: MemoryLog) -> Any:
    latest = await CheckpointStorage(log).get_latest(workflow_name="outer")
    assert latest is not None
    return latest._cells
