"""The data form of a workflow: what it holds, and what comes back from it."""

import json
from collections.abc import Sequence
from typing import Any, Never

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch
from agent_host.engine.graph.graph import Graph
from agent_host.engine.graph.graph_data import groups_from_data, options_from_data, workflow_to_data
from agent_host.errors import WorkflowValidationError
from tests.engine.outlines import Holding, Outline, Step


class Both(Executor):
    """Sends texts and numbers."""

    @handler
    async def go(self, text: str, ctx: WorkflowContext[str | int, float]) -> None: ...


class Texts(Executor):
    @handler
    async def go(self, text: str, ctx: WorkflowContext[Never, str]) -> None: ...


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


def graph_of(names: str, *groups: EdgeGroup) -> Graph:
    """A graph of one executor per word; the first is the start."""
    executors = [Step(name) for name in names.split()]
    return Graph.of(executors[0].id, {made.id: made for made in executors}, groups)


GROUPS: Sequence[EdgeGroup] = (
    SingleEdge("a", "b"),
    SingleEdge("a", "c", always),
    SingleEdge("a", "a", lambda value: False),
    FanOut("b", ("d", "e")),
    FanOut("c", ("d", "e"), first, label="who"),
    Switch("d", ((never, "a"), (lambda value: True, "b"), (always, "a")), "c", (None, None, "open")),
    FanIn(("d", "e"), "f"),
)
FUNCTIONS = {"always": always, "a->a": never, "who": first, "never": never, "d->?(a,b,c)#2": always, "open": always}


def test_the_data_form_is_plain_json() -> None:
    """Executors with their types, edge groups with the names of what decides, and the nested workflow whole."""
    inner = Outline(graph_of("deep"), "inner")
    graph = Graph.of("a", {"a": Both("a"), "b": Holding("b", inner)}, [SingleEdge("a", "b", always, "open")])
    data = workflow_to_data(Outline(graph))
    assert json.loads(json.dumps(data)) == data
    anything = {"input_types": ["Any"], "output_types": ["Any"], "workflow_output_types": ["str"], "yields": "output"}
    assert data == {
        "name": "outline",
        "max_iterations": 100,
        "start": "a",
        "executors": {
            "a": {
                "type": "Both",
                "input_types": ["str"],
                "output_types": ["str", "int"],
                "workflow_output_types": ["float"],
                "yields": "output",
            },
            "b": {
                "type": "Holding",
                **anything,
                "workflow": {
                    "name": "inner",
                    "max_iterations": 100,
                    "start": "deep",
                    "executors": {"deep": {"type": "Step", **anything}},
                    "edge_groups": [],
                },
            },
        },
        "edge_groups": [
            {"kind": "edge", "id": "a->b", "source": "a", "target": "b", "condition": "open", "label": "open"}
        ],
    }


def test_edge_groups_come_back_from_their_data() -> None:
    """Every kind of group, through JSON, with the functions given by the names that the data uses."""
    graph = graph_of("a b c d e f", *GROUPS)
    data = json.loads(json.dumps(workflow_to_data(Outline(graph))))
    named = {group[key] for group in data["edge_groups"] for key in ("condition", "selection") if key in group}
    named |= {case["condition"] for group in data["edge_groups"] for case in group.get("cases", ())}
    assert named == set(FUNCTIONS)
    groups = groups_from_data(data["edge_groups"], FUNCTIONS)
    again = Graph.of(data["start"], graph.executors, groups)
    assert again.signature("flow", None) == graph.signature("flow", None)
    assert [group.id for group in again.groups] == [group.id for group in graph.groups]
    chosen = again.groups[4]
    assert isinstance(chosen, FanOut)
    assert chosen.selection is first
    switch = again.groups[5]
    assert isinstance(switch, Switch)
    assert [condition for condition, _ in switch.cases] == [never, always, always]


def designated(executors: dict[str, Executor], **outputs: Any) -> Workflow:
    start, *rest = executors.values()
    builder = WorkflowBuilder(start_executor=start, name="flow", max_iterations=7, **outputs)
    for target in rest:
        builder.add_edge(start, target)
    return builder.build()


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"output_from": "all"},
        {"output_from": ["texts"]},
        {"intermediate_output_from": ["texts"]},
        {"output_from": ["texts"], "intermediate_output_from": "all_other"},
    ],
    ids=str,
)
def test_the_options_of_a_builder_come_back_from_data(outputs: dict[str, Any]) -> None:
    """Name, limit, and which executors answer and comment; one that never yields is in no list."""

    class Quiet(Executor):
        @handler
        async def go(self, value: Any, ctx: WorkflowContext[Any]) -> None: ...

    executors = {made.id: made for made in (Quiet("quiet"), Texts("texts"), Bare("bare"))}
    data = workflow_to_data(designated(executors, **outputs))
    options = options_from_data(data)
    assert (options.pop("name"), options.pop("max_iterations")) == ("flow", 7)
    again = designated(executors, **options)
    assert workflow_to_data(again) == data
    assert {executor["yields"] for executor in data["executors"].values()} == {
        "{}": {None, "output"},
        "{'output_from': 'all'}": {None, "output"},
        "{'output_from': ['texts']}": {None, "output"},
        "{'intermediate_output_from': ['texts']}": {None, "intermediate"},
    }.get(str(outputs), {None, "output", "intermediate"})


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"kind": "edge", "id": "a->b", "source": "a", "target": "b", "condition": "f"},
         "'a->b' needs the function 'f'; given were: 'always'"),
        ({"kind": "web", "id": "x"}, "'x' has the kind 'web'; there are edge, fan_out, selection, switch and fan_in"),
        ({"kind": "edge", "id": "x", "source": "a"}, "'x' lacks 'target'"),
        ({"id": "x"}, "'x' lacks 'kind'"),
    ],
)  # fmt: skip
def test_data_that_describes_no_edge_group_is_refused(group: dict[str, Any], message: str) -> None:
    """The error names the group and what it lacks."""
    with pytest.raises(WorkflowValidationError, match=message):
        groups_from_data([group], {"always": always})


def test_the_json_of_a_workflow_is_its_data_form() -> None:
    """`to_json` gives as text what `to_dict` gives as data, whatever the alphabet."""
    workflow = WorkflowBuilder(start_executor=Step("größe"), name="maße").build()
    assert json.loads(workflow.to_json()) == workflow.to_dict()
    assert "größe" in workflow.to_json()


def test_a_workflow_tells_whose_yields_are_what() -> None:
    """Terminal executors yield the answer, intermediate ones comments on the way, the others nothing that is seen."""
    steps = [Step("a"), Step("b"), Step("c")]
    builder = WorkflowBuilder(start_executor=steps[0], output_from=[steps[2]], intermediate_output_from=[steps[0]])
    workflow = builder.add_chain(steps).build()
    assert [workflow.is_terminal_executor(name) for name in "abc"] == [False, False, True]
    assert [workflow.is_intermediate_executor(name) for name in "abc"] == [True, False, False]
    plain = WorkflowBuilder(start_executor=steps[0]).build()
    assert (plain.is_terminal_executor("a"), plain.is_intermediate_executor("a")) == (True, False)
