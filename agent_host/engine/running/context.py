"""What a handler receives: a way to send, yield, ask, and to read and write shared state.

Rule 1: everything a handler does goes into the effect of its invocation and nowhere else; nothing of it is
        visible to siblings before the superstep has merged.
Rule 2: reads see the executor's own earlier writes of this superstep, then the state as the superstep found it.
"""

from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Never
from uuid import UUID

from typing_extensions import TypeVar

from agent_host.engine import annotations
from agent_host.engine.events import RESERVED, CustomEvent, WorkflowEvent
from agent_host.engine.reducers import MISSING, reduce_state
from agent_host.engine.running.attempt import Attempt
from agent_host.engine.running.effects import Asked, Sent, Yielded
from agent_host.engine.serialization.stored_types import storable_classes
from agent_host.errors import UnsupportedValueError, WorkflowRunnerException
from agent_host.messages import TextDelta

OutT = TypeVar("OutT", default=Never, contravariant=True)
W_OutT = TypeVar("W_OutT", default=Never, contravariant=True)


class _Done:
    """What the context's verbs return. Awaiting it is allowed and immediate: the verb has already acted."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE = _Done()
USAGE_FIELDS = frozenset({"input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"})


class WorkflowContext(Generic[OutT, W_OutT]):
    """A handler's view of its run. `OutT`: what it may send to other executors; `W_OutT`: what it may yield.

    The verbs act at once, also when they are not awaited, so they work in plain functions too.
    """

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def __repr__(self) -> str:
        sent = len(self._attempt.effect.sent)
        return f"<WorkflowContext of {self.executor_id!r} in session {self.session_id!r}, {sent} sent>"

    # --- Doing ---

    def send_message(self, message: OutT, target_id: str | None = None) -> _Done:
        """Send a message along the executor's edges; with `target_id` only to that executor."""
        self._check(message, "send_message")
        self._attempt.effect.sent.append(Sent(message, target_id))
        return DONE

    def yield_output(self, output: W_OutT | TextDelta) -> _Done:
        """Yield an output of the workflow. A `TextDelta` is shown at once."""
        if isinstance(output, TextDelta):
            self._stream(output.text)
            return DONE
        self._check(output, "yield_output")
        attempt = self._attempt
        attempt.effect.yielded.append(Yielded(attempt.around.show_output(attempt.call, output)))
        return DONE

    def request_info(
        self,
        request_data: object,
        response_type: Any,
        *,
        request_id: str | None = None,
        expires_in: float | timedelta | None = None,
        default: Any = MISSING,
    ) -> _Done:
        """Ask the outside; the answer arrives at this executor's `@response_handler` in a later run.

        After `expires_in` (seconds) nobody can answer any more: the next run of the session takes `default` as the
        answer, or drops the request with a warning if there is none.
        """
        self._check(request_data, "request_info")
        self._check_answers(response_type)
        if self._attempt.call.handlers.responder(request_data, response_type) is None:
            raise WorkflowRunnerException(
                f"Executor {self.executor_id!r} asks with a {type(request_data).__name__} for a "
                f"{annotations.name(response_type)}, but has no @response_handler for that pair."
            )
        if request_id is not None and not isinstance(request_id, str):
            raise WorkflowRunnerException(f"A request's id is text; got {request_id!r}.")
        name = request_id or self._attempt.around.new_request_id()
        if self._attempt.around.is_open(name) or any(asked.request_id == name for asked in self._attempt.effect.asked):
            raise WorkflowRunnerException(f"A request with the id {name!r} is open already; answer it first.")
        expires_at = self._expiry(expires_in, default, response_type)
        defaults = () if default is MISSING else (default,)
        self._attempt.effect.asked.append(Asked(name, request_data, response_type, expires_at, defaults))
        return DONE

    def add_event(self, event: WorkflowEvent | CustomEvent) -> _Done:
        """Tell an event of the handler's own at once: progress, for whoever watches the run.

        Raises `WorkflowRunnerException` for the types that the engine itself tells.
        """
        self._attempt.refuse_late("add_event")
        if event.type in RESERVED:
            raise WorkflowRunnerException(
                f"Executor {self.executor_id!r} tells an event of type {event.type!r}, which only the engine does. "
                "Use another type, or yield_output for outputs."
            )
        made = event if isinstance(event, WorkflowEvent) else WorkflowEvent(event.type, event.data)
        self._attempt.around.tell(self._attempt.call, made)
        return DONE

    def add_usage(self, **tokens: int) -> None:
        """Count tokens towards the response's `usage`; repeated calls add up.

        Fields: input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens.
        """
        unknown = tokens.keys() - USAGE_FIELDS
        if unknown:
            raise TypeError(f"Unknown usage field {min(unknown)!r}; known are {', '.join(sorted(USAGE_FIELDS))}.")
        for name, count in tokens.items():
            self._attempt.effect.usage[name] = self._attempt.effect.usage.get(name, 0) + count

    def set_state(self, key: str, value: Any) -> None:
        """Write shared state. The value is copied: changing it afterwards changes nothing.

        For a key with a reducer the value is an update, which the reducer puts together with what is there.
        """
        attempt = self._attempt
        attempt.refuse_late("set_state")
        call = attempt.call
        try:
            encoded = call.scope.encode_state(key, value)
            if key in call.scope.reducers:
                self._attempt.effect.updates.setdefault(key, []).append(encoded)
                encoded = reduce_state(
                    call.scope, key, call.scope.reducers[key], self._attempt.read_state(key), [encoded]
                )
            else:
                self._attempt.effect.writes[key] = encoded
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"Shared state {key!r}, set by executor {call.name!r}: {error}. Use plain data or a dataclass that the "
                "executor's code names, or call register_checkpoint_type(cls)."
            ) from None
        call.own_writes[key] = encoded

    def get_state(self, key: str, default: Any = None) -> Any:
        """Read shared state: this executor's own write, else what the superstep found. Always a copy."""
        value = self._attempt.read_state(key)
        return default if value is MISSING else value

    def step(self, name: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Call a function with a side effect once: `await ctx.step("charge", charge, order)`.

        Its result is recorded; when the handler is repeated, after a failure or a crash, the record is returned
        instead of calling again. A function that raised is called again. Plain functions run in a worker thread.
        The steps of a handler must come in the same order each time; `StepMismatchError` if they do not.
        """
        self._attempt.refuse_late("step")
        journal = self._attempt.journal()
        return journal.step(journal.place(name), name, function, args, kwargs)

    # --- Knowing ---

    def now(self) -> datetime:
        """When this superstep began, in UTC; the same in every attempt at it, and for all its executors."""
        return datetime.fromtimestamp(self._attempt.around.now, UTC)

    def uuid(self) -> UUID:
        """A fresh id that is the same in every attempt at this call: the n-th call of `uuid` gives the n-th id."""
        self._attempt.uuids += 1
        return self._attempt.derived_id(f"uuid {self._attempt.uuids}")

    @property
    def idempotency_key(self) -> str:
        """A key for calls to other services: equal in every attempt at this call, different for every other.

        A retry and a resume after a crash are attempts at the same call; a new request and a branch are others.
        """
        return str(self._attempt.derived_id("key"))

    @property
    def session_id(self) -> str:
        return self._attempt.around.session_id

    @property
    def executor_id(self) -> str:
        return self._attempt.call.name

    @property
    def iteration(self) -> int:
        """The number of the superstep within this run, from 1."""
        return self._attempt.around.iteration

    @property
    def checkpoint_id(self) -> str | None:
        """The commit this superstep started from; None where a run commits only at rest."""
        return self._attempt.around.checkpoint_id

    @property
    def turn(self) -> Any:
        """What the caller of `run(turn=...)` handed over about this request; read-only, never stored."""
        return self._attempt.around.turn

    @property
    def request_id(self) -> str | None:
        """Inside a response handler: the id of the request that was answered."""
        return self._attempt.call.request_id

    @property
    def source_executor_ids(self) -> list[str]:
        """Who sent the message; several for a fan-in."""
        return list(self._attempt.call.sources)

    def get_source_executor_id(self) -> str:
        """Who sent the message. Raises `WorkflowRunnerException` if there are several."""
        if len(self._attempt.call.sources) != 1:
            raise WorkflowRunnerException(
                f"The message has {len(self._attempt.call.sources)} sources; use source_executor_ids."
            )
        return self._attempt.call.sources[0]

    def is_streaming(self) -> bool:
        """Whether someone reads the outputs while they are made."""
        return self._attempt.around.streaming

    # --- Inside ---

    def _expiry(self, expires_in: float | timedelta | None, default: Any, response_type: Any) -> float | None:
        if default is not MISSING:
            if expires_in is None:
                raise WorkflowRunnerException("request_info takes a default only together with expires_in.")
            if not annotations.matcher(response_type)(default):
                raise WorkflowRunnerException(
                    f"The default of a request must be a {annotations.name(response_type)}, as its answer; got a "
                    f"{type(default).__qualname__}."
                )
            self._check(default, "request_info")
        if expires_in is None:
            return None
        if not isinstance(expires_in, (int, float, timedelta)):
            raise WorkflowRunnerException(f"expires_in takes seconds or a timedelta; got {expires_in!r}.")
        seconds = expires_in.total_seconds() if isinstance(expires_in, timedelta) else expires_in
        if not seconds > 0:
            raise WorkflowRunnerException(f"expires_in must be positive; got {expires_in!r}.")
        return self._attempt.around.clock() + seconds

    def _stream(self, text: str) -> None:
        self._attempt.refuse_late("yield_output")
        yielded = self._attempt.effect.yielded
        pieces = yielded[-1].pieces if yielded else None
        if pieces is None:
            pieces = []
            yielded.append(Yielded(None, pieces))
        if text:
            pieces.append(text)
            self._attempt.around.emit_delta(self._attempt.call, len(yielded) - 1, text)

    def _check_answers(self, response_type: Any) -> None:
        around = self._attempt.around
        asked = storable_classes([response_type]) if around.strict else ()
        lost = [cls for cls in asked if not around.codec.allows(cls)]
        if lost:
            raise UnsupportedValueError(
                f"Executor {self.executor_id!r} asks for a {lost[0].__qualname__}, which could not be restored from a "
                "checkpoint. Name it in a handler's annotation, or call register_checkpoint_type(cls)."
            )

    def _check(self, value: Any, verb: str) -> None:
        self._attempt.refuse_late(verb)
        if self._attempt.around.strict and not self._attempt.around.codec.allows(type(value)):
            raise UnsupportedValueError(
                f"Executor {self.executor_id!r} calls {verb} with a {type(value).__qualname__}, which no "
                "annotation of the workflow names, so it could not be stored and restored. Make it a dataclass or a "
                "model named in an annotation, as in WorkflowContext[..., MyType], or call "
                "register_checkpoint_type(cls)."
            )
