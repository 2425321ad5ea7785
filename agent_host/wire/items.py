"""The items of a response: what kinds there are, and how the ones we send are built.

- `KINDS` is the one table of item kinds. A kind that is missing in it does not exist for this host.
- A builder returns a new dict that nobody changes afterwards; an item that moves on is a new dict. One that is told
  whole has an empty id until it is told.
- `phase` tells a client which messages are the answer (`final_answer`) and which are steps on the way
  (`commentary`): clients that parse the answer skip the others.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Item = dict[str, Any]
Phase = Literal["final_answer", "commentary"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


@dataclass(frozen=True, slots=True)
class ItemKind:
    """A kind of item: the prefix of its ids, and whether items of this kind have a status."""

    prefix: str
    has_status: bool = True


KINDS: Mapping[str, ItemKind] = {
    "message": ItemKind("msg"),
    "reasoning": ItemKind("rs"),
    "function_call": ItemKind("fc"),
    "function_call_output": ItemKind("fco"),
    "custom_tool_call": ItemKind("ctc"),
    "custom_tool_call_output": ItemKind("ctco"),
    "mcp_list_tools": ItemKind("mcpl", has_status=False),
    "mcp_call": ItemKind("mcp"),
    "mcp_approval_request": ItemKind("mcpr", has_status=False),
    "mcp_approval_response": ItemKind("mcpa", has_status=False),
    "file_search_call": ItemKind("fs"),
    "web_search_call": ItemKind("ws"),
    "code_interpreter_call": ItemKind("ci"),
    "image_generation_call": ItemKind("ig"),
    "computer_call": ItemKind("cu"),
    "computer_call_output": ItemKind("cuo"),
    "local_shell_call": ItemKind("lsh"),
    "local_shell_call_output": ItemKind("lsho"),
    "shell_call": ItemKind("sh"),
    "shell_call_output": ItemKind("sho"),
    "apply_patch_call": ItemKind("ap"),
    "apply_patch_call_output": ItemKind("apo"),
    "tool_search_call": ItemKind("ts"),
    "tool_search_output": ItemKind("tso"),
    "program": ItemKind("prog", has_status=False),
    "program_output": ItemKind("progo"),
    "compaction": ItemKind("cmp", has_status=False),
    "compaction_trigger": ItemKind("cmpt", has_status=False),
    "additional_tools": ItemKind("at", has_status=False),
    "configuration_update": ItemKind("cfg", has_status=False),
    "item_reference": ItemKind("ref", has_status=False),
}


def sendable(text: str) -> str:
    """The text with halves of characters replaced: Python's strings may hold them, UTF-8 may not."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def sendable_value(value: Any) -> Any:
    """A JSON value whose texts are all sendable."""
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, Mapping):
        return {sendable(name): sendable_value(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [sendable_value(each) for each in value]
    return value


def text_part(text: str) -> dict[str, Any]:
    """A part of a message of the assistant."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def message_item(id: str, content: list[dict[str, Any]], status: ItemStatus, phase: Phase) -> Item:
    """A message of the assistant."""
    return {
        "id": id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "phase": phase,
        "content": content,
    }


def function_call_item(id: str, call_id: str, name: str, arguments: str, status: ItemStatus) -> Item:
    """A call that the client is to carry out, or a question that a person is to answer."""
    return {
        "id": id,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
    }


def reasoning_item(summaries: Iterable[str], encrypted_content: str | None = None) -> Item:
    """What was thought on the way, one part for each summary. Without encrypted content the item has no such key."""
    item: Item = {
        "id": "",
        "type": "reasoning",
        "status": "completed",
        "summary": [{"type": "summary_text", "text": text} for text in summaries],
    }
    return item if encrypted_content is None else {**item, "encrypted_content": encrypted_content}


def approval_request_item(name: str, server_label: str, arguments: str) -> Item:
    """A tool call that somebody is to approve first."""
    return {
        "id": "",
        "type": "mcp_approval_request",
        "name": name,
        "server_label": server_label,
        "arguments": arguments,
    }


def mcp_call_item(
    name: str,
    server_label: str,
    arguments: str,
    *,
    output: str | None = None,
    error: Mapping[str, Any] | None = None,
    approval_request_id: str | None = None,
) -> Item:
    """A tool call that was carried out here: with its output, or with the error that makes it a failed one."""
    return {
        "id": "",
        "type": "mcp_call",
        "status": "completed" if error is None else "failed",
        "name": name,
        "server_label": server_label,
        "arguments": arguments,
        "output": output,
        "error": error,
        "approval_request_id": approval_request_id,
    }
