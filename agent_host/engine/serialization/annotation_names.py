"""Annotations as values: `bool`, `list[str]`, `Approval | None` are stored by name and found again by looking it up.

Only what is in the table can be stored or read: the simple types of Python and what the graph itself declares.
"""

import types
import typing
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from typing_extensions import TypeAliasType

from agent_host.engine import annotations

_SIMPLE = (
    str, int, float, complex, bool, bytes, bytearray, list, tuple, dict, set, frozenset, types.NoneType,
)  # fmt: skip
FORMS = (type, types.GenericAlias, types.UnionType, typing.NewType, TypeAliasType)


def is_annotation(value: Any) -> bool:
    """Whether a value is a type, or says of other values what they are."""
    return isinstance(value, FORMS) or typing.get_origin(value) is not None


class AnnotationNames:
    """Annotations by name. `Annotated` and aliases count as what they stand for, so `name | None` is one annotation
    however it is written.
    """

    def __init__(self) -> None:
        self._by_name: dict[str, list[Any]] = {}
        self.add(_SIMPLE)

    def add(self, hints: Iterable[Any]) -> None:
        """Take up annotations, and each member of a union also by itself."""
        for hint in hints:
            for name, one in _named(hint):
                known = self._by_name.setdefault(name, [])
                if not any(one is other or _mean_the_same(one, other) for other in known):
                    known.append(one)

    def update(self, other: "AnnotationNames") -> None:
        """Take up all annotations of another table."""
        self.add(hint for hints in other._by_name.values() for hint in hints)

    def named(self, name: str) -> Any | None:
        """The annotation of this name; None if there is none, or if it is the name of several."""
        found = self._by_name.get(name, ())
        return found[0] if len(found) == 1 else None

    def name_of(self, hint: Any) -> str | None:
        """The name under which an annotation is found again; None if there is none."""
        name = _ordered_name(hint)
        found = self.named(name)
        return name if found is not None and _mean_the_same(hint, found) else None


@lru_cache(maxsize=4096)
def _named(hint: Any) -> tuple[tuple[str, Any], ...]:
    """An annotation, and each member of a union, under every name by which it may be asked for."""
    found = (annotations.plain(hint), *annotations.members(hint))
    return tuple((name, one) for one in found for name in sorted({annotations.name(one), _ordered_name(one)}))


def _ordered_name(hint: Any) -> str:
    """A name that does not depend on the order in which the members of a union are written."""
    names = [annotations.name(member) for member in annotations.members(hint)]
    return " | ".join(sorted(names, key=lambda name: (name == "None", name))) or annotations.name(hint)


def _mean_the_same(one: Any, other: Any) -> bool:
    one, other = annotations.plain(one), annotations.plain(other)
    return bool(one == other or (annotations.is_subtype(one, other) and annotations.is_subtype(other, one)))
