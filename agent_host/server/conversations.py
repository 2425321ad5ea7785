"""The endpoints of conversations and their items."""

from collections.abc import Sequence
from typing import Any

import msgspec

from agent_host.errors import TurnConflictError, UnknownItemError
from agent_host.ids import is_well_formed, key_of
from agent_host.server.exchange import Exchange
from agent_host.server.references import resolve_references
from agent_host.stores.records import Conversation, Item
from agent_host.wire import problems
from agent_host.wire.conversation import (
    conversation_object,
    deleted_conversation,
    parse_metadata,
    parse_new_conversation,
    parse_new_items,
)
from agent_host.wire.input import InputItem, is_item_id, items_json
from agent_host.wire.paging import list_object
from agent_host.wire.query import PageQuery, page_query

_json = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


# --- Conversations -----------------------------------------------------------------------------------------------


async def create_conversation(exchange: Exchange) -> None:
    """POST /conversations: begin one, with or without items."""
    request = parse_new_conversation(await exchange.body())
    host, ids = exchange.host, exchange.host.sources.ids
    conversation_id = ids.new("conv")
    items = await _complete(exchange, request.items, key_of(conversation_id))
    conversation = Conversation(conversation_id, int(host.sources.clock()), _json(request.metadata))
    await host.store.create_conversation(exchange.who.user, conversation, _stored(items))
    await _show(exchange, conversation)


async def retrieve_conversation(exchange: Exchange) -> None:
    """GET /conversations/{id}."""
    conversation_id = _named(exchange)
    await _show(exchange, await exchange.host.store.read_conversation(exchange.who.user, conversation_id))


async def update_conversation(exchange: Exchange) -> None:
    """POST /conversations/{id}: replace the metadata."""
    metadata = parse_metadata(await exchange.body())
    conversation_id, store = _named(exchange), exchange.host.store
    await _show(exchange, await store.update_conversation(exchange.who.user, conversation_id, _json(metadata)))


async def delete_conversation(exchange: Exchange) -> None:
    """DELETE /conversations/{id}: the responses that were given in it stay."""
    conversation_id = _named(exchange)
    if not await exchange.host.store.delete_conversation(exchange.who.user, conversation_id):
        raise problems.conversation_not_found(conversation_id)
    await exchange.answer(deleted_conversation(conversation_id))


# --- Items -------------------------------------------------------------------------------------------------------


async def create_items(exchange: Exchange) -> None:
    """POST /conversations/{id}/items: add items behind those that are there; the next turn takes them in."""
    _query(exchange)
    given = parse_new_items(await exchange.body())
    conversation_id, store, user = _named(exchange), exchange.host.store, exchange.who.user
    items = await _complete(exchange, given, key_of(conversation_id))
    try:
        conversation = await store.add_items(user, conversation_id, _stored(items))
    except TurnConflictError:
        raise await _repeated(exchange, items) from None
    if conversation is None:
        raise problems.conversation_not_found(conversation_id)
    await exchange.answer(list_object(items))


async def list_items(exchange: Exchange) -> None:
    """GET /conversations/{id}/items: in pages, newest first unless asked otherwise."""
    page = _query(exchange)
    conversation_id, store, user = _named(exchange), exchange.host.store, exchange.who.user
    try:
        found = await store.list_items(
            user, conversation_id, after=page.after, limit=page.limit, newest_first=page.newest_first
        )
    except UnknownItemError:
        raise problems.cursor_not_found(page.after or "") from None
    if found is None:
        raise problems.conversation_not_found(conversation_id)
    items, has_more = found
    shown = list_object([_decode(item.body) for item in items], has_more=has_more)
    await exchange.answer(shown)


async def retrieve_item(exchange: Exchange) -> None:
    """GET /conversations/{id}/items/{item}."""
    _query(exchange)
    conversation_id, item_id = await _named_item(exchange)
    item = await exchange.host.store.read_item(exchange.who.user, conversation_id, item_id)
    if item is None:
        raise problems.conversation_item_not_found(conversation_id, item_id)
    await exchange.answer(_decode(item.body))


async def delete_item(exchange: Exchange) -> None:
    """DELETE /conversations/{id}/items/{item}: from the transcript; the workflow's state stays as it is."""
    conversation_id, item_id = await _named_item(exchange)
    store, user = exchange.host.store, exchange.who.user
    if not await store.delete_item(user, conversation_id, item_id):
        raise problems.conversation_item_not_found(conversation_id, item_id)
    await _show(exchange, await store.read_conversation(user, conversation_id))


# --- What they share ---------------------------------------------------------------------------------------------


def _query(exchange: Exchange) -> PageQuery:
    return page_query(exchange.query.multi_items())


def _named(exchange: Exchange) -> str:
    """The conversation in the path. What cannot be an id is not looked for."""
    conversation_id: str = exchange.path("conversation_id")
    exchange.about = conversation_id
    if not is_well_formed(conversation_id):
        raise problems.conversation_not_found(conversation_id)
    return conversation_id


async def _named_item(exchange: Exchange) -> tuple[str, str]:
    """The conversation, which is there, and the item in the path, which may not be."""
    conversation_id = _named(exchange)
    item_id: str = exchange.path("item_id")
    if await exchange.host.store.read_conversation(exchange.who.user, conversation_id) is None:
        raise problems.conversation_not_found(conversation_id)
    if not is_item_id(item_id):
        raise problems.conversation_item_not_found(conversation_id, item_id)
    return conversation_id, item_id


async def _show(exchange: Exchange, conversation: Conversation | None) -> None:
    if conversation is None:
        raise problems.conversation_not_found(_named(exchange))
    exchange.about = conversation.id
    shown = conversation_object(conversation.id, conversation.created_at, _decode(conversation.metadata))
    await exchange.answer(shown)


async def _complete(exchange: Exchange, given: Sequence[InputItem], key: str | None) -> list[dict[str, Any]]:
    """The items as they are stored: what they refer to in their place, each with an id."""
    ids = exchange.host.sources.ids
    resolved = await resolve_references(exchange.host.store, exchange.who.user, given)
    return items_json(resolved.items, lambda prefix: ids.new(prefix, key))


def _stored(items: Sequence[dict[str, Any]]) -> list[Item]:
    return [Item(item["id"], _json(item)) for item in items]


async def _repeated(exchange: Exchange, items: Sequence[dict[str, Any]]) -> problems.Problem:
    """Which of the items the conversation has already."""
    store, user = exchange.host.store, exchange.who.user
    held = [item["id"] for item in items if await store.read_item(user, _named(exchange), item["id"]) is not None]
    return problems.duplicate_item(held[0] if held else "")
