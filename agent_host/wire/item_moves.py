"""The order in which an item of each kind is told: one table, `ITEM_MOVES`, and what each of its moves says.

- An item begins in the state `added` and ends `done` or `abandoned`; each of its moves is one event.
- The first move of a row is the one that leads to the end. Whoever closes an item takes it until nothing is left.
- An item can be abandoned in every state but the last ones.
- Pictures on the way to an image are not told: a finished item does not hold them, so they could not be told again.
"""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, Literal

from agent_host.wire import events
from agent_host.wire.items import KINDS, Item

Moves = Mapping[str, Mapping[str, str]]
Says = Literal["part", "delta", "text", "annotation", "part done", "nothing"]


@dataclass(frozen=True, slots=True)
class Move:
    """What a move says: the type of its event, and which part of the item it is about.

    `{kind}` in a type stands for the kind of the item. `field` is the field of the item that the move adds to: a
    list, if there is a type of `part`, else a text.
    """

    event: str
    says: Says = "nothing"
    field: str = ""
    part: str = ""


MOVES: Mapping[str, Move] = {
    # Journals that are stored hold the places of moves in this table: new ones go to its end.
    "text part": Move(events.PART_ADDED, "part", "content", "output_text"),
    "text delta": Move(events.TEXT_DELTA, "delta", "content", "output_text"),
    "text done": Move(events.TEXT_DONE, "text", "content", "output_text"),
    "annotation": Move(events.ANNOTATION_ADDED, "annotation", "content", "output_text"),
    "text part done": Move(events.PART_DONE, "part done", "content", "output_text"),
    "refusal part": Move(events.PART_ADDED, "part", "content", "refusal"),
    "refusal delta": Move("response.refusal.delta", "delta", "content", "refusal"),
    "refusal done": Move("response.refusal.done", "text", "content", "refusal"),
    "refusal part done": Move(events.PART_DONE, "part done", "content", "refusal"),
    "summary part": Move("response.reasoning_summary_part.added", "part", "summary", "summary_text"),
    "summary delta": Move("response.reasoning_summary_text.delta", "delta", "summary", "summary_text"),
    "summary done": Move("response.reasoning_summary_text.done", "text", "summary", "summary_text"),
    "summary part done": Move("response.reasoning_summary_part.done", "part done", "summary", "summary_text"),
    "thought part": Move(events.PART_ADDED, "part", "content", "reasoning_text"),
    "thought delta": Move("response.reasoning_text.delta", "delta", "content", "reasoning_text"),
    "thought done": Move("response.reasoning_text.done", "text", "content", "reasoning_text"),
    "thought part done": Move(events.PART_DONE, "part done", "content", "reasoning_text"),
    "arguments delta": Move("response.{kind}_arguments.delta", "delta", "arguments"),
    "arguments done": Move("response.{kind}_arguments.done", "text", "arguments"),
    "input delta": Move("response.{kind}_input.delta", "delta", "input"),
    "input done": Move("response.{kind}_input.done", "text", "input"),
    "code delta": Move("response.{kind}_code.delta", "delta", "code"),
    "code done": Move("response.{kind}_code.done", "text", "code"),
    "in progress": Move("response.{kind}.in_progress"),
    "searching": Move("response.{kind}.searching"),
    "interpreting": Move("response.{kind}.interpreting"),
    "generating": Move("response.{kind}.generating"),
    "completed": Move("response.{kind}.completed"),
    "failed": Move("response.{kind}.failed"),
    "done": Move(events.ITEM_DONE),
    "abandon": Move(events.ITEM_DONE),
}

# What goes wrong inside a tool that has no event for it is told by the item alone, when it is done.
_SEARCH: Moves = {
    "added": {"in progress": "working"},
    "working": {"searching": "searching"},
    "searching": {"completed": "told", "done": "done"},
    "told": {"done": "done"},
}
_AT_ONCE: Moves = {"added": {"done": "done"}}

_MOVES_OF: Mapping[str, Moves] = {
    "message": {
        "added": {"text part": "text", "refusal part": "refusal"},
        "text": {"text done": "text told", "text delta": "text"},
        "text told": {"text part done": "told", "annotation": "text told"},
        "refusal": {"refusal done": "refusal told", "refusal delta": "refusal"},
        "refusal told": {"refusal part done": "told"},
        "told": {"done": "done"},
    },
    "reasoning": {
        "added": {"done": "done", "summary part": "summary", "thought part": "thought"},
        "summary": {"summary done": "summary told", "summary delta": "summary"},
        "summary told": {"summary part done": "added"},
        "thought": {"thought done": "thought told", "thought delta": "thought"},
        "thought told": {"thought part done": "added"},
    },
    "function_call": {
        "added": {"arguments done": "told", "arguments delta": "added"},
        "told": {"done": "done"},
    },
    "custom_tool_call": {
        "added": {"input done": "told", "input delta": "added"},
        "told": {"done": "done"},
    },
    "mcp_list_tools": {
        "added": {"in progress": "working"},
        "working": {"completed": "told", "failed": "told"},
        "told": {"done": "done"},
    },
    "mcp_call": {
        "added": {"in progress": "calling"},
        "calling": {"arguments done": "called", "arguments delta": "calling"},
        "called": {"completed": "told", "failed": "told"},
        "told": {"done": "done"},
    },
    "web_search_call": _SEARCH,
    "file_search_call": _SEARCH,
    "code_interpreter_call": {
        "added": {"in progress": "writing"},
        "writing": {"code done": "written", "code delta": "writing"},
        "written": {"interpreting": "interpreting"},
        "interpreting": {"completed": "told", "done": "done"},
        "told": {"done": "done"},
    },
    "image_generation_call": {
        "added": {"in progress": "working"},
        "working": {"generating": "generating"},
        "generating": {"completed": "told", "done": "done"},
        "told": {"done": "done"},
    },
    "mcp_approval_request": _AT_ONCE,
    "mcp_approval_response": _AT_ONCE,
    "function_call_output": _AT_ONCE,
    "compaction": _AT_ONCE,
}

_LAST: Moves = {"done": {}, "abandoned": {}}

ITEM_MOVES: Mapping[str, Moves] = {
    kind: {**{state: {**row, "abandon": "abandoned"} for state, row in moves.items()}, **_LAST}
    for kind, moves in _MOVES_OF.items()
}

DELTAS: Mapping[str, Mapping[str, str]] = {
    kind: {state: move for state, row in moves.items() for move in row if MOVES[move].says == "delta"}
    for kind, moves in ITEM_MOVES.items()
}
"""Of each kind, in which states a text is on its way, and the move that adds to it."""

BEGUN: Mapping[str, Mapping[str, Any]] = {
    "message": {"content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "mcp_list_tools": {"tools": []},
    "mcp_call": {"arguments": "", "output": None, "error": None},
    "web_search_call": {"action": {"type": "search"}},
    "file_search_call": {"queries": [], "results": None},
    "code_interpreter_call": {"code": "", "outputs": None},
    "image_generation_call": {"result": None},
    "mcp_approval_request": {"arguments": ""},
    "mcp_approval_response": {"approve": False},
    "function_call_output": {"output": ""},
    "compaction": {"encrypted_content": ""},
}
"""How the fields look, when an item is added, that are told later. They look so for good if it is abandoned."""

LATE: Mapping[str, frozenset[str]] = {
    "reasoning": frozenset({"content", "encrypted_content"}),
    "mcp_list_tools": frozenset({"error"}),
    "mcp_approval_response": frozenset({"reason"}),
    "image_generation_call": frozenset({"error", "revised_prompt", "svg_usage"}),
}
"""The fields that an item does not have before they are told."""

_STATUS = frozenset({"status"})
FOUND: Mapping[str, frozenset[str]] = {
    kind: (frozenset(BEGUN[kind]) | LATE.get(kind, frozenset()) | (_STATUS if KINDS[kind].has_status else frozenset()))
    - {MOVES[move].field for row in moves.values() for move in row}
    for kind, moves in ITEM_MOVES.items()
}
"""The fields that are told by the last event of an item alone."""

TEXT_FIELD: Mapping[str, str] = {"refusal": "refusal"}
"""The field of a part that holds its text, by the type of the part; `text` for all others."""


def found(item: Item) -> dict[str, Any]:
    """What the last event of a finished item tells alone."""
    fields = FOUND[item["type"]]
    return {name: value for name, value in item.items() if name in fields}


def begun(item: Item) -> Item:
    """The item as it is added: without what is told later."""
    kind = item["type"]
    fields, late = BEGUN[kind], LATE.get(kind, frozenset())
    added = {name: copy(fields[name]) if name in fields else value for name, value in item.items() if name not in late}
    return {**added, "status": "in_progress"} if "status" in added else added


def abandoned(item: Item) -> Item:
    """The item as it stays if its attempt has failed: incomplete, and without what was told of it."""
    final = begun(item)
    if "status" in final:
        # An image has no status `incomplete`.
        final["status"] = "failed" if final["type"] == "image_generation_call" else "incomplete"
    if "phase" in final:
        final["phase"] = "commentary"
    return final


def moves_to(item: Item) -> Iterator[tuple[str, Any]]:
    """The moves that tell an item from its addition to its end, each text in one piece, with what each of them adds."""
    known = {move for row in ITEM_MOVES[item["type"]].values() for move in row}
    yield from ((move, None) for move in ("in progress", "searching", "generating") if move in known)
    for field in ("summary", "content"):
        for part in item.get(field) or ():
            yield from _of_part(part)
    for field in ("arguments", "input", "code"):
        if f"{field} done" in known:
            if item[field]:
                yield f"{field} delta", item[field]
            yield f"{field} done", None
    if "interpreting" in known:
        yield "interpreting", None
    failed = item.get("status") in ("failed", "incomplete") or bool(item.get("error"))
    if "failed" in known and failed:
        yield "failed", None
    elif "completed" in known and not failed:
        yield "completed", None
    yield "done", None


_PARTS: Mapping[str, str] = {
    move.part: name.removesuffix(" part") for name, move in MOVES.items() if move.says == "part"
}


def _of_part(part: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    name = _PARTS[part["type"]]
    yield f"{name} part", None
    text = part[TEXT_FIELD.get(part["type"], "text")]
    if text:
        yield f"{name} delta", text
    yield f"{name} done", None
    yield from (("annotation", annotation) for annotation in part.get("annotations") or ())
    yield f"{name} part done", None
