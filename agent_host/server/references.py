"""What items of a request stand for: a reference for a stored item, a compaction for the items it was made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.stores.base import Store
from agent_host.wire import problems
from agent_host.wire.input import InputCompaction, InputItem, InputReference, id_of, read_item, said, without_repeats

Json = dict[str, Any]

_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Resolved:
    """Items without references and compactions, each id once.

    `commit` is what a compaction at their head has kept, `heard` the ids of those that its state has heard.
    """

    items: tuple[InputItem, ...]
    commit: str | None = None
    heard: tuple[str, ...] = ()


async def resolve_references(store: Store, user: str, items: Sequence[InputItem]) -> Resolved:
    """Put what references and compactions stand for in their place. Raises the `Problem` of one that is not known.

    A client that sends the answer of a compaction sends the user's messages again before it: they count as part of
    what was compacted.
    """
    wanted = [item.id for item in items if isinstance(item, InputReference)]
    held = held_items(await store.find_items(user, wanted)) if wanted else {}
    found = [_referred(held, item) if isinstance(item, InputReference) else item for item in items]
    inside: dict[str, _Compacted] = {}
    for item in found:
        if isinstance(item, InputCompaction) and item.encrypted_content not in inside:
            inside[item.encrypted_content] = await _compacted(store, user, item)
    return _in_place(found, inside) if inside else Resolved(without_repeats(found))


@dataclass(frozen=True, slots=True)
class _Compacted:
    items: tuple[InputItem, ...]
    commit: str | None
    heard: tuple[str, ...]


async def _compacted(store: Store, user: str, item: InputCompaction) -> _Compacted:
    compaction = await store.read_compaction(user, item.encrypted_content)
    if compaction is None:
        raise problems.unknown_compaction(item.path)
    made_of = tuple(read_item(each, item.path) for each in _decode(compaction.items))
    return _Compacted(made_of, compaction.commit, compaction.heard)


def _in_place(items: Sequence[InputItem], inside: Mapping[str, _Compacted]) -> Resolved:
    """Each compaction's items in its place; what stands before it with one of their ids is the same item.

    Raises the `Problem` of one that is not.
    """
    compacted: dict[str, InputItem] = {}
    kept: list[tuple[list[InputItem], _Compacted | None]] = []
    for item in reversed(items):
        made_of = inside[item.encrypted_content] if isinstance(item, InputCompaction) else None
        meant = (item,) if made_of is None else made_of.items
        kept.append(([each for each in meant if not _stands_in(compacted, each)], made_of))
        if made_of is not None:
            compacted.update({id: each for each in meant if (id := id_of(each)) is not None})
    head: _Compacted | None = None
    found: list[InputItem] = []
    for here, made_of in reversed(kept):
        if not found and made_of is not None and made_of.commit is not None:
            head = made_of
        found += here
    commit, heard = (head.commit, head.heard) if head is not None else (None, ())
    return Resolved(without_repeats(found), commit, heard)


def _stands_in(compacted: Mapping[str, InputItem], item: InputItem) -> bool:
    """Whether a compaction holds an item."""
    id = id_of(item)
    if id is None or id not in compacted:
        return False
    if said(item) != said(compacted[id]):
        raise problems.duplicate_item(id)
    return True


def held_items(holders: Mapping[str, Sequence[bytes]]) -> dict[str, Json]:
    """The items of these ids in the bytes that hold them: the input and body of a response, or an item by itself.

    Many items may lie in the same bytes, which are read once.
    """
    by_id = {part: _items_by_id(part) for part in {part for parts in holders.values() for part in parts}}
    found: dict[str, Json] = {}
    for id, parts in holders.items():
        for part in parts:
            if id in by_id[part]:
                found.setdefault(id, by_id[part][id])
    return found


def _items_by_id(part: bytes) -> dict[str, Json]:
    held = _decode(part)
    # An item has a type, and may have an output of its own; what a response is made of has none.
    listed = held if isinstance(held, list) else [held] if "type" in held else held.get("output", [])
    return {item["id"]: item for item in listed if "id" in item and item.get("type") != "item_reference"}


def _referred(held: Mapping[str, Json], reference: InputReference) -> InputItem:
    if reference.id not in held:
        raise problems.item_not_found(reference.id)
    return read_item(held[reference.id], reference.path)
