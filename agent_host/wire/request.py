"""A request to create a response: from a stranger's bytes to facts that the rest of the host can trust.

- One fault is reported, always the same one for the same request: what cannot be read, then what is missing,
  then unknown fields, then the fields in the order of the table, then fields that do not go together.
  Whether the state a request names exists is asked later, so a bad field wins over an unknown id.
- A field that is null is a field that was not sent.
- A lenient reader ignores fields that the API does not have: some gateways add their own. The host reads strictly.
- No schema library here: a table of checks gives the paths, messages and order that clients of this API expect,
  where a library's own errors would have to be translated one by one.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_host.wire import checks, problems
from agent_host.wire.body import decoded, refuse_unknown
from agent_host.wire.fields import field_checks
from agent_host.wire.input import InputItem, ItemReader, items_json


@dataclass(frozen=True, slots=True)
class CreateRequest:
    """What a client asks for. `echo` is what the response repeats of it, defaults left out; `given` is what it sent."""

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
    given: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def fingerprint(self) -> bytes:
        """A hash of everything that was asked for, whatever the order of its keys, with nulls left out."""
        return hashlib.sha256(msgspec.json.encode(self.given, order="deterministic")).digest()


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
    items: ItemReader


_READERS = {
    lenient: _Reader(field_checks(closed=not lenient), ItemReader(closed=not lenient)) for lenient in (False, True)
}
KNOWN_FIELDS = frozenset({"input", *_READERS[False].fields})


def parse_request(body: bytes, *, lenient: bool = False) -> CreateRequest:
    """The request in `body`, or the `Problem` with it. A `lenient` reader ignores fields it does not know.

    The same bytes give the same request, so that a request can be stored as it came and be read again.
    """
    raw = decoded(body)
    given = {name: value for name, value in raw.items() if value is not None}
    if "input" not in given:
        if "messages" in given:
            raise problems.messages_moved()
        if "previous_response_id" not in given and "conversation" not in given:
            raise problems.missing_parameter("input")
    reader = _READERS[lenient]
    if not lenient:
        refuse_unknown(raw, KNOWN_FIELDS)
    items = reader.items.read(given["input"]) if "input" in given else ()
    for name, check in reader.fields.items():
        if name in given:
            check(given[name], name)
    _check_together(given, items)
    return _request(given, items)


def stored_items(request: CreateRequest, new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The input as JSON items, each with an id, to be stored and listed; `new_id("msg")` mints one."""
    return items_json(request.items, new_id)


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
        given=given,
    )
