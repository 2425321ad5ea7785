"""One request's work as data: what is known when it begins, how it ends, and where it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_host.engine.checkpoint import Commit
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.running.runner import StopSignal
from agent_host.engine.view import View
from agent_host.foundry.identity import Identity
from agent_host.server.connection_memory import LaneMemory
from agent_host.server.event_log import TurnLog
from agent_host.server.questions import Question
from agent_host.server.starting_point import StartingPoint
from agent_host.stores.records import IdempotencyKey
from agent_host.wire.events import Event
from agent_host.wire.request import CreateRequest
from agent_host.wire.response import ResponseFacts, Status
from agent_host.wire.transcript import Transcript


class Answer(Protocol):
    """Where a turn says what happens. Its verbs return at once; before they are called, nothing was sent."""

    @property
    def is_stream(self) -> bool: ...

    def tell(self, events: Sequence[Event]) -> None:
        """Events of the response."""
        ...

    def show(self, event: WorkflowEvent) -> None:
        """An event of the workflow, for clients that have asked for these."""
        ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One request's work: what was asked, by whom, where it starts, and the transcript of its response.

    A background turn has a `log`. `resumed_at` is where a turn stands that another process has begun, or this one in an
    earlier life. `memory` is that of the connection over which the turn was asked for, if it has one.
    """

    request: CreateRequest
    who: Identity
    facts: ResponseFacts
    transcript: Transcript
    start: StartingPoint
    key: IdempotencyKey | None = None
    log: TurnLog | None = None
    resumed_at: View | None = None
    memory: LaneMemory | None = None
    stop: StopSignal = field(default_factory=StopSignal)
    usage: dict[str, int] = field(default_factory=dict)

    @property
    def is_background(self) -> bool:
        return self.log is not None

    @property
    def is_admitted(self) -> bool:
        """Whether the store knows of the turn as long as it is in flight, and keeps what it starts from."""
        return self.request.background or self.request.store


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended: the state to continue from, what leads there from where it started, and what it asks."""

    status: Status
    view: View
    commits: tuple[Commit, ...] = ()
    questions: tuple[Question, ...] = ()
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that is over, or that goes on in the background: its response, and what is still to be told of it."""

    response: dict[str, Any]
    untold: Sequence[Event] = ()

    @property
    def about(self) -> str:
        """What the log line says of it."""
        return f"{self.response['id']} {self.response['status']}"
