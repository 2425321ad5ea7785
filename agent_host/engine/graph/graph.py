"""The immutable graph of a workflow: executors, edge groups, and what is checked when it is built."""

import hashlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent_host.engine import annotations
from agent_host.engine.executors.executor import Executor
from agent_host.engine.graph.edges import EdgeGroup, FanIn
from agent_host.engine.migration.graph_policy import signature_of
from agent_host.errors import (
    EdgeDuplicationError,
    GraphConnectivityError,
    TypeCompatibilityError,
    WorkflowValidationError,
)

if TYPE_CHECKING:
    from agent_host.engine.definition import OutputDesignation

_PACKAGE = __name__.partition(".")[0]


class WorkflowWarning(UserWarning):
    """The graph can run, but something in it is probably not what its author means."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Executors by id and the edges between them."""

    start: str
    executors: Mapping[str, Executor]
    groups: tuple[EdgeGroup, ...]
    leaving: Mapping[str, tuple[EdgeGroup, ...]]

    @classmethod
    def of(cls, start: str, executors: Mapping[str, Executor], groups: Sequence[EdgeGroup]) -> "Graph":
        """Make the graph and check it. Raises a `WorkflowValidationError` that names what is wrong."""
        leaving = {name: tuple(group for group in groups if name in group.sources) for name in executors}
        graph = cls(start, dict(executors), tuple(groups), leaving)
        graph._refuse_unknown()
        graph._refuse_duplicates()
        graph._refuse_unreachable()
        graph._refuse_mismatches()
        graph._refuse_ambiguous_handlers()
        for text in graph._undeliverable():
            warnings.warn(text, WorkflowWarning, stacklevel=_frames_of_the_package())
        return graph

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every connection, one source and one target at a time."""
        for group in self.groups:
            for source in group.sources:
                for target in group.targets:
                    yield source, target

    def nested(self) -> "dict[str, WorkflowOutline]":
        """The workflows that executors run inside themselves, by the executor's id."""
        found = {key: executor.nested_workflow for key, executor in self.executors.items()}
        return {key: workflow for key, workflow in found.items() if workflow is not None}

    def declared(self) -> list[Any]:
        """Every annotation of every handler, of nested workflows too: the types that may travel and be stored."""
        inner = [hint for workflow in self.nested().values() for hint in workflow.graph.declared()]
        return self._own_declared() + inner

    def signature(self, name: str, version: str | None) -> str:
        """A hash of the structure, or `version` in its stead if the author gives one.

        Structure is the start, every executor's id and class name without module, and every edge group whatever the
        order of their declaration; conditions and selections count by their labels alone. So a script and its import
        are the same graph, and so are a program and its next version with a changed lambda.
        """
        if version:
            return signature_of(version)
        inner = {key: workflow.signature for key, workflow in sorted(self.nested().items())}
        described: dict[str, Any] = {
            "start": self.start,
            "executors": {key: type(executor).__name__ for key, executor in sorted(self.executors.items())},
            "groups": sorted(json.dumps(group.structure) for group in self.groups),
            **({"nested": inner} if inner else {}),
        }
        return hashlib.sha256(json.dumps([name, described], sort_keys=True).encode()).hexdigest()[:32]

    def _own_declared(self) -> list[Any]:
        return [hint for executor in self.executors.values() for hint in executor.handler_table.declared]

    def _refuse_unknown(self) -> None:
        if self.start not in self.executors:
            raise GraphConnectivityError(
                f"The start executor {self.start!r} is not part of the workflow, which has "
                f"{', '.join(map(repr, sorted(self.executors))) or 'no executors'}."
            )
        for group in self.groups:
            for name in (*group.sources, *group.targets):
                if name not in self.executors:
                    raise WorkflowValidationError(
                        f"The edge {group.id!r} names {name!r}, which is not part of the workflow; add the executor or "
                        "remove the edge."
                    )

    def _refuse_duplicates(self) -> None:
        seen: set[tuple[str, str]] = set()
        for pair in self.pairs():
            if pair in seen:
                raise EdgeDuplicationError(f"{pair[0]!r} and {pair[1]!r} are connected twice; remove one connection.")
            seen.add(pair)

    def _refuse_unreachable(self) -> None:
        reached, waiting = {self.start}, [self.start]
        while waiting:
            for group in self.leaving[waiting.pop()]:
                new = set(group.targets) - reached
                reached |= new
                waiting.extend(new)
        lost = sorted(set(self.executors) - reached)
        if lost:
            raise GraphConnectivityError(
                f"No path leads from the start executor {self.start!r} to {', '.join(map(repr, lost))}. "
                "Add an edge or remove the executor."
            )

    def _refuse_mismatches(self) -> None:
        for group in self.groups:
            for source in group.sources:
                for target in group.targets:
                    self._refuse_mismatch(group, source, target)

    def _refuse_mismatch(self, group: EdgeGroup, source: str, target: str) -> None:
        sent = self.executors[source].output_types
        handled: list[Any] = list(self.executors[target].handler_table.input_types)
        if any(h.sends is None for h in self.executors[source]._all_handlers()) or not handled:
            return
        if not any(_delivers(group, kind, handled) for kind in sent):
            names = _names([_arriving(group, kind) for kind in sent]) or "nothing"
            takes = _names(handled)
            raise TypeCompatibilityError(
                f"{source!r} sends {names}, but {target!r} takes {takes}. "
                f"Correct the annotation WorkflowContext[...] of {source!r} or the handler of {target!r}."
            )

    def _refuse_ambiguous_handlers(self) -> None:
        classes = {cls for hint in self._own_declared() for cls in annotations.classes_in(hint)}
        for executor in self.executors.values():
            executor.handler_table.refuse_ambiguous(sorted(classes, key=lambda cls: cls.__qualname__))
            if not executor.handler_table.handlers:
                raise WorkflowValidationError(f"Executor {executor.id!r} has no @handler; nothing could reach it.")

    def _undeliverable(self) -> Iterator[str]:
        """A sentence for every declared type that its source could send to nobody."""
        for source, groups in self.leaving.items():
            ways = [
                (group, self.executors[target].handler_table.input_types)
                for group in groups
                for target in group.targets
            ]
            for kind in self.executors[source].output_types if ways else ():
                if not any(_delivers(group, kind, handled) for group, handled in ways):
                    targets = dict.fromkeys(target for group in groups for target in group.targets)
                    takes = "; ".join(f"{target!r} takes {self._taken_by(target)}" for target in targets)
                    yield (
                        f"{source!r} declares to send {annotations.name(kind)}, which no edge delivers: {takes}. "
                        f"Add an edge to one that takes it, or leave it out of what {source!r} declares to send."
                    )

    def _taken_by(self, executor: str) -> str:
        return _names(self.executors[executor].input_types) or "nothing"


class WorkflowOutline(Protocol):
    """What can be seen of a workflow without running it."""

    @property
    def name(self) -> str: ...
    @property
    def graph(self) -> Graph: ...
    @property
    def signature(self) -> str: ...
    @property
    def outputs(self) -> "OutputDesignation": ...
    @property
    def max_iterations(self) -> int: ...


def _arriving(group: EdgeGroup, kind: Any) -> Any:
    """What a target sees of a message of this type: a fan-in delivers lists."""
    return list[kind] if isinstance(group, FanIn) else kind


def _delivers(group: EdgeGroup, kind: Any, handled: Sequence[Any]) -> bool:
    return any(annotations.may_deliver(_arriving(group, kind), taken) for taken in handled)


def _names(hints: Sequence[Any]) -> str:
    return ", ".join(map(annotations.name, hints))


def _frames_of_the_package() -> int:
    """How far up the stack the caller's code is, as `warnings.warn` counts in the function that asks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] == _PACKAGE:
        frame, level = frame.f_back, level + 1
    return level
