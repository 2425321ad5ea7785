"""What a workflow function does beside calling steps: ask, yield, keep state, know the time."""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload
from uuid import UUID

from agent_host.engine.events import CustomEvent, WorkflowEvent
from agent_host.engine.functional.replay import OUTPUT, Replay
from agent_host.engine.reducers import MISSING
from agent_host.engine.running.context import DONE, _Done
from agent_host.messages import TextDelta

T = TypeVar("T")

_active: ContextVar["RunContext | None"] = ContextVar("agent_host_run_context", default=None)


def get_run_context() -> "RunContext | None":
    """The context of the workflow function that runs here; None outside of one."""
    return _active.get()


class RunContext:
    """A workflow function's view of its run, handed to its parameter `ctx`.

    A function that waits for an answer is executed again from its beginning when the answer comes. Everything that
    comes from here is then as it was, and what was done through here is not done again. Other code of the function is
    repeated: what costs something, or could come out differently, belongs into a step.

    Inside a step only the properties and `is_streaming` can be used: a step is one side effect.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    def __repr__(self) -> str:
        return f"<RunContext of {self._replay!r}>"

    # --- Doing ---

    @overload
    def request_info(
        self, request_data: object, response_type: type[T], *, request_id: str | None = None,
        expires_in: float | timedelta | None = None, default: Any = MISSING,
    ) -> Coroutine[Any, Any, T]: ...  # fmt: skip
    @overload
    def request_info(
        self, request_data: object, response_type: Any, *, request_id: str | None = None,
        expires_in: float | timedelta | None = None, default: Any = MISSING,
    ) -> Coroutine[Any, Any, Any]: ...  # fmt: skip
    def request_info(
        self,
        request_data: object,
        response_type: Any,
        *,
        request_id: str | None = None,
        expires_in: float | timedelta | None = None,
        default: Any = MISSING,
    ) -> Coroutine[Any, Any, Any]:
        """Ask the outside: `approved = await ctx.request_info(order, bool)`.

        The function ends here until `run(responses={request_id: answer})`. Questions that are asked together, as by
        `asyncio.gather`, are open together. `except Exception` does not catch the signal that ends the function. After
        `expires_in` (seconds) the next run takes `default` as the answer.
        """
        return self._replay.ask(request_data, response_type, request_id, expires_in, default)

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        """Call a function with a side effect once, as `@step` does: `await ctx.step("charge", charge, order)`.

        Plain functions run in a worker thread.
        """
        return self._replay.step(name, function, args, kwargs)

    def yield_output(self, output: Any) -> _Done:
        """Yield an output beside the one that the function returns. A `TextDelta` is shown at once."""
        new = self._replay.streams() if isinstance(output, TextDelta) else self._replay.once(OUTPUT)
        return self._replay.context.yield_output(output) if new else DONE

    def add_event(self, event: WorkflowEvent | CustomEvent) -> _Done:
        """Tell an event of the function's own at once; it is told once, however often the function is executed."""
        return self._replay.context.add_event(event) if self._replay.once("ctx.add_event") else DONE

    def add_usage(self, **tokens: int) -> None:
        """Count tokens towards the response's `usage`; repeated calls add up."""
        if self._replay.once("ctx.add_usage"):
            self._replay.context.add_usage(**tokens)

    def set_state(self, key: str, value: Any) -> None:
        """Write state that the session keeps, over this run and later ones. The value is copied."""
        self._replay.write(key, value)

    # --- Knowing ---

    def get_state(self, key: str, default: Any = None) -> Any:
        """Read the session's state. Always a copy."""
        found = self._replay.read(f"ctx.get_state({key!r})", lambda _: self._replay.context.get_state(key, MISSING))
        return default if found is MISSING else found

    def now(self) -> datetime:
        """The time, in UTC: when the superstep began in which the function first came here."""
        found: datetime = self._replay.read("ctx.now", lambda _: self._replay.context.now())
        return found

    def uuid(self) -> UUID:
        """A fresh id."""
        found: UUID = self._replay.read("ctx.uuid", lambda at: self._replay.attempt.derived_id(f"uuid {at}"))
        return found

    @property
    def idempotency_key(self) -> str:
        """A key for calls to other services: equal in every attempt at them, different on a branch.

        It is another one after each answer, so use it inside a step, or as its argument, and for one service.
        """
        return self._replay.context.idempotency_key

    @property
    def session_id(self) -> str:
        return self._replay.context.session_id

    @property
    def turn(self) -> Any:
        """What the caller of `run(turn=...)` handed over about this request; read-only, never stored."""
        return self._replay.context.turn

    def is_streaming(self) -> bool:
        """Whether someone reads the outputs while they are made."""
        return self._replay.context.is_streaming()
