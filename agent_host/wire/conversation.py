"""Conversations on the wire: what is asked of them, and how they and their deletion are shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_host.wire import checks
from agent_host.wire.body import read_body
from agent_host.wire.fields import METADATA
from agent_host.wire.input import InputItem, ItemReader

MAX_NEW_ITEMS = 20

_ITEM_COUNT = checks.array(checks.anything, 0, MAX_NEW_ITEMS)
_ONE_ITEM_AT_LEAST = checks.array(checks.anything, 1, MAX_NEW_ITEMS)
_READER = ItemReader(closed=True)


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to begin, with the items it begins with."""

    metadata: Mapping[str, str]
    items: tuple[InputItem, ...]


def parse_new_conversation(body: bytes) -> NewConversation:
    """The conversation to begin, or the `Problem` with it. Nothing at all asks for an empty one."""
    given = read_body(body or b"{}", {"items": _ITEM_COUNT, "metadata": METADATA})
    return NewConversation(given.get("metadata", {}), _READER.read_array(given.get("items", []), "items"))


def parse_metadata(body: bytes) -> Mapping[str, str]:
    """The metadata that replaces what a conversation has, or the `Problem` with it; null takes all of it away."""
    metadata: Mapping[str, str] = read_body(body, {"metadata": METADATA}, ("metadata",), nullable=("metadata",)).get(
        "metadata", {}
    )
    return metadata


def parse_new_items(body: bytes) -> tuple[InputItem, ...]:
    """The items to add to a conversation, or the `Problem` with them."""
    given = read_body(body, {"items": _ONE_ITEM_AT_LEAST}, ("items",))
    return _READER.read_array(given["items"], "items")


def conversation_object(id: str, created_at: int, metadata: Mapping[str, str]) -> dict[str, Any]:
    """A conversation as clients see it."""
    return {"id": id, "object": "conversation", "created_at": created_at, "metadata": dict(metadata)}


def deleted_conversation(id: str) -> dict[str, Any]:
    """What is left of a conversation."""
    return {"id": id, "object": "conversation.deleted", "deleted": True}
