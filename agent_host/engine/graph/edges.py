"""Edge groups: who may send to whom, and what decides.

Rule 1: a group's id is made of the ids of its executors and is unique in a graph: what waits in a join is stored by it.
Rule 2: what counts for the graph's signature is `structure`. Functions count by the label the author gave them, never
        by their name or place in a file, so that moving or renaming code leaves stored conversations valid.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

EdgeCondition = Callable[[Any], "bool | Awaitable[bool]"]
Selection = Callable[[Any, list[str]], "list[str] | Awaitable[list[str]]"]

_PUNCTUATION = re.compile(r"[%,()>]")


class SwitchBranch:
    """One way out of a switch: a `Case` or the `Default`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Case(SwitchBranch):
    """One branch of a switch: taken if `condition(message)` holds and no earlier case did.

    `label` names the condition in drawings and in the graph's signature.
    """

    condition: EdgeCondition
    target: Any
    label: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Default(SwitchBranch):
    """The branch of a switch that is taken when no case holds, wherever it stands among them."""

    target: Any


@dataclass(frozen=True, slots=True)
class SingleEdge:
    """One source, one target, perhaps a condition."""

    kind: ClassVar[str] = "edge"

    source: str
    target: str
    condition: EdgeCondition | None = None
    label: str | None = None

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{_part(self.source)}->{_part(self.target)}")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def structure(self) -> list[Any]:
        """Source, target, and whether a condition decides; a label counts as the name of the condition."""
        deciding = None if self.condition is None else [self.label]
        return [self.kind, self.source, self.target, deciding]


@dataclass(frozen=True, slots=True)
class FanOut:
    """One source, several targets: all of them, or those that `selection(message, target ids)` names."""

    source: str
    targets: tuple[str, ...]
    selection: Selection | None = None
    label: str | None = None

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{_part(self.source)}->({_parts(self.targets)})")

    @property
    def kind(self) -> str:
        return "fan_out" if self.selection is None else "selection"

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def structure(self) -> list[Any]:
        """Source and targets, in any order; the label counts as the name of the selection."""
        deciding = None if self.selection is None else [self.label]
        return [self.kind, self.source, sorted(self.targets), deciding]


@dataclass(frozen=True, slots=True)
class Switch:
    """One source; the first case whose condition holds names the target, else the default.

    `labels` has one entry per case, None where the author gave none; it may be left out as a whole.
    """

    kind: ClassVar[str] = "switch"

    source: str
    cases: tuple[tuple[EdgeCondition, str], ...]
    default: str
    labels: tuple[str | None, ...] = ()

    id: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.labels:
            object.__setattr__(self, "labels", (None,) * len(self.cases))
        object.__setattr__(self, "id", f"{_part(self.source)}->?({_parts(self.targets)})")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*(target for _, target in self.cases), self.default)))

    @property
    def structure(self) -> list[Any]:
        """Source, the cases in the order in which they are asked, each with its label, and the default."""
        cases = [[target, label] for (_, target), label in zip(self.cases, self.labels, strict=True)]
        return [self.kind, self.source, cases, self.default]


@dataclass(frozen=True, slots=True)
class FanIn:
    """Several sources; the target receives a list once each of them has sent something."""

    kind: ClassVar[str] = "fan_in"

    sources: tuple[str, ...]
    target: str

    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"({_parts(self.sources)})->{_part(self.target)}")

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def structure(self) -> list[Any]:
        """The sources in the order in which the target gets what they sent, and the target."""
        return [self.kind, list(self.sources), self.target]


EdgeGroup = SingleEdge | FanOut | Switch | FanIn


def shown_name(function: Any, label: str | None) -> str | None:
    """The label of a condition or selection, else the function's name; None for a lambda, which has no name."""
    name = label or getattr(function, "__name__", None)
    return None if name == "<lambda>" else name


def _part(executor: str) -> str:
    """An executor's id inside a group's id: percent-encoded only where it could be taken for the group's own marks."""
    return _PUNCTUATION.sub(lambda mark: f"%{ord(mark[0]):02X}", executor)


def _parts(executors: tuple[str, ...]) -> str:
    return ",".join(map(_part, executors))
