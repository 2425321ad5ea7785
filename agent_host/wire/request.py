"""A request to create a response: from a stranger's bytes to facts that the rest of the host can trust.

- One fault is reported, always the same one for the same request: what cannot be read, then what is missing,
  then unknown fields, then the fields in the order of the table, then fields that do not go together.
  Whether the state a request names exists is asked later, so a bad field wins over an unknown id.
- A field that is null is a field that was not sent.
- A lenient reader ignores fields that the API does not have: some gateways add their own.
- No schema library here: a table of checks gives the paths, messages and order that clients of this API expect,
  where a library's own errors would have to be translated one by one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.ids import is_well_formed
from agent_host.wire import checks, problems
from agent_host.wire.input import (
    InputFile,
    InputImage,
    InputItem,
    InputMessage,
    InputPart,
    InputReader,
    InputRefusal,
    InputText,
    OtherItem,
    items_json,
)

__all__ = [
    "CreateRequest",
    "InputFile",
    "InputImage",
    "InputItem",
    "InputMessage",
    "InputPart",
    "InputRefusal",
    "InputText",
    "OtherItem",
    "parse_request",
    "stored_items",
]

_MAX_NESTING = 100  # deeper JSON could be read but, inside a response, no longer written
_NAME = checks.text(64, least=1, pattern="[a-zA-Z0-9_-]+")
_TEXT = checks.text()
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


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asks for. `echo` is what the response repeats of it, defaults left out."""

    model: str | None
    items: tuple[InputItem, ...]
    instructions: str | None
    previous_response_id: str | None
    conversation: str | None
    store: bool
    background: bool
    stream: bool
    metadata: Mapping[str, str]
    echo: Mapping[str, Any]
    tools: tuple[Mapping[str, Any], ...]
    tool_choice: str | Mapping[str, Any]
    agent_session_id: str | None = None


# --- The fields, in the order in which faults are reported ------------------------------------------------------


def _identifier(value: Any, path: str) -> None:
    _TEXT(value, path)
    if not is_well_formed(value):
        raise problems.malformed_id(path, value)


def _tool_checks() -> checks.Check:
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


def _field_checks(closed: bool) -> dict[str, checks.Check]:
    """Every field of a request but `input`, which is read first."""
    conversation = checks.fields({"id": _identifier}, ("id",), closed)
    return {
        "model": _TEXT,
        "include": checks.array(checks.one_of(*_INCLUDABLE)),
        "tools": _tool_checks(),
        "tool_choice": _tool_choice_checks(),
        "text": _text_checks(closed),
        "reasoning": _reasoning_checks(closed),
        "metadata": checks.string_map(16, 64, 512),
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
        "agent_session_id": checks.text(128),
        "agent_reference": checks.json_object,
        "conversation": checks.either(_identifier, conversation, "a string or an object"),
        "previous_response_id": _identifier,
    }


# --- What the response repeats ----------------------------------------------------------------------------------


def _tool_shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in tool.items() if value is not None}
    if tool["type"] == "function":
        for key in ("description", "parameters", "strict"):
            shown.setdefault(key, None)
    return shown


def _text_shown(text: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {"format": {"type": "text"}}
    given = text.get("format")
    if given is not None:
        shown["format"] = {key: value for key, value in given.items() if value is not None}
        if given["type"] == "json_schema":
            shown["format"].setdefault("description", None)
            shown["format"].setdefault("strict", False)
    if text.get("verbosity") is not None:
        shown["verbosity"] = text["verbosity"]
    return shown


def _reasoning_shown(reasoning: Mapping[str, Any]) -> dict[str, Any]:
    return {"effort": None, "summary": None, **{key: value for key, value in reasoning.items() if value is not None}}


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if each is not None}


def _same(value: Any) -> Any:
    return value


_RESOLVED_TIERS = {"auto": "default", "fast": "priority"}

_SHOWN: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "parallel_tool_calls": (True, _same),
    "tools": ([], lambda tools: [_tool_shown(tool) for tool in tools]),
    "tool_choice": ("auto", _same),
    "truncation": ("disabled", _same),
    "text": ({"format": {"type": "text"}}, _text_shown),
    "temperature": (1, _same),
    "top_p": (1, _same),
    "presence_penalty": (0, _same),
    "frequency_penalty": (0, _same),
    "top_logprobs": (0, _same),
    "reasoning": ({"effort": None, "summary": None}, _reasoning_shown),
    "max_output_tokens": (None, _same),
    "max_tool_calls": (None, _same),
    "service_tier": ("default", lambda tier: _RESOLVED_TIERS.get(tier, tier)),
    "safety_identifier": (None, _same),
    "prompt_cache_key": (None, _same),
    "prompt_cache_retention": (None, lambda word: word.replace("-", "_")),
    "prompt": (None, _without_nulls),
    "user": (None, _same),
}


def _echo(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields that a response shows and that are not at their defaults, as it shows them."""
    echo = {}
    for name, value in given.items():
        if name in _SHOWN:
            default, show = _SHOWN[name]
            shown = show(value)
            if shown != default:
                echo[name] = shown
    return echo


# --- Reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    """The checks of one degree of strictness."""

    fields: Mapping[str, checks.Check]
    input: InputReader


_READERS = {
    lenient: _Reader(_field_checks(closed=not lenient), InputReader(closed=not lenient)) for lenient in (False, True)
}
KNOWN_FIELDS = frozenset({"input", *_READERS[False].fields})


def parse_request(body: bytes, *, lenient: bool = False) -> CreateRequest:
    """The request in `body`, or the `Problem` with it. A `lenient` reader ignores fields it does not know."""
    raw = _decoded(body)
    given = {name: value for name, value in raw.items() if value is not None}
    if "input" not in given:
        if "messages" in given:
            raise problems.messages_moved()
        if "previous_response_id" not in given and "conversation" not in given:
            raise problems.missing_parameter("input")
    reader = _READERS[lenient]
    if not lenient:
        for name in raw:
            if name not in KNOWN_FIELDS:
                raise problems.unknown_parameter(name, _nearest(name, KNOWN_FIELDS))
    items = reader.input.read(given["input"]) if "input" in given else ()
    for name, check in reader.fields.items():
        if name in given:
            check(given[name], name)
    _check_together(given, items)
    return _request(given, items)


def stored_items(request: CreateRequest, new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The input as JSON items, each with an id, to be stored and listed; `new_id("msg")` mints one."""
    return items_json(request.items, new_id)


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise problems.invalid_json(str(error)) from None
    if type(raw) is not dict:
        raise checks.wrong_type(raw, "", "an object")
    if body.count(b"{") + body.count(b"[") > _MAX_NESTING and _too_deep(raw):
        raise problems.invalid_json(f"It is nested more than {_MAX_NESTING} levels deep.")
    return raw


def _too_deep(raw: dict[str, Any]) -> bool:
    level: list[Any] = [raw]
    for _ in range(_MAX_NESTING):
        level = [inner for value in level for inner in (value.values() if type(value) is dict else value)]
        level = [value for value in level if type(value) is dict or type(value) is list]
        if not level:
            return False
    return True


def _check_together(given: Mapping[str, Any], items: tuple[InputItem, ...]) -> None:
    continues = "previous_response_id" in given or "conversation" in given
    if "previous_response_id" in given and "conversation" in given:
        raise problems.mutually_exclusive()
    if given.get("background") and given.get("store") is False:
        raise problems.background_needs_store()
    if "stream_options" in given and not given.get("stream"):
        raise problems.stream_options_need_stream()
    if not items and not continues:
        raise problems.no_input()


def _request(given: Mapping[str, Any], items: tuple[InputItem, ...]) -> CreateRequest:
    conversation = given.get("conversation")
    echo = _echo(given)
    return CreateRequest(
        model=given.get("model"),
        items=items,
        instructions=given.get("instructions"),
        previous_response_id=given.get("previous_response_id"),
        conversation=conversation["id"] if type(conversation) is dict else conversation,
        store=given.get("store", True),
        background=given.get("background", False),
        stream=given.get("stream", False),
        metadata=given.get("metadata", {}),
        echo=echo,
        tools=tuple(echo.get("tools", ())),
        tool_choice=echo.get("tool_choice", "auto"),
        agent_session_id=given.get("agent_session_id"),
    )


# --- "Did you mean" --------------------------------------------------------------------------------------------


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that two typing errors at most turn into `name`."""
    near = ((_distance(name, each), each) for each in known if abs(len(each) - len(name)) <= 2)
    best = min(near, default=(3, ""))
    return best[1] if best[0] <= 2 else None


def _distance(one: str, other: str) -> int:
    """How many letters must be added, dropped or changed to make one word the other."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        above, row[0] = row[0], index
        for column, each in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (letter != each))
    return row[-1]
