"""The bodies of the requests besides those for a response: which are read, and which fault is reported."""

import json
from collections.abc import Callable
from typing import Any, get_type_hints

import openresponses_types.types as published
import pytest
from openai.types.conversations.conversation_create_params import ConversationCreateParams
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_compact_params import ResponseCompactParams

from agent_host.wire.compaction import compaction_item, compaction_object, parse_compact
from agent_host.wire.conversation import NewConversation, parse_metadata, parse_new_conversation, parse_new_items
from agent_host.wire.input import InputMessage, InputText
from agent_host.wire.models import model_object
from agent_host.wire.problems import Problem
from agent_host.wire.response import usage_object
from agent_host.wire.tokens import counted_text, estimated_tokens, parse_token_request

Parse = Callable[[bytes], Any]
USER = {"role": "user", "content": "hi"}

FAULTS: list[tuple[Parse, dict[str, Any], str, str]] = [
    (parse_new_conversation, {"items": [USER] * 21}, "items", "array_above_max_length"),
    (parse_new_conversation, {"items": "hi"}, "items", "invalid_type"),
    (parse_new_conversation, {"items": [7]}, "items[0]", "invalid_type"),
    (parse_new_conversation, {"items": [{"role": "user"}]}, "items[0].content", "missing_required_parameter"),
    (parse_new_conversation, {"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    (parse_new_conversation, {"metadata": {"a": "x" * 513}}, "metadata.a", "string_above_max_length"),
    (parse_new_conversation, {"metadat": {}}, "metadat", "unknown_parameter"),
    (parse_metadata, {}, "metadata", "missing_required_parameter"),
    (parse_metadata, {"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
    (parse_metadata, {"metadata": {}, "items": []}, "items", "unknown_parameter"),
    (parse_new_items, {}, "items", "missing_required_parameter"),
    (parse_new_items, {"items": None}, "items", "missing_required_parameter"),
    (parse_new_items, {"items": []}, "items", "array_below_min_length"),
    (parse_new_items, {"items": [USER] * 21}, "items", "array_above_max_length"),
    (parse_compact, {"input": "hi"}, "model", "missing_required_parameter"),
    (parse_compact, {"model": "m"}, "", "missing_required_parameter"),
    (parse_compact, {"model": "m", "input": []}, "", "missing_required_parameter"),
    (parse_compact, {"model": "m", "input": 7}, "input", "invalid_type"),
    (parse_compact, {"model": "m", "input": "hi", "stream": True}, "stream", "unknown_parameter"),
    (parse_compact, {"model": "m", "previous_response_id": "a b"}, "previous_response_id", "invalid_value"),
    (parse_token_request, {"input": 7}, "input", "invalid_type"),
    (parse_token_request, {"personality": "x" * 65}, "personality", "string_above_max_length"),
    (parse_token_request, {"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    (parse_token_request, {"store": True}, "store", "unknown_parameter"),
    (
        parse_token_request,
        {"conversation": "conv_1", "previous_response_id": "resp_1"},
        "",
        "mutually_exclusive_parameters",
    ),
]


@pytest.mark.parametrize(("parse", "body", "param", "code"), FAULTS, ids=lambda value: str(value)[:50])
def test_a_fault_is_named(parse: Parse, body: dict[str, Any], param: str, code: str) -> None:
    """A bad field is answered with its path and a code, as in a request for a response."""
    with pytest.raises(Problem) as caught:
        parse(json.dumps(body).encode())
    assert (caught.value.status, caught.value.param or "", caught.value.code) == (400, param, code)


@pytest.mark.parametrize("parse", [parse_new_conversation, parse_metadata, parse_new_items, parse_compact])
def test_what_is_no_object_is_refused(parse: Parse) -> None:
    """Neither bytes without sense nor JSON of another kind is a body."""
    for body, code in ((b"{", "invalid_json"), (b"[]", "invalid_type"), (b"null", "invalid_type")):
        with pytest.raises(Problem) as caught:
            parse(body)
        assert caught.value.code == code


def test_a_conversation_may_begin_empty() -> None:
    """A body without fields, with nulls, or none at all begins a conversation without items."""
    for body in (b"", b"{}", b'{"items": null, "metadata": null}', b'{"items": []}'):
        assert parse_new_conversation(body) == NewConversation({}, ())


def test_a_conversation_may_begin_with_twenty_items() -> None:
    """The items of a conversation are those of an input, and know their place."""
    new = parse_new_conversation(json.dumps({"items": [USER] * 20, "metadata": {"a": "b"}}).encode())
    assert len(new.items) == 20
    assert new.metadata == {"a": "b"}
    assert new.items[19] == InputMessage("user", (InputText("hi", "items[19].content"),), path="items[19]")


def test_metadata_may_be_taken_away() -> None:
    """Null and nothing are the same for what replaces the metadata."""
    assert parse_metadata(b'{"metadata": null}') == parse_metadata(b'{"metadata": {}}') == {}


def _minimal(name: str) -> Any:
    values = {"model": "m", "input": "hi", "metadata": {}, "items": [], "tools": [], "image": {}, "text": {}}
    values |= {"reasoning": {}, "tool_choice": "auto", "truncation": "auto", "parallel_tool_calls": True}
    values |= {"prompt_cache_options": {}, "prompt_cache_retention": "24h", "service_tier": "auto"}
    return values.get(name, "x")


@pytest.mark.parametrize(
    ("parse", "params"),
    [
        (parse_new_conversation, ConversationCreateParams),
        (parse_compact, ResponseCompactParams),
        (parse_token_request, InputTokenCountParams),
    ],
    ids=["conversation", "compact", "tokens"],
)
def test_every_field_of_the_client_library_is_known(parse: Parse, params: Any) -> None:
    """What the installed client can send is not refused, be it null or not."""
    names = set(get_type_hints(params)) - {"conversation"}
    parse(json.dumps({name: _minimal(name) for name in names}).encode())
    required = {"model", "input"} & names
    parse(json.dumps({name: _minimal(name) if name in required else None for name in names}).encode())


def test_a_compaction_is_one_that_the_published_types_know() -> None:
    """The answer validates, with a message of the user and the item that stands for the rest."""
    message = {"id": "msg_1", "type": "message", "role": "user", "status": "completed", "content": []}
    answer = compaction_object("resp_1", 1, [message, compaction_item("cmp_1", "handle")], usage_object())
    parsed = published.CompactResource.model_validate(answer)
    assert parsed.output[1].encrypted_content == "handle"


def test_what_is_counted_is_what_is_said() -> None:
    """Instructions, texts, calls, outputs and tools count; ids, images, files and encrypted content do not."""
    items = [
        {"id": "msg_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "ask"}]},
        {"type": "message", "content": [{"type": "input_image", "image_url": "data:far too long"}]},
        {"type": "message", "content": [{"type": "input_file", "filename": "f", "file_data": "data:too long"}]},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "seen"}]},
        {"type": "function_call_output", "call_id": "call_1", "output": "plain"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "think"}], "encrypted_content": "zzz"},
    ]
    text = counted_text(items, "be kind", [{"type": "function", "name": "look"}])
    assert text.split("\n") == [
        *("be kind", "ask", "look", "{}", "seen", "plain", "think"),
        '{"type":"function","name":"look"}',
    ]


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("éé", 1), ("ééé", 2)])
def test_an_estimate_is_a_quarter_of_the_bytes(text: str, count: int) -> None:
    """Four bytes of UTF-8 are a token, and a rest is one too."""
    assert estimated_tokens(text) == count


def test_a_model_shows_its_questions() -> None:
    """What a workflow may ask stands beside its name, and nothing stands there if it asks nothing."""
    tool = {"type": "function", "name": "approve"}
    assert model_object("m", [tool])["tools"] == [tool]
    assert "tools" not in model_object("m")
