"""What a handler receives: a way to send, yield, ask, and to read and write shared state.

Rule 1: everything a handler does goes into the effect of its invocation and nowhere else; nothing of it is
        visible to siblings before the superstep has merged.
Rule 2: reads see the executor's own earlier writes of this superstep, then the state as the superstep found it.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, Generic, Never

import msgspec
from typing_extensions import TypeVar

from agent_host.engine import annotations
from agent_host.engine.events import CustomEvent
from agent_host.engine.handlers import HandlerTable
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.engine.serialization.stored_types import storable_classes
from agent_host.errors import UnsupportedValueError, WorkflowRunnerException
from agent_host.messages import TextDelta

OutT = TypeVar("OutT", default=Never, contravariant=True)
W_OutT = TypeVar("W_OutT", default=Never, contravariant=True)


class Sent(msgspec.Struct, frozen=True):
    """A message a handler sent: to the executors its edges lead to, or to one of them."""

    payload: Any
    target: str | None


class Yielded(msgspec.Struct):
    """An output of a handler; `pieces` are what a streamed text was shown in."""

    value: Any
    pieces: list[str] | None = None

    @property
    def whole(self) -> Any:
        """The output as it settles."""
        return self.value if self.pieces is None else "".join(self.pieces)


class Asked(msgspec.Struct, frozen=True):
    """A request to the outside."""

    request_id: str
    data: Any
    response_type: Any


class Effect(msgspec.Struct):
    """What one invocation did. Collected while the handler runs; merged when all siblings have finished."""

    executor_id: str
    sent: list[Sent] = msgspec.field(default_factory=list)
    yielded: list[Yielded] = msgspec.field(default_factory=list)
    asked: list[Asked] = msgspec.field(default_factory=list)
    writes: dict[str, Encoded | None] = msgspec.field(default_factory=dict)
    events: list[CustomEvent] = msgspec.field(default_factory=list)
    usage: dict[str, int] = msgspec.field(default_factory=dict)


class _Done:
    """What the context's verbs return. Awaiting it is allowed and immediate: the verb has already acted."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


DONE = _Done()
USAGE_FIELDS = frozenset({"input_tokens", "output_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens"})


class Surroundings(msgspec.Struct):
    """What the contexts of one run share: the state a superstep found, and how to speak.

    The run moves `iteration`, `checkpoint_id` and `open_requests` along from superstep to superstep.
    """

    session_id: str
    iteration: int
    checkpoint_id: str | None
    codec: Codec
    encode_state: Callable[[str, Any], Encoded]
    decode_state: Callable[[Encoded], Any]
    strict: bool
    streaming: bool
    turn: Any
    read_state: Callable[[str], Any]
    open_requests: Mapping[str, Any]
    new_request_id: Callable[[], str]
    emit_delta: Callable[[str, int, int, str], None]
    show_output: Callable[[Any], Any] | None = None


class _Missing:
    pass


MISSING: Any = _Missing()


class WorkflowContext(Generic[OutT, W_OutT]):
    """A handler's view of its run. `OutT`: what it may send to other executors; `W_OutT`: what it may yield.

    The verbs act at once, also when they are not awaited, so they work in plain functions too.
    """

    def __init__(
        self,
        surroundings: Surroundings,
        *,
        executor_id: str,
        invocation: int,
        handlers: HandlerTable,
        sources: tuple[str, ...],
        request_id: str | None,
        own_writes: dict[str, Encoded | None],
    ) -> None:
        self._around = surroundings
        self._executor_id = executor_id
        self._invocation = invocation
        self._handlers = handlers
        self._sources = sources
        self._request_id = request_id
        self._own_writes = own_writes
        self._effect = Effect(executor_id)

    def __repr__(self) -> str:
        return (
            f"<WorkflowContext of {self._executor_id!r} in session {self.session_id!r}, {len(self._effect.sent)} sent>"
        )

    # --- Doing ---

    def send_message(self, message: OutT, target_id: str | None = None) -> _Done:
        """Send a message along the executor's edges; with `target_id` only to that executor."""
        self._check(message, "send_message")
        self._effect.sent.append(Sent(message, target_id))
        return DONE

    def yield_output(self, output: W_OutT | TextDelta) -> _Done:
        """Yield an output of the workflow. A `TextDelta` is shown at once."""
        if isinstance(output, TextDelta):
            self._stream(output.text)
            return DONE
        self._check(output, "yield_output")
        show = self._around.show_output
        self._effect.yielded.append(Yielded(output if show is None else show(output)))
        return DONE

    def request_info(self, request_data: object, response_type: Any, *, request_id: str | None = None) -> _Done:
        """Ask the outside; the answer arrives at this executor's `@response_handler` in a later run."""
        self._check(request_data, "request_info")
        self._check_answers(response_type)
        if self._handlers.responder(request_data, response_type) is None:
            raise WorkflowRunnerException(
                f"Executor {self._executor_id!r} asks with a {type(request_data).__name__} for a "
                f"{annotations.name(response_type)}, but has no @response_handler for that pair."
            )
        name = request_id or self._around.new_request_id()
        if name in self._around.open_requests or any(asked.request_id == name for asked in self._effect.asked):
            raise WorkflowRunnerException(f"A request with the id {name!r} is open already; answer it first.")
        self._effect.asked.append(Asked(name, request_data, response_type))
        return DONE

    def add_event(self, event: CustomEvent) -> _Done:
        """Put an event of the handler's own into the run's stream, when the superstep has merged."""
        self._effect.events.append(event)
        return DONE

    def add_usage(self, **tokens: int) -> None:
        """Count tokens towards the response's `usage`; repeated calls add up.

        Fields: input_tokens, output_tokens, cached_tokens, cache_write_tokens, reasoning_tokens.
        """
        unknown = tokens.keys() - USAGE_FIELDS
        if unknown:
            raise TypeError(f"Unknown usage field {min(unknown)!r}; known are {', '.join(sorted(USAGE_FIELDS))}.")
        for name, count in tokens.items():
            self._effect.usage[name] = self._effect.usage.get(name, 0) + count

    def set_state(self, key: str, value: Any) -> None:
        """Write shared state. The value is copied: changing it afterwards changes nothing."""
        try:
            encoded = self._around.encode_state(key, value)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"Shared state {key!r}, set by executor {self._executor_id!r}: {error}"
            ) from None
        self._effect.writes[key] = encoded
        self._own_writes[key] = encoded

    def get_state(self, key: str, default: Any = None) -> Any:
        """Read shared state: this executor's own write, else what the superstep found. Always a copy."""
        if key in self._own_writes:
            written = self._own_writes[key]
            return default if written is None else self._around.decode_state(written)
        value = self._around.read_state(key)
        return default if value is MISSING else value

    # --- Knowing ---

    @property
    def session_id(self) -> str:
        return self._around.session_id

    @property
    def executor_id(self) -> str:
        return self._executor_id

    @property
    def iteration(self) -> int:
        """The number of the superstep within this run, from 1."""
        return self._around.iteration

    @property
    def checkpoint_id(self) -> str | None:
        """The commit this superstep started from; None where a run commits only at rest."""
        return self._around.checkpoint_id

    @property
    def turn(self) -> Any:
        """What the caller of `run(turn=...)` handed over about this request; read-only, never stored."""
        return self._around.turn

    @property
    def request_id(self) -> str | None:
        """Inside a response handler: the id of the request that was answered."""
        return self._request_id

    @property
    def source_executor_ids(self) -> list[str]:
        """Who sent the message; several for a fan-in."""
        return list(self._sources)

    def get_source_executor_id(self) -> str:
        """Who sent the message. Raises `WorkflowRunnerException` if there are several."""
        if len(self._sources) != 1:
            raise WorkflowRunnerException(f"The message has {len(self._sources)} sources; use source_executor_ids.")
        return self._sources[0]

    def is_streaming(self) -> bool:
        """Whether someone reads the outputs while they are made."""
        return self._around.streaming

    # --- Inside ---

    def _stream(self, text: str) -> None:
        yielded = self._effect.yielded
        pieces = yielded[-1].pieces if yielded else None
        if pieces is None:
            pieces = []
            yielded.append(Yielded(None, pieces))
        if text:
            pieces.append(text)
            self._around.emit_delta(self._executor_id, self._invocation, len(yielded) - 1, text)

    def _check_answers(self, response_type: Any) -> None:
        codec = self._around.codec
        lost = (
            [cls for cls in storable_classes([response_type]) if not codec.allows(cls)] if self._around.strict else ()
        )
        if lost:
            raise UnsupportedValueError(
                f"Executor {self._executor_id!r} asks for a {lost[0].__qualname__}, which could not be restored from a "
                "checkpoint. Name it in a handler's annotation, or call register_checkpoint_type(cls)."
            )

    def _check(self, value: Any, verb: str) -> None:
        if self._around.strict and not self._around.codec.allows(type(value)):
            raise UnsupportedValueError(
                f"Executor {self._executor_id!r} calls {verb} with a {type(value).__qualname__}, which no "
                "annotation of the workflow names, so it could not be stored and restored. Make it a dataclass or a "
                "model named in an annotation, as in WorkflowContext[..., MyType], or call "
                "register_checkpoint_type(cls)."
            )
