"""What is checked when a graph is built, and its signature."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import pytest

from agent_host import Case, Default, Executor, Workflow, WorkflowBuilder, WorkflowContext, executor, handler
from agent_host import response_handler as responding
from agent_host.engine.cells import join_key, split_join_key
from agent_host.engine.drawing.workflow_viz import WorkflowViz
from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch
from agent_host.engine.graph.graph import Graph, WorkflowWarning
from agent_host.engine.graph.graph_data import workflow_to_data
from agent_host.engine.migration.graph_policy import version_of
from agent_host.errors import (
    EdgeDuplicationError,
    GraphConnectivityError,
    TypeCompatibilityError,
    WorkflowValidationError,
)
from tests.engine.outlines import Holding, Outline, Step


class Both(Executor):
    """Sends texts and numbers."""

    @handler
    async def go(self, text: str, ctx: WorkflowContext[str | int, float]) -> None: ...


class Texts(Executor):
    @handler
    async def go(self, text: str, ctx: WorkflowContext[Never, str]) -> None: ...


class Numbers(Executor):
    @handler
    async def go(self, number: int, ctx: WorkflowContext[Never, str]) -> None: ...


class ListsOfNumbers(Executor):
    @handler
    async def go(self, numbers: list[int], ctx: WorkflowContext[Never, str]) -> None: ...


class Bare(Executor):
    """Declares nothing about what it sends."""

    @handler
    async def go(self, value: Any, ctx: WorkflowContext) -> None: ...


def always(value: Any) -> bool:
    return True


def never(value: Any) -> bool:
    return False


def first(value: Any, ids: list[str]) -> list[str]:
    return ids[:1]


def graph_of(names: str, *groups: EdgeGroup, kind: type[Executor] = Step) -> Graph:
    """A graph of one executor per word; the first is the start."""
    executors = [kind(name) for name in names.split()]
    return Graph.of(executors[0].id, {made.id: made for made in executors}, groups)


# --- What is refused ---------------------------------------------------------------------------------------------


def test_the_start_must_be_part_of_the_graph() -> None:
    """The error names the start and the executors there are."""
    with pytest.raises(GraphConnectivityError, match="start executor 'x' is not part of the workflow, which has 'a'"):
        Graph.of("x", {"a": Step("a")}, [])


def test_an_edge_must_lead_between_parts_of_the_graph() -> None:
    """The error names the edge and the end that is missing."""
    with pytest.raises(WorkflowValidationError, match="edge 'a->b' names 'b', which is not part"):
        graph_of("a", SingleEdge("a", "b"))


@pytest.mark.parametrize(
    "groups",
    [
        [SingleEdge("a", "b"), SingleEdge("a", "b", always)],
        [SingleEdge("a", "b"), FanOut("a", ("c", "b"))],
        [FanOut("a", ("b", "b", "c"))],
        [SingleEdge("a", "b"), FanIn(("b", "b"), "c")],
        [SingleEdge("a", "c"), Switch("a", ((always, "b"),), "c")],
    ],
    ids=["two edges", "an edge and a fan-out", "a target twice", "a source twice", "an edge and a default"],
)
def test_two_executors_are_connected_once(groups: list[EdgeGroup]) -> None:
    """Whatever kinds of groups connect them, the error names the two and the remedy."""
    with pytest.raises(EdgeDuplicationError, match=r"'\w' and '\w' are connected twice; remove one connection\."):
        graph_of("a b c", *groups)


def test_an_edge_that_can_deliver_nothing_is_refused() -> None:
    """The error names what is sent, what is taken, and both places to correct."""
    source, target = Texts("words"), Numbers("sum")
    builder = WorkflowBuilder(start_executor=source).add_edge(source, target)
    with pytest.raises(TypeCompatibilityError, match=r"'words' sends nothing, but 'sum' takes int\. Correct"):
        builder.build()
    start, one, two = Step("start"), Both("one"), Both("two")
    builder = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, [one, two])
    builder.add_fan_in_edges([one, two], target)
    with pytest.raises(TypeCompatibilityError, match=r"'one' sends list\[str\], list\[int\], but 'sum' takes int"):
        builder.build()


def test_a_source_that_declares_nothing_is_not_judged() -> None:
    """One bare context among its handlers is enough, also that of a response handler."""

    class Asking(Texts):
        @responding
        async def hear(self, request: str, answer: str, ctx: WorkflowContext) -> None: ...

    for source in (Bare("source"), Asking("source")):
        WorkflowBuilder(start_executor=source).add_edge(source, Numbers("sum")).build()


def test_every_executor_can_be_reached() -> None:
    """Those that cannot are named, with the start and the remedy."""
    with pytest.raises(GraphConnectivityError, match=r"from the start executor 'a' to 'b', 'c'\. Add an edge"):
        graph_of("a b c", SingleEdge("b", "c"))


def test_loops_and_dead_ends_are_fine() -> None:
    """An executor may send to itself, and one that sends may lead nowhere."""
    graph_of("a b", SingleEdge("a", "a", always), SingleEdge("a", "b"))


def test_outputs_come_from_executors_that_are_there_and_can_yield() -> None:
    """Each of the three mistakes in a designation is named with its parameter and executor."""

    class Quiet(Executor):
        @handler
        async def go(self, value: Any, ctx: WorkflowContext[Never]) -> None: ...

    def build(start: Executor, output: Any, intermediate: Any = None) -> None:
        WorkflowBuilder(start_executor=start, output_from=output, intermediate_output_from=intermediate).build()

    with pytest.raises(WorkflowValidationError, match="output_from names 'other', which is not part of the workflow"):
        build(Texts("start"), ["other"])
    with pytest.raises(WorkflowValidationError, match=r"output_from names 'start', which never yields: annotate"):
        build(Quiet("start"), ["start"])
    with pytest.raises(WorkflowValidationError, match="'start' stands in output_from and in intermediate_output_from"):
        build(Texts("start"), ["start"], ["start"])


# --- What is warned of -------------------------------------------------------------------------------------------


def told(build: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        build()
    assert {warning.category for warning in caught} <= {WorkflowWarning}
    return [str(warning.message) for warning in caught]


def test_a_declared_type_that_no_edge_delivers_is_told() -> None:
    """The warning names source, type and what the targets take, and shows the line that builds the workflow."""
    source = Both("source")
    builder = WorkflowBuilder(start_executor=source)
    builder.add_edge(source, Texts("one"), always).add_switch_case_edge_group(
        source, [Case(always, Texts("two")), Default(Texts("three"))]
    )
    with pytest.warns(WorkflowWarning) as caught:
        builder.build()
    (warning,) = caught
    assert str(warning.message) == (
        "'source' declares to send int, which no edge delivers: 'one' takes str; 'two' takes str; 'three' takes str. "
        "Add an edge to one that takes it, or leave it out of what 'source' declares to send."
    )
    assert warning.filename == __file__
    assert "builder.build()" in Path(__file__).read_text().splitlines()[warning.lineno - 1]


@pytest.mark.parametrize(
    ("source", "targets"),
    [
        (Both("source"), []),
        (Both("source"), [Texts("texts"), Numbers("numbers")]),
        (Both("source"), [Texts("texts"), Step("anything")]),
        (Step("source"), [Texts("texts")]),
        (Bare("source"), [Texts("texts")]),
    ],
    ids=["no edges", "one edge each", "one that takes all", "any type", "nothing declared"],
)
def test_what_may_be_delivered_is_not_warned_of(source: Executor, targets: list[Executor]) -> None:
    """A dead end, a type that one of several edges delivers, an open declaration, a type that is only yielded."""
    builder = WorkflowBuilder(start_executor=source)
    for target in targets:
        builder.add_edge(source, target)
    assert told(builder.build) == []


def test_a_fan_in_delivers_lists() -> None:
    """A target that takes lists of one of the types delivers that one only."""
    start, one, two = Step("start"), Both("one"), Both("two")
    builder = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, [one, two])
    builder.add_fan_in_edges([one, two], ListsOfNumbers("sum"))
    assert [text.partition(":")[0] for text in told(builder.build)] == [
        "'one' declares to send str, which no edge delivers",
        "'two' declares to send str, which no edge delivers",
    ]


# --- Switches and fan-outs ---------------------------------------------------------------------------------------


def answering(name: str) -> Executor:
    @executor(id=name)
    async def take(text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(name)

    return take


def switching(*branches: Any) -> Workflow:
    @executor
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    return WorkflowBuilder(start_executor=start).add_switch_case_edge_group(start, branches).build()


async def test_a_default_is_asked_last_wherever_it_stands() -> None:
    """A case after the default still gets its messages."""
    workflow = switching(Default(answering("default")), Case(lambda text: text == "x", answering("case")))
    assert (await workflow.run("x")).get_outputs() == ["case"]
    assert (await workflow.run("y")).get_outputs() == ["default"]


async def test_several_branches_of_a_switch_may_lead_to_one_executor() -> None:
    """It gets the message once, whichever of them holds."""
    shared = answering("shared")
    branches = [Case(lambda t: t == "x", shared), Case(lambda t: True, shared), Default(shared)]
    workflow = switching(*branches)
    (group,) = workflow.graph.groups
    assert group.targets == ("shared",)
    for text in ("x", "y"):
        assert (await workflow.run(text)).get_outputs() == ["shared"]


# --- Ids of groups -----------------------------------------------------------------------------------------------


def test_ids_of_groups_are_readable() -> None:
    """They are made of the ids of the executors, spaces, hyphens and letters of any language as they are."""
    groups = [
        SingleEdge("a", "b-c"),
        FanOut("a", ("b", "Ü 1")),
        FanOut("a", ("b", "c"), first),
        Switch("a", ((always, "b"),), "c"),
        FanIn(("a", "b"), "c"),
    ]
    assert [group.id for group in groups] == ["a->b-c", "a->(b,Ü 1)", "a->(b,c)", "a->?(b,c)", "(a,b)->c"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (FanIn(("a,b", "c"), "d"), FanIn(("a", "b,c"), "d")),
        (FanIn(("a", "b"), "c"), SingleEdge("(a,b)", "c")),
        (SingleEdge("a->b", "c"), SingleEdge("a", "b->c")),
        (SingleEdge("a-", ">b"), SingleEdge("a", "->b")),
        (SingleEdge("a", "(b,c)"), FanOut("a", ("b", "c"))),
        (SingleEdge("a", "?(b,c)"), Switch("a", ((always, "b"),), "c")),
        (SingleEdge("a", "%2Cb"), SingleEdge("a", ",b")),
    ],
)
def test_different_groups_have_different_ids(one: EdgeGroup, other: EdgeGroup) -> None:
    """Marks of a group's id within an executor's id are written so that no two groups look the same."""
    assert one.id != other.id
    for group in (one, other):
        assert "/" not in group.id
        assert split_join_key(join_key(group.id, "ab", 3)) == (group.id, "ab")


async def test_joins_of_oddly_named_executors_are_kept_apart() -> None:
    """Two joins whose ids would be equal if they were just put together each get their own messages."""

    @executor
    async def start(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    def passing(name: str) -> Executor:
        @executor(id=name)
        async def go(text: str, ctx: WorkflowContext[str]) -> None:
            await ctx.send_message(name)

        return go

    @executor
    async def join(texts: list[str], ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(" + ".join(texts))

    parts = {name: passing(name) for name in ("a,b", "c", "a", "b,c")}
    builder = WorkflowBuilder(start_executor=start).add_fan_out_edges(start, list(parts.values()))
    builder.add_fan_in_edges([parts["a,b"], parts["c"]], join).add_fan_in_edges([parts["a"], parts["b,c"]], join)
    assert (await builder.build().run("x")).get_outputs() == ["a,b + c", "a + b,c"]


# --- The signature -----------------------------------------------------------------------------------------------


def signed(*groups: EdgeGroup, names: str = "a b c", kind: type[Executor] = Step, start: str = "a") -> str:
    executors = {name: kind(name) for name in names.split()}
    return Graph.of(start, executors, groups).signature("flow", None)


CHAIN = (SingleEdge("a", "b"), SingleEdge("b", "c"))
CHOICE = (SingleEdge("a", "b"), SingleEdge("b", "c", always))


def moved(cls: type[Executor], module: str) -> type[Executor]:
    """The class as it would be if its file had another name."""
    body = {**vars(cls), "__module__": module, "__qualname__": f"somewhere.<locals>.{cls.__name__}"}
    return type(cls.__name__, cls.__bases__, {key: value for key, value in body.items() if key != "__dict__"})


SAME = {
    "the same again": (signed(*CHAIN), signed(*CHAIN)),
    "a class of a script": (signed(*CHAIN), signed(*CHAIN, kind=moved(Step, "__main__"))),
    "a module of another name": (signed(*CHAIN), signed(*CHAIN, kind=moved(Step, "renamed.steps"))),
    "edges in another order": (signed(*CHAIN), signed(*reversed(CHAIN))),
    "executors in another order": (signed(*CHAIN), signed(*CHAIN, names="c a b")),
    "targets in another order": (signed(FanOut("a", ("b", "c"))), signed(FanOut("a", ("c", "b")))),
    "another lambda": (
        signed(SingleEdge("a", "b"), SingleEdge("b", "c", lambda value: value > 1)),
        signed(SingleEdge("a", "b"), SingleEdge("b", "c", lambda value: value > 2)),
    ),
    "a lambda made a function": (signed(*CHOICE), signed(CHOICE[0], SingleEdge("b", "c", lambda value: True))),
    "another function with the label": (
        signed(CHOICE[0], SingleEdge("b", "c", always, "open")),
        signed(CHOICE[0], SingleEdge("b", "c", never, "open")),
    ),
    "a label where nothing decides": (signed(*CHAIN), signed(CHAIN[0], SingleEdge("b", "c", label="then"))),
    "other functions in a switch": (
        signed(Switch("a", ((always, "b"), (never, "c")), "c")),
        signed(Switch("a", ((lambda value: 1, "b"), (always, "c")), "c")),
    ),
    "another selection": (
        signed(FanOut("a", ("b", "c"), first)),
        signed(FanOut("a", ("b", "c"), lambda value, ids: ids)),
    ),
}

DIFFERENT = {
    "one executor more": (signed(*CHAIN), signed(*CHAIN, SingleEdge("c", "d"), names="a b c d")),
    "one edge more": (signed(*CHAIN), signed(*CHAIN, SingleEdge("a", "c"))),
    "another start": (signed(*CHAIN, SingleEdge("c", "a")), signed(*CHAIN, SingleEdge("c", "a"), start="b")),
    "another class": (signed(*CHAIN), signed(*CHAIN, kind=Bare)),
    "another id": (signed(SingleEdge("a", "b"), names="a b"), signed(SingleEdge("a", "c"), names="a c")),
    "a condition where there was none": (signed(*CHAIN), signed(*CHOICE)),
    "a selection where there was none": (
        signed(FanOut("a", ("b", "c"))),
        signed(FanOut("a", ("b", "c"), first)),
    ),
    "a fan-out instead of edges": (
        signed(SingleEdge("a", "b"), SingleEdge("a", "c")),
        signed(FanOut("a", ("b", "c"))),
    ),
    "a switch instead of a fan-out": (signed(FanOut("a", ("b", "c"))), signed(Switch("a", ((always, "b"),), "c"))),
    "a join instead of edges": (
        signed(SingleEdge("a", "b"), SingleEdge("a", "c"), SingleEdge("b", "c")),
        signed(SingleEdge("a", "b"), FanIn(("a", "b"), "c")),
    ),
    "sources of a join in another order": (
        signed(SingleEdge("a", "b"), FanIn(("a", "b"), "c")),
        signed(SingleEdge("a", "b"), FanIn(("b", "a"), "c")),
    ),
    "cases in another order": (
        signed(Switch("a", ((always, "b"), (never, "c")), "c")),
        signed(Switch("a", ((never, "c"), (always, "b")), "c")),
    ),
    "another default": (
        signed(Switch("a", ((always, "b"), (never, "c")), "c")),
        signed(Switch("a", ((always, "b"), (never, "c")), "b")),
    ),
    "another label of a condition": (
        signed(CHOICE[0], SingleEdge("b", "c", always, "open")),
        signed(CHOICE[0], SingleEdge("b", "c", always, "closed")),
    ),
    "another label of a case": (
        signed(Switch("a", ((always, "b"),), "c", ("urgent",))),
        signed(Switch("a", ((always, "b"),), "c", ("calm",))),
    ),
    "another label of a selection": (
        signed(FanOut("a", ("b", "c"), first, "by size")),
        signed(FanOut("a", ("b", "c"), first, "by age")),
    ),
}


@pytest.mark.parametrize("change", SAME)
def test_what_leaves_the_signature_as_it_is(change: str) -> None:
    """Moving, renaming and rewriting code, and another order of declarations, keep stored conversations valid."""
    before, after = SAME[change]
    assert before == after


@pytest.mark.parametrize("change", DIFFERENT)
def test_what_changes_the_signature(change: str) -> None:
    """Executors, edges, kinds of groups, the start, the order that a join or switch depends on, and labels count."""
    before, after = DIFFERENT[change]
    assert before != after


def test_a_version_stands_for_the_structure() -> None:
    """With the author's version the graph may change; another version is another graph, and can be read."""
    one, other = graph_of("a b", SingleEdge("a", "b")), graph_of("a")
    assert one.signature("flow", "7") == other.signature("flow", "7")
    assert len({one.signature("flow", "7"), one.signature("flow", "8"), one.signature("flow", None)}) == 3
    assert [version_of(one.signature("flow", version)) for version in ("7", None)] == ["7", None]


def test_the_name_of_a_workflow_counts() -> None:
    """Two workflows of the same structure are two workflows."""
    assert graph_of("a").signature("one", None) != graph_of("a").signature("other", None)


def test_the_signature_holds_that_of_nested_workflows() -> None:
    """A change at any depth changes the signature of the whole."""

    def whole(inner: Graph) -> str:
        middle = Outline(Graph.of("hold", {"hold": Holding("hold", Outline(inner, "inner"))}, []), "middle")
        return Graph.of("outer", {"outer": Holding("outer", middle)}, []).signature("flow", None)

    plain = whole(graph_of("a b", SingleEdge("a", "b")))
    assert whole(graph_of("a b", SingleEdge("a", "b"))) == plain
    assert whole(graph_of("a b", SingleEdge("a", "b", always))) != plain


def test_the_types_of_nested_workflows_are_declared() -> None:
    """What travels inside a nested workflow may be stored by the outer one."""

    class Hidden:
        pass

    class Deep(Executor):
        @handler
        async def go(self, value: Hidden, ctx: WorkflowContext[Never, bytes]) -> None: ...

    middle = Outline(Graph.of("hold", {"hold": Holding("hold", Outline(graph_of("deep", kind=Deep)))}, []))
    graph = Graph.of("outer", {"outer": Holding("outer", middle)}, [])
    assert {Hidden, bytes} <= set(graph.declared())


def test_an_attribute_named_workflow_is_an_attribute() -> None:
    """An executor that merely holds a workflow does not run it: nothing of it is drawn, described or declared."""

    class Owner(Step):
        def __init__(self, workflow: Any) -> None:
            super().__init__("a")
            self.workflow = workflow

    def of(kept: Any) -> Outline:
        return Outline(Graph.of("a", {"a": Owner(kept)}, []))

    kept, plain = of(Outline(graph_of("deep"))), of(None)
    assert kept.graph.nested() == {}
    assert workflow_to_data(kept) == workflow_to_data(plain)
    assert WorkflowViz(kept).to_mermaid() == WorkflowViz(plain).to_mermaid()
