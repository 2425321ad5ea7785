"""Responses and requests as they are stored: what they are made of, and back."""

from collections.abc import Sequence
from typing import Any

import msgspec

from agent_host.engine.view import View
from agent_host.foundry.identity import Identity
from agent_host.server.continuation import Continuation
from agent_host.stores.records import Conversation, Item, ResponseRecord, Waiting
from agent_host.wire.input import InputItem, items_json, read_items
from agent_host.wire.response import ResponseFacts, snapshot, usage_object


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
        usage=parts.get("usage") or usage_object(),
        error=parts.get("error"),
        completed_at=record.completed_at,
    )


def shown(record: ResponseRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A stored record as a platform shows it: the response object, and the items that it was asked with."""
    items: list[dict[str, Any]] = msgspec.json.decode(record.input)
    return response_of(record), [item for item in items if item["type"] != "item_reference"]


class StoredRequest(msgspec.Struct, frozen=True):
    """The request of a background turn, as it came and with what it refers to, so that the turn can begin again.

    What a request names may be gone, or have changed, when it is begun again: so nothing of it is looked up twice.
    """

    workflow: str
    body: bytes
    request_id: str
    client_headers: dict[str, str]
    items: list[dict[str, Any]]
    is_inline: bool = False
    head: str | None = None
    waiting: list[dict[str, Any]] = []
    position: int = 0
    known_calls: tuple[str, ...] = ()
    call_id: str = ""
    session_id: str = ""

    def who(self, user: str) -> Identity:
        """Who has sent it."""
        return Identity(user, self.request_id, self.client_headers, call_id=self.call_id, session_id=self.session_id)

    def continuation(self, view: View, conversation_id: str | None) -> Continuation:
        """What it continues, which is at this view, and what it brings there."""
        conversation = Conversation(conversation_id, 0, b"", self.head) if conversation_id is not None else None
        waiting = Waiting(tuple(Item(item["id"], _json(item)) for item in self.waiting), self.position)
        items = read_items(self.items, "input")
        return Continuation(view, items, self.is_inline, conversation, waiting, known_calls=self.known_calls)


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(StoredRequest).decode
_json = msgspec.json.Encoder().encode


def stored_request(workflow: str, body: bytes, who: Identity, continues: Continuation) -> bytes:
    """A request as a store keeps it."""
    conversation = continues.conversation
    return _encode(
        StoredRequest(
            workflow,
            body,
            who.request_id,
            dict(who.client_headers),
            _as_brought(continues.items),
            continues.is_inline,
            conversation.head if conversation is not None else None,
            [msgspec.json.decode(item.body) for item in continues.waiting.items],
            continues.waiting.position,
            continues.known_calls,
            who.call_id,
            who.session_id,
        )
    )


def _as_brought(items: Sequence[InputItem]) -> list[dict[str, Any]]:
    """The items as JSON; those without an id get none."""
    return [
        {key: value for key, value in item.items() if key != "id" or value} for item in items_json(items, lambda _: "")
    ]


def read_request(stored: bytes) -> StoredRequest:
    """The request of a turn that was stored."""
    return _decode(stored)
