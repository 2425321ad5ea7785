"""What can be seen of a foreign object from outside, to notice that a handler has changed it in place.

Rule 1: what counts is text and containers, in public attributes, up to three objects or containers deep.
Rule 2: what a client does for itself does not count: numbers, private attributes, what a property keeps, and the
        objects it makes when it is first used. A client may count its requests and open connections.
Rule 3: of the standard library only containers and queues are looked into: loggers and locks live their own lives.
"""

import asyncio
import queue
import sys
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from inspect import getattr_static
from typing import Any

DEPTH = 3
PLACES = 2_000  # places noted of one value; what lies beyond them is not seen

_CONTENT: dict[type, str] = {
    queue.Queue: "queue", asyncio.Queue: "_queue", UserDict: "data", UserList: "data", ChainMap: "maps",
}  # fmt: skip
_STANDARD = sys.stdlib_module_names | {"builtins"}


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Marks by place. A mark is what a text or container holds; None stands for an object, which is only a way on."""

    marks: dict[str, Hashable] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, name: str) -> "Fingerprint":
        """Look at a value that an executor keeps under `name`."""
        made = cls()
        made._note(value, name, "", 0)
        return made

    def changed_in(self, later: "Fingerprint") -> str | None:
        """The first place where `later` has other text or contents than this; None if there is none."""
        for place, mark in later.marks.items():
            if place not in self.marks:
                if mark is not None and later.parents[place] in self.marks:
                    return place
            elif mark is not None and self.marks[place] is not None and mark != self.marks[place]:
                return place
        gone = (place for place, mark in self.marks.items() if mark is not None and place not in later.marks)
        return next((place for place in gone if self.parents[place] in later.marks), None)

    def _note(self, value: Any, place: str, parent: str, depth: int) -> None:
        if len(self.marks) >= PLACES:
            return
        mark, inner = _look(value)
        if mark is None and inner is None:
            return
        self.marks[place] = mark
        self.parents[place] = parent
        if depth < DEPTH:
            for key, item in inner or ():
                self._note(item, place + key, place, depth + 1)


def _look(value: Any) -> tuple[Hashable, Iterator[tuple[str, Any]] | None]:
    """The mark of a value, and what lies inside it by its place; None for both if it does not count."""
    if isinstance(value, (str, bytes, bytearray)):
        return hash(bytes(value) if isinstance(value, bytearray) else value), None
    if isinstance(value, dict):
        items = list(value.items())  # a copy, since other threads may be at work
        inner = ((f"[{key!r:.40}]", item) for key, item in items[:PLACES] if type(key) is str)
        return (len(items), *((_token(key), _token(item)) for key, item in items[:PLACES])), inner
    if isinstance(value, (list, tuple, deque)):
        items = list(value)
        return (len(items), *map(_token, items[:PLACES])), ((f"[{at}]", item) for at, item in enumerate(items[:PLACES]))
    if isinstance(value, (set, frozenset)):
        return (len(value), frozenset(map(_token, list(value)))), None
    inside = _attributes(value)
    return None, ((f".{name}", item) for name, item in inside.items()) if inside is not None else None


def _token(item: Any) -> Hashable:
    return hash(item) if isinstance(item, (str, bytes)) else None


def _attributes(value: Any) -> Mapping[str, Any] | None:
    """The public attributes of an object; None for one that is not looked into."""
    cls = type(value)
    content = next((name for known, name in _CONTENT.items() if isinstance(value, known)), None)
    if content is not None:
        return {content: object.__getattribute__(value, content)}
    if isinstance(value, type) or cls.__module__.partition(".")[0] in _STANDARD:
        return None
    own = getattr(value, "__dict__", {})
    found = {
        name: item for name, item in own.items() if not (name.startswith("_") or _is_kept_by_a_property(cls, name))
    }
    return {**found, **dict(_slots(value))}


def _is_kept_by_a_property(cls: type, name: str) -> bool:
    return hasattr(getattr_static(cls, name, None), "__get__")


def _slots(value: Any) -> Iterator[tuple[str, Any]]:
    for base in type(value).__mro__:
        names = vars(base).get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            slot = vars(base).get(name)
            if not name.startswith("_") and slot is not None:
                try:
                    yield name, slot.__get__(value)
                except AttributeError:
                    continue  # it has not been set
