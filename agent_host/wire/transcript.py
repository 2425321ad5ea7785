"""The transcript of a response: the only place that knows in which order events may come.

- Two tables say what is legal: `RESPONSE_MOVES` for the response, `ITEM_MOVES` for each of its items. A move
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
from agent_host.wire.items import KINDS, Item, Phase, function_call_item, message_item, sendable, text_part
from agent_host.wire.response import ResponseFacts, Status, facts_of, snapshot


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

ITEM_MOVES: Mapping[str, Mapping[str, str]] = {
    "absent": {"open": "open"},
    "open": {"delta": "open", "close": "closed", "abandon": "abandoned"},
    "closed": {},
    "abandoned": {},
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

# What an entry of the journal says of its item, if it is not the length of a delta.
OPENED = -1
CLOSED = -2
ABANDONED = -3
OPENED_COMMENTARY = -4  # an abandoned message no longer tells in which phase it was opened

_OPENED: Mapping[Phase, int] = {"final_answer": OPENED, "commentary": OPENED_COMMENTARY}
_PHASES: Mapping[int, Phase] = {code: phase for phase, code in _OPENED.items()}

Journal = Sequence[tuple[int, int]]


class _OpenItem:
    """An item on its way: its place, its state, and the pieces of text it was given so far."""

    __slots__ = ("id", "index", "phase", "pieces", "state")

    def __init__(self, index: int, id: str, phase: Phase) -> None:
        self.index = index
        self.id = id
        self.phase = phase
        self.pieces: list[str] = []
        self.state = ITEM_MOVES["absent"]["open"]


class Transcript:
    """The events of one response, in the making. `new_id("msg")` mints the id of an item."""

    __slots__ = ("_facts", "_final", "_items", "_new_id", "_next", "_open", "_output", "_state", "journal")

    def __init__(self, facts: ResponseFacts, new_id: Callable[[str], str]) -> None:
        self._facts = facts
        self._new_id = new_id
        self._state = "new in background" if facts.background else "new"
        self._next = 0
        self._items: list[_OpenItem] = []
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
        return [item.index for item in self._items if item.state == "open"]

    def final_response(self) -> dict[str, Any]:
        """The finished response, as its last event showed it."""
        if self._final is None:
            raise IllegalMove(f"The response has not ended; it is {self.status}.")
        return {**self._final, "output": list(self._final["output"])}

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

    # --- Items --------------------------------------------------------------------------------------------------

    def open_message(self, phase: Phase = "final_answer") -> tuple[int, list[Event]]:
        """Begins a message; the index names it from now on."""
        item, number = self._opened("message", phase, 2)
        content = message_item(item.id, [], "in_progress", phase)
        return item.index, [
            events.of_item(events.ITEM_ADDED, number, item.index, content),
            events.of_part(events.PART_ADDED, number + 1, item.index, item.id, text_part("")),
        ]

    def text_delta(self, index: int, text: str) -> list[Event]:
        """Adds to a message. An empty text is nothing, and no event."""
        text = sendable(text)
        return self._delta(index, text, len(text))

    def _delta(self, index: int, text: str, length: int) -> list[Event]:
        item = self._checked(index, "delta")
        if not length:
            return []
        item.state = ITEM_MOVES[item.state]["delta"]
        item.pieces.append(text)
        self.journal.append((index, length))
        return [events.text_delta(self._numbers(1), index, item.id, text)]

    def close_message(self, index: int) -> list[Event]:
        """Ends a message."""
        item = self._checked(index, "close")
        text = "".join(item.pieces)
        part = text_part(text)
        final = message_item(item.id, [part], "completed", item.phase)
        number = self._numbers(3)
        self._closed(item, "close", CLOSED, final)
        return [
            events.text_done(number, index, item.id, text),
            events.of_part(events.PART_DONE, number + 1, index, item.id, part),
            events.of_item(events.ITEM_DONE, number + 2, index, final),
        ]

    def abandon(self, index: int) -> list[Event]:
        """Takes a message back whose attempt failed; the next attempt opens an item of its own."""
        item = self._checked(index, "abandon")
        final = message_item(item.id, [], "incomplete", "commentary")
        self._closed(item, "abandon", ABANDONED, final)
        return [events.of_item(events.ITEM_DONE, self._numbers(1), index, final)]

    def abandon_open(self) -> list[Event]:
        """Takes back every message that is still open, in order."""
        return [event for index in self.open_items for event in self.abandon(index)]

    def message(self, text: str, phase: Phase = "final_answer") -> list[Event]:
        """A whole message at once."""
        index, opening = self.open_message(phase)
        return [*opening, *self.text_delta(index, text), *self.close_message(index)]

    def function_call(self, call_id: str, name: str, arguments: str) -> list[Event]:
        """A whole function call: something that the client, or a person behind it, is to answer."""
        arguments = sendable(arguments)
        item, number = self._opened("function_call", "final_answer", 4 if arguments else 3)
        index = item.index
        final = function_call_item(item.id, call_id, name, arguments, "completed")
        begun = function_call_item(item.id, call_id, name, "", "in_progress")
        told = [events.of_item(events.ITEM_ADDED, number, index, begun)]
        if arguments:
            self.journal.append((index, len(arguments)))
            told.append(events.arguments_delta(number + 1, index, item.id, arguments))
        number += len(told)
        self._closed(item, "close", CLOSED, final)
        told.append(events.arguments_done(number, index, item.id, name, arguments))
        told.append(events.of_item(events.ITEM_DONE, number + 1, index, final))
        return told

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

    def _checked(self, index: int, move: str) -> _OpenItem:
        self._after("item")
        if not 0 <= index < len(self._items):
            raise IllegalMove(f"No '{move}' may come for item {index}: there is no such item.")
        item = self._items[index]
        if move not in ITEM_MOVES[item.state]:
            raise IllegalMove(f"No '{move}' may come for item {index}: it is '{item.state}'.")
        return item

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

    def _opened(self, kind: str, phase: Phase, count: int) -> tuple[_OpenItem, int]:
        self._after("item")
        item = _OpenItem(len(self._items), self._new_id(KINDS[kind].prefix), phase)
        self._items.append(item)
        self._output.append(None)
        self._open += 1
        self.journal.append((item.index, _OPENED[phase]))
        return item, self._numbers(count)

    def _closed(self, item: _OpenItem, move: str, entry: int, final: Item) -> None:
        item.state = ITEM_MOVES[item.state][move]
        item.pieces = []
        self._output[item.index] = final
        self._open -= 1
        self.journal.append((item.index, entry))


# --- Replay ----------------------------------------------------------------------------------------------------

_ENDINGS: Mapping[str, Callable[[Transcript, Mapping[str, Any]], list[Event]]] = {
    "completed": lambda to, of: to.completed(of["usage"], of["completed_at"]),
    "incomplete": lambda to, of: to.incomplete(of["incomplete_details"]["reason"], of["usage"], of["completed_at"]),
    "failed": lambda to, of: to.failed(of["error"], of["usage"], of["completed_at"]),
    "cancelled": lambda to, of: to.cancelled(of["usage"], of["completed_at"]),
}

_WHOLE: Mapping[str, Callable[[Transcript, Item], list[Event]]] = {
    "function_call": lambda to, item: to.function_call(item["call_id"], item["name"], item["arguments"]),
}


def replay(response: Mapping[str, Any], journal: Iterable[Sequence[int]]) -> list[Event]:
    """The events that led to a finished response, identical to the ones that were sent, numbers included.

    With one exception: the text of an abandoned item is not kept, so its deltas come back empty. Their number
    and places are the same, so a client that was interrupted still finds its place, and it is shown nothing
    that was taken back. Raises `IllegalMove` if the journal is not of this response.
    """
    entries = [(index, entry) for index, entry in journal]
    output: list[Item] = response["output"]
    known = all(0 <= index < len(output) and OPENED_COMMENTARY <= entry != 0 for index, entry in entries)
    if response["status"] not in _ENDINGS or not known:
        raise IllegalMove("Only a finished response can be replayed, and only with its own journal.")
    ids = iter(item["id"] for item in output)
    transcript = Transcript(facts_of(response), lambda prefix: next(ids, ""))
    told = transcript.created()
    if response["background"]:
        told += transcript.queued()
    told += transcript.in_progress()
    told += _items_again(transcript, output, entries)
    told += _ENDINGS[response["status"]](transcript, response)
    if transcript.journal != entries or transcript.final_response() != response:
        raise IllegalMove("The journal is not of this response.")
    return told


def _items_again(transcript: Transcript, output: list[Item], entries: list[tuple[int, int]]) -> list[Event]:
    told: list[Event] = []
    done = [0] * len(output)  # how many characters of each item's text have come
    for index, entry in entries:
        item = output[index]
        whole = _WHOLE.get(item["type"])
        if whole is not None:
            told += whole(transcript, item) if entry == OPENED else []
        elif entry in _PHASES:
            told += transcript.open_message(_PHASES[entry])[1]
        elif entry == CLOSED:
            told += transcript.close_message(index)
        elif entry == ABANDONED:
            told += transcript.abandon(index)
        else:
            text = item["content"][0]["text"] if item["content"] else ""
            told += transcript._delta(index, text[done[index] : done[index] + entry], entry)
            done[index] += entry
    return told
