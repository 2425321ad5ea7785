"""Workflows written as one function: its steps happen once, whatever becomes of the run."""

import asyncio
import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import pytest

from agent_host import (
    InMemoryCheckpointStorage,
    RetryPolicy,
    RunContext,
    StepMismatchError,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    WorkflowRunState,
    executor,
    get_run_context,
    step,
    workflow,
)
from agent_host.cli.target import load_workflow
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import ExecutorTimeoutError, HandlerError, UnsupportedValueError

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


@dataclass
class Receipt:
    item: str
    amount: int


class World:
    """What happens outside of the engine: what was called, in order, and what is to fail."""

    def __init__(self, *failing: str) -> None:
        self.calls: list[str] = []
        self.failing = list(failing)

    def call(self, name: str) -> None:
        self.calls.append(name)
        if name in self.failing:
            self.failing.remove(name)
            raise ConnectionError(name)


def shop(world: World, storage: CheckpointStorage | None = None, **options: Any) -> Workflow:
    """Charges, then ships; `world` decides what fails. `between` and `after` fail the function, not a step."""

    @step
    async def charge(item: str) -> Receipt:
        world.call("charge")
        return Receipt(item, len(item))

    @step(name="ship it")
    async def ship(receipt: Receipt) -> str:
        world.call("ship")
        return f"{receipt.item} for {receipt.amount}"

    @workflow(name="shop", **options)
    async def order(item: str) -> str:
        receipt = await charge(item)
        world.call("between")
        parcel = await ship(receipt)
        world.call("after")
        return parcel

    return order.build(checkpoint_storage=storage)


async def again(made: Workflow, world: World, storage: CheckpointStorage | None) -> Workflow:
    """The same workflow in another process, if there is a storage that it can find its state in."""
    return made if storage is None else shop(world, CheckpointStorage(storage.log))


# --- A function as a workflow ------------------------------------------------------------------------------------


async def test_a_function_is_a_workflow() -> None:
    """Its name, types and output are those of the function, and it runs like any other workflow."""
    made = shop(World())
    assert isinstance(made, Workflow)
    assert (made.name, made.input_types, made.output_types) == ("shop", [str], [str])
    result = await made.run("hat")
    assert result.get_outputs() == ["hat for 3"]
    assert result.get_final_state() is WorkflowRunState.IDLE


async def test_a_function_that_returns_nothing_yields_nothing() -> None:
    """None is no output, and no type of output."""

    @workflow
    async def quiet(text: str) -> str | None:
        return text if text == "speak" else None

    made = quiet.build()
    assert made.output_types == [str]
    assert (await made.run("speak")).get_outputs() == ["speak"]
    assert (await made.run("hush")).get_outputs() == []


async def test_outside_of_a_workflow_a_step_is_its_function() -> None:
    """It runs each time it is called, and no context is there."""
    calls = []

    @step
    async def double(number: int) -> int:
        calls.append(get_run_context())
        return number * 2

    assert [await double(2), await double(number=2)] == [4, 4]
    assert calls == [None, None]
    assert (double.name, double.__name__) == ("double", "double")


async def test_the_function_itself_stays_at_hand() -> None:
    """`function` is what was decorated, to be called in a test."""

    @workflow
    async def upper(text: str) -> str:
        return text.upper()

    assert await upper.function("a") == "A"
    assert (await upper().run("b")).get_outputs() == ["B"]


async def _two(a: int, b: int) -> int:
    return a + b


async def _bare(a) -> int:  # type: ignore[no-untyped-def]  # that the annotation is missing is the point
    return 1


def _plain(a: int) -> int:
    return a


async def _unknown(a: "Nowhere") -> int:  # type: ignore[name-defined]  # noqa: F821 - that nobody knows it is the point
    return 1


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (_two, "'_two' must take .message. or .message, ctx: RunContext."),
        (_bare, "_bare: annotate the parameter 'a'"),
        (_plain, "'_plain' is none"),
        (_unknown, "'_unknown': an annotation cannot be understood: name 'Nowhere'"),
    ],
)
def test_a_function_that_is_no_workflow_is_refused(function: Any, message: str) -> None:
    """The error names the function and what is wrong with it, before anything runs."""
    with pytest.raises(HandlerError, match=message):
        workflow(function).build()


def test_a_plain_function_is_no_step() -> None:
    """The error names the function and the way to call plain functions."""
    with pytest.raises(HandlerError, match=r"'_plain' is none.*ctx\.step"):
        step(_plain)  # type: ignore[arg-type]  # a mistake


# --- Steps happen once -------------------------------------------------------------------------------------------


@STORAGES
@pytest.mark.parametrize("where", ["between", "after"])
async def test_a_finished_step_is_not_repeated(storage: Any, where: str) -> None:
    """A function that failed after a step takes its result from the journal, in this process or another."""
    world, kept = World(where), storage and storage()
    made = shop(world, kept)
    with pytest.raises(ConnectionError, match=where):
        await made.run("hat")
    assert (await (await again(made, world, kept)).run()).get_outputs() == ["hat for 3"]
    assert [call for call in world.calls if call in ("charge", "ship")] == ["charge", "ship"]


@STORAGES
async def test_a_step_that_raised_is_run_again(storage: Any) -> None:
    """Only results are recorded."""
    world, kept = World("ship"), storage and storage()
    made = shop(world, kept)
    with pytest.raises(ConnectionError):
        await made.run("hat")
    assert (await (await again(made, world, kept)).run()).get_outputs() == ["hat for 3"]
    assert world.calls == ["charge", "between", "ship", "between", "ship", "after"]


@pytest.mark.parametrize("durability", ["step", "turn"])
async def test_a_retry_repeats_no_step_and_no_output(durability: Any) -> None:
    """What a failed attempt has yielded is void; what its steps have done is kept."""
    world = World("first", "second")

    @step
    async def work() -> int:
        world.call("work")
        return 1

    @workflow(retry=RetryPolicy(delay=0))
    async def trying(text: str, ctx: RunContext) -> int:
        await ctx.yield_output(f"begin {text}")
        ctx.set_state("tries", ctx.get_state("tries", 0) + 1)
        found = await work()
        world.call("first")
        world.call("second")
        return found + int(ctx.get_state("tries"))

    result = await trying.build().run("a", durability=durability)
    assert result.get_outputs() == ["begin a", 2]
    assert world.calls == ["work", "first", "first", "second", "first", "second"]


async def test_a_new_input_does_its_steps_anew() -> None:
    """The journal belongs to one input."""
    world = World()
    made = shop(world, InMemoryCheckpointStorage())
    assert [(await made.run(item)).get_outputs() for item in ("hat", "scarf")] == [["hat for 3"], ["scarf for 5"]]
    assert world.calls.count("charge") == 2


def test_a_step_survives_the_death_of_its_process(tmp_path: Path) -> None:
    """Killed right after a step, the next process begins after it."""
    program = tmp_path / "dying.py"
    program.write_text(
        textwrap.dedent("""
            import asyncio, json, os, signal, sys
            from agent_host import open_store, step, workflow
            from agent_host.engine.storage.checkpoint_storage import CheckpointStorage

            @step
            async def note(text: str) -> str:
                with open(sys.argv[2], "a") as effects:
                    effects.write(text + "\\n")
                return text.upper()

            @workflow
            async def dying(text: str) -> list[str]:
                first = await note("first")
                if not os.path.exists(sys.argv[2] + ".died"):
                    open(sys.argv[2] + ".died", "w").close()
                    os.kill(os.getpid(), signal.SIGKILL)
                return [first, await note("second")]

            async def main() -> None:
                store = open_store(sys.argv[1])
                await store.open()
                made = dying.build(checkpoint_storage=CheckpointStorage(store.commit_log()))
                print(json.dumps((await made.run(*sys.argv[3:])).get_outputs()))
                await store.aclose()

            asyncio.run(main())
        """)
    )
    effects = tmp_path / "effects"
    command = [sys.executable, str(program), f"sqlite:///{tmp_path}/a.db", str(effects)]
    died = subprocess.run([*command, "go"], capture_output=True, text=True, check=False)
    assert (died.returncode, died.stderr) == (-9, "")
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == [["FIRST", "second".upper()]]
    assert effects.read_text().split() == ["first", "second"]


async def test_a_step_that_has_begun_is_finished_though_the_function_fails() -> None:
    """A side effect that is on its way when another branch fails is recorded, not cut off and repeated."""
    world = World("fail")
    ended: list[str] = []

    @step
    async def slow() -> str:
        world.call("slow")
        await asyncio.sleep(0.02)
        ended.append("slow")
        return "slow"

    @step
    async def fails() -> str:
        world.call("fail")
        return "fine"

    async def branch() -> str:
        return await slow()

    @workflow
    async def both(text: str) -> list[str]:
        return list(await asyncio.gather(branch(), fails()))

    made = both.build()
    with pytest.raises(ConnectionError):
        await made.run("x")
    assert (await made.run()).get_outputs() == [["slow", "fine"]]
    assert (world.calls, ended) == (["slow", "fail", "fail"], ["slow"])


async def test_a_step_that_the_function_gives_up_is_cut_off() -> None:
    """A timeout of the function's own cancels the step, and so does the end of the run."""
    ended: list[str] = []
    begun = asyncio.Event()

    @step
    async def slow() -> str:
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cut off")
            raise
        return "never"

    @workflow
    async def impatient(text: str) -> str:
        try:
            return await asyncio.wait_for(slow(), 0.01)
        except TimeoutError:
            return "too slow"

    @workflow(timeout=0.01)
    async def limited(text: str) -> str:
        return await slow()

    @workflow
    async def patient(text: str) -> str:
        return await slow()

    assert (await impatient.build().run("x")).get_outputs() == ["too slow"]
    with pytest.raises(ExecutorTimeoutError, match="'limited' took longer"):
        await limited.build().run("x")
    begun.clear()
    run = asyncio.ensure_future(patient.build().run("x"))
    await begun.wait()
    run.cancel()
    await asyncio.wait([run])
    assert run.cancelled()
    assert ended == ["cut off", "cut off", "cut off"]


# --- Steps at the same time --------------------------------------------------------------------------------------


@STORAGES
async def test_branches_keep_their_results_whoever_was_faster(storage: Any) -> None:
    """Tasks of several steps each find their own results again, though they ran at other speeds before."""
    world, kept, pauses = World("end"), storage and storage(), [0.03, 0.02, 0.01]

    @step
    async def work(name: str) -> str:
        world.calls.append(name)
        return name

    async def branch(number: int) -> list[str]:
        first = await work(f"first {number}")
        await asyncio.sleep(pauses[number])
        second, third = await asyncio.gather(work(f"second {number}"), ctx_step(number))
        return [first, second, third]

    async def ctx_step(number: int) -> str:
        await asyncio.sleep(pauses[number])
        return await work(f"third {number}")

    @workflow
    async def three(text: str) -> list[list[str]]:
        found = await asyncio.gather(*map(branch, range(3)))
        world.call("end")
        return found

    made = three.build(checkpoint_storage=kept)
    with pytest.raises(ConnectionError):
        await made.run("x")
    pauses.reverse()
    made = three.build(checkpoint_storage=CheckpointStorage(kept.log)) if kept is not None else made
    (found,) = (await made.run()).get_outputs()
    assert found == [[f"{which} {number}" for which in ("first", "second", "third")] for number in range(3)]
    assert len(world.calls) == len(set(world.calls)) + 1 == 11


async def failing_with(names: list[list[str]]) -> Workflow:
    """A function that makes these steps, by name or by argument, on its first and on its second execution."""
    rounds = iter(names)
    fails = [True]

    @step
    async def work(name: str) -> str:
        return name

    @workflow
    async def changing(text: str, ctx: RunContext) -> list[str]:
        found = [
            await (ctx.step(name[1:], str.upper, name) if name.startswith("!") else work(name))
            for name in next(rounds)
        ]  # fmt: skip
        if fails.pop() if fails else False:
            raise ConnectionError
        return found

    made = changing.build()
    with pytest.raises(ConnectionError):
        await made.run("x")
    return made


async def test_another_step_at_the_same_place_is_an_error() -> None:
    """The error names both steps."""
    made = await failing_with([["!a", "!b"], ["!b", "!a"]])
    with pytest.raises(StepMismatchError, match="makes the step 'b' where an earlier attempt recorded the step 'a'"):
        await made.run()


async def test_steps_in_another_order_are_an_error() -> None:
    """Results of one step for several arguments are never mixed up: the error says what to do."""
    made = await failing_with([["a", "b"], ["b", "a"]])
    with pytest.raises(StepMismatchError, match=r"'changing' calls the step 'work' with arguments .* another place"):
        await made.run()


async def test_other_arguments_alone_are_no_error() -> None:
    """What is done is done: a new version of the program may call a recorded step with other arguments."""
    made = await failing_with([["a", "b"], ["a", "new", "c"]])
    assert (await made.run()).get_outputs() == [["a", "b", "c"]]


# --- Types -------------------------------------------------------------------------------------------------------


class Opaque:
    """Of no kind that could be stored."""


async def test_a_result_that_cannot_be_stored_is_an_error() -> None:
    """The error names the step, with storage and without."""

    @step
    async def odd() -> Any:
        return Opaque()

    @step
    async def unannotated():  # type: ignore[no-untyped-def]  # that the annotation is missing is the point
        return Receipt("hat", 3)

    @workflow
    async def first(text: str) -> None:
        await odd()

    @workflow
    async def second(text: str) -> None:
        await unannotated()

    with pytest.raises(UnsupportedValueError, match=r"result of the step 'odd' of executor 'first' .*Opaque"):
        await first.build().run("x")
    with pytest.raises(UnsupportedValueError, match=r"result of the step 'unannotated' of executor 'second' .*Receipt"):
        await second.build(checkpoint_storage=InMemoryCheckpointStorage()).run("x")


@step
async def receipts(text: str) -> list[Receipt]:
    return [Receipt(text, 1)]


STEPS = {"receipts": receipts}


async def test_steps_that_the_code_does_not_name_can_be_recorded_too() -> None:
    """Their types are allowed when they are called; those the code names are known to the workflow before."""

    @workflow
    async def hidden(text: str) -> int:
        return sum(receipt.amount for receipt in await STEPS[text](text))

    async def inner(text: str) -> list[Receipt]:
        return await receipts(text)

    @workflow
    async def named(text: str) -> int:
        return len(await inner(text))

    assert list[Receipt] in named.build().graph.declared()
    assert list[Receipt] not in hidden.build().graph.declared()
    for definition in (hidden, named):
        made = definition.build(checkpoint_storage=InMemoryCheckpointStorage())
        assert (await made.run("receipts")).get_outputs() == [1]


# --- Where else it runs ------------------------------------------------------------------------------------------


async def test_a_function_is_served_like_any_workflow(serve_app: Any) -> None:
    """Behind the host every turn is a run; turns continue each other and branch, with the state of each."""

    @step
    async def shout(text: str) -> str:
        return text.upper()

    @workflow(name="remember")
    async def remember(text: str, ctx: RunContext) -> str:
        words = [*ctx.get_state("words", []), *await asyncio.gather(*map(shout, text.split()))]
        ctx.set_state("words", words)
        return " ".join(words)

    host = await serve_app(remember.build())
    first = await host.say("milk and eggs")
    second = await host.say("tea", first.id)
    branch = await host.say("bread", first.id)
    assert [response.output_text for response in (first, second, branch)] == [
        "MILK AND EGGS", "MILK AND EGGS TEA", "MILK AND EGGS BREAD",
    ]  # fmt: skip
    stream = await host.client.responses.create(input="x", previous_response_id=second.id, stream=True)
    assert [event.response.output_text async for event in stream if event.type == "response.completed"] == [
        "MILK AND EGGS TEA X"
    ]


def test_the_command_line_takes_a_definition(tmp_path: Path) -> None:
    """`agent-host serve app.py:NAME` finds the workflow that a decorated function makes."""
    (tmp_path / "decorated.py").write_text(
        "from agent_host import workflow\n\n\n@workflow\nasync def greet(text: str) -> str:\n    return text\n"
    )
    assert load_workflow(f"{tmp_path}/decorated.py:greet").name == "greet"


async def test_a_function_stands_inside_a_graph() -> None:
    """As a nested workflow, its output is a message to the next executor."""

    @executor
    async def last(text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"<{text}>")

    world = World("between")
    nested = WorkflowExecutor(shop(world), "shop")
    made = WorkflowBuilder(start_executor=nested, name="outer").add_edge(nested, last).build()
    with pytest.raises(ConnectionError):
        await made.run("hat")
    assert (await made.run()).get_outputs() == ["<hat for 3>"]
    assert world.calls.count("charge") == 1
