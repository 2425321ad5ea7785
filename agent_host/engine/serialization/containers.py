"""Containers of the standard library beyond list, tuple, dict and set: how each is written and read.

`to_plain` gives what a list, dict or text can carry; `from_plain` gives an equal container of the same type.
"""

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Container:
    """One type's stored form."""

    name: str
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def _plain_factory(value: Any) -> list[Any]:
    for name, factory in _FACTORIES.items():
        if factory is value.default_factory:
            return [name, dict(value)]
    raise ValueError("A defaultdict can be stored only if its factory is a built-in type such as list or int")


_FACTORIES: dict[str, Any] = {
    "list": list, "dict": dict, "set": set, "int": int, "float": float, "str": str, "none": None,
}  # fmt: skip

CONTAINERS: dict[type, Container] = {
    deque: Container("deque", lambda v: [v.maxlen, list(v)], lambda p: deque(p[1], p[0])),
    OrderedDict: Container("OrderedDict", dict, OrderedDict),
    Counter: Container("Counter", dict, Counter),
    defaultdict: Container("defaultdict", _plain_factory, lambda p: defaultdict(_FACTORIES[p[0]], p[1])),
}
CONTAINERS_BY_NAME = {container.name: container for container in CONTAINERS.values()}
