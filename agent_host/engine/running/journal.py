"""Steps: side effects of a handler whose results are recorded, so that a repeated handler does not repeat them.

Rule 1: a result is found by its position among the handler's steps. Another name at the same position is an error:
        the program has changed, or its order depends on luck.
Rule 2: a step hands on what was recorded, also the first time, so that a repetition sees the very same value.
Rule 3: a step that raises is not recorded; it is run again with the handler.
Rule 4: an entry that is put, not recorded, belongs to one attempt, as everything else that the attempt does: the next
        one makes it again.
"""

import contextvars
import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from agent_host.engine.running.threads import in_thread
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import StepMismatchError, UnsupportedValueError, WorkflowRunnerException

Note = Callable[[int, Encoded], Awaitable[None]]

_running: contextvars.ContextVar[str | None] = contextvars.ContextVar("agent_host_step", default=None)


class Journal:
    """The results of one invocation's steps, by position. It outlives the attempts at the invocation.

    `note` makes a recorded entry durable, where that is asked for; a step goes on when it returns.
    """

    def __init__(self, executor: str, codec: Codec, entries: Mapping[int, Encoded], note: Note) -> None:
        self.entries = dict(entries)
        self._put: dict[int, Encoded] = {}
        self._executor = executor
        self._codec = codec
        self._note = note
        self._next = 0

    def __repr__(self) -> str:
        return f"<Journal of {self._executor!r}, {len(self.entries)} recorded, at {self._next}>"

    def restart(self) -> None:
        """Begin again at the first position, for another attempt."""
        self._next = 0
        self._put.clear()

    def place(self, name: str) -> int:
        """The position of the next entry. Raises inside a step, which must not make entries of its own."""
        self.refuse_nesting(name)
        position, self._next = self._next, self._next + 1
        return position

    def refuse_nesting(self, name: str) -> None:
        """Raise if this is inside a step."""
        outer = _running.get()
        if outer is not None:
            raise WorkflowRunnerException(
                f"The step {name!r} of executor {self._executor!r} was called inside the step {outer!r}; a step is one "
                "side effect. Call it after the other one."
            )

    def recorded(self, position: int, name: str) -> tuple[Any, ...] | None:
        """What stands at a position, freshly decoded, without the name; None if nothing does.

        Raises `StepMismatchError` if it was recorded under another name.
        """
        entry = self._put.get(position) or self.entries.get(position)
        if entry is None:
            return None
        found, *content = self._codec.decode(entry.reference, entry.blobs)
        if found != name:
            raise StepMismatchError(
                f"Executor {self._executor!r} makes the step {name!r} where an earlier attempt recorded the step "
                f"{found!r}. The steps of a handler must come in the same order each time."
            )
        return tuple(content)

    def all(self) -> dict[int, Encoded]:
        """Every entry, recorded or put."""
        return {**self.entries, **self._put}

    def positions(self, name: str, last: Any) -> Iterator[int]:
        """The positions of the entries of this name whose content ends with this."""
        for position, entry in self.all().items():
            found, *content = self._codec.decode(entry.reference, entry.blobs)
            if found == name and content[-1:] == [last]:
                yield position

    async def record(self, position: int, name: str, *content: Any) -> tuple[Any, ...]:
        """Record an entry and return its content as a repetition would find it."""
        entry = self._encode(name, content)
        self.entries[position] = entry
        await self._note(position, entry)
        return self.recorded(position, name) or ()

    def put(self, position: int, name: str, *content: Any) -> tuple[Any, ...]:
        """Put an entry that is made again by the next attempt; returns its content as a repetition would find it."""
        self._put[position] = self._encode(name, content)
        return self.recorded(position, name) or ()

    async def step(
        self,
        position: int,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *beside: Any,
    ) -> Any:
        """The recorded result, or that of calling the function now. Plain functions run in a worker thread.

        `beside` is recorded after the result.
        """
        known = self.recorded(position, name)
        if known is None:
            known = await self.record(position, name, await _call(name, function, args, kwargs), *beside)
        return known[0]

    def _encode(self, name: str, content: tuple[Any, ...]) -> Encoded:
        try:
            return self._codec.encode([name, *content], split=False)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"The result of the step {name!r} of executor {self._executor!r} cannot be recorded: {error}"
            ) from None


async def _call(name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    token = _running.set(name)
    try:
        if inspect.iscoroutinefunction(function):
            return await function(*args, **kwargs)
        result = await in_thread(function, args, kwargs)
        return await result if inspect.isawaitable(result) else result
    finally:
        _running.reset(token)
