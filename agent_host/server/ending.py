"""How the end of a turn looks: the last events of its response, and what is stored of it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.ids import key_of
from agent_host.server import bridge
from agent_host.server.host import Host
from agent_host.server.turn import Outcome, Turn
from agent_host.stores.records import ConversationMove, Item, OpenCall, ResponseRecord
from agent_host.wire.events import Event
from agent_host.wire.request import stored_items
from agent_host.wire.transcript import Transcript

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Last:
    """The last events of a response, the transcript that they end, and the questions that are among them."""

    transcript: Transcript
    events: list[Event]
    calls: tuple[OpenCall, ...]


def end(host: Host, turn: Turn, outcome: Outcome) -> Last:
    """End a copy of the turn's transcript: what is open is taken back, what the workflow asks is asked."""
    transcript = turn.transcript.copy()
    told = transcript.abandon_open()
    calls: tuple[OpenCall, ...] = ()
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
    usage, completed_at = bridge.usage_of(turn.usage), outcome.completed_at
    if outcome.status == "completed":
        told += transcript.completed(usage, completed_at)
    elif outcome.status == "cancelled":
        told += transcript.cancelled(usage, completed_at)
    else:
        told += transcript.failed(outcome.error or {}, usage, completed_at)
    return Last(transcript, told, calls)


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
        "usage": bridge.usage_of(turn.usage),
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
        completed_at=outcome.completed_at,
        delta_lengths=_pack(last.transcript.journal),
        input=_json(inputs),
        body=_json({name: part for name, part in parts.items() if part}),
        background=facts.background,
        calls=last.calls,
        items=tuple(item["id"] for item in (*inputs, *outputs) if item["type"] != "item_reference"),
    )
    return record, _move(turn, outcome, inputs, outputs)


def _move(
    turn: Turn, outcome: Outcome, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]
) -> ConversationMove | None:
    """A turn that has failed leaves its conversation as it was."""
    conversation = turn.start.conversation
    if conversation is None or outcome.status != "completed":
        return None
    whole = [item for item in outputs if item.get("status") != "incomplete"]
    entered = [item for item in inputs if item["type"] != "item_reference"]
    return ConversationMove(
        conversation.id,
        conversation.head,
        tuple(Item(item["id"], _json(item)) for item in (*entered, *whole)),
        turn.start.waiting.position,
    )
