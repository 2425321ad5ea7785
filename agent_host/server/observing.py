"""Watching a turn: its span, what the calls that it makes tell of it, and how long it takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agent_host import telemetry
from agent_host.foundry.observability import turn_attributes, turn_baggage
from agent_host.server.host import Host
from agent_host.server.turn import Answer, Turn


@contextmanager
def observed(host: Host, turn: Turn, answer: Answer) -> Iterator[Callable[[str], None]]:
    """The span of a turn, current until the block ends. What it gives is called with the status of a turn's end."""
    began = time.perf_counter()
    facts = turn.facts
    with telemetry.turn_span(host.agent[telemetry.AGENT_NAME]) as span:

        def ended(status: str) -> None:
            telemetry.turn_ended(span, status, time.perf_counter() - began)

        if not span.is_recording():
            yield ended
            return
        span.set_attributes({**host.agent, **turn_attributes(facts.id, facts.conversation, turn.who.session_id)})
        told = turn_baggage(facts.id, facts.conversation, turn.who.request_id, is_streaming=answer.is_stream)
        with telemetry.carrying(told):
            yield ended
