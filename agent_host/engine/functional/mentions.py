"""What a workflow function mentions in its code: the steps that it calls, and the classes of its questions and answers.

They make the list of types that its checkpoints may hold. A function that it calls counts too, if it is of the same
program. What cannot be seen here, such as a step in a list, is allowed when it is called; a class of answers that
cannot be seen is allowed by `register_checkpoint_type`.
"""

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agent_host.engine.functional.step_wrapper import StepWrapper
from agent_host.engine.serialization.stored_types import is_storable_class


@dataclass(slots=True)
class Mentions:
    """Steps and storable classes, in the order in which they are found."""

    steps: dict[StepWrapper[Any, Any], None] = field(default_factory=dict)
    classes: dict[type, None] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Mentions":
        """Look through the code of a function, and of the functions of its program that it calls."""
        found = cls()
        program = function.__module__.partition(".")[0]
        seen: set[int] = set()
        waiting: list[Any] = [function]
        while waiting:
            value = waiting.pop()
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, StepWrapper):
                found.steps[value] = None
            elif isinstance(value, type):
                if is_storable_class(value):
                    found.classes[value] = None
            elif isinstance(value, types.FunctionType) and value.__module__.partition(".")[0] == program:
                waiting.extend(_values_in(value))
        return found


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
