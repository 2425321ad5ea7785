"""What was said before: the stored items of a chain of responses or of a conversation, oldest first.

A chain goes back to its first response, to one that was deleted since, or into the conversation it branches from.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from agent_host.stores.base import Store
from agent_host.stores.records import ResponseRecord
from agent_host.wire import problems

Json = dict[str, Any]

_PAGE = 100
_decode = msgspec.json.Decoder().decode


async def response_history(store: Store, user: str, record: ResponseRecord) -> list[Json]:
    """The items of a response and of all it continues."""
    turns: list[list[Json]] = []
    async for turn in _chain(store, user, record):
        own = _items_of(turn)
        turns.append(own)
        if turn.conversation is not None:
            turns.append(await _said_before(store, user, turn.conversation, own))
    return [item for items in reversed(turns) for item in items]


async def heard_ids(store: Store, user: str, record: ResponseRecord) -> set[str]:
    """The ids of all items that the state behind a response has heard or said, those inside of compactions included.

    What a turn was given that has failed is not among them.
    """
    heard: list[Json] = []
    async for turn in _chain(store, user, record):
        own = _items_of(turn)
        heard += own if turn.status == "completed" else []
        if turn.conversation is not None:
            heard += await _said_before(store, user, turn.conversation, own)
    return await ids_in(store, user, heard)


async def ids_in(store: Store, user: str, items: Sequence[Json]) -> set[str]:
    """The ids of items, those inside of compactions included."""
    ids = {item["id"] for item in items}
    for handle in {item["encrypted_content"] for item in items if item["type"] == "compaction"}:
        compaction = await store.read_compaction(user, handle)
        ids |= {item["id"] for item in _decode(compaction.items)} if compaction is not None else set()
    return ids


async def _chain(store: Store, user: str, record: ResponseRecord) -> AsyncIterator[ResponseRecord]:
    """A response and those it continues, newest first, up to the first in a conversation or to one that is gone."""
    turn: ResponseRecord | None = record
    while turn is not None:
        yield turn
        previous = turn.previous_response_id if turn.conversation is None else None
        turn = await store.read_response(user, previous) if previous is not None else None


def _items_of(turn: ResponseRecord) -> list[Json]:
    return [*_decode(turn.input), *_decode(turn.body).get("output", [])]


async def conversation_history(store: Store, user: str, conversation_id: str) -> list[Json]:
    """All items of a conversation. Raises a `Problem` if there is no such conversation."""
    items: list[Json] = []
    after: str | None = None
    while True:
        page = await store.list_items(user, conversation_id, after=after, limit=_PAGE, newest_first=False)
        if page is None:
            raise problems.conversation_not_found(conversation_id)
        found, has_more = page
        items.extend(_decode(item.body) for item in found)
        if not has_more:
            return items
        after = found[-1].id


async def _said_before(store: Store, user: str, conversation_id: str, own: Sequence[Json]) -> list[Json]:
    """The items of a conversation before those of a turn; none if the conversation was deleted since."""
    ids = {item["id"] for item in own}
    if await store.read_conversation(user, conversation_id) is None:
        return []
    items = await conversation_history(store, user, conversation_id)
    first = next((index for index, item in enumerate(items) if item["id"] in ids), len(items))
    return items[:first]
