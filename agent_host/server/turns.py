"""The way of one turn, from the bytes of a request to the stored response.

`take_turn` is the list; each step is a function below it. A turn starts from a commit and ends in one transaction of
the store. Whatever goes wrong after its beginning ends in a response that is stored as failed or cancelled, with the
commit the turn started from: the conversation stands where it stood.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from agent_host import telemetry
from agent_host.engine.checkpoint import Commit
from agent_host.engine.ports import Boundary
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.runner import Run, RunOptions
from agent_host.errors import StoreError, WorkflowRunnerException
from agent_host.foundry.identity import Identity, identify
from agent_host.ids import key_of
from agent_host.server.bridge import Narrator, as_text, turn_of, usage_of
from agent_host.server.failures import failure, stopped, unstored
from agent_host.server.host import Host
from agent_host.server.stored import record_of
from agent_host.server.turn import Answer, Outcome, Turn
from agent_host.wire import problems
from agent_host.wire.events import Event
from agent_host.wire.request import CreateRequest, parse_request
from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript

log = logging.getLogger("agent_host")

_UNFINISHED = ("queued", "in_progress")


async def take_turn(
    host: Host, body: bytes, headers: Mapping[str, str], open_answer: Callable[[CreateRequest], Answer]
) -> Turn:
    """Take one turn. The client hears of its end only when that is stored.

    Raises a `Problem` before anything has begun, and if the end of a plain answer could not be stored.
    """
    request = parse_request(body)
    message = host.reader.read(request.items)
    who = identify(headers, host.sources.new_request_id)
    answer = open_answer(request)
    async with host.runs.place():
        turn = await admit(host, request, who)
        with telemetry.tracer.start_as_current_span(telemetry.TURN_SPAN) as span:
            answer.tell([*turn.transcript.created(), *turn.transcript.in_progress()])
            try:
                lane = await materialise(host, turn)
                outcome = await run(host, turn, lane, message, answer)
            except asyncio.CancelledError:
                outcome = cut_off(host, turn)
            except Exception as error:  # noqa: BLE001 - the boundary to the user's code: the turn ends as failed
                outcome = failed(host, turn, error)
            answer.tell(turn.transcript.abandon_open())
            outcome = await finish(host, turn, outcome, answer)
            answer.tell(ending(turn, outcome))
            span.set_attributes({telemetry.RESPONSE_ID: turn.facts.id, telemetry.TURN_STATUS: outcome.status})
    return turn


async def admit(host: Host, request: CreateRequest, who: Identity) -> Turn:
    """Find the commit the turn starts from, or answer why there is none. Nothing is written."""
    if request.background:
        raise problems.not_available("background", "Running a response in the background")
    if request.conversation is not None:
        raise problems.conversation_not_found(request.conversation)
    commit_id = host.definition.root.id
    previous = request.previous_response_id
    if previous is not None:
        point = await host.store.resolve(who.user, previous)
        if point is None:
            raise problems.previous_response_not_found(previous)
        if point.status in _UNFINISHED:
            raise problems.previous_response_not_ready(previous)
        commit_id = point.commit
    ids = host.sources.ids
    start = await host.view(who.user, commit_id)
    if start is None:
        raise problems.previous_response_not_found(previous or "")
    key = key_of(previous) or ids.partition_key()
    facts = ResponseFacts(
        id=ids.new("resp", key),
        created_at=int(host.sources.clock()),
        model=request.model or host.workflow.name,
        previous_response_id=previous,
        instructions=request.instructions,
        store=request.store,
        metadata=request.metadata,
        echo=request.echo,
    )
    transcript = Transcript(facts, lambda prefix: ids.new(prefix, key))
    return Turn(request, who, facts, transcript, start)


async def materialise(host: Host, turn: Turn) -> Lane:
    """Clone the executors and give them the starting commit's state. The lane is forgotten after the turn."""
    return await Lane.open(turn.facts.id, host.definition, turn.start, host.blob_reader(turn.who.user))


class _Collected:
    """The publisher of a foreground turn: keeps the boundary at rest for the turn's one transaction."""

    def __init__(self) -> None:
        self.commits: tuple[Commit, ...] = ()

    async def publish(self, boundary: Boundary) -> None:
        self.commits = (*self.commits, *boundary.commits)

    async def record(self, entries: Mapping[str, bytes]) -> None:
        """Nothing: a foreground turn that does not end leaves nothing behind."""

    async def recorded(self) -> dict[str, bytes]:
        return {}


async def run(host: Host, turn: Turn, lane: Lane, message: Any, answer: Answer) -> Outcome:
    """Run supersteps until the workflow is at rest. Raises what a handler raised."""
    narrator = Narrator(turn.transcript, answer.tell)
    collected = _Collected()
    options = RunOptions(
        durability="turn",
        streaming=answer.is_stream,
        turn=turn_of(turn.request, turn.facts.id, turn.who),
        clock=host.sources.clock,
        new_commit_id=lambda: host.sources.ids.new("chk", key_of(turn.facts.id)),
        show_output=as_text,
        hears=narrator.hears,
    )
    engine = Run(lane, collected, narrator.hear, options)
    try:
        await engine.start(message)
        await engine.to_rest()
    finally:
        turn.usage.update(engine.usage)
    if narrator.questions:
        raise WorkflowRunnerException(
            f"Executor {narrator.questions[0].executor_id!r} asked a question with request_info; "
            "this version of the host cannot carry questions to clients."
        )
    return Outcome("completed", lane.view, collected.commits)


def cut_off(host: Host, turn: Turn) -> Outcome:
    """How a turn ends whose task was cancelled: by the host going down, or because its client left."""
    _take_back_cancellation()
    if host.runs.draining:
        return Outcome("failed", turn.start, error=stopped())
    return Outcome("cancelled", turn.start)


def failed(host: Host, turn: Turn, error: Exception) -> Outcome:
    """How a turn ends that raised. The log has all of it, the client what it may know."""
    log.error("turn %s failed (request %s)", turn.facts.id, turn.who.request_id, exc_info=error)
    told = failure(error, turn.who.request_id, expose=host.settings.expose_errors)
    return Outcome("failed", turn.start, error=told)


async def finish(host: Host, turn: Turn, outcome: Outcome, answer: Answer) -> Outcome:
    """Store response and commits in one transaction; a turn that the client wants unstored leaves nothing.

    If that fails, nothing of the turn is kept: a stream is told so, a plain answer becomes an HTTP error that
    clients do not retry.
    """
    outcome = replace(outcome, completed_at=int(host.sources.clock()))
    if not turn.request.store:
        return outcome
    root = () if host.root_is_stored else (host.definition.root,)
    try:
        record = record_of(turn, outcome, new_id=lambda prefix: host.sources.ids.new(prefix, key_of(turn.facts.id)))
        await host.store.finish(turn.who.user, record, (*root, *outcome.commits))
    except asyncio.CancelledError:
        # A store lets a cancellation through only after the verb has ended: the turn is stored.
        _take_back_cancellation()
    except Exception as error:
        trace = None if isinstance(error, StoreError) else error  # a store's own errors say all there is to say
        log.error(
            "turn %s could not be stored (request %s): %s", turn.facts.id, turn.who.request_id, error, exc_info=trace
        )
        if not answer.is_stream:
            raise problems.server_fault(turn.who.request_id) from None
        return replace(outcome, status="failed", view=turn.start, error=unstored(turn.who.request_id))
    host.root_is_stored = True
    host.remember(turn.who.user, outcome.view)
    return outcome


def ending(turn: Turn, outcome: Outcome) -> list[Event]:
    """The response's last event."""
    usage, completed_at = usage_of(turn.usage), outcome.completed_at
    if outcome.status == "completed":
        return turn.transcript.completed(usage, completed_at)
    if outcome.status == "cancelled":
        return turn.transcript.cancelled(usage, completed_at)
    return turn.transcript.failed(outcome.error or {}, usage, completed_at)


def _take_back_cancellation() -> None:
    """Go on in a task that was cancelled: what is left is to store how the turn ended."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
