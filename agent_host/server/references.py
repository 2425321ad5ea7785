"""What items of a request stand for: a reference for a stored item, a compaction for the items it was made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.stores.base import Store
from agent_host.wire import problems
from agent_host.wire.input import InputCompaction, InputItem, InputReference, OtherItem, read_items

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Resolved:
    """Items without references and compactions, each id once.

    `commit` is what a compaction at their head has kept; the state there knows the first `known` of them.
    """

    items: tuple[InputItem, ...]
    commit: str | None = None
    known: int = 0


async def resolve_references(store: Store, user: str, items: Sequence[InputItem]) -> Resolved:
    """Put what references and compactions stand for in their place. Raises the `Problem` of one that is not known.

    A client that sends the answer of a compaction sends the user's messages again before it: they count as part of
    what was compacted.
    """
    wanted = [item.id for item in items if isinstance(item, InputReference)]
    holders = await store.find_items(user, wanted) if wanted else {}
    found: list[InputItem] = []
    commit: str | None = None
    behind = 0
    for item in items:
        meant = _referred(holders, item) if isinstance(item, InputReference) else item
        if not isinstance(meant, InputCompaction):
            found.append(meant)
            continue
        compaction = await store.read_compaction(user, meant.encrypted_content)
        if compaction is None:
            raise problems.unknown_compaction(item.path)
        inside = read_items(_decode(compaction.items), item.path)
        known = {id_of(each) for each in inside} - {None}
        found = [each for each in found if id_of(each) not in known]
        is_head = not found
        found.extend(inside)
        if is_head and compaction.commit is not None:
            commit, behind = compaction.commit, len(found)
    return Resolved(tuple(_once(found)), commit, len(_once(found[:behind])))


def id_of(item: InputItem) -> str | None:
    """The id that an item came with."""
    if isinstance(item, OtherItem):
        given: str | None = item.raw.get("id")
        return given
    return item.id


def held_item(holders: Sequence[bytes], id: str) -> dict[str, Any] | None:
    """The item of this id in the bytes that hold it: the input and body of a response, or an item by itself."""
    for holder in holders:
        held = _decode(holder)
        listed = held if isinstance(held, list) else held.get("output", [held])
        for item in listed:
            if item.get("id") == id and item.get("type") != "item_reference":
                found: dict[str, Any] = item
                return found
    return None


def _referred(holders: Mapping[str, Sequence[bytes]], reference: InputReference) -> InputItem:
    held = held_item(holders.get(reference.id, ()), reference.id)
    if held is None:
        raise problems.item_not_found(reference.id)
    (item,) = read_items([held], reference.path)
    return item


def _once(items: Sequence[InputItem]) -> list[InputItem]:
    seen: set[str] = set()
    kept = []
    for item in items:
        id = id_of(item)
        if id is None or id not in seen:
            kept.append(item)
        if id is not None:
            seen.add(id)
    return kept
