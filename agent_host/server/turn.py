"""One request's work as data: what is known when it begins, how it ends, and where it is told."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent_host.engine.checkpoint import Commit
from agent_host.engine.view import View
from agent_host.foundry.identity import Identity
from agent_host.wire.events import Event
from agent_host.wire.request import CreateRequest
from agent_host.wire.response import ResponseFacts, Status
from agent_host.wire.transcript import Transcript


class Answer(Protocol):
    """Where a turn says what happens. `tell` returns at once; before it is called, nothing was sent."""

    @property
    def is_stream(self) -> bool: ...

    def tell(self, events: Sequence[Event]) -> None: ...


@dataclass(frozen=True, slots=True)
class Turn:
    """One request's work: what was asked, by whom, where it starts, and the transcript of its response."""

    request: CreateRequest
    who: Identity
    facts: ResponseFacts
    transcript: Transcript
    start: View
    usage: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended: the state to continue from, and what leads there from where it started."""

    status: Status
    view: View
    commits: tuple[Commit, ...] = ()
    error: dict[str, Any] | None = None
    completed_at: int | None = None
