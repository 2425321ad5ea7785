"""What was said before: the items that a state has heard and said, and those of a conversation, oldest first."""

from typing import Any

import msgspec

from agent_host.server.references import held_items
from agent_host.stores.base import Store
from agent_host.stores.records import Heard
from agent_host.wire import problems

Json = dict[str, Any]

_PAGE = 100
_decode = msgspec.json.Decoder().decode


async def history(store: Store, user: str, commit_id: str) -> list[Json]:
    """The items that the state of a commit has heard and said, as far as something still holds them.

    What a turn that has failed was given is not among them.
    """
    return [
        item for turn in reversed(await store.read_heard(user, commit_id)) for item in await _said_in(store, user, turn)
    ]


async def _said_in(store: Store, user: str, turn: Heard) -> list[Json]:
    """The items of one turn: what entered its conversation before it, its input, and its output."""
    record = await store.read_response(user, turn.response_id)
    own: list[Json] = []
    if record is not None:
        outputs = _decode(record.body).get("output", [])
        own = [*_decode(record.input), *(item for item in outputs if item.get("status") != "incomplete")]
    ids = set(record.items) if record is not None else set()
    beside = [id for id in turn.items if id not in ids]
    held = held_items(await store.find_items(user, beside)) if beside else {}
    return [*(held[id] for id in beside if id in held), *own]


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
