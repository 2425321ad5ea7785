"""Compacting a conversation: what is asked for, and the answer.

The answer is input for the next request: what the user has said, and one item that stands for all the rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_host.wire import checks, problems
from agent_host.wire.body import read_body
from agent_host.wire.fields import field_checks
from agent_host.wire.input import InputItem, ItemReader

_SHARED = (
    *("model", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "image", "instructions"),
    *("service_tier", "previous_response_id"),
)
FIELDS: Mapping[str, checks.Check] = {
    "input": checks.anything,
    **{name: check for name, check in field_checks(closed=True).items() if name in _SHARED},
}
_READER = ItemReader(closed=True)


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """What is to be compacted: items, behind those of an earlier response."""

    model: str
    items: tuple[InputItem, ...]
    previous_response_id: str | None = None


def parse_compact(body: bytes, *, lenient: bool = False) -> CompactRequest:
    """The request in `body`, or the `Problem` with it. The model must be named, and is not used.

    A `lenient` reader ignores fields it does not know.
    """
    given = read_body(body, FIELDS, ("model",), lenient=lenient)
    items = _READER.read(given["input"]) if "input" in given else ()
    previous = given.get("previous_response_id")
    if not items and previous is None:
        raise problems.no_input()
    return CompactRequest(given["model"], items, previous)


def compaction_item(id: str, handle: str) -> dict[str, Any]:
    """The item that stands for everything that was compacted."""
    return {"id": id, "type": "compaction", "encrypted_content": handle}


def compaction_object(
    id: str, created_at: int, output: Sequence[Mapping[str, Any]], usage: Mapping[str, Any]
) -> dict[str, Any]:
    """The answer: messages of the user, and the compaction item."""
    return {
        "id": id,
        "object": "response.compaction",
        "created_at": created_at,
        "output": list(output),
        "usage": dict(usage),
    }
