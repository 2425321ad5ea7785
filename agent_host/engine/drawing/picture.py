"""What a drawing of a workflow shows, whatever its format: nodes, arrows, and pictures inside nodes.

Ids are made here (`n1`, `n2_1` inside `n2`) and are safe in every format; texts are what people have written, without
characters that no file can hold.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent_host.engine.executors.executor import Executor, FunctionExecutor
from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch, shown_name
from agent_host.engine.graph.graph import WorkflowOutline

Shape = Literal["executor", "fan-in", "selection"]

# Control characters, halves of surrogate pairs, and code points that are no characters: XML and UTF-8 have no room.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True, slots=True)
class Node:
    """An executor, or a point where messages are joined (`fan-in`) or chosen (`selection`).

    `title` is the executor's id, or what the point does; `detail` its class, empty for points. `inside` is the picture
    of the workflow that the executor runs.
    """

    id: str
    title: str
    detail: str = ""
    shape: Shape = "executor"
    is_start: bool = False
    is_output: bool = False
    inside: "Picture | None" = None

    @property
    def caption(self) -> str:
        """What stands below an executor's title: its class, start or output."""
        return ", ".join(word for word in (self.detail, *self.marks) if word)

    @property
    def marks(self) -> tuple[str, ...]:
        """The words that tell the part of this node in the whole."""
        return tuple(word for word, holds in (("start", self.is_start), ("output", self.is_output)) if holds)


@dataclass(frozen=True, slots=True)
class Arrow:
    """A way from one node to another. `is_certain` unless a condition, a case or a selection decides."""

    source: str
    target: str
    label: str = ""
    is_certain: bool = True


@dataclass(frozen=True, slots=True)
class Picture:
    """The drawing of one workflow, in the order of declaration; the start is the first node."""

    title: str
    nodes: tuple[Node, ...]
    arrows: tuple[Arrow, ...]


def picture_of(workflow: WorkflowOutline, prefix: str = "n") -> Picture:
    """Look at a workflow. `prefix` stands before the number of every node."""
    graph = workflow.graph
    order = sorted(graph.executors, key=lambda key: key != graph.start)
    ids = {key: f"{prefix}{number}" for number, key in enumerate(order, 1)}
    nodes = [_node(workflow, key, ids[key]) for key in order]
    arrows: list[Arrow] = []
    for group in graph.groups:
        point = _point(group, f"{prefix}{len(nodes) + 1}")
        if point is not None:
            nodes.append(point)
        arrows += _arrows(group, ids, "" if point is None else point.id)
    return Picture(writable(workflow.name), tuple(nodes), tuple(arrows))


def writable(text: str) -> str:
    """One line of text that every format can hold."""
    return _UNWRITABLE.sub("\ufffd", re.sub(r"\s+", " ", text)).strip()


def _node(workflow: WorkflowOutline, key: str, node_id: str) -> Node:
    executor = workflow.graph.executors[key]
    inner = executor.nested_workflow
    return Node(
        node_id,
        writable(key) or "?",
        "function" if isinstance(executor, FunctionExecutor) else writable(type(executor).__name__),
        is_start=key == workflow.graph.start,
        is_output=workflow.outputs.kind(key) == "output" and _may_yield(workflow, executor),
        inside=None if inner is None else picture_of(inner, f"{node_id}_"),
    )


def _may_yield(workflow: WorkflowOutline, executor: Executor) -> bool:
    """Whether an executor declares to yield; one that declares nothing counts if the author has named it."""
    named = workflow.outputs.output is not None
    return bool(executor.workflow_output_types) or (
        named and any(handler.yields is None for handler in executor._all_handlers())
    )


def _point(group: EdgeGroup, node_id: str) -> Node | None:
    match group:
        case FanIn():
            return Node(node_id, "fan-in", shape="fan-in")
        case FanOut(selection=chosen) if chosen is not None:
            return Node(node_id, writable(shown_name(chosen, group.label) or "selection"), shape="selection")
        case _:
            return None


def _arrows(group: EdgeGroup, ids: dict[str, str], point: str) -> Iterator[Arrow]:
    """The arrows of a group; `point` is the node where its messages are joined or chosen, if it has one."""
    match group:
        case SingleEdge():
            label = group.label or ""
            if group.condition is not None:
                label = shown_name(group.condition, group.label) or "condition"
            yield Arrow(ids[group.source], ids[group.target], writable(label), group.condition is None)
        case Switch():
            for target, label in _case_labels(group).items():
                yield Arrow(ids[group.source], ids[target], label, is_certain=False)
        case FanOut() if not point:
            for target in group.targets:
                yield Arrow(ids[group.source], ids[target], writable(group.label or ""))
        case FanOut():
            yield Arrow(ids[group.source], point)
            for target in group.targets:
                yield Arrow(point, ids[target], is_certain=False)
        case FanIn():
            for source in group.sources:
                yield Arrow(ids[source], point)
            yield Arrow(point, ids[group.target])


def _case_labels(group: Switch) -> dict[str, str]:
    """What leads to each target: its cases, in the order in which they are asked, and the default."""
    found: dict[str, list[str]] = {}
    for number, ((condition, target), label) in enumerate(zip(group.cases, group.labels, strict=True), 1):
        found.setdefault(target, []).append(shown_name(condition, label) or f"case {number}")
    found.setdefault(group.default, []).append("default")
    return {target: writable(", ".join(labels)) for target, labels in found.items()}
