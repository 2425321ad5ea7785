"""What a run tells while it happens, and what it returns.

Rule 1: live events (`executor_*`, `output_delta`, a handler's own) are hints; they may be followed by the failure
        of the superstep they belong to.
Rule 2: settled events (`output`, `intermediate`, `request_info`) come after their superstep has merged, in an
        order that does not depend on which executor was faster, and `request_info` only when the commit that
        holds the request is durable.
"""

import enum
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import msgspec

WorkflowEventType = Literal[
    "started", "status", "failed", "output", "output_delta", "intermediate", "request_info", "warning", "error",
    "superstep_started", "superstep_completed", "executor_invoked", "executor_completed", "executor_failed",
]  # fmt: skip


class WorkflowRunState(enum.StrEnum):
    """Where a run is. The last status a run reports is final."""

    STARTED = "STARTED"
    IN_PROGRESS = "IN_PROGRESS"
    IN_PROGRESS_PENDING_REQUESTS = "IN_PROGRESS_PENDING_REQUESTS"
    IDLE = "IDLE"
    IDLE_WITH_PENDING_REQUESTS = "IDLE_WITH_PENDING_REQUESTS"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class WorkflowEventSource(enum.StrEnum):
    """Who tells an event: the engine, or the handler of an executor."""

    FRAMEWORK = "FRAMEWORK"
    EXECUTOR = "EXECUTOR"


@dataclass(frozen=True, slots=True)
class WorkflowErrorDetails:
    """An exception as data. `traceback` is text for a log, never for a client."""

    error_type: str
    message: str
    traceback: str | None = None
    executor_id: str | None = None

    @classmethod
    def from_exception(cls, error: BaseException, *, executor_id: str | None = None) -> "WorkflowErrorDetails":
        text = "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), text, executor_id)


@dataclass(frozen=True, slots=True)
class OutputKey:
    """Names one output of one run: superstep, call within it, number within that, and attempt at the call (from 0).

    The deltas of a streamed output and the whole output that settles it carry the same key. An `executor_failed`
    carries the key of the first output of the attempt that failed: what was shown of that attempt is void.
    """

    iteration: int
    invocation: int
    number: int
    attempt: int = 0


class WorkflowEvent(msgspec.Struct, frozen=True, repr_omit_defaults=True):
    """One event of a run. Which fields are set depends on `type`; `sequence` counts from 0 within the run.

    A handler may make events of its own, also of a subclass with more fields, and tell them with `ctx.add_event`.

    `checkpoint_id` is the commit a superstep started from or reached, or the one that holds a request; None where
    a run commits only at rest.
    """

    type: str
    data: Any = None
    session_id: str = ""
    sequence: int = 0
    iteration: int = 0
    executor_id: str | None = None
    checkpoint_id: str | None = None
    state: WorkflowRunState | None = None
    details: WorkflowErrorDetails | None = None
    request_id: str | None = None
    response_type: Any = None
    output: OutputKey | None = None
    streamed: bool = False
    intermediate: bool = False

    @property
    def origin(self) -> WorkflowEventSource:
        """Who tells it. A handler tells events of its own; what it yields, asks or fails with is told by the engine."""
        own = self.type not in RESERVED and self.executor_id is not None
        return WorkflowEventSource.EXECUTOR if own else WorkflowEventSource.FRAMEWORK

    @property
    def source_executor_id(self) -> str | None:
        """The executor that asked; the name agent_framework gives it on `request_info` events."""
        return self.executor_id


class CustomEvent(msgspec.Struct, frozen=True):
    """The short form of a handler's own event: a type of its own choice, "warning" or "error"."""

    type: str
    data: Any = None


RESERVED = frozenset(get_args(WorkflowEventType)) - {"warning", "error"}
"""Types of events that only the engine tells."""


class WorkflowRunResult(list[WorkflowEvent]):
    """The events of a finished run, without `started`, status events and pieces of text, and what they amount to."""

    def __init__(
        self,
        events: Iterable[WorkflowEvent],
        *,
        session_id: str,
        checkpoint_id: str | None,
        include_status: bool = False,
    ) -> None:
        seen = list(events)
        hidden = {"started", "output_delta"} | (set() if include_status else {"status"})
        super().__init__(event for event in seen if event.type not in hidden)
        self._status = [event for event in seen if event.type == "status"]
        self.session_id = session_id
        self.checkpoint_id = checkpoint_id

    def get_outputs(self) -> list[Any]:
        """What the workflow yielded as output, in order. Streamed text stands here whole."""
        return [event.data for event in self if event.type == "output"]

    def get_intermediate_outputs(self) -> list[Any]:
        """What executors designated as intermediate yielded."""
        return [event.data for event in self if event.type == "intermediate"]

    def get_request_info_events(self) -> list[WorkflowEvent]:
        """The requests this run has left open, or found open."""
        return [event for event in self if event.type == "request_info"]

    def get_final_state(self) -> WorkflowRunState:
        """The state in which the run ended."""
        last = self._status[-1].state if self._status else None
        return last or WorkflowRunState.IDLE

    def status_timeline(self) -> list[WorkflowEvent]:
        """The status events, in order."""
        return list(self._status)
