"""The fields of requests besides `input`: what each may hold, in the order in which faults are reported."""

from typing import Any

from agent_host.ids import is_well_formed
from agent_host.wire import checks, problems

_NAME = checks.text(64, least=1, pattern="[a-zA-Z0-9_-]+")
_TEXT = checks.text()
METADATA = checks.string_map(16, 64, 512)
_INCLUDABLE = (
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
INCLUDE = checks.array(checks.one_of(*_INCLUDABLE))
_TOOL_TYPES = (
    *("file_search", "computer", "computer_use_preview", "web_search", "web_search_2025_08_26", "mcp"),
    *("code_interpreter", "programmatic_tool_calling", "image_generation", "local_shell", "shell", "custom"),
    *("namespace", "tool_search", "web_search_preview", "web_search_preview_2025_03_11", "apply_patch"),
)
_BARE_CHOICES = (
    *("file_search", "web_search_preview", "computer", "computer_use_preview", "computer_use"),
    *("web_search_preview_2025_03_11", "image_generation", "code_interpreter", "programmatic_tool_calling"),
    *("apply_patch", "shell"),
)


def identifier(value: Any, path: str) -> None:
    """The id of a response or a conversation."""
    _TEXT(value, path)
    if not is_well_formed(value):
        raise problems.malformed_id(path, value)


def _tool_checks() -> checks.Check:
    # Open also in a strict reader: clients mark tools with fields for other servers (for a cache, for loading them
    # later), and a tool that says too much harms nobody. What is known of it is judged.
    function = checks.fields(
        {
            "name": _NAME,
            "description": _TEXT,
            "parameters": checks.json_object,
            "strict": checks.boolean,
        },
        ("name",),
    )
    return checks.array(
        checks.tagged({"function": function, **dict.fromkeys(_TOOL_TYPES, checks.json_object)}, ".type")
    )


def _tool_choice_checks() -> checks.Check:
    named = checks.fields({"name": _NAME}, ("name",))
    allowed = checks.fields(
        {"mode": checks.one_of("auto", "required"), "tools": checks.array(checks.json_object, 1, 128)},
        ("mode", "tools"),
    )
    specific = {
        "function": named,
        "custom": named,
        "mcp": checks.fields({"server_label": _TEXT, "name": _TEXT}, ("server_label",)),
        "allowed_tools": allowed,
        **dict.fromkeys(_BARE_CHOICES, checks.json_object),
    }
    words = checks.one_of("none", "auto", "required")
    return checks.either(words, checks.tagged(specific, ".type"), "a string or an object")


def _text_checks(closed: bool) -> checks.Check:
    plain = checks.fields({"type": _TEXT}, (), closed)
    schema = checks.fields(
        {
            "type": _TEXT,
            "name": _NAME,
            "schema": checks.json_object,
            "description": _TEXT,
            "strict": checks.boolean,
        },
        ("name", "schema"),
        closed,
    )
    formats = checks.tagged({"text": plain, "json_object": plain, "json_schema": schema}, ".type")
    return checks.fields({"format": formats, "verbosity": checks.one_of("low", "medium", "high")}, (), closed)


def _reasoning_checks(closed: bool) -> checks.Check:
    summary = checks.one_of("auto", "concise", "detailed")
    known = {
        "effort": checks.one_of("none", "minimal", "low", "medium", "high", "xhigh", "max"),
        "summary": summary,
        "generate_summary": summary,
        "context": checks.one_of("auto", "current_turn", "all_turns"),
        "mode": _TEXT,
    }
    return checks.fields(known, (), closed)


def field_checks(closed: bool) -> dict[str, checks.Check]:
    """Every field of a request for a response but `input`. A `closed` table refuses unknown fields inside of them."""
    conversation = checks.fields({"id": identifier}, ("id",), closed)
    return {
        "model": _TEXT,
        "include": INCLUDE,
        "tools": _tool_checks(),
        "tool_choice": _tool_choice_checks(),
        "text": _text_checks(closed),
        "reasoning": _reasoning_checks(closed),
        "metadata": METADATA,
        "parallel_tool_calls": checks.boolean,
        "stream": checks.boolean,
        "stream_options": checks.fields({"include_obfuscation": checks.boolean}, (), closed),
        "background": checks.boolean,
        "max_output_tokens": checks.integer(16),
        "max_tool_calls": checks.integer(1),
        "temperature": checks.number(0.0, 2.0),
        "top_p": checks.number(0.0, 1.0),
        "presence_penalty": checks.number(-2.0, 2.0),
        "frequency_penalty": checks.number(-2.0, 2.0),
        "user": _TEXT,
        "safety_identifier": checks.text(128),
        "prompt_cache_key": checks.text(64),
        "prompt_cache_retention": checks.one_of("in_memory", "in-memory", "24h"),
        "prompt_cache_options": checks.json_object,
        "prompt": checks.fields({"id": _TEXT, "version": _TEXT, "variables": checks.json_object}, ("id",)),
        "moderation": checks.json_object,
        "access_programs": checks.json_object,
        "image": checks.json_object,
        "truncation": checks.one_of("auto", "disabled"),
        "instructions": _TEXT,
        "store": checks.boolean,
        "service_tier": checks.one_of("auto", "default", "flex", "scale", "priority", "fast", "ultrafast"),
        "top_logprobs": checks.integer(0, 20),
        "context_management": checks.array(checks.fields({"type": _TEXT}, ("type",))),
        "agent_session_id": checks.text(128, pattern="[A-Za-z0-9._:-]*"),  # it goes into a header
        "agent_reference": checks.fields(
            {"type": checks.one_of("agent_reference"), "name": checks.text(least=1)}, ("name",)
        ),
        "conversation": checks.either(identifier, conversation, "a string or an object"),
        "previous_response_id": identifier,
    }
