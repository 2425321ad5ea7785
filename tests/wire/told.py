"""Finished items of every kind that a transcript tells, and the events that tell each of them."""

from collections.abc import Mapping
from typing import Any

from agent_host.wire.items import (
    approval_request_item,
    function_call_item,
    mcp_call_item,
    message_item,
    reasoning_item,
    text_part,
)

CITATION = {"type": "url_citation", "url": "https://a.b", "title": "A", "start_index": 0, "end_index": 2}
THOUGHT = {"type": "reasoning_text", "text": "Hm."}

MESSAGE = message_item("", [text_part("Hello.")], "completed", "final_answer")
CITED = message_item("", [text_part("Hello.") | {"annotations": [CITATION, CITATION]}], "completed", "commentary")
REFUSAL = message_item("", [{"type": "refusal", "refusal": "No."}], "completed", "final_answer")
FAILURE = {"type": "http_error", "code": 500, "message": "It broke."}


def _searched(kind: str, status: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "status": status, **fields}


_PART = ["content_part.added", "output_text.delta", "output_text.done"]
_SUMMARY = [f"reasoning_summary_{event}" for event in ("part.added", "text.delta", "text.done", "part.done")]
_THOUGHT = ["content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done"]
_ARGUMENTS = ["function_call_arguments.delta", "function_call_arguments.done"]
_MCP = ["mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done"]
_CODE = ["in_progress", "_code.delta", "_code.done", "interpreting"]
_CODE_CALL = [
    f"code_interpreter_call{event if event.startswith('_') else '.' + event}" for event in (*_CODE, "completed")
]

TOLD: Mapping[str, tuple[dict[str, Any], list[str]]] = {
    "message": (MESSAGE, [*_PART, "content_part.done"]),
    "cited message": (CITED, [*_PART, *["output_text.annotation.added"] * 2, "content_part.done"]),
    "refusal": (REFUSAL, ["content_part.added", "refusal.delta", "refusal.done", "content_part.done"]),
    "function call": (function_call_item("", "call_1", "ask", '{"q":1}', "completed"), _ARGUMENTS),
    "function call without arguments": (function_call_item("", "call_1", "ask", "", "completed"), _ARGUMENTS[1:]),
    "custom tool call": (
        {"type": "custom_tool_call", "call_id": "call_1", "name": "sql", "input": "SELECT 1"},
        ["custom_tool_call_input.delta", "custom_tool_call_input.done"],
    ),
    "reasoning": (reasoning_item(["First.", "Then."], "sealed"), _SUMMARY * 2),
    "empty reasoning": (reasoning_item([]), []),
    "raw reasoning": ({**reasoning_item(["In short."]), "content": [THOUGHT]}, _SUMMARY + _THOUGHT),
    "approval request": (approval_request_item("drop", "database", "{}"), []),
    "approval response": (
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True, "reason": "Fine."},
        [],
    ),
    "function call output": ({"type": "function_call_output", "call_id": "call_1", "output": "42"}, []),
    "compaction": ({"type": "compaction", "encrypted_content": "handle"}, []),
    "list of tools": (
        {"type": "mcp_list_tools", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
        ["mcp_list_tools.in_progress", "mcp_list_tools.completed"],
    ),
    "list of tools that failed": (
        {"type": "mcp_list_tools", "server_label": "s", "tools": [], "error": "No answer."},
        ["mcp_list_tools.in_progress", "mcp_list_tools.failed"],
    ),
    "mcp call": (
        mcp_call_item("t", "s", "{}", output="42", approval_request_id="mcpr_1"),
        [*_MCP, "mcp_call.completed"],
    ),
    "mcp call that failed": (mcp_call_item("t", "s", "{}", error=FAILURE), [*_MCP, "mcp_call.failed"]),
    "web search": (
        _searched("web_search_call", "completed", action={"type": "search", "query": "weather"}),
        [f"web_search_call.{event}" for event in ("in_progress", "searching", "completed")],
    ),
    "web search that failed": (
        _searched("web_search_call", "failed", action={"type": "open_page", "url": "https://a.b"}),
        [f"web_search_call.{event}" for event in ("in_progress", "searching")],
    ),
    "file search": (
        _searched("file_search_call", "completed", queries=["weather"], results=[{"file_id": "f", "text": "Rain."}]),
        [f"file_search_call.{event}" for event in ("in_progress", "searching", "completed")],
    ),
    "code interpreter": (
        _searched("code_interpreter_call", "completed", container_id="c", code="1 + 1", outputs=None),
        _CODE_CALL,
    ),
    "code interpreter that failed": (
        _searched("code_interpreter_call", "failed", container_id="c", code="1 +", outputs=[]),
        _CODE_CALL[:-1],
    ),
    "image": (
        _searched("image_generation_call", "completed", result="aGk=", revised_prompt="A cat."),
        [f"image_generation_call.{event}" for event in ("in_progress", "generating", "completed")],
    ),
}
"""Names of finished items, each with the types of the events between its addition and its end."""
