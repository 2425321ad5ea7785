"""Responses and requests as they are stored: what they are made of, and back."""

from typing import Any

import msgspec

from agent_host.foundry.identity import Identity
from agent_host.stores.records import ResponseRecord
from agent_host.wire.response import ResponseFacts, snapshot


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
        background=record.background,
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


class StoredRequest(msgspec.Struct, frozen=True):
    """The request of a background turn, as it came, so that the turn can begin again."""

    workflow: str
    body: bytes
    request_id: str
    client_headers: dict[str, str]

    def who(self, user: str) -> Identity:
        """Who has sent it."""
        return Identity(user, self.request_id, self.client_headers)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredRequest).decode


def stored_request(workflow: str, body: bytes, who: Identity) -> bytes:
    """A request as a store keeps it."""
    return _encode(StoredRequest(workflow, body, who.request_id, dict(who.client_headers)))


def read_request(stored: bytes) -> StoredRequest:
    """The request of a turn that was stored."""
    return _decode(stored)
