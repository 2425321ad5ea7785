"""Steps: side effects of a handler whose results are recorded, so that a repeated handler does not repeat them.

Rule 1: a result is found by its position among the handler's steps. Another name at the same position is an error:
        the program has changed, or its order depends on luck.
Rule 2: a step hands on what was recorded, also the first time, so that a repetition sees the very same value.
Rule 3: a step that raises is not recorded; it is run again with the handler.
"""

import contextvars
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.engine.threads import in_thread
from agent_host.errors import StepMismatchError, UnsupportedValueError, WorkflowRunnerException

Note = Callable[[int, Encoded], Awaitable[None]]

_running: contextvars.ContextVar[str | None] = contextvars.ContextVar("agent_host_step", default=None)


class Journal:
    """The results of one invocation's steps, by position. It outlives the attempts at the invocation.

    `note` makes a new entry durable, where that is asked for; a step goes on when it returns.
    """

    def __init__(self, executor: str, codec: Codec, entries: Mapping[int, Encoded], note: Note) -> None:
        self.entries = dict(entries)
        self._executor = executor
        self._codec = codec
        self._note = note
        self._next = 0

    def __repr__(self) -> str:
        return f"<Journal of {self._executor!r}, {len(self.entries)} recorded, at {self._next}>"

    def restart(self) -> None:
        """Begin again at the first position, for another attempt."""
        self._next = 0

    def place(self, name: str) -> int:
        """The position of the next entry. Raises inside a step, which must not make entries of its own."""
        outer = _running.get()
        if outer is not None:
            raise WorkflowRunnerException(
                f"The step {name!r} of executor {self._executor!r} was called inside the step {outer!r}; a step is one "
                "side effect. Call it after the other one."
            )
        position, self._next = self._next, self._next + 1
        return position

    def recorded(self, position: int, name: str) -> tuple[Any, ...] | None:
        """What stands at a position, freshly decoded, without the name; None if nothing does.

        Raises `StepMismatchError` if it was recorded under another name.
        """
        entry = self.entries.get(position)
        if entry is None:
            return None
        found, *content = self._codec.decode(entry.reference, entry.blobs)
        if found != name:
            raise StepMismatchError(
                f"Executor {self._executor!r} makes the step {name!r} where an earlier attempt recorded the step "
                f"{found!r}. The steps of a handler must come in the same order each time."
            )
        return tuple(content)

    async def record(self, position: int, name: str, *content: Any) -> tuple[Any, ...]:
        """Record an entry and return its content as a repetition would find it."""
        try:
            entry = self._codec.encode([name, *content], split=False)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"The result of the step {name!r} of executor {self._executor!r} cannot be recorded: {error}"
            ) from None
        self.entries[position] = entry
        await self._note(position, entry)
        return self.recorded(position, name) or ()

    async def step(
        self, position: int, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """The recorded result, or that of calling the function now. Plain functions run in a worker thread."""
        known = self.recorded(position, name)
        if known is None:
            known = await self.record(position, name, await _call(name, function, args, kwargs))
        return known[0]


async def _call(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = _running.set(name)
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        result = await in_thread(function, args, kwargs)
        return await result if inspect.isawaitable(result) else result
    finally:
        _running.reset(token)
