"""What one turn must not leave in another: the ways in which people write executors, tried through the host."""

import collections
import dataclasses
import functools
import logging
import re
import sys
from types import SimpleNamespace
from typing import Any, ClassVar, Never

import openai
import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, config, executor, handler
from agent_host.errors import ExecutorStateError


class Remembering(Executor):
    """Answers with everything it has been told."""

    def __init__(self, id: str = "memory") -> None:
        super().__init__(id)
        self.history: list[str] = []
        self.first = ""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.first = self.first or text
        self.history.append(text)
        await ctx.yield_output(f"{len(self.history)} {self.first[:3]} {text[:3]}")


def alone(start: Executor, name: str = "alone") -> Workflow:
    return WorkflowBuilder(start_executor=start, name=name).build()


async def test_an_early_response_goes_on_after_its_list_was_split(serve_app: Any) -> None:
    """A long conversation stores in pieces what its first turn stored whole; the first turn can still be continued."""
    served = await serve_app(alone(Remembering()))
    texts = [f"{turn:03}" + "x" * 600 for turn in range(13)]
    responses = [await served.say(texts[0])]
    for text in texts[1:]:
        responses.append(await served.say(text, responses[-1].id))
    for turn in (0, 1, 5, 12):
        branch = await served.say("new", responses[turn].id)
        assert (branch.status, branch.output_text) == ("completed", f"{turn + 2} 000 new")


async def test_what_was_set_once_lasts_for_ever(serve_app: Any) -> None:
    """State that only the first turn changed is there in every later turn, whichever one is continued."""
    served = await serve_app(alone(Remembering()))
    responses = [await served.say("one")]
    for _ in range(70):
        responses.append(await served.say("more", responses[-1].id))
    await served.host.aclose()
    served = await serve_app(alone(Remembering()))
    for turn in (30, 31, 32, 33, 62, 63, 64, 65, 70):
        assert (await served.say("end", responses[turn].id)).output_text == f"{turn + 2} one end"


async def test_a_list_on_the_class_belongs_to_the_conversation(serve_app: Any) -> None:
    """`history = []` in the class body is a default like one in `__init__`: no conversation sees another's."""

    class OnTheClass(Executor):
        history: ClassVar[list[str]] = []

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            self.history.append(text)
            await ctx.yield_output(" ".join(self.history))

    served = await serve_app(alone(OnTheClass("memory")))
    first = await served.say("one")
    assert (await served.say("two")).output_text == "two"
    assert (await served.say("three", first.id)).output_text == "one three"
    assert OnTheClass.history == []


def holder(made: Executor) -> None:
    made.box = SimpleNamespace(seen=[])  # type: ignore[attr-defined]


def bound_to_a_value(made: Executor) -> None:
    made.seen = []  # type: ignore[attr-defined]
    made.box = made.seen.append  # type: ignore[attr-defined]


def closure(made: Executor) -> None:
    made.box = lambda text: made.history.append(text)  # type: ignore[attr-defined]


@pytest.mark.parametrize("furnish", [holder, bound_to_a_value, closure])
async def test_what_would_leak_is_an_error_at_start(furnish: Any) -> None:
    """Changing data that hides where it cannot be stored would be everybody's; the error names it and the remedy."""
    made = Remembering()
    furnish(made)
    with pytest.raises(ExecutorStateError, match="box"):
        await alone(made).definition()


async def test_data_beside_a_foreign_object_is_everybodys_and_stays_so(serve_app: Any) -> None:
    """A table of tools may hold plain data; a handler that changes it fails its turn, and nobody sees the change."""

    class Tools(Remembering):
        def __init__(self) -> None:
            super().__init__()
            self.box: dict[str, Any] = {"call": print, "arguments": ["x"]}

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            if text == "change":
                self.box["arguments"].append(text)
            await ctx.yield_output(str(self.box["arguments"]))

    made = Tools()
    served = await serve_app(alone(made))
    assert (await served.say("read")).output_text == "['x']"
    changed = await served.say("change")
    assert changed.status == "failed"
    assert "'box'" in changed.error.message
    assert (await served.say("read")).output_text == "['x']"
    assert made.box["arguments"] == ["x"]


class Notebook:
    """A class of the program that cannot be stored."""


@pytest.mark.parametrize("value", [[], {"a": 1}, ([],), SimpleNamespace()], ids=["list", "dict", "tuple", "namespace"])
async def test_what_stands_on_the_class_is_treated_like_what_init_sets(serve_app: Any, value: Any) -> None:
    """Private or not, a changing value on the class is each conversation's own, or an error at start."""
    changing = type("Changing", (Remembering,), {"_kept": value})
    if isinstance(value, SimpleNamespace):
        with pytest.raises(ExecutorStateError, match="_kept"):
            await alone(changing()).definition()
        return
    definition = await alone(changing()).definition()
    assert "_kept" in definition.templates["memory"].fields


async def test_an_own_object_on_the_class_is_an_error_at_start() -> None:
    """It would be shared like one that `__init__` sets."""
    holding = type("Holding", (Remembering,), {"helper": Notebook(), "__module__": __name__})
    with pytest.raises(ExecutorStateError, match="helper"):
        await alone(holding()).definition()


@dataclasses.dataclass
class Tally:
    count: int = 0


async def test_what_could_not_be_read_again_is_not_stored(serve_app: Any) -> None:
    """A field that holds what its class does not declare fails the turn that set it, not every turn after it."""

    class Careless(Executor):
        def __init__(self) -> None:
            super().__init__("careless")
            self.tally = Tally()

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            self.tally.count = None if text == "break" else self.tally.count + 1  # type: ignore[assignment]
            await ctx.yield_output(str(self.tally.count))

    served = await serve_app(alone(Careless()))
    first = await served.say("count")
    broken = await served.say("break", first.id)
    assert broken.status == "failed"
    assert "'count'" in broken.error.message
    assert (await served.say("count", broken.id)).output_text == "2"


async def test_two_attributes_that_hold_one_list_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Each conversation copies every attribute by itself, so what was one object becomes two: the log says so."""
    made = Remembering()
    made.index = {"all": made.history}  # type: ignore[attr-defined]
    await alone(made).definition()
    assert "'history' and 'index' of executor 'memory' hold the same list" in caplog.text


async def test_containers_of_foreign_objects_are_configuration() -> None:
    """A list of functions holds nothing of a conversation: it is shared, and listed."""
    made = Remembering()
    made.tools = [print, {"name": len}]  # type: ignore[attr-defined]
    assert (await alone(made).definition()).foreign == ["memory.tools"]


async def test_a_receiver_changes_nothing_of_its_sender(serve_app: Any) -> None:
    """What was sent and yielded is what it was then: neither later changes nor those of the receiver show."""

    class Sender(Executor):
        def __init__(self) -> None:
            super().__init__("sender")
            self.items: list[str] = []

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[list[str], list[str]]) -> None:
            self.items.append(text)
            await ctx.yield_output(self.items)
            await ctx.send_message(self.items)
            self.items.append("late")

    @executor
    async def receiver(items: list[str], ctx: WorkflowContext[Never, str]) -> None:
        items.append("by the receiver")

    sender = Sender()
    served = await serve_app(WorkflowBuilder(start_executor=sender, name="w").add_edge(sender, receiver).build())
    first = await served.say("x")
    second = await served.say("y", first.id)
    assert (first.output_text, second.output_text) == ('["x"]', '["x","late","y"]')


async def test_sys_exit_in_a_handler_is_a_failed_turn(serve_app: Any) -> None:
    """A library that ends the process ends only the turn, plain and streamed, and it is stored."""

    @executor
    async def leaving(text: str, ctx: WorkflowContext[Never, str]) -> None:
        sys.exit(3)

    served = await serve_app(WorkflowBuilder(start_executor=leaving, name="w").build())
    response = await served.say("x")
    assert response.status == "failed"
    assert "sys.exit(3)" in response.error.message
    events = [e.type async for e in await served.client.responses.create(input="x", stream=True)]
    assert events[-1] == "response.failed"
    assert (await served.client.responses.retrieve(response.id)).status == "failed"


async def test_what_becomes_configuration_comes_from_the_program(serve_app: Any) -> None:
    """An attribute that a new version declares as `config()` has the program's value in old conversations too."""

    class Before(Remembering):
        def __init__(self) -> None:
            super().__init__()
            self.limit = 1

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            self.limit += 1
            await ctx.yield_output(str(self.limit))

    class After(Remembering):
        limit = config(99)

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            await ctx.yield_output(str(self.limit))

    before = await serve_app(alone(Before()))
    first = await before.say("x")
    await before.host.aclose()
    after = await serve_app(alone(After()))
    assert (first.output_text, (await after.say("x", first.id)).output_text) == ("2", "99")


async def test_a_response_of_another_workflow_is_unknown(serve_app: Any) -> None:
    """Two workflows that used one file do not continue each other's conversations."""
    one = await serve_app(alone(Remembering(), "one"))
    first = await one.say("x")
    await one.host.aclose()
    two = await serve_app(alone(Remembering(), "two"))
    with pytest.raises(openai.BadRequestError, match="not found"):
        await two.say("y", first.id)


@pytest.mark.parametrize("output", [{1, 2}, None])
async def test_an_output_without_a_fixed_form_is_an_error(serve_app: Any, output: Any) -> None:
    """A set has no order and None is nothing to show: yielding them fails and says what can be yielded."""

    @executor
    async def odd(text: str, ctx: WorkflowContext[Never, Any]) -> None:
        await ctx.yield_output(output)

    served = await serve_app(WorkflowBuilder(start_executor=odd, name="w").build())
    response = await served.say("x")
    assert response.status == "failed"
    assert "cannot be shown" in response.error.message


async def test_ordinary_programs_are_not_refused() -> None:
    """Tool tables, functions over local settings, named tuples and constants are what executors are made of."""
    limits = {"max": 3}
    made = Remembering()
    made.limits = limits  # type: ignore[attr-defined]
    made.small = lambda number: number < limits["max"]  # type: ignore[attr-defined]
    made.tools = [{"name": "print", "call": print, "schema": {"type": "object"}}]  # type: ignore[attr-defined]
    made.half = functools.partial(pow, 2)  # type: ignore[attr-defined]
    made.point = collections.namedtuple("Point", "x y")(1, [2])  # type: ignore[attr-defined]
    made.log = logging.getLogger("program")  # type: ignore[attr-defined]
    workflow = alone(made)
    definition = await workflow.definition()
    assert sorted(definition.foreign) == ["memory.half", "memory.log", "memory.small", "memory.tools"]
    assert (await workflow.run("hello")).get_outputs() == ["1 hel hel"]
    assert made.point == (1, [2])  # type: ignore[attr-defined]


async def test_a_class_that_only_an_annotation_names_can_be_kept(serve_app: Any) -> None:
    """An attribute that a handler sets first may be of a class that the executor's annotations name."""

    class Late(Remembering):
        tallies: list[Tally]

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            kept = [*getattr(self, "tallies", ()), Tally(len(text))]
            self.tallies = kept
            await ctx.yield_output(str([tally.count for tally in kept]))

    served = await serve_app(alone(Late()))
    first = await served.say("one")
    assert (await served.say("three", first.id)).output_text == "[3, 5]"


async def test_a_constant_on_the_class_is_left_alone() -> None:
    """A logger or a pattern on the class troubles no run and is not listed; a table is, as one of `__init__` is."""

    class Constant(Remembering):
        log = logging.getLogger("program")
        pattern = re.compile("x")
        table: ClassVar[dict[str, Any]] = {"call": print}

    workflow = alone(Constant())
    assert (await workflow.definition()).foreign == ["memory.table"]
    assert (await workflow.run("hello")).get_outputs() == ["1 hel hel"]
