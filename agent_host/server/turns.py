"""The way of one turn, from the bytes of a request to the stored response.

`take_turn` is the list; each step is a function below it. A turn starts from a commit and ends in one transaction of
the store. Whatever goes wrong after its beginning ends in a response that is stored as failed or cancelled, with the
commit the turn started from: the conversation stands where it stood.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from agent_host import telemetry
from agent_host.engine.checkpoint import Commit
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.ports import Boundary
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.runner import Run, RunOptions
from agent_host.errors import (
    ConversationLockedError,
    GuardLostError,
    StoreClosedError,
    StoreError,
    TurnConflictError,
    WorkflowRunnerException,
)
from agent_host.foundry.identity import Identity, identify
from agent_host.ids import key_of
from agent_host.server import bridge, starting_point
from agent_host.server.bridge import SETTLED, Narrator
from agent_host.server.ending import end, record_of
from agent_host.server.failures import failure, stopped, unstored
from agent_host.server.host import Host
from agent_host.server.idempotency import idempotency_key, refuse_repeated
from agent_host.server.questions import open_questions
from agent_host.server.stored import stored_request
from agent_host.server.turn import Answer, Ended, Outcome, Turn
from agent_host.stores.records import IdempotencyKey, TurnInFlight
from agent_host.wire import problems
from agent_host.wire.request import CreateRequest, parse_request
from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript

log = logging.getLogger("agent_host")


async def take_turn(
    host: Host, body: bytes, headers: Mapping[str, str], open_answer: Callable[[CreateRequest], Answer]
) -> Ended:
    """Take one turn. The client hears of its end only when that is stored; of a background turn, when it is accepted.

    Raises a `Problem` before anything has begun, and if the end of a plain answer could not be stored; `Repeated` if
    the request was made before under the same idempotency key.
    """
    request = parse_request(body)
    answer = open_answer(request)
    who = identify(headers, host.sources.new_request_id)
    key = idempotency_key(headers, request)
    await refuse_repeated(host, who, key)
    if request.background:
        host.runs.refuse_if_full()
        turn = await admit(host, request, who, key, body)
        await begin_in_background(host, turn)
        return Ended(turn.transcript.response())
    async with host.runs.place():
        turn = await admit(host, request, who, key, body)
        answer.tell([*turn.transcript.created(), *turn.transcript.in_progress()])
        ended = await work(host, turn, answer)
    assert ended is not None, "only background turns are left for later"
    return ended


async def work(host: Host, turn: Turn, answer: Answer) -> Ended | None:
    """The turn itself, from the starting commit to the stored end; None if it is left for another process."""
    with telemetry.tracer.start_as_current_span(telemetry.TURN_SPAN) as span:
        try:
            lane = await materialise(host, turn)
            outcome = await run(host, turn, lane, answer)
        except asyncio.CancelledError:
            outcome = cut_off(host, turn)
        except GuardLostError:
            outcome = None
        except Exception as error:  # noqa: BLE001 - the boundary to the user's code: the turn ends as failed
            outcome = failed(host, turn, error)
        if outcome is None:
            return None
        ended = await finish(host, turn, outcome, answer)
        span.set_attributes({telemetry.RESPONSE_ID: turn.facts.id, telemetry.TURN_STATUS: outcome.status})
        return ended


# --- Admission -----------------------------------------------------------------------------------------------------


async def admit(
    host: Host, request: CreateRequest, who: Identity, key: IdempotencyKey | None, body: bytes = b""
) -> Turn:
    """Find where the turn starts and take its conversation, or answer why that is not possible.

    A background turn is stored with its request, so that it can begin again; a foreground turn writes nothing.
    """
    start = await starting_point.find(host, who.user, request)
    ids = host.sources.ids
    partition = key_of(request.previous_response_id or request.conversation) or ids.partition_key()
    facts = facts_of(host, request, ids.new("resp", partition), int(host.sources.clock()))
    turn = Turn(request, who, facts, transcript_of(host, facts), start, key)
    if request.background or (request.store and (start.conversation is not None or key is not None)):
        await _take_place(host, turn, body)
    return turn


async def _take_place(host: Host, turn: Turn, body: bytes) -> None:
    """Have the store admit the turn: one in each conversation, one for each idempotency key."""
    in_flight = TurnInFlight(
        id=turn.facts.id,
        start_commit=turn.start.view.commit_id,
        created_at=turn.facts.created_at,
        conversation=turn.request.conversation,
        background=turn.request.background,
        key=turn.key,
        request=stored_request(host.workflow.name, body, turn.who) if turn.request.background else b"",
    )
    try:
        await host.store.admit(turn.who.user, in_flight, host.unstored_root())
    except ConversationLockedError:
        raise problems.conversation_locked(turn.request.conversation or "") from None
    except TurnConflictError:
        # Another request with this key was admitted in the same moment.
        await refuse_repeated(host, turn.who, turn.key)
        raise


def facts_of(host: Host, request: CreateRequest, response_id: str, created_at: int) -> ResponseFacts:
    """What the response says about its request."""
    return ResponseFacts(
        id=response_id,
        created_at=created_at,
        model=request.model or host.workflow.name,
        previous_response_id=request.previous_response_id,
        conversation=request.conversation,
        instructions=request.instructions,
        store=request.store,
        background=request.background,
        metadata=request.metadata,
        echo=request.echo,
    )


def transcript_of(host: Host, facts: ResponseFacts) -> Transcript:
    """A new transcript, whose items belong to the response's partition."""
    key = key_of(facts.id)
    return Transcript(facts, lambda prefix: host.sources.ids.new(prefix, key))


# --- Background ----------------------------------------------------------------------------------------------------


class LogAnswer:
    """A background turn speaks to the event log; whoever follows the response reads it there."""

    is_stream = True

    def __init__(self, turn: Turn) -> None:
        assert turn.log is not None
        self.tell = turn.log.tell

    def show(self, event: WorkflowEvent) -> None:
        """Nothing: workflow events are not part of the response."""


async def begin_in_background(host: Host, turn: Turn) -> None:
    """Take an admitted turn for this process, and go on with it in a task of its own."""
    key = (turn.who.user, turn.facts.id)
    taken = await host.background.take(key)
    if taken is not None:
        mine = replace(turn, log=host.events.open_turn(turn.who.user, host.background.guard(taken)))
        assert mine.log is not None
        mine.log.tell([*turn.transcript.created(), *turn.transcript.queued()])
        host.background.begin(key, work_in_background(host, mine), mine.stop)


async def work_in_background(host: Host, turn: Turn) -> None:
    """Wait for a place, then take the turn to its end. If the host goes down, it is left for the next process."""
    answer = LogAnswer(turn)
    ended: Ended | None = None
    try:
        async with host.runs.place(accepted=True):
            if turn.transcript.status == "queued":
                answer.tell(turn.transcript.in_progress())
            ended = await work(host, turn, answer)
    except StoreClosedError:
        pass  # it waited for a place when the host went down
    except asyncio.CancelledError:
        outcome = cut_off(host, turn)
        if outcome is not None:
            ended = await finish(host, turn, outcome, answer)
    if ended is None:
        await host.background.give_back((turn.who.user, turn.facts.id))
    log.info("%s", ended.about if ended is not None else f"{turn.facts.id} left for later")


# --- Running -------------------------------------------------------------------------------------------------------


async def materialise(host: Host, turn: Turn) -> Lane:
    """Clone the executors and give them the starting commit's state. The lane is forgotten after the turn."""
    view = turn.resumed_at or turn.start.view
    return await Lane.open(turn.facts.id, host.definition, view, host.blob_reader(turn.who.user))


class _AtRest:
    """The publisher of a foreground turn: keeps the boundary at rest for the turn's one transaction."""

    def __init__(self) -> None:
        self.commits: tuple[Commit, ...] = ()

    async def publish(self, boundary: Boundary) -> None:
        self.commits = (*self.commits, *boundary.commits)

    async def record(self, entries: Mapping[str, bytes]) -> None:
        """Nothing: a foreground turn that does not end leaves nothing behind."""

    async def recorded(self) -> dict[str, bytes]:
        return {}


class _EachStep:
    """The publisher of a background turn: stores every boundary with what it settles of the response."""

    commits: tuple[Commit, ...] = ()

    def __init__(self, host: Host, turn: Turn, narrator: Narrator) -> None:
        assert turn.log is not None
        self._host = host
        self._log = turn.log
        self._narrator = narrator

    async def publish(self, boundary: Boundary) -> None:
        for event in boundary.events:
            self._narrator.hear(event)
        if boundary.commits:
            await self._log.step(boundary.commits)

    async def record(self, entries: Mapping[str, bytes]) -> None:
        await self._log.record(entries)

    async def recorded(self) -> dict[str, bytes]:
        return await self._host.store.recorded(*self._log.key)


async def run(host: Host, turn: Turn, lane: Lane, answer: Answer) -> Outcome | None:
    """Run supersteps until the workflow is at rest. Raises what a handler raised; None if it was told to stop."""
    progress = bridge.progress_of(turn.request, host.settings.progress)
    narrator = Narrator(turn.transcript, answer.tell, progress=progress)
    publisher = _EachStep(host, turn, narrator) if turn.is_background else _AtRest()
    options = RunOptions(
        durability="step" if turn.is_background else "turn",
        streaming=answer.is_stream,
        turn=bridge.turn_of(turn.request, turn.facts, turn.who),
        stop=turn.stop,
        clock=host.sources.clock,
        new_commit_id=lambda: host.sources.ids.new("chk", key_of(turn.facts.id)),
        show_output=bridge.as_text,
        hears=bridge.heard(progress, is_background=turn.is_background, shows_events=turn.who.wants_workflow_events),
    )

    def hear(event: WorkflowEvent) -> None:
        if turn.who.wants_workflow_events:
            answer.show(event)
        if not (turn.is_background and event.type in SETTLED):
            narrator.hear(event)

    engine = Run(lane, publisher, hear, options)
    try:
        if turn.resumed_at is not None:
            await engine.resume()
        elif turn.start.answers:
            await engine.answer(turn.start.answers, *turn.start.inputs)
        else:
            await engine.start(*turn.start.inputs)
        await engine.to_rest()
    finally:
        turn.usage.update(engine.usage)
    if lane.queued:
        return None
    questions = tuple(open_questions(lane))
    if questions and not turn.request.store:
        raise WorkflowRunnerException(
            f"The workflow asks {questions[0].name!r}, but a response that is not stored cannot be answered. "
            'Send the request with "store": true.'
        )
    return Outcome("completed", lane.view, publisher.commits, questions)


def cut_off(host: Host, turn: Turn) -> Outcome | None:
    """How a turn ends whose task was cancelled: by the host going down, or because its client does not want it.

    A background turn that the host going down has cut off does not end: the next process goes on with it.
    """
    _take_back_cancellation()
    if turn.is_background:
        wanted = host.background.is_cancelled((turn.who.user, turn.facts.id))
        return Outcome("cancelled", turn.start.view) if wanted else None
    if host.runs.draining:
        host.runs.cut_off += 1
        return Outcome("failed", turn.start.view, error=stopped())
    return Outcome("cancelled", turn.start.view)


def failed(host: Host, turn: Turn, error: Exception) -> Outcome:
    """How a turn ends that raised. The log has all of it, the client what it may know."""
    log.error("turn %s failed (request %s)", turn.facts.id, turn.who.request_id, exc_info=error)
    told = failure(error, turn.who.request_id, expose=host.settings.expose_errors)
    return Outcome("failed", turn.start.view, error=told)


# --- The end -------------------------------------------------------------------------------------------------------


async def finish(host: Host, turn: Turn, outcome: Outcome, answer: Answer) -> Ended | None:
    """Store response and commits in one transaction, then tell; a turn that is not to be stored leaves nothing.

    The end is written on a copy of the transcript, which counts once it is stored. If that fails, nothing of the turn
    is kept: a stream is told so, and a plain answer becomes an HTTP error that clients do not retry. A background turn
    is kept as it was, to be ended later.
    """
    outcome = replace(outcome, completed_at=int(host.sources.clock()))
    last = end(host, turn, outcome)
    if not turn.request.store:
        answer.tell(last.events)
        return Ended(last.transcript.final_response())
    record, move = record_of(host, turn, outcome, last)
    user, key = turn.who.user, turn.key
    try:
        if turn.log is not None:
            await turn.log.finish(record, outcome.commits, last.events, move=move, key=key)
        else:
            commits = (*host.unstored_root(), *outcome.commits)
            await host.store.finish(user, record, commits, move=move, key=key)
    except asyncio.CancelledError:
        # A store lets a cancellation through only after the verb has ended: the turn is stored.
        _take_back_cancellation()
    except Exception as error:  # noqa: BLE001 - whatever the store raised: the turn is not stored, and says so
        return await _not_stored(host, turn, error, answer)
    host.root_is_stored = True
    host.remember(user, outcome.view)
    if turn.log is None:
        answer.tell(last.events)
    return Ended(last.transcript.final_response())


async def _not_stored(host: Host, turn: Turn, error: Exception, answer: Answer) -> Ended | None:
    trace = None if isinstance(error, StoreError) else error  # a store's own errors say all there is to say
    if turn.is_background and isinstance(error, GuardLostError):
        log.info("turn %s has another owner now", turn.facts.id)
        return None
    log.error("turn %s could not be stored (request %s): %s", turn.facts.id, turn.who.request_id, error, exc_info=trace)
    if turn.is_background:
        return None
    await host.store.release(turn.who.user, turn.facts.id)
    if not answer.is_stream:
        raise problems.server_fault(turn.who.request_id) from None
    last = end(host, turn, Outcome("failed", turn.start.view, error=unstored(turn.who.request_id)))
    answer.tell(last.events)
    return Ended(last.transcript.final_response())


def _take_back_cancellation() -> None:
    """Go on in a task that was cancelled: what is left is to store how the turn ended."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
