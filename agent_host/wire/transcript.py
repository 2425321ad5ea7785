"""The transcript of a response: the only place that knows in which order events may come.

- Two tables say what is legal: `RESPONSE_MOVES` for the response, `ITEM_MOVES` for the items of each kind. A move
  that is not in them raises `IllegalMove` and changes nothing.
- Output indices are given out from 0 in the order of opening; neither an index nor an item id is used twice.
- An item whose attempt failed is abandoned: it is closed by its `done` event alone, incomplete and empty, and
  stays in the output like that. Whoever showed its text takes the text back.
- Nothing is open when a response ends, and nothing comes after the end.
- Every event is a snapshot: what an event holds is never changed by a later move.
- The journal holds what the finished response cannot tell: in which order items moved, and in which pieces
  their texts came. From both together `replay` makes the same events again.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agent_host.errors import AgentHostError
from agent_host.wire import events
from agent_host.wire.events import Event
from agent_host.wire.item_moves import BEGUN, FOUND, MOVES, begun, found, moves_to
from agent_host.wire.items import (
    KINDS,
    Item,
    Phase,
    approval_request_item,
    function_call_item,
    mcp_call_item,
    message_item,
    reasoning_item,
    sendable,
    sendable_value,
    text_part,
)
from agent_host.wire.open_item import OpenItem
from agent_host.wire.response import ResponseFacts, Status, snapshot


class IllegalMove(AgentHostError):
    """An event was asked for that may not come now: a fault of the caller, not of a client."""

    code = "illegal_move"


RESPONSE_MOVES: Mapping[str, Mapping[str, str]] = {
    "new": {"created": "created"},
    "created": {"in_progress": "in_progress"},
    # A background response waits in a queue first, always: so a replay need not be told whether it did.
    "new in background": {"created": "created in background"},
    "created in background": {"queued": "queued"},
    "queued": {"in_progress": "in_progress"},
    "in_progress": {
        "item": "in_progress",
        "completed": "completed",
        "incomplete": "incomplete",
        "failed": "failed",
        "cancelled": "cancelled",
    },
    "completed": {},
    "incomplete": {},
    "failed": {},
    "cancelled": {},
}

_STATUS: Mapping[str, Status] = {
    "new": "in_progress",
    "created": "in_progress",
    "in_progress": "in_progress",
    "new in background": "queued",
    "created in background": "queued",
    "queued": "queued",
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
    "cancelled": "cancelled",
}

# What an entry of the journal says of its item, if it is not the length of a delta. Journals are stored.
OPENED = -1  # a message and its text part, at once
CLOSED = -2  # all that was left of the item
ABANDONED = -3
OPENED_COMMENTARY = -4  # an abandoned message no longer tells in which phase it was opened
WHOLE = -5
ADDED = -6
ADDED_COMMENTARY = -7
_FIRST_MOVE = -8  # below it the moves themselves, by their places in their table

MOVE_ENTRIES: Mapping[str, int] = {
    name: _FIRST_MOVE - place
    for place, (name, move) in enumerate(MOVES.items())
    if move.says != "delta" and name != "abandon"
}

_OPENED: Mapping[Phase, int] = {"final_answer": OPENED, "commentary": OPENED_COMMENTARY}

Journal = Sequence[tuple[int, int]]


class Transcript:
    """The events of one response, in the making. `new_id("msg")` mints the id of an item.

    It tells whatever a response may hold, piece by piece or whole, also what this package's own server never sends:
    refusals, calls and thoughts that grow, and responses that end as incomplete.
    """

    __slots__ = ("_facts", "_final", "_items", "_new_id", "_next", "_open", "_output", "_state", "journal")

    def __init__(self, facts: ResponseFacts, new_id: Callable[[str], str]) -> None:
        self._facts = facts
        self._new_id = new_id
        self._state = "new in background" if facts.background else "new"
        self._next = 0
        self._items: list[OpenItem] = []
        self._open = 0
        self._output: list[Item | None] = []
        self._final: dict[str, Any] | None = None
        self.journal: list[tuple[int, int]] = []

    # --- What can be asked --------------------------------------------------------------------------------------

    @property
    def status(self) -> Status:
        """The status of the response."""
        return _STATUS[self._state]

    @property
    def output(self) -> list[Item]:
        """The items that have reached their final form."""
        return [item for item in self._output if item is not None]

    @property
    def open_items(self) -> list[int]:
        """The output indices of the items that are still open."""
        return [item.index for item in self._items if item.is_open]

    def draft(self, index: int) -> Item:
        """An item as it is known so far."""
        return self._item(index).draft

    def moves(self, index: int) -> Mapping[str, str]:
        """The moves of `ITEM_MOVES` that may come for an item, and the states that they lead to."""
        item = self._item(index)
        return item.moves[item.state]

    def final_response(self) -> dict[str, Any]:
        """The finished response, as its last event showed it."""
        if self._final is None:
            raise IllegalMove(f"The response has not ended; it is {self.status}.")
        return {**self._final, "output": list(self._final["output"])}

    def response(self) -> dict[str, Any]:
        """The response as it is now: until its end with the items that are finished."""
        if self._final is not None:
            return self.final_response()
        return snapshot(self._facts, status=self.status, output=self.output)

    def copy(self) -> "Transcript":
        """A transcript in the same state. What either does from now on, the other does not see."""
        twin = Transcript(self._facts, self._new_id)
        twin._state = self._state
        twin._next = self._next
        twin._items = [item.copy() if item.is_open else item for item in self._items]
        twin._open = self._open
        twin._output = list(self._output)
        twin._final = self._final
        twin.journal = list(self.journal)
        return twin

    # --- The response -------------------------------------------------------------------------------------------

    def created(self) -> list[Event]:
        """The response exists."""
        return self._begin("created", events.CREATED)

    def queued(self) -> list[Event]:
        """A background response waits for its turn."""
        return self._begin("queued", events.QUEUED)

    def in_progress(self) -> list[Event]:
        """Work on the response begins. Sent once, even if the work begins again."""
        return self._begin("in_progress", events.IN_PROGRESS)

    def completed(self, usage: dict[str, Any] | None, completed_at: int | None) -> list[Event]:
        """The response is complete; so is one that asks the client something."""
        return self._end("completed", events.COMPLETED, usage, completed_at)

    def incomplete(self, reason: str, usage: dict[str, Any] | None, completed_at: int | None) -> list[Event]:
        """The response ends early, and what there is of it is good."""
        details = {"reason": reason}
        return self._end("incomplete", events.INCOMPLETE, usage, completed_at, details=details)

    def failed(self, error: dict[str, Any], usage: dict[str, Any] | None, completed_at: int | None) -> list[Event]:
        """The turn failed; `error` says why."""
        return self._end("failed", events.FAILED, usage, completed_at, error=error)

    def cancelled(self, usage: dict[str, Any] | None, completed_at: int | None) -> list[Event]:
        """The turn was cancelled. There is no event of that name: clients expect `response.failed`."""
        return self._end("cancelled", events.FAILED, usage, completed_at)

    # --- Items, piece by piece ----------------------------------------------------------------------------------

    def open_message(self, phase: Phase = "final_answer") -> tuple[int, list[Event]]:
        """Begins a message; the index names it from now on."""
        self._after("item")
        id = self._new_id("msg")
        item = self._add(message_item(id, [], "in_progress", phase), _OPENED[phase])
        item.state = "text"
        number = self._numbers(2)
        return item.index, [
            events.of_item(events.ITEM_ADDED, number, item.index, item.draft),
            events.of_part(events.PART_ADDED, number + 1, item.index, id, text_part("")),
        ]

    def open_refusal(self, phase: Phase = "final_answer") -> tuple[int, list[Event]]:
        """Begins a message that says why there is no answer."""
        index, told = self._begun(message_item("", [], "in_progress", phase))
        return index, [told, self.move(index, "refusal part")]

    def open_function_call(self, call_id: str, name: str) -> tuple[int, list[Event]]:
        """Begins a function call whose arguments follow."""
        index, told = self._begun(function_call_item("", sendable(call_id), sendable(name), "", "in_progress"))
        return index, [told]

    def open_reasoning(self) -> tuple[int, list[Event]]:
        """Begins an account of what is thought, which is told in summaries."""
        index, told = self._begun(begun(reasoning_item(())))
        return index, [told]

    def open_summary(self, index: int) -> list[Event]:
        """Begins the next summary of a reasoning."""
        return [self.move(index, "summary part")]

    def close_summary(self, index: int) -> list[Event]:
        """Ends the summary that is open."""
        return [self.move(index, "summary done"), self.move(index, "summary part done")]

    def text_delta(self, index: int, text: str) -> list[Event]:
        """Adds to the text of an item that is on its way: of a message, a refusal, arguments or a summary.

        An empty text is nothing, and no event.
        """
        text = sendable(text)
        item = self._item(index)
        if item.state != "text" or not text:
            self._delta_of(item)
            return [self.delta(index, text, len(text))] if text else []
        self.journal.append((index, len(text)))
        item.pieces.append(text)
        return [events.text_delta(self._numbers(1), index, item.id, text)]

    def close_message(self, index: int, annotations: Sequence[Mapping[str, Any]] = ()) -> list[Event]:
        """Ends a message, whose text has these annotations."""
        item = self._item(index)
        if item.state != "text":
            if annotations:
                raise IllegalMove(f"No annotation may come for item {index}: it is '{item.state}'.")
            return self.close(index)
        if annotations:
            told = [self.move(index, "text done")]
            told += [self.move(index, "annotation", sendable_value(each)) for each in annotations]
            return [*told, *self.close(index)]
        text = "".join(item.pieces)
        part = text_part(text)
        final = {**item.draft, "status": "completed", "content": [part]}
        number = self._numbers(3)
        item.state = "done"
        self._finished(item, final, CLOSED)
        return [
            events.text_done(number, index, item.id, text),
            events.of_part(events.PART_DONE, number + 1, index, item.id, part),
            events.of_item(events.ITEM_DONE, number + 2, index, final),
        ]

    def close(self, index: int, **late: Any) -> list[Event]:
        """Ends an item of any kind: tells what is left of it. `late` are the fields that its end tells alone."""
        item = self._open_item(index, late)
        told = []
        while (move := next(iter(item.moves[item.state]))) != "done":
            told.append(item.take(move, self._numbers(1)))
        return [*told, self._ended(item, item.done(sendable_value(late)), CLOSED)]

    def abandon(self, index: int) -> list[Event]:
        """Takes an item back whose attempt failed; the next attempt opens an item of its own."""
        item = self._open_item(index, {})
        return [self._ended(item, item.abandon(), ABANDONED)]

    def abandon_open(self) -> list[Event]:
        """Takes back every item that is still open, in order."""
        return [event for index in self.open_items for event in self.abandon(index)]

    # --- Items, event by event ----------------------------------------------------------------------------------

    def add(self, item: Item) -> Event:
        """Adds an item, given as it is when it is added."""
        self._after("item")
        if item["type"] not in FOUND or item != begun(item):
            raise IllegalMove(f"No item of the kind '{item['type']}' begins like that.")
        if any(item["id"] == each.id for each in self._items):
            raise IllegalMove(f"An item has the id '{item['id']}' already.")
        entry = ADDED_COMMENTARY if item.get("phase") == "commentary" else ADDED
        return events.of_item(events.ITEM_ADDED, self._numbers(1), self._add(item, entry).index, item)

    def delta(self, index: int, text: str, length: int) -> Event:
        """Adds a piece to the text that is on its way in an item, noted with this length: even an empty one."""
        item = self._item(index)
        move = self._delta_of(item)
        self.journal.append((index, length))
        return item.take(move, self._numbers(1), text)

    def move(self, index: int, name: str, added: Any = None) -> Event:
        """Makes one of the moves of `ITEM_MOVES` that neither end the item nor add a piece of text."""
        item = self._item(index)
        if name not in item.moves[item.state] or name not in MOVE_ENTRIES or name == "done":
            raise IllegalMove(f"No '{name}' may come for item {index}: it is '{item.state}'.")
        self.journal.append((index, MOVE_ENTRIES[name]))
        return item.take(name, self._numbers(1), added)

    def done(self, index: int, **late: Any) -> Event:
        """Ends an item of which nothing else needs to be told, as `close` does."""
        item = self._open_item(index, late)
        if "done" not in item.moves[item.state]:
            raise IllegalMove(f"No 'done' may come for item {index}: it is '{item.state}'.")
        return self._ended(item, item.done(sendable_value(late)), MOVE_ENTRIES["done"])

    # --- Items, whole -------------------------------------------------------------------------------------------

    def whole(self, item: Item) -> list[Event]:
        """An item of any kind at once, given as it is when it is finished; it gets an id if it has none.

        Raises `IllegalMove` if it is no finished item of a kind that can be told, or if its id is taken.
        """
        self._after("item")
        id = item.get("id")
        if not id:
            _tell(item, "", 0, 0)  # an item that cannot be told must not use up an id
            id = self._new_id(KINDS[item["type"]].prefix)
        elif any(id == each.id for each in self._items):
            raise IllegalMove(f"An item has the id '{id}' already.")
        opened, told = _tell(item, id, len(self._items), self._next)
        self._numbers(len(told))
        self._items.append(opened)
        self._output.append(told[-1]["item"])
        self.journal.append((opened.index, WHOLE))
        return told

    def message(self, text: str, phase: Phase = "final_answer") -> list[Event]:
        """A whole message at once."""
        index, opening = self.open_message(phase)
        return [*opening, *self.text_delta(index, text), *self.close_message(index)]

    def refusal(self, text: str, phase: Phase = "final_answer") -> list[Event]:
        """A whole message that says why there is no answer."""
        part = {"type": "refusal", "refusal": text}
        return self.whole(message_item("", [part], "completed", phase))

    def function_call(self, call_id: str, name: str, arguments: str) -> list[Event]:
        """A whole function call: something that the client, or a person behind it, is to answer."""
        return self.whole(function_call_item("", call_id, name, arguments, "completed"))

    def reasoning(self, summaries: Iterable[str], encrypted_content: str | None = None) -> list[Event]:
        """What was thought, in whole summaries."""
        return self.whole(reasoning_item(summaries, encrypted_content))

    def approval_request(self, name: str, server_label: str, arguments: str) -> list[Event]:
        """A tool call that somebody is to approve first; the answer names the id of the item."""
        return self.whole(approval_request_item(name, server_label, arguments))

    def mcp_call(
        self,
        name: str,
        server_label: str,
        arguments: str,
        *,
        output: str | None = None,
        error: Mapping[str, Any] | None = None,
        approval_request_id: str | None = None,
    ) -> list[Event]:
        """A whole tool call that was carried out here; with an `error` it is a failed one."""
        return self.whole(
            mcp_call_item(
                name, server_label, arguments, output=output, error=error, approval_request_id=approval_request_id
            )
        )

    # --- The moves ----------------------------------------------------------------------------------------------

    def _numbers(self, count: int) -> int:
        """The first of the next `count` sequence numbers."""
        first = self._next
        self._next = first + count
        return first

    def _after(self, move: str) -> str:
        after = RESPONSE_MOVES[self._state].get(move)
        if after is None:
            raise IllegalMove(f"No '{move}' may come now: the response is '{self._state}'.")
        return after

    def _item(self, index: int) -> OpenItem:
        if "item" not in RESPONSE_MOVES[self._state] or not 0 <= index < len(self._items):
            self._after("item")
            raise IllegalMove(f"Nothing may come for item {index}: there is no such item.")
        return self._items[index]

    def _begin(self, move: str, type: str) -> list[Event]:
        self._state = self._after(move)
        return [events.of_response(type, self._numbers(1), snapshot(self._facts, status=self.status, output=()))]

    def _end(
        self,
        move: Status,
        type: str,
        usage: dict[str, Any] | None,
        completed_at: int | None,
        *,
        error: dict[str, Any] | None = None,
        details: dict[str, Any] | None = None,
    ) -> list[Event]:
        after = self._after(move)
        if self._open:
            raise IllegalMove(f"No '{move}' may come now: the items {self.open_items} are open.")
        response = snapshot(
            self._facts,
            status=move,
            output=self.output,
            usage=usage,
            error=error,
            incomplete_details=details,
            completed_at=completed_at,
        )
        self._state = after
        self._final = response
        return [events.of_response(type, self._numbers(1), self.final_response())]

    def _open_item(self, index: int, late: Mapping[str, Any]) -> OpenItem:
        item = self._item(index)
        if not item.is_open:
            raise IllegalMove(f"Nothing may come for item {index}: it is '{item.state}'.")
        unknown = late.keys() - FOUND[item.draft["type"]]
        if unknown:
            raise IllegalMove(f"The end of a '{item.draft['type']}' does not tell {', '.join(sorted(unknown))}.")
        return item

    def _add(self, draft: Item, entry: int) -> OpenItem:
        item = OpenItem(len(self._items), draft)
        self._items.append(item)
        self._output.append(None)
        self._open += 1
        self.journal.append((item.index, entry))
        return item

    def _begun(self, draft: Item) -> tuple[int, Event]:
        self._after("item")
        told = self.add({**draft, "id": self._new_id(KINDS[draft["type"]].prefix)})
        return told["output_index"], told

    def _delta_of(self, item: OpenItem) -> str:
        move = item.deltas.get(item.state)
        if move is None:
            raise IllegalMove(f"No text may come for item {item.index}: it is '{item.state}'.")
        return move

    def _ended(self, item: OpenItem, final: Item, entry: int) -> Event:
        self._finished(item, final, entry)
        return events.of_item(events.ITEM_DONE, self._numbers(1), item.index, final)

    def _finished(self, item: OpenItem, final: Item, entry: int) -> None:
        item.pieces = []
        self._output[item.index] = final
        self._open -= 1
        self.journal.append((item.index, entry))


def _tell(item: Item, id: str, index: int, number: int) -> tuple[OpenItem, list[Event]]:
    """A finished item as it is sent, and the events that tell it, numbered from `number`."""
    kind = item.get("type")
    try:
        final = {"id": id} | _as_sent(item) | {"id": id}
        opened = OpenItem(index, begun(final))
        told = [events.of_item(events.ITEM_ADDED, number, index, opened.draft)]
        for name, added in moves_to(final):
            if name != "done":
                told.append(opened.take(name, number + len(told), added))
        done = opened.done(found(final))
    except (AttributeError, KeyError, TypeError) as fault:
        raise IllegalMove(f"This is no finished item of a kind that can be told, but a '{kind}': {fault}.") from fault
    if done != final:
        raise IllegalMove(f"This is no finished '{kind}': it has fields that its events do not tell.")
    return opened, [*told, events.of_item(events.ITEM_DONE, number + len(told), index, final)]


def _as_sent(item: Item) -> Item:
    """The item without what is to be absent rather than null, and with what is to be there."""
    kind: str = item["type"]
    kept = {name: value for name, value in item.items() if value is not None or name in BEGUN[kind]}
    if KINDS[kind].has_status:
        kept.setdefault("status", "completed")
    if kind == "message":
        kept["content"] = [text_part("") | part if part["type"] == "output_text" else part for part in kept["content"]]
    sent: Item = sendable_value(kept)
    return sent
