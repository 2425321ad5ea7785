"""What the code of a program's function mentions: the values that its names stand for, without running it.

A class that a handler makes objects of, for shared state or for an attribute, is found here although no annotation
names it.
"""

import types
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from agent_host.engine.executors.executor import Executor, FunctionExecutor
from agent_host.engine.serialization.stored_types import is_storable_class


def mentioned(function: Callable[..., Any]) -> list[Any]:
    """What a function's code mentions, and what those functions mention that it calls and that are of its program."""
    program = _program(function)
    found: dict[int, Any] = {}
    waiting: list[Any] = [function]
    while waiting:
        value = waiting.pop()
        if id(value) not in found:
            found[id(value)] = value
            if isinstance(value, types.FunctionType) and _program(value) == program:
                waiting.extend(_values_in(value))
    return list(found.values())


def storable_mentioned(executor: Executor) -> list[type]:
    """The classes that an executor's methods, or its function, mention and whose objects can be stored."""
    if isinstance(executor, FunctionExecutor):
        return list(_storable(executor._agent_host_function.function))
    cls: type = type(executor)
    return list(_storable_in(cls))


@lru_cache(maxsize=1024)
def _storable(function: Callable[..., Any]) -> tuple[type, ...]:
    classes = (value for value in mentioned(function) if isinstance(value, type))
    return tuple(cls for cls in classes if is_storable_class(cls))


@lru_cache(maxsize=1024)
def _storable_in(cls: type) -> tuple[type, ...]:
    methods = (
        value
        for base in cls.__mro__
        if base not in (object, Executor)
        for value in vars(base).values()
        if isinstance(value, types.FunctionType)
    )
    return tuple(dict.fromkeys(found for method in methods for found in _storable(method)))


def _program(function: Any) -> str:
    return str(function.__module__).partition(".")[0]


def _values_in(function: types.FunctionType) -> Iterator[Any]:
    """What the names in a function's code stand for, as far as they are global, or of a function around it."""
    enclosed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    for code in _codes(function.__code__):
        for name in (*code.co_names, *code.co_freevars):
            value = _content(enclosed[name]) if name in enclosed else function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                yield from (vars(value)[inner] for inner in code.co_names if inner in vars(value))
            elif value is not None:
                yield value


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A function's code, and that of the functions in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that gets its value later, if ever
        return None
