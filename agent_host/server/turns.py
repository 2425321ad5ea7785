"""The way of one turn, from the bytes of a request to the stored response.

`take_turn` and `work` are the list; each step is a function. A turn starts from a commit and ends in one transaction of
the store. Whatever goes wrong after its beginning ends in a response that is stored as failed or cancelled, with the
commit the turn started from: the conversation stands where it stood.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.events import WorkflowEvent
from agent_host.errors import (
    ConversationLockedError,
    GuardLostError,
    StoreClosedError,
    StoreError,
    StoreLimitError,
    TurnConflictError,
)
from agent_host.foundry.calls import on_behalf_of
from agent_host.foundry.identity import Identity, session_of
from agent_host.ids import KEY_AND_ENTROPY, key_of
from agent_host.server.cancellation import take_back_cancellation, to_its_end
from agent_host.server.connection_memory import LaneMemory
from agent_host.server.continuation import is_current, look_up
from agent_host.server.ending import finish, give_up
from agent_host.server.failures import failure, stopped
from agent_host.server.host import Host
from agent_host.server.idempotency import KEPT_FOR, Repeated, idempotency_key, refuse_repeated
from agent_host.server.observing import observed
from agent_host.server.running import materialise, run
from agent_host.server.starting_point import starting_point
from agent_host.server.stored import stored_request
from agent_host.server.turn import Answer, Ended, Outcome, Turn
from agent_host.stores.records import IdempotencyKey, TurnInFlight
from agent_host.wire import problems
from agent_host.wire.events import Event
from agent_host.wire.problems import Problem
from agent_host.wire.request import CreateRequest, parse_request
from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript

log = logging.getLogger("agent_host")


async def take_turn(
    host: Host,
    body: bytes,
    who: Identity,
    open_answer: Callable[[CreateRequest, Identity], Answer],
    *,
    idempotency: str | None = None,
    memory: LaneMemory | None = None,
) -> Ended:
    """Take one turn. The client hears of its end only when that is stored; of a background turn, when it is accepted.

    `idempotency` is the key that the client has given the request. What is not to be stored is left to the `memory` of
    a connection that has one, and can be continued from there.
    Raises a `Problem` before anything has begun, and if the end of a plain answer could not be stored; `Repeated` if
    the request was made before under the same idempotency key.
    """
    request = read_request(host, body, memory)
    who = in_session(host, who, request)
    answer = open_answer(request, who)
    key = idempotency_key(idempotency, request)
    host.runs.refuse_if_full()
    await refuse_repeated(host, who, key)
    if request.background:
        return await accept(host, request, who, key, body)
    async with host.runs.place():
        turn = await admit(host, request, who, key, memory=memory)
        try:
            reached(CrashPoint.ADMITTED)
            answer.tell([*turn.transcript.created(), *turn.transcript.in_progress()])
            ended = await work(host, turn, answer)
        except BaseException:
            # Whatever it was, nobody goes on with the turn.
            await give_up(host, turn)
            raise
    assert ended is not None, "only background turns are left for later"
    return ended


async def work(host: Host, turn: Turn, answer: Answer) -> Ended | None:
    """The turn itself, from the starting commit to the stored end; None if it is left for another process."""
    with observed(host, turn, answer) as ended_as, on_behalf_of(turn.who.call_id):
        try:
            lane = await materialise(host, turn)
            outcome = await run(host, turn, lane, answer)
        except asyncio.CancelledError:
            outcome = cut_off(host, turn)
        except GuardLostError:
            outcome = None
        except StoreError as error:
            outcome = unread(host, turn, error)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - the boundary to the user's code: the turn ends as failed
            outcome = failed(host, turn, error)
        if outcome is None:
            return None
        ended = await finish(host, turn, outcome, answer)
        if ended is not None:
            answer.tell(ended.untold)
        ended_as(outcome.status)
        return ended


# --- Admission -----------------------------------------------------------------------------------------------------


def read_request(host: Host, body: bytes, memory: LaneMemory | None = None) -> CreateRequest:
    """The request in a body, with the input that has waited for it in its connection's memory."""
    request = parse_request(body, lenient=host.hosting.ignores_unknown_fields)
    if host.settings.strict_model and request.model not in (None, host.workflow.name):
        raise problems.model_not_found(request.model)
    return request if memory is None else memory.with_waiting(request)


def in_session(host: Host, who: Identity, request: CreateRequest) -> Identity:
    """Who asks, in the platform's session that the request belongs to; there is none without a platform."""
    platform = host.settings.platform
    if platform is None:
        return who
    continues = request.conversation or request.previous_response_id
    session_id = session_of(platform, request.agent_session_id, continues, host.sources.ids.entropy)
    return replace(who, session_id=session_id)


async def admit(
    host: Host,
    request: CreateRequest,
    who: Identity,
    key: IdempotencyKey | None,
    body: bytes = b"",
    memory: LaneMemory | None = None,
) -> Turn:
    """Find where the turn starts and take its conversation, or answer why that is not possible.

    A background turn is stored with its request, so that it can begin again; a foreground turn writes nothing,
    and the store keeps what it starts from.
    """
    response_id = await _response_id(host, request, who)
    facts = facts_of(host, request, who, response_id, int(host.sources.clock()))
    while True:
        continues = await look_up(host, who.user, request, memory)
        start = await starting_point(host, who.user, continues, host.sources.clock())
        turn = Turn(request, who, facts, transcript_of(host, facts), start, key, memory=memory)
        reached(CrashPoint.ADMITTING)
        if not turn.is_admitted:
            return turn
        try:
            await _take_place(host, turn, body)
            if await is_current(host, who.user, continues):
                return turn
        except (Problem, Repeated):
            raise  # the store has refused it, so there is nothing to give up
        except BaseException:
            # Whatever it was, a client that has left included: nobody goes on with the turn.
            await give_up(host, turn)
            raise
        # Another turn has ended in the conversation after it was looked up, before it was taken.
        await give_up(host, turn)


async def _response_id(host: Host, request: CreateRequest, who: Identity) -> str:
    """The id that the platform wants the response to have, or a new one in the partition of what it continues."""
    ids, prefix = host.sources.ids, host.hosting.response_prefix
    if not who.response_id:
        partition = key_of(request.previous_response_id or request.conversation) or ids.partition_key()
        return ids.new(prefix, partition)
    if key_of(who.response_id) is None or not who.response_id.startswith(f"{prefix}_"):
        raise problems.invalid_format("response_id", who.response_id, f"{prefix}_{KEY_AND_ENTROPY}")
    if await host.store.resolve(who.user, who.response_id) is not None:
        raise problems.response_id_taken(who.response_id)
    return who.response_id


async def _take_place(host: Host, turn: Turn, body: bytes) -> None:
    """Have the store admit the turn: one in each conversation, one for each idempotency key."""
    stored = b""
    if turn.request.background:
        stored = stored_request(host.workflow.name, body, turn.who, turn.start.continues)
    in_flight = TurnInFlight(
        id=turn.facts.id,
        start_commit=turn.start.view.commit_id,
        created_at=turn.facts.created_at,
        conversation=turn.request.conversation,
        background=turn.request.background,
        key=turn.key,
        request=stored,
    )
    try:
        await host.store.admit(
            turn.who.user, in_flight, host.unstored_root(), keys_since=host.sources.clock() - KEPT_FOR
        )
        if turn.request.background:
            host.root_is_stored = True
    except ConversationLockedError:
        raise problems.conversation_locked(turn.request.conversation or "") from None
    except TurnConflictError:
        # Another request with this key was admitted, or has ended, since it was looked for.
        await refuse_repeated(host, turn.who, turn.key)
        if turn.who.response_id:
            raise problems.response_id_taken(turn.who.response_id) from None
        raise


def facts_of(host: Host, request: CreateRequest, who: Identity, response_id: str, created_at: int) -> ResponseFacts:
    """What the response says about its request."""
    session = {"agent_session_id": who.session_id} if who.session_id else {}
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
        echo={**request.echo, **session},
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
        self.log = turn.log
        self.tell = turn.log.tell

    def show(self, event: WorkflowEvent) -> None:
        """Nothing: workflow events are not part of the response."""


async def accept(host: Host, request: CreateRequest, who: Identity, key: IdempotencyKey | None, body: bytes) -> Ended:
    """Admit a background turn and begin with it in a task of its own; the client need not wait."""
    with host.runs.expecting():
        turn = await admit(host, request, who, key, body)
        reached(CrashPoint.ADMITTED)
        beginning = [*turn.transcript.created(), *turn.transcript.queued()]
        accepted = Ended(turn.transcript.response())
        await to_its_end(_begin(host, turn, beginning))
        await asyncio.sleep(0)  # lets its task ask for a place, so that it is counted throughout
    return accepted


async def _begin(host: Host, turn: Turn, beginning: list[Event]) -> None:
    """Become the owner of a turn that was accepted. If that fails it stays accepted: the next sweep takes it up."""
    key = (turn.who.user, turn.facts.id)
    try:
        taken = await host.background.take(key)
    except StoreError as error:
        log.warning("background turn %s begins later: %s", turn.facts.id, error)
        return
    if taken is not None:
        mine = replace(turn, log=host.events.open_turn(turn.who.user, host.background.guard(taken)))
        assert mine.log is not None
        mine.log.tell(beginning)
        host.background.begin(key, work_in_background(host, mine), mine.stop)


def _tell_begun(turn: Turn, answer: Answer) -> None:
    """Say that work begins, which is said once, however often it begins again."""
    if turn.transcript.status == "queued":
        answer.tell(turn.transcript.in_progress())


async def work_in_background(host: Host, turn: Turn) -> None:
    """Wait for a place, then take the turn to its end. If the host goes down, it is left for the next process.

    A turn whose end could not be stored is begun again when its lease has lapsed.
    """
    answer = LogAnswer(turn)
    ended: Ended | None = None
    try:
        async with host.runs.place(accepted=True):
            _tell_begun(turn, answer)
            await answer.log.begin()
            ended = await work(host, turn, answer)
    except StoreClosedError:
        pass  # it waited for a place when the host went down
    except StoreError as error:
        log.warning("background turn %s begins later: %s", turn.facts.id, error)
    except asyncio.CancelledError:
        outcome = cut_off(host, turn)
        if outcome is not None:
            _tell_begun(turn, answer)  # a response ends from there only
            ended = await finish(host, turn, outcome, answer)
    if ended is None:
        await to_its_end(_leave(host, turn))
    log.info("background turn %s", ended.about if ended is not None else f"{turn.facts.id} left for later")


async def _leave(host: Host, turn: Turn) -> None:
    """Do nothing more for a turn. Its attempt counts unless it is this host that goes down."""
    assert turn.log is not None
    await turn.log.close()
    if host.runs.draining:
        await host.background.give_back((turn.who.user, turn.facts.id), has_begun=turn.log.has_begun)


# --- When it does not come to rest ----------------------------------------------------------------------------------


def cut_off(host: Host, turn: Turn) -> Outcome | None:
    """How a turn ends whose task was cancelled: by the host going down, or because its client does not want it.

    A background turn that the host going down has cut off does not end: the next process goes on with it.
    """
    take_back_cancellation()
    if turn.is_background:
        wanted = host.background.is_cancelled((turn.who.user, turn.facts.id))
        return Outcome("cancelled", turn.start.view) if wanted else None
    if host.runs.draining:
        host.runs.cut_off += 1
        return Outcome("failed", turn.start.view, error=stopped())
    return Outcome("cancelled", turn.start.view)


def unread(host: Host, turn: Turn, error: StoreError) -> Outcome | None:
    """How a turn ends whose store has failed it: a background turn is left as it is, for another attempt."""
    if not turn.is_background or isinstance(error, (StoreLimitError, TurnConflictError)):  # so is every later attempt
        return failed(host, turn, error)
    log.error("background turn %s is begun again: %s", turn.facts.id, error)
    return None


def failed(host: Host, turn: Turn, error: BaseException) -> Outcome:
    """How a turn ends that raised. The log has all of it, the client what it may know."""
    log.error("turn %s failed (request %s)", turn.facts.id, turn.who.request_id, exc_info=error)
    told = failure(error, turn.who.request_id, expose=host.settings.expose_errors)
    return Outcome("failed", turn.start.view, error=told)
