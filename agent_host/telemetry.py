"""Names of spans, metrics and attributes, over the OpenTelemetry API: without an SDK installed they cost nothing."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import baggage, context, metrics, propagate, trace
from opentelemetry.trace import Status, StatusCode

INVOKE_AGENT = "invoke_agent"
"""The operation of a turn; the agent's name follows in the name of its span."""
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
AGENT_NAME = "gen_ai.agent.name"
AGENT_ID = "gen_ai.agent.id"
AGENT_VERSION = "gen_ai.agent.version"
RESPONSE_ID = "gen_ai.response.id"
CONVERSATION_ID = "gen_ai.conversation.id"
TURN_STATUS = "agent_host.turn.status"

LONGEST_BAGGAGE = 256  # characters

_tracer = trace.get_tracer("agent_host")
_durations = metrics.get_meter("agent_host").create_histogram(
    "agent_host.turn.duration", unit="s", description="How long turns take, from the starting commit to the stored end."
)


@contextmanager
def called_by(headers: Mapping[str, str]) -> Iterator[None]:
    """What runs in the block belongs to the trace that the caller's headers name, if they name one."""
    if "traceparent" not in headers and "baggage" not in headers:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def turn_span(name: str) -> Iterator[trace.Span]:
    """The span of one turn of an agent, current until the block ends. That of a turn that raises is one of an error."""
    span = _tracer.start_span(f"{INVOKE_AGENT} {name}")
    if not span.get_span_context().is_valid:  # no SDK, and no span around it: there is nothing to hand on
        yield span
        return
    with trace.use_span(span, end_on_exit=True):
        yield span


@contextmanager
def carrying(facts: Mapping[str, str]) -> Iterator[None]:
    """Calls that are made in the block tell these facts to whoever they call, as the baggage of the trace."""
    carried = context.get_current()
    for name, value in facts.items():
        carried = baggage.set_baggage(name, value[:LONGEST_BAGGAGE], carried)
    token = context.attach(carried)
    try:
        yield
    finally:
        context.detach(token)


def turn_ended(span: trace.Span, status: str, seconds: float) -> None:
    """Note how a turn has ended and how long it has taken."""
    _durations.record(seconds, {TURN_STATUS: status})
    span.set_attribute(TURN_STATUS, status)
    if status == "failed":
        span.set_status(Status(StatusCode.ERROR))
