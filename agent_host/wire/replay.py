"""Events told again: those of a finished response from its journal, and a transcript from the events of a log.

Both make the moves of the transcript once more, so neither can tell an order that is not legal.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from agent_host.wire import events
from agent_host.wire.events import Event
from agent_host.wire.item_moves import MOVES, abandoned, begun, found, moves_to
from agent_host.wire.items import Item, Phase
from agent_host.wire.response import ResponseFacts, facts_of
from agent_host.wire.transcript import (
    ABANDONED,
    ADDED,
    ADDED_COMMENTARY,
    CLOSED,
    MOVE_ENTRIES,
    OPENED,
    OPENED_COMMENTARY,
    WHOLE,
    IllegalMove,
    Transcript,
)

_ENDINGS: Mapping[str, Callable[[Transcript, Mapping[str, Any]], list[Event]]] = {
    "completed": lambda to, of: to.completed(of["usage"], of["completed_at"]),
    "incomplete": lambda to, of: to.incomplete(of["incomplete_details"]["reason"], of["usage"], of["completed_at"]),
    "failed": lambda to, of: to.failed(of["error"], of["usage"], of["completed_at"]),
    "cancelled": lambda to, of: to.cancelled(of["usage"], of["completed_at"]),
}

_BEGINNINGS: Mapping[str, Callable[[Transcript], list[Event]]] = {
    events.CREATED: Transcript.created,
    events.QUEUED: Transcript.queued,
    events.IN_PROGRESS: Transcript.in_progress,
}

_PHASES: Mapping[int, Phase] = {
    OPENED: "final_answer",
    OPENED_COMMENTARY: "commentary",
    ADDED: "final_answer",
    ADDED_COMMENTARY: "commentary",
}
_MOVE_OF: Mapping[int, str] = {entry: name for name, entry in MOVE_ENTRIES.items()}
# What stands in the place of an annotation that was taken back.
_NO_ANNOTATION = {"type": "url_citation", "url": "", "title": "", "start_index": 0, "end_index": 0}


# --- Replay ----------------------------------------------------------------------------------------------------


def replay(response: Mapping[str, Any], journal: Iterable[Sequence[int]]) -> list[Event]:
    """The events that led to a finished response, identical to the ones that were sent, numbers included.

    With one exception: what an abandoned item said is not kept, so its texts come back empty. Their number
    and places are the same, so a client that was interrupted still finds its place, and it is shown nothing
    that was taken back. Raises `IllegalMove` if the journal is not of this response.
    """
    if response["status"] not in _ENDINGS:
        raise IllegalMove(f"Only a finished response can be replayed; this one is {response['status']}.")
    output: list[Item] = response["output"]
    transcript = Transcript(facts_of(response), _no_id)
    told = transcript.created()
    if response["background"]:
        told += transcript.queued()
    told += transcript.in_progress()
    sources: dict[int, _Source] = {}
    for index, entry in journal:
        if not 0 <= index < len(output):
            raise IllegalMove(f"The journal is not of this response, which has no item {index}.")
        if index not in sources:
            sources[index] = _Source(output[index])
        told += _again(transcript, index, entry, sources[index])
    told += _ENDINGS[response["status"]](transcript, response)
    if transcript.final_response() != response:
        raise IllegalMove("The journal is not of this response.")
    return told


class _Source:
    """A finished item as the source of what is told again of it: its texts and annotations, one after the other."""

    def __init__(self, item: Item) -> None:
        self.item = item
        moves = list(moves_to(item))
        self._text = "".join(added for name, added in moves if MOVES[name].says == "delta")
        self._annotations = iter([added for name, added in moves if MOVES[name].says == "annotation"])
        self._at = 0

    def text(self, length: int) -> str:
        """The next characters of its texts."""
        start, self._at = self._at, self._at + length
        return self._text[start : self._at]

    def annotation(self) -> Mapping[str, Any]:
        """The next of its annotations."""
        return next(self._annotations, _NO_ANNOTATION)


def _again(transcript: Transcript, index: int, entry: int, source: _Source) -> list[Event]:
    if entry > 0:
        return [transcript.delta(index, source.text(entry), entry)]
    if entry in _PHASES:
        draft = begun(source.item)
        if "phase" in draft:
            draft["phase"] = _PHASES[entry]
        opening = [transcript.add(draft)]
        return opening if entry in (ADDED, ADDED_COMMENTARY) else [*opening, transcript.move(index, "text part")]
    if entry == WHOLE:
        return transcript.whole(source.item)
    if entry == CLOSED:
        return transcript.close(index, **found(source.item))
    if entry == ABANDONED:
        return transcript.abandon(index)
    if entry not in _MOVE_OF:
        raise IllegalMove(f"The journal is not of this response: no entry is {entry}.")
    name = _MOVE_OF[entry]
    if name == "done":
        return [transcript.done(index, **found(source.item))]
    return [transcript.move(index, name, source.annotation() if name == "annotation" else None)]


def _no_id(prefix: str) -> str:
    raise AssertionError(f"What is told again has its ids; none was asked for with '{prefix}'.")


# --- Resume ----------------------------------------------------------------------------------------------------


def resume(facts: ResponseFacts, told: Iterable[Event], new_id: Callable[[str], str]) -> Transcript:
    """The transcript that has told these events, all of them and each as it was sent; it goes on behind the last.

    What was open is open in it. Raises `IllegalMove` if an event is not the one that could come there.
    """
    transcript = Transcript(facts, new_id)
    for number, event in enumerate(told):
        try:
            again = _legal(transcript, event)
        except (KeyError, TypeError) as fault:
            raise IllegalMove(f"Event {number} of the log is not one of a transcript: {fault!r}.") from fault
        if again != [event]:
            raise IllegalMove(f"Event {number} of the log is not the one that was sent.")
    return transcript


def _legal(transcript: Transcript, event: Event) -> list[Event]:
    """The events of the move that the transcript makes if this event is legal: then they are this one alone."""
    type = event["type"]
    if type in _BEGINNINGS:
        return _BEGINNINGS[type](transcript)
    if type in events.TERMINAL:
        response = event["response"]
        return _ENDINGS[response["status"]](transcript, response)
    if type == events.ITEM_ADDED:
        return [transcript.add(event["item"])]
    index = event["output_index"]
    if type == events.ITEM_DONE:
        final = event["item"]
        if abandoned(transcript.draft(index)) == final:
            return transcript.abandon(index)
        return [transcript.done(index, **found(final))]
    for name in transcript.moves(index):
        move = MOVES[name]
        if move.event.format(kind=transcript.draft(index)["type"]) == type:
            if move.says == "delta":
                return [transcript.delta(index, event["delta"], len(event["delta"]))]
            if move.says != "part" or event["part"]["type"] == move.part:
                return [transcript.move(index, name, event.get("annotation"))]
    raise IllegalMove(f"No '{type}' may come for item {index}.")
