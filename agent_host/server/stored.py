"""A response as it is stored: what it is made of, not its thirty-odd keys, and back."""

from collections.abc import Callable
from typing import Any

import msgspec

from agent_host.server.bridge import usage_of
from agent_host.server.turn import Outcome, Turn
from agent_host.stores.records import ResponseRecord
from agent_host.wire.request import stored_items
from agent_host.wire.response import ResponseFacts, snapshot

_json = msgspec.json.Encoder().encode
_pack = msgspec.msgpack.Encoder().encode


def record_of(turn: Turn, outcome: Outcome, *, new_id: Callable[[str], str]) -> ResponseRecord:
    """The stored form of a finished turn."""
    facts = turn.facts
    parts = {
        "model": facts.model,
        "instructions": facts.instructions,
        "metadata": facts.metadata,
        "echo": facts.echo,
        "output": turn.transcript.output,
        "usage": usage_of(turn.usage),
        "error": outcome.error,
    }
    return ResponseRecord(
        id=facts.id,
        previous_response_id=facts.previous_response_id,
        start_commit=turn.start.commit_id,
        commit=outcome.view.commit_id,
        conversation=facts.conversation,
        status=outcome.status,
        created_at=facts.created_at,
        completed_at=outcome.completed_at,
        delta_lengths=_pack(turn.transcript.journal),
        input=_json(stored_items(turn.request, new_id)),
        body=_json({name: part for name, part in parts.items() if part}),
    )


def response_of(record: ResponseRecord) -> dict[str, Any]:
    """The response object of a stored record: the one its turn's last event showed."""
    parts: dict[str, Any] = msgspec.json.decode(record.body)
    facts = ResponseFacts(
        id=record.id,
        created_at=record.created_at,
        model=parts["model"],
        previous_response_id=record.previous_response_id,
        conversation=record.conversation,
        instructions=parts.get("instructions"),
        metadata=parts.get("metadata", {}),
        echo=parts.get("echo", {}),
    )
    return snapshot(
        facts,
        status=record.status,  # type: ignore[arg-type]  # stored statuses are the wire's own
        output=parts.get("output", []),
        usage=parts.get("usage"),
        error=parts.get("error"),
        completed_at=record.completed_at,
    )
