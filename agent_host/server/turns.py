"""The way of one turn, from the bytes of a request to the stored response.

`take_turn` is the list; each step is a function below it. A turn starts from a commit and ends in one transaction of
the store. Whatever goes wrong after its beginning ends in a response that is stored as failed or cancelled, with the
commit the turn started from: the conversation stands where it stood.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from agent_host import telemetry
from agent_host.engine.checkpoint import Commit
from agent_host.engine.lane import Lane, View
from agent_host.engine.ports import Boundary
from agent_host.engine.runner import Run, RunOptions
from agent_host.errors import WorkflowRunnerException
from agent_host.foundry.identity import Identity
from agent_host.ids import key_of
from agent_host.server.bridge import Narrator, turn_of, usage_of
from agent_host.server.failures import failure, stopped
from agent_host.server.host import Host
from agent_host.stores.records import ResponseRecord
from agent_host.wire import problems
from agent_host.wire.events import Event
from agent_host.wire.request import CreateRequest, parse_request, stored_items
from agent_host.wire.response import ResponseFacts, Status, snapshot
from agent_host.wire.transcript import Transcript

log = logging.getLogger("agent_host")
_encode = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


class Answer(Protocol):
    """Where a turn says what happens. `tell` must not block."""

    wants_events: bool

    def tell(self, events: Sequence[Event]) -> None: ...


@dataclass(slots=True)
class Turn:
    """One request's work: what was asked, where it starts, and what has been told so far."""

    request: CreateRequest
    who: Identity
    facts: ResponseFacts
    transcript: Transcript
    start: View
    input: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended, and the commits it made on the way."""

    status: Status
    view: View
    commits: tuple[Commit, ...] = ()
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


async def take_turn(host: Host, body: bytes, who: Identity, answer: Answer, request: CreateRequest) -> Turn:
    """Take one turn. The client hears of its end only after it is stored.

    Raises a `Problem` before anything has begun, and what the store raised if the end could not be stored.
    """
    message = host.reader.read(request.items)
    async with host.runs.place():
        turn = await admit(host, request, who)
        with telemetry.tracer.start_as_current_span(telemetry.TURN_SPAN) as span:
            answer.tell([*turn.transcript.created(), *turn.transcript.in_progress()])
            narrator = Narrator(turn.transcript, answer.tell)
            outcome = await run(host, turn, message, narrator, streaming=answer.wants_events)
            answer.tell(turn.transcript.abandon_open())
            await finish(host, turn, outcome)
            answer.tell(end(turn, outcome))
            span.set_attribute(telemetry.RESPONSE_ID, turn.facts.id)
            span.set_attribute(telemetry.TURN_STATUS, outcome.status)
        return turn
