"""The end of a turn: the last events of its response, what is stored of it, and what is told when it is."""

import logging
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.crash_points import CrashPoint, reached
from agent_host.errors import GuardLostError, StoreError, TurnConflictError
from agent_host.ids import key_of
from agent_host.server import bridge
from agent_host.server.cancellation import to_its_end
from agent_host.server.connection_memory import Unstored
from agent_host.server.failures import homeless, unstored
from agent_host.server.host import Host
from agent_host.server.turn import Answer, Ended, Outcome, Turn
from agent_host.stores.records import ConversationMove, Item, OpenCall, ResponseRecord
from agent_host.wire import problems
from agent_host.wire.events import Event
from agent_host.wire.input import id_of, items_json
from agent_host.wire.request import stored_items
from agent_host.wire.transcript import Transcript

log = logging.getLogger("agent_host")

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Last:
    """The last events of a response, the transcript that they end, and what is told in them.

    That is the questions, the tokens used, and when it ended, in seconds since the epoch.
    """

    transcript: Transcript
    events: list[Event]
    calls: tuple[OpenCall, ...]
    usage: dict[str, Any]
    completed_at: int


def end(host: Host, turn: Turn, outcome: Outcome) -> Last:
    """End a copy of the turn's transcript: what is open is taken back, what the workflow asks is asked."""
    transcript = turn.transcript.copy()
    told = transcript.abandon_open()
    calls = turn.start.calls  # a turn that fails leaves what was open as it was
    if outcome.status == "completed":
        told += bridge.approved_calls(transcript, turn.start.approved)
        partition = key_of(turn.facts.id)
        asked, calls = bridge.end_questions(
            transcript,
            outcome.questions,
            lambda prefix: host.sources.ids.new(prefix, partition),
            mcp_approvals=host.settings.approvals == "mcp",
        )
        told += asked
    usage, completed_at = bridge.usage_of(turn.usage), int(host.sources.clock())
    if outcome.status == "completed":
        told += transcript.completed(usage, completed_at)
    elif outcome.status == "cancelled":
        told += transcript.cancelled(usage, completed_at)
    else:
        told += transcript.failed(outcome.error or {}, usage, completed_at)
    return Last(transcript, told, calls, usage, completed_at)


def record_of(host: Host, turn: Turn, outcome: Outcome, last: Last) -> tuple[ResponseRecord, ConversationMove | None]:
    """What is stored of a finished turn, and how its conversation moves on, if it does."""
    facts = turn.facts
    partition = key_of(facts.id)
    inputs = stored_items(turn.request, lambda prefix: host.sources.ids.new(prefix, partition))
    outputs = last.transcript.output
    parts = {
        "model": facts.model,
        "instructions": facts.instructions,
        "metadata": facts.metadata,
        "echo": facts.echo,
        "output": outputs,
        "usage": last.usage if any(turn.usage.values()) else None,
        "error": outcome.error,
    }
    record = ResponseRecord(
        id=facts.id,
        previous_response_id=facts.previous_response_id,
        start_commit=turn.start.view.commit_id,
        commit=outcome.view.commit_id,
        conversation=facts.conversation,
        status=outcome.status,
        created_at=facts.created_at,
        completed_at=last.completed_at,
        delta_lengths=_pack(last.transcript.journal),
        input=_json(inputs),
        body=_json({name: part for name, part in parts.items() if part}),
        background=facts.background,
        calls=last.calls,
        items=tuple(item["id"] for item in (*inputs, *outputs) if item["type"] != "item_reference"),
        heard=_heard(turn, outcome, inputs, outputs),
    )
    return record, _move(turn, outcome, inputs, outputs)


def _heard(
    turn: Turn, outcome: Outcome, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> tuple[str, ...]:
    """The ids of all items that the state has heard and said since the stored commit that it has come from."""
    continues = turn.start.continues
    before = continues.unstored.heard if continues.unstored is not None else ()
    if outcome.view.commit_id == continues.view.commit_id:
        return ()
    entered = [item.id for item in continues.waiting.items]
    meant = [id for item in continues.items if (id := id_of(item)) is not None]
    own = [item["id"] for item in (*inputs, *outputs)]
    return tuple(dict.fromkeys((*before, *entered, *meant, *own)))


def _move(
    turn: Turn, outcome: Outcome, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> ConversationMove | None:
    """A turn that has failed leaves its conversation as it was."""
    conversation = turn.start.continues.conversation
    if conversation is None or outcome.status != "completed":
        return None
    whole = [item for item in outputs if item.get("status") != "incomplete"]
    entered = [each for item in inputs if (each := _as_brought(turn, item)) is not None]
    return ConversationMove(
        conversation.id,
        conversation.head,
        tuple(Item(item["id"], _json(item)) for item in (*entered, *whole)),
        turn.start.continues.waiting.position,
    )


def _as_brought(turn: Turn, item: dict[str, Any]) -> dict[str, Any] | None:
    """An input item as its conversation lists it: in the place of a reference what it stands for, if that is new."""
    if item["type"] != "item_reference":
        return item
    meant = [each for each in turn.start.continues.items if id_of(each) == item["id"]]
    return items_json(meant, str)[0] if meant else None


def _left_by(turn: Turn, outcome: Outcome, last: Last) -> Unstored:
    """What a turn that is not stored leaves to its connection."""
    before = turn.start.continues.unstored or Unstored(turn.start.view)
    if outcome.view.commit_id == turn.start.view.commit_id:
        return before.followed_by(outcome.view, outcome.commits, before.calls, ())
    heard = _heard(turn, outcome, [], last.transcript.output)[len(before.heard) :]
    return before.followed_by(outcome.view, outcome.commits, last.calls, heard)


async def finish(host: Host, turn: Turn, outcome: Outcome, answer: Answer) -> Ended | None:
    """Store response and commits in one transaction; a turn that is not to be stored leaves nothing.

    The end is written on a copy of the transcript, which counts once it is stored. If that fails, nothing of the turn
    is kept: a stream is told so, and a plain answer becomes an HTTP error that clients do not retry. A background turn
    is kept as it was, to be begun again. Who cancels the turn now comes too late.
    """
    try:
        return await _stored(host, turn, outcome)
    except Exception as error:  # noqa: BLE001 - whatever the store raised: the turn is not stored, and says so
        moves = turn.start.continues.conversation is not None and outcome.status == "completed"
        if moves and isinstance(error, TurnConflictError) and not isinstance(error, GuardLostError):
            # Its conversation was deleted meanwhile, or another process has gone on in it: the turn has nowhere to go,
            # and is stored as failed.
            return await finish(host, turn, Outcome("failed", turn.start.view, error=homeless()), answer)
        return await _not_stored(host, turn, error, answer)


async def _stored(host: Host, turn: Turn, outcome: Outcome) -> Ended:
    last = end(host, turn, outcome)
    if not turn.request.store:
        if turn.memory is not None:
            turn.memory.keep(turn.facts.id, _left_by(turn, outcome, last))
        return Ended(last.transcript.final_response(), last.events)
    record, move = record_of(host, turn, outcome, last)
    user, key = turn.who.user, turn.key
    if turn.log is not None:
        await to_its_end(turn.log.finish(record, outcome.commits, last.events, move=move, key=key))
    else:
        before = turn.start.continues.unstored.commits if turn.start.continues.unstored is not None else ()
        commits = (*host.unstored_root(), *before, *outcome.commits)
        await to_its_end(host.store.finish(user, record, commits, move=move, key=key))
        host.root_is_stored = True
    reached(CrashPoint.FINISHED)
    host.heard.carry_on(user, turn.start.view.commit_id, record.commit, record.id, record.heard)
    if outcome.status == "completed":
        host.remember(user, outcome.view)
    # What a background turn has to tell is told by its event log.
    return Ended(last.transcript.final_response(), () if turn.is_background else last.events)


async def _not_stored(host: Host, turn: Turn, error: Exception, answer: Answer) -> Ended | None:
    trace = None if isinstance(error, StoreError) else error  # a store's own errors say all there is to say
    if turn.is_background and isinstance(error, GuardLostError):
        log.info("turn %s has another owner now", turn.facts.id)
        return None
    log.error("turn %s could not be stored (request %s): %s", turn.facts.id, turn.who.request_id, error, exc_info=trace)
    if turn.is_background:
        return None
    if not answer.is_stream:
        raise problems.server_fault(turn.who.request_id) from error
    await give_up(host, turn)
    last = end(host, turn, Outcome("failed", turn.start.view, error=unstored(turn.who.request_id)))
    return Ended(last.transcript.final_response(), last.events)


async def give_up(host: Host, turn: Turn) -> None:
    """Take back the admission of a turn that will not be stored, if the store knows of it."""
    if turn.is_admitted:
        try:
            await to_its_end(host.store.release(turn.who.user, turn.facts.id))
        except StoreError as error:
            log.error("turn %s could not be released: %s", turn.facts.id, error)
