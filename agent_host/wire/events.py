"""The events of a stream: those of a response, of an item as a whole and of a message's text, a builder per shape.

All others are made by an item on its way. In which order any may come is the transcript's business.

- Every event has its `type` and `sequence_number` first. None has an `error` at its top level: clients would
  raise it.
- We send one part per message, so `content_index` is always 0.
- Text events carry `logprobs: []`; strict clients insist on the key.
"""

from typing import Any

from agent_host.wire.items import Item

Event = dict[str, Any]

CREATED = "response.created"
QUEUED = "response.queued"
IN_PROGRESS = "response.in_progress"
COMPLETED = "response.completed"
INCOMPLETE = "response.incomplete"
FAILED = "response.failed"
ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
PART_ADDED = "response.content_part.added"
PART_DONE = "response.content_part.done"
TEXT_DELTA = "response.output_text.delta"
TEXT_DONE = "response.output_text.done"
ANNOTATION_ADDED = "response.output_text.annotation.added"

TERMINAL = frozenset({COMPLETED, INCOMPLETE, FAILED})


def of_response(type: str, number: int, response: dict[str, Any]) -> Event:
    """The response as a whole has moved on."""
    return {"type": type, "sequence_number": number, "response": response}


def of_item(type: str, number: int, index: int, item: Item) -> Event:
    """An item was added or is done."""
    return {"type": type, "sequence_number": number, "output_index": index, "item": item}


def of_part(type: str, number: int, index: int, item_id: str, part: dict[str, Any]) -> Event:
    """The part of a message was added or is done."""
    return {
        "type": type,
        "sequence_number": number,
        "output_index": index,
        "item_id": item_id,
        "content_index": 0,
        "part": part,
    }


def text_delta(number: int, index: int, item_id: str, delta: str) -> Event:
    """A piece of text to show now."""
    return {
        "type": TEXT_DELTA,
        "sequence_number": number,
        "output_index": index,
        "item_id": item_id,
        "content_index": 0,
        "delta": delta,
        "logprobs": [],
    }


def text_done(number: int, index: int, item_id: str, text: str) -> Event:
    """The whole text of a part."""
    return {
        "type": TEXT_DONE,
        "sequence_number": number,
        "output_index": index,
        "item_id": item_id,
        "content_index": 0,
        "text": text,
        "logprobs": [],
    }
