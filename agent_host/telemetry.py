"""Names of spans and attributes, over the OpenTelemetry API: without an SDK installed they cost nothing."""

from contextlib import AbstractContextManager, nullcontext

from opentelemetry import trace

TURN_SPAN = "agent_host.turn"
RESPONSE_ID = "gen_ai.response.id"
TURN_STATUS = "agent_host.turn.status"

_tracer = trace.get_tracer("agent_host")


def turn_span() -> AbstractContextManager[trace.Span]:
    """The span of one turn, current until the block ends."""
    span = _tracer.start_span(TURN_SPAN)
    if not span.get_span_context().is_valid:  # no SDK, and no span around it: there is nothing to hand on
        return nullcontext(span)
    return trace.use_span(span, end_on_exit=True)
