"""An item on its way: where it stands in the order of its kind, and what has been told of it so far."""

from collections.abc import Callable, Mapping
from typing import Any

from agent_host.wire import events
from agent_host.wire.events import Event
from agent_host.wire.item_moves import DELTAS, ITEM_MOVES, MOVES, TEXT_FIELD, Move, abandoned
from agent_host.wire.items import Item

_PLACES: Mapping[str, str] = {"content": "content_index", "summary": "summary_index"}


class OpenItem:
    """An item that was added. `draft` is the item as it is known; a draft is replaced, never changed."""

    __slots__ = ("annotations", "deltas", "draft", "id", "index", "moves", "pieces", "state")

    def __init__(self, index: int, draft: Item) -> None:
        kind = draft["type"]
        self.index = index
        self.id: str = draft["id"]
        self.draft = draft
        self.moves = ITEM_MOVES[kind]
        self.deltas = DELTAS[kind]
        self.state = "added"
        self.pieces: list[str] = []
        self.annotations: list[Any] = []

    def copy(self) -> "OpenItem":
        """The same item, whose moves do not move this one."""
        twin = OpenItem(self.index, self.draft)
        twin.state = self.state
        twin.pieces = list(self.pieces)
        twin.annotations = list(self.annotations)
        return twin

    @property
    def is_open(self) -> bool:
        """Whether anything may still come for it."""
        return bool(self.moves[self.state])

    def take(self, name: str, number: int, added: Any = None) -> Event:
        """Makes a legal move, which is not the last one; returns its event. `added` is its piece or its annotation."""
        self.state = self.moves[self.state][name]
        move = MOVES[name]
        event: Event = {
            "type": move.event.format(kind=self.draft["type"]),
            "sequence_number": number,
            "output_index": self.index,
            "item_id": self.id,
        }
        if move.part:
            event[_PLACES[move.field]] = len(self.draft.get(move.field, ()))
        event.update(_SAID[move.says](self, move, added))
        return event

    def done(self, found: Mapping[str, Any]) -> Item:
        """The item in its final form; `found` is what its last move tells alone."""
        final = {**self.draft, **found}
        if final.get("status") == "in_progress":
            final["status"] = "completed"
        self._last("done")
        return final

    def abandon(self) -> Item:
        """The item as it stays if its attempt has failed."""
        self._last("abandon")
        return abandoned(self.draft)

    def _last(self, name: str) -> None:
        self.state = self.moves[self.state][name]
        self.pieces = []
        self.annotations = []


def _part(item: OpenItem, move: Move, text: str) -> dict[str, Any]:
    part: dict[str, Any] = {"type": move.part, TEXT_FIELD.get(move.part, "text"): text}
    if move.part == "output_text":
        part |= {"annotations": list(item.annotations), "logprobs": []}
    return part


def _begun(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    return {"part": _part(item, move, "")}


def _grown(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    item.pieces.append(added)
    return {"delta": added, "logprobs": []} if move.event == events.TEXT_DELTA else {"delta": added}


def _told(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    text = "".join(item.pieces)
    if move.part:
        said: dict[str, Any] = {TEXT_FIELD.get(move.part, "text"): text}
        return {**said, "logprobs": []} if move.event == events.TEXT_DONE else said
    item.draft = {**item.draft, move.field: text}
    # Strict clients of earlier years insist on the name.
    said = {"name": item.draft["name"]} if item.draft["type"] == "function_call" else {}
    return {**said, move.field: text}


def _annotated(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    item.annotations.append(added)
    return {"annotation_index": len(item.annotations) - 1, "annotation": added}


def _ended(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    part = _part(item, move, "".join(item.pieces))
    item.draft = {**item.draft, move.field: [*item.draft.get(move.field, ()), part]}
    item.pieces = []
    return {"part": part}


def _nothing(item: OpenItem, move: Move, added: Any) -> dict[str, Any]:
    return {}


_SAID: Mapping[str, Callable[[OpenItem, Move, Any], dict[str, Any]]] = {
    "part": _begun,
    "delta": _grown,
    "text": _told,
    "annotation": _annotated,
    "part done": _ended,
    "nothing": _nothing,
}
