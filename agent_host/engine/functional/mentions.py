"""What a workflow function mentions in its code: the steps that it calls, and the classes of its questions and answers.

They make the list of types that its checkpoints may hold. A function that it calls counts too, if it is of the same
program. What cannot be seen here, such as a step in a list, is allowed when it is called; a class of answers that
cannot be seen is allowed by `register_checkpoint_type`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_host.engine.executors.mentions import mentioned
from agent_host.engine.functional.step_wrapper import StepWrapper
from agent_host.engine.serialization.stored_types import is_storable_class


@dataclass(frozen=True, slots=True)
class Mentions:
    """Steps and storable classes, in the order in which they are found."""

    steps: tuple[StepWrapper[Any, Any], ...]
    classes: tuple[type, ...]

    @classmethod
    def of(cls, function: Callable[..., Any]) -> "Mentions":
        """Look through the code of a function, and of the functions of its program that it calls."""
        values = mentioned(function)
        return cls(
            tuple(value for value in values if isinstance(value, StepWrapper)),
            tuple(value for value in values if isinstance(value, type) and is_storable_class(value)),
        )
