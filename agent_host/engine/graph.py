"""The immutable graph of a workflow: executors, edge groups, and what is checked when it is built."""

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_host.engine import annotations
from agent_host.engine.executor import Executor
from agent_host.errors import (
    EdgeDuplicationError,
    GraphConnectivityError,
    TypeCompatibilityError,
    WorkflowValidationError,
)

Condition = Callable[[Any], "bool | Awaitable[bool]"]
Selection = Callable[[Any, list[str]], "list[str] | Awaitable[list[str]]"]


class Branch:
    """One way out of a switch: a `Case` or the `Default`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Case(Branch):
    """One branch of a switch: taken if `condition(message)` holds and no earlier case did."""

    condition: Condition
    target: Any


@dataclass(frozen=True, slots=True)
class Default(Branch):
    """The branch of a switch that is taken when no case holds."""

    target: Any


@dataclass(frozen=True, slots=True)
class SingleEdge:
    """One source, one target, perhaps a condition."""

    source: str
    target: str
    condition: Condition | None = None

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.source}->{self.target}")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)


@dataclass(frozen=True, slots=True)
class FanOut:
    """One source, several targets: all of them, or those that `selection(message, target ids)` names."""

    source: str
    targets: tuple[str, ...]
    selection: Selection | None = None

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.source}->({','.join(self.targets)})")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)


@dataclass(frozen=True, slots=True)
class Switch:
    """One source; the first case whose condition holds names the target, else the default."""

    source: str
    cases: tuple[tuple[Condition, str], ...]
    default: str

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.source}->?({','.join(self.targets)})")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(target for _, target in self.cases), self.default)))


@dataclass(frozen=True, slots=True)
class FanIn:
    """Several sources; the target receives a list once each of them has sent something."""

    sources: tuple[str, ...]
    target: str

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"({','.join(self.sources)})->{self.target}")

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)


EdgeGroup = SingleEdge | FanOut | Switch | FanIn


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
        graph._refuse_duplicates()
        graph._refuse_unreachable()
        graph._refuse_mismatches()
        graph._refuse_ambiguous_handlers()
        return graph

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every connection, one source and one target at a time."""
        for group in self.groups:
            for source in group.sources:
                for target in group.targets:
                    yield source, target

    def declared(self) -> list[Any]:
        """Every annotation of every handler: the types that may travel and be stored."""
        return [hint for executor in self.executors.values() for hint in executor.handler_table.declared]

    def signature(self, name: str, version: str | None) -> str:
        """A hash of the structure, or of `version` if the author gives one.

        Classes count by their name without module, so that a script and its import are the same graph.
        """
        described: Any = version or {
            "start": self.start,
            "executors": {key: type(executor).__name__ for key, executor in sorted(self.executors.items())},
            "groups": sorted(f"{type(group).__name__} {group.id}" for group in self.groups),
        }
        return hashlib.sha256(json.dumps([name, described], sort_keys=True).encode()).hexdigest()[:32]

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
        handled: list[Any] = self.executors[target].input_types
        if any(h.sends is None for h in self.executors[source].handler_table.handlers) or not handled:
            return
        if isinstance(group, FanIn):
            sent = [list[kind] for kind in sent]  # type: ignore[valid-type]  # made at run time
        if not any(annotations.may_deliver(kind, taken) for kind in sent for taken in handled):
            names = ", ".join(map(annotations.name, sent)) or "nothing"
            takes = ", ".join(map(annotations.name, handled))
            raise TypeCompatibilityError(
                f"{source!r} sends {names}, but {target!r} takes {takes}. "
                f"Correct the annotation WorkflowContext[...] of {source!r} or the handler of {target!r}."
            )

    def _refuse_ambiguous_handlers(self) -> None:
        classes = {cls for hint in self.declared() for cls in annotations.classes_in(hint)}
        for executor in self.executors.values():
            executor.handler_table.refuse_ambiguous(sorted(classes, key=lambda cls: cls.__qualname__))
            if not executor.handler_table.handlers:
                raise WorkflowValidationError(f"Executor {executor.id!r} has no @handler; nothing could reach it.")
