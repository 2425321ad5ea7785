"""Which executor gets which message, and which graphs are refused."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import pytest

from agent_host import (
    Case,
    Default,
    Executor,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    response_handler,
)
from agent_host.errors import (
    EdgeDuplicationError,
    GraphConnectivityError,
    HandlerError,
    TypeCompatibilityError,
    WorkflowRunnerException,
    WorkflowValidationError,
)

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


def sink(name: str) -> Executor:
    """An executor that yields its own name and what it got."""

    @executor(id=name)
    async def take(value: Any, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output(f"{name}:{value}")

    return take


def source(*values: Any, target: str | None = None) -> Executor:
    @executor(id="source")
    async def send(text: str, ctx: WorkflowContext[Any]) -> None:
        for value in values:
            await ctx.send_message(value, target_id=target)

    return send


async def outputs(builder: WorkflowBuilder) -> list[str]:
    return (await builder.build().run("go")).get_outputs()


async def warnings(builder: WorkflowBuilder) -> list[str]:
    return [event.data for event in await builder.build().run("go") if event.type == "warning"]


async def is_odd(value: int) -> bool:
    await asyncio.sleep(0)
    return value % 2 == 1


async def test_conditions_choose_along_single_edges() -> None:
    """A message passes every edge whose condition holds; conditions may be async."""
    start = source(1, 2, 3)
    builder = WorkflowBuilder(start_executor=start)
    builder.add_edge(start, sink("odd"), is_odd).add_edge(start, sink("big"), lambda value: value > 2)
    builder.add_edge(start, sink("all"))
    assert await outputs(builder) == ["odd:1", "all:1", "all:2", "odd:3", "big:3", "all:3"]


async def test_a_switch_takes_the_first_case_that_holds() -> None:
    """Cases are asked in order, the default gets the rest, and a named target overrides both."""
    for target, expected in ((None, ["odd:1", "rest:2", "big:4"]), ("rest", ["rest:1", "rest:2", "rest:4"])):
        start = source(1, 2, 4, target=target)
        rest = sink("rest")
        cases = [Case(is_odd, sink("odd")), Case(lambda value: value > 2, sink("big")), Default(rest)]
        assert await outputs(WorkflowBuilder(start_executor=start).add_switch_case_edge_group(start, cases)) == expected


@pytest.mark.parametrize("kind", ["edge", "switch", "selection"])
async def test_a_failing_predicate_is_an_error_and_no_branch(kind: str) -> None:
    """An exception in a condition or selection ends the run; nobody gets the message."""

    def fails(*args: Any) -> Any:
        raise ZeroDivisionError("in a predicate")

    start = source(1)
    builder = WorkflowBuilder(start_executor=start)
    if kind == "edge":
        builder.add_edge(start, sink("a"), fails)
    elif kind == "switch":
        builder.add_switch_case_edge_group(start, [Case(fails, sink("a")), Default(sink("b"))])
    else:
        builder.add_multi_selection_edge_group(start, [sink("a"), sink("b")], fails)
    events = []
    with pytest.raises(ZeroDivisionError):
        async for event in builder.build().run("go", stream=True):
            events.append(event)
    assert {event.executor_id for event in events if event.type == "executor_invoked"} == {"source"}


async def test_a_selection_names_its_targets() -> None:
    """In the order named, each once; an unknown one is an error that lists the known."""
    start = source(1)
    targets = [sink("a"), sink("b"), sink("c")]

    def built(chosen: list[str]) -> WorkflowBuilder:
        builder = WorkflowBuilder(start_executor=start)
        return builder.add_multi_selection_edge_group(start, targets, lambda value, ids: chosen)

    assert await outputs(built(["c", "a", "c"])) == ["c:1", "a:1"]
    assert await outputs(built([])) == []
    with pytest.raises(WorkflowRunnerException, match="'x', which is not one of its targets: a, b, c"):
        await outputs(built(["a", "x"]))


async def test_a_message_that_nobody_takes_is_told() -> None:
    """No edge, no fitting type, no condition that holds, an addressee without edge: a warning names it."""
    start = source(1)
    assert "A int sent by 'source'" in (await warnings(WorkflowBuilder(start_executor=start)))[0]
    refusing = WorkflowBuilder(start_executor=start).add_edge(start, sink("a"), lambda value: False)
    assert len(await warnings(refusing)) == 1
    start = source(1, target="nobody")  # not reached by any edge
    addressed = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, [sink("a"), sink("b")])
    assert "to 'nobody'" in (await warnings(addressed))[0]


async def test_an_addressed_message_reaches_its_addressee_only() -> None:
    """`target_id` picks one executor among those the edges lead to, in every kind of group."""
    start = source(1, target="b")
    builder = WorkflowBuilder(start_executor=start).add_edge(start, sink("a"))
    assert await outputs(builder.add_fan_out_edges(start, [sink("b"), sink("c")])) == ["b:1"]


def joining(seconds: list[str]) -> WorkflowBuilder:
    """`left` answers every text, `right` only those in `seconds`; `join` wants both."""

    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor
    async def left(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"left {text}")

    @executor
    async def right(text: str, ctx: WorkflowContext[str]) -> None:
        if text in seconds:
            await ctx.send_message(f"right {text}")

    @executor
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{' and '.join(texts)} from {ctx.source_executor_ids}")

    builder = WorkflowBuilder(start_executor=split, name="joining")
    return builder.add_fan_out_edges(split, [left, right]).add_fan_in_edges([left, right], join)


@STORAGES
async def test_a_join_left_open_is_told_when_the_run_ends(storage: Any) -> None:
    """The run is idle, and a warning names the join and who is missing."""
    result = await joining([]).build().run("a", checkpoint_storage=storage() if storage else None)
    assert result.get_outputs() == []
    told = [event.data for event in result if event.type == "warning"]
    assert told == ["The run is over, but the join into 'join' has not heard from 'right'."]
    whole = await joining(["a"]).build().run("a", checkpoint_storage=storage() if storage else None)
    assert not [event for event in whole if event.type == "warning"]


@STORAGES
async def test_a_join_left_open_is_not_completed_by_the_next_input(storage: Any) -> None:
    """What waited in it is dropped with a warning; the next input fills it from the beginning."""
    made = storage() if storage else None
    workflow = joining(["b"]).build()
    await workflow.run("a", checkpoint_storage=made)
    result = await workflow.run("b", checkpoint_storage=made)
    assert result.get_outputs() == ["left b and right b from ['left', 'right']"]
    told = [event.data for event in result if event.type == "warning"]
    assert told == ["The join into 'join' never heard from 'right'; what waited there was dropped."]


@STORAGES
async def test_receivers_of_one_message_share_nothing(storage: Any) -> None:
    """What one receiver does to the message, no other sees: not a sibling, not a join that gets it later."""
    done: list[asyncio.Event] = [asyncio.Event()]

    @executor
    async def split(text: str, ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message([text])

    @executor
    async def spoiler(texts: list[str], ctx: WorkflowContext[list[str]]) -> None:
        texts.append("spoiled")
        done[0].set()
        await ctx.send_message(["second"])

    @executor
    async def reader(texts: list[str], ctx: WorkflowContext[list[str], str]) -> None:
        await done[0].wait()
        await ctx.yield_output(f"reader {texts}")

    @executor
    async def join(texts: list[list[str]], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"join {texts}")

    made = storage() if storage else None
    builder = WorkflowBuilder(start_executor=split, name="w", checkpoint_storage=made)
    builder.add_fan_out_edges(split, [spoiler, reader]).add_fan_in_edges([split, spoiler], join)
    for durability in ("step", "turn"):
        done[0] = asyncio.Event()
        result = await builder.build().run("a", durability=durability)  # type: ignore[call-overload]
        assert result.get_outputs() == ["reader ['a']", "join [['a'], ['second']]"]


async def test_a_join_gets_what_was_sent_whatever_the_only_receiver_does_to_it() -> None:
    """A message to one executor and into a join is copied, though only one receiver gets it now."""

    @executor
    async def start(text: str, ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message([text])

    @executor
    async def spoiler(texts: list[str], ctx: WorkflowContext[list[str]]) -> None:
        texts.append("spoiled")
        await ctx.send_message(["second"])

    @executor
    async def join(texts: list[list[str]], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"join {texts}")

    builder = WorkflowBuilder(start_executor=start).add_edge(start, spoiler).add_fan_in_edges([start, spoiler], join)
    assert await outputs(builder) == ["join [['go'], ['second']]"]


async def test_what_cannot_be_copied_is_shared_with_a_warning() -> None:
    """Without a storage any object can be sent; several receivers of one that cannot be copied are told of it."""
    start = source(lock := asyncio.Lock())
    several = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, [sink("a"), sink("b")])
    told = await warnings(several)
    assert told
    assert "Lock" in told[0]
    seen: list[Any] = []

    @executor
    async def keep(value: Any, ctx: WorkflowContext) -> None:
        seen.append(value)

    assert await warnings(WorkflowBuilder(start_executor=start).add_edge(start, keep)) == []
    assert seen == [lock]


@STORAGES
async def test_timing_never_changes_the_result(storage: Any) -> None:
    """Whichever sibling is faster, outputs, requests, messages and cells come out in one order."""
    results = set()
    for seed in range(12):
        order = list(range(6))
        random.Random(seed).shuffle(order)
        made = InMemoryCheckpointStorage()
        result = await _race(order).run("x", checkpoint_storage=made if storage else None)
        latest = await made.get_latest(workflow_name="race")
        cells = tuple(sorted(latest._cells.items())) if latest is not None else ()
        results.add((tuple(result.get_outputs()), cells))
    assert len(results) == 1
    assert len(results.pop()[0]) == 7


def _race(order: list[int]) -> Workflow:
    """Six siblings that finish in the given order, each when the one before it has."""
    finished = [asyncio.Event() for _ in range(7)]
    finished[0].set()

    def sibling(number: int) -> Executor:
        @executor(id=f"sibling{number}")
        async def work(text: str, ctx: WorkflowContext[str, str]) -> None:
            place = order.index(number)
            await finished[place].wait()
            ctx.set_state(f"key{number}", number)
            await ctx.yield_output(f"output {number}")
            await ctx.send_message(f"message {number}")
            finished[place + 1].set()

        return work

    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(" ".join(texts))

    siblings = [sibling(number) for number in range(6)]
    builder = WorkflowBuilder(start_executor=split, name="race")
    return builder.add_fan_out_edges(split, siblings).add_fan_in_edges(siblings, join).build()


async def test_one_executor_takes_its_messages_one_after_the_other() -> None:
    """In the order in which they were sent, never at the same time, while other executors run beside it."""
    log: list[str] = []

    class Slow(Executor):
        @handler
        async def take(self, value: int, ctx: WorkflowContext[int, str]) -> None:
            log.append(f"in {value}")
            await asyncio.sleep(0)
            log.append(f"out {value}")

    start = source(1, 2)
    builder = WorkflowBuilder(start_executor=start)
    await builder.add_edge(start, Slow("slow")).add_edge(start, sink("other")).build().run("go")
    assert log == ["in 1", "out 1", "in 2", "out 2"]


# --- Which handler ------------------------------------------------------------------------------------------------


@dataclass
class Animal:
    name: str


@dataclass
class Dog(Animal):
    pass


@dataclass
class Puppy(Dog):
    pass


class Chooser(Executor):
    def __init__(self) -> None:
        super().__init__("chooser")

    @handler
    async def anything(self, value: object, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("object")

    @handler
    async def an_int(self, value: int, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("int")

    @handler
    async def an_animal(self, value: Animal, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("animal")

    @handler
    async def a_dog(self, value: Dog, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("dog")

    @handler
    async def texts(self, value: list[str], ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("texts")

    @handler
    async def yes_or_no(self, value: Literal["yes", "no"] | None, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("yes or no")


@pytest.mark.parametrize(
    ("value", "chosen"),
    [
        (5, "int"), (True, "object"), (5.0, "object"), (Animal("a"), "animal"), (Dog("d"), "dog"), (Puppy("p"), "dog"),
        (["a"], "texts"), ([1], "object"), ("yes", "yes or no"), (None, "yes or no"), ("maybe", "object"),
    ],
)  # fmt: skip
async def test_the_most_specific_handler_is_called(value: Any, chosen: str) -> None:
    """Subclasses before bases, element types count, and a bool is not an int."""
    workflow = WorkflowBuilder(start_executor=Chooser()).build()
    for _ in range(2):
        assert (await workflow.run(value)).get_outputs() == [chosen]


async def test_a_bool_does_not_reach_a_handler_of_ints() -> None:
    """Sent to an executor that takes only ints it is told as undelivered."""

    @executor
    async def number(value: int, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output("int")

    start = source(True)
    assert len(await warnings(WorkflowBuilder(start_executor=start).add_edge(start, number))) == 1


def test_handlers_that_cannot_be_told_apart_are_refused() -> None:
    """Two for one type, or two that fit one class equally well: the error names both."""

    class Left:
        pass

    class Right:
        pass

    class Both(Left, Right):
        pass

    class Twice(Executor):
        @handler
        async def one(self, value: int | str, ctx: WorkflowContext) -> None: ...
        @handler
        async def two(self, value: str, ctx: WorkflowContext) -> None: ...

    class Either(Executor):
        @handler
        async def left(self, value: Left, ctx: WorkflowContext) -> None: ...
        @handler
        async def right(self, value: Right, ctx: WorkflowContext) -> None: ...

    @executor
    async def sender(value: str, ctx: WorkflowContext[Both]) -> None: ...

    with pytest.raises(HandlerError, match="two handlers for str: one and two"):
        WorkflowBuilder(start_executor=Twice("twice"))._executors["twice"].handler_table  # noqa: B018
    with pytest.raises(HandlerError, match=r"cannot choose a handler for .*Both: left and right"):
        WorkflowBuilder(start_executor=sender).add_edge(sender, Either("either")).build()
    WorkflowBuilder(start_executor=Either("either")).build()


T = TypeVar("T")


class Pair(Generic[T]):
    pass


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: executor(_no_annotation), "annotate the parameter 'value'"),
        (lambda: executor(_type_variable), "type variable"),
        (lambda: executor(_too_many), r"must take \(message, ctx\); it takes 3"),
    ],
)
def test_a_handler_that_cannot_be_understood_is_refused(declare: Callable[[], Any], message: str) -> None:
    """The error names the function and the parameter."""
    with pytest.raises(HandlerError, match=message):
        declare()


async def _no_annotation(value, ctx: WorkflowContext) -> None: ...  # type: ignore[no-untyped-def]
async def _type_variable(value: T, ctx: WorkflowContext) -> None: ...
async def _too_many(value: int, ctx: WorkflowContext, more: int) -> None: ...


# --- Which graphs -------------------------------------------------------------------------------------------------


@executor
async def texts(value: str, ctx: WorkflowContext[str, str]) -> None: ...
@executor
async def numbers(value: int, ctx: WorkflowContext[int]) -> None: ...
@executor
async def lists(value: list[str], ctx: WorkflowContext[str]) -> None: ...


@executor
async def silent(value: str, ctx: WorkflowContext[str]) -> None: ...


class Mute(Executor):
    pass


def builder(**more: Any) -> WorkflowBuilder:
    return WorkflowBuilder(start_executor=texts, **more)


@pytest.mark.parametrize(
    ("declare", "error", "message"),
    [
        (lambda: builder().add_edge(texts, lists, None).add_fan_out_edges(texts, [sink("a"), lists]).build(),
         EdgeDuplicationError, "'texts' and 'lists' are connected twice; remove"),
        (lambda: builder().add_edge(numbers, sink("a")).build(), GraphConnectivityError, "'texts' to 'a', 'numbers'"),
        (lambda: builder().add_edge(texts, numbers).build(),
         TypeCompatibilityError, "'texts' sends str, but 'numbers' takes int.*WorkflowContext"),
        (lambda: builder().add_fan_in_edges([texts, sink("b")], texts).build(), WorkflowValidationError, "b"),
        (lambda: builder().add_edge(texts, Mute("mute")).build(), WorkflowValidationError, "'mute' has no @handler"),
        (lambda: builder().add_edge(texts, sink("texts")), WorkflowValidationError, "Two executors have the id"),
        (lambda: builder().add_edge(texts, "b"), WorkflowValidationError, "'b' is neither an Executor"),
        (lambda: builder().add_chain([texts]), WorkflowValidationError, "at least two"),
        (lambda: builder().add_fan_out_edges(texts, [lists]), WorkflowValidationError, "use add_edge for one"),
        (lambda: builder().add_switch_case_edge_group(texts, [Default(lists)]), WorkflowValidationError,
         "at least one Case and exactly one Default; got 0 and 1"),
        (lambda: builder(checkpoint_storage=InMemoryCheckpointStorage()), WorkflowValidationError, "needs a name"),
        (lambda: builder(max_iterations=0), WorkflowValidationError, "at least 1; got 0"),
        (lambda: builder(max_iterations="3"), WorkflowValidationError, "max_iterations must be a whole number"),
        (lambda: builder(codec="x"), WorkflowValidationError, r"codec takes a Codec, such as PickleCodec.*; got 'x'"),
        (lambda: builder(checkpoint_storage="dir", name="w"), WorkflowValidationError,
         r"takes a CheckpointStorage, such as FileCheckpointStorage\('checkpoints'\); got 'dir'"),
        (lambda: builder(output_from=[sink("x")]).build(), WorkflowValidationError, "'x', which is not part"),
        (lambda: builder(output_from="most").build(), WorkflowValidationError, "a list of executors or 'all'"),
        (lambda: builder(output_from=[lists]).add_edge(texts, sink("a")).add_edge(sink("b"), lists).build(),
         WorkflowValidationError, "'texts' to 'b'"),
        (lambda: builder(output_from=[silent]).add_edge(texts, silent).build(), WorkflowValidationError,
         "output_from names 'silent', which never yields: annotate"),
        (lambda: builder(output_from=[texts], intermediate_output_from=[texts]).build(), WorkflowValidationError,
         "'texts' stands in output_from and in intermediate_output_from"),
        (lambda: sink("a/b"), WorkflowValidationError, "without '/'"),
        (lambda: Answering(""), WorkflowValidationError, "1 to 128"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_work_is_refused(declare: Callable[[], Any], error: type, message: str) -> None:
    """The error names the thing that is wrong and what to do about it."""
    with pytest.raises(error, match=message):
        declare()


async def test_the_designation_of_outputs() -> None:
    """Answers, comments on the way, and yields that stay hidden."""

    def pair() -> tuple[Executor, Executor]:
        @executor
        async def one(value: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.yield_output("one")
            await ctx.send_message(value)

        @executor
        async def two(value: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.yield_output("two")

        return one, two

    def chosen(output: Any, middle: Any) -> Any:
        one, two = pair()
        which = {"one": [one], "two": [two]}
        made = WorkflowBuilder(
            start_executor=one,
            output_from=which.get(output, output),
            intermediate_output_from=which.get(middle, middle),
        )
        return made.add_edge(one, two).build().run("go")

    expected = {
        (None, None): (["one", "two"], []),
        ("two", None): (["two"], []),
        ("two", "all_other"): (["two"], ["one"]),
        ("all", None): (["one", "two"], []),
        (None, "one"): ([], ["one"]),
    }
    for (output, middle), shown in expected.items():
        result = await chosen(output, middle)
        assert (result.get_outputs(), result.get_intermediate_outputs()) == shown


class Answering(Executor):
    @response_handler
    async def hear(self, request: str, answer: int, ctx: WorkflowContext) -> None: ...
    @handler
    async def take(self, text: str) -> None: ...


def test_a_handler_may_leave_out_the_context() -> None:
    """A handler that says nothing needs no context."""
    assert [h.takes_context for h in Answering("a").handler_table.handlers] == [False]
