"""The data form of a workflow: plain JSON for tools, and the way back from data and the functions it names.

    {"name": ..., "max_iterations": ..., "start": "desk",
     "executors": {"desk": {"type": "Desk", "input_types": ["str"], "output_types": ["Ticket"],
                            "workflow_output_types": [], "yields": "output" | "intermediate" | null}},
     "edge_groups": [{"kind": "edge", "id": "desk->ask", "source": "desk", "target": "ask"}]}

An executor with a nested workflow has that one's data under "workflow". Every kind of edge group has its keys:

    edge       source, target, condition, label
    fan_out    source, targets
    selection  source, targets, selection, label
    switch     source, cases (each with condition, target, label), default
    fan_in     sources, target

`condition` and `selection` are names: the label, else the function's name, else, for a lambda, the group's id (and
`#n` for the n-th case of a switch). One name stands for one function.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent_host.engine import annotations
from agent_host.engine.executors.executor import Executor
from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch, shown_name
from agent_host.engine.graph.graph import WorkflowOutline
from agent_host.errors import WorkflowValidationError


def workflow_to_data(workflow: WorkflowOutline) -> dict[str, Any]:
    """Everything that can be seen of a workflow; executors and edge groups in the order of their declaration."""
    return {
        "name": workflow.name,
        "max_iterations": workflow.max_iterations,
        "start": workflow.graph.start,
        "executors": {key: _executor_to_data(workflow, key) for key in workflow.graph.executors},
        "edge_groups": [_group_to_data(group) for group in workflow.graph.groups],
    }


def _executor_to_data(workflow: WorkflowOutline, key: str) -> dict[str, Any]:
    executor = workflow.graph.executors[key]
    data: dict[str, Any] = {
        "type": type(executor).__name__,
        "input_types": list(map(annotations.name, executor.input_types)),
        "output_types": list(map(annotations.name, executor.output_types)),
        "workflow_output_types": list(map(annotations.name, executor.workflow_output_types)),
        "yields": workflow.outputs.kind(key) if _may_yield(executor) else None,
    }
    if executor.nested_workflow is not None:
        data["workflow"] = workflow_to_data(executor.nested_workflow)
    return data


def _may_yield(executor: Executor) -> bool:
    """Whether an executor declares to yield, or leaves it open."""
    return any(h.yields is None or annotations.members(h.yields) for h in executor._all_handlers())


def _group_to_data(group: EdgeGroup) -> dict[str, Any]:
    data: dict[str, Any] = {"kind": group.kind, "id": group.id}
    match group:
        case SingleEdge():
            data |= {"source": group.source, "target": group.target}
            if group.condition is not None:
                data["condition"] = shown_name(group.condition, group.label) or group.id
            if group.label:
                data["label"] = group.label
        case FanOut():
            data |= {"source": group.source, "targets": list(group.targets)}
            if group.selection is not None:
                data["selection"] = shown_name(group.selection, group.label) or group.id
            if group.label:
                data["label"] = group.label
        case Switch():
            data |= {"source": group.source, "cases": _cases_to_data(group), "default": group.default}
        case FanIn():
            data |= {"sources": list(group.sources), "target": group.target}
    return data


def _cases_to_data(group: Switch) -> list[dict[str, Any]]:
    cases = []
    for number, ((condition, target), label) in enumerate(zip(group.cases, group.labels, strict=True), 1):
        name = shown_name(condition, label) or f"{group.id}#{number}"
        cases.append({"condition": name, "target": target, **({"label": label} if label else {})})
    return cases


def options_from_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `WorkflowBuilder` that the data holds: name, limit, and whose yields are what."""
    yields = {key: executor["yields"] for key, executor in data["executors"].items()}
    return {
        "name": data["name"],
        "max_iterations": data["max_iterations"],
        "output_from": [key for key, kind in yields.items() if kind == "output"] or None,
        "intermediate_output_from": [key for key, kind in yields.items() if kind == "intermediate"] or None,
    }


def groups_from_data(
    data: Iterable[Mapping[str, Any]], functions: Mapping[str, Callable[..., Any]]
) -> tuple[EdgeGroup, ...]:
    """The edge groups that the data describes, with the conditions and selections that it names.

    Raises `WorkflowValidationError` naming the edge group and what it lacks. Whether the groups make sense is checked
    with the graph they become part of.
    """
    return tuple(_group_from_data(group, functions) for group in data)


def _group_from_data(group: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> EdgeGroup:
    def function(name: str) -> Any:
        if name not in functions:
            raise WorkflowValidationError(
                f"The edge group {_called(group)} needs the function {name!r}; given were: "
                f"{', '.join(map(repr, sorted(functions))) or 'none'}."
            )
        return functions[name]

    try:
        match group["kind"]:
            case "edge":
                condition = function(group["condition"]) if group.get("condition") is not None else None
                return SingleEdge(group["source"], group["target"], condition, group.get("label"))
            case "fan_out":
                return FanOut(group["source"], tuple(group["targets"]), label=group.get("label"))
            case "selection":
                chosen = function(group["selection"])
                return FanOut(group["source"], tuple(group["targets"]), chosen, group.get("label"))
            case "switch":
                cases = tuple((function(case["condition"]), case["target"]) for case in group["cases"])
                labels = tuple(case.get("label") for case in group["cases"])
                return Switch(group["source"], cases, group["default"], labels)
            case "fan_in":
                return FanIn(tuple(group["sources"]), group["target"])
            case kind:
                raise WorkflowValidationError(
                    f"The edge group {_called(group)} has the kind {kind!r}; there are edge, fan_out, selection, "
                    "switch and fan_in."
                )
    except KeyError as error:
        raise WorkflowValidationError(f"The edge group {_called(group)} lacks {error.args[0]!r}.") from None


def _called(group: Mapping[str, Any]) -> str:
    return repr(group.get("id") or dict(group))
