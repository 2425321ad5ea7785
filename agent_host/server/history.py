"""What was said before: the stored items of a chain of responses or of a conversation, oldest first.

A chain goes back to its first response, to one that was deleted since, or into the conversation it branches from.
"""

from collections.abc import Sequence
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
    turn: ResponseRecord | None = record
    while turn is not None:
        own = [*_decode(turn.input), *_decode(turn.body).get("output", [])]
        turns.append(own)
        if turn.conversation is not None:
            turns.append(await _said_before(store, user, turn.conversation, own))
            break
        previous = turn.previous_response_id
        turn = await store.read_response(user, previous) if previous is not None else None
    return [item for items in reversed(turns) for item in items]


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
