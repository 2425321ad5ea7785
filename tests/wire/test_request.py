"""What a good request is read into, and what the response repeats of it."""

import itertools
import json
from typing import Any, get_args, get_type_hints

import msgspec
import openai.types.responses.response_create_params as create
import pytest
from openai.types.responses.response_includable import ResponseIncludable
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.response_item import ResponseItem
from openai.types.responses.tool_param import ToolParam
from pydantic import TypeAdapter

from agent_host.wire import input as wire_input
from agent_host.wire.input import (
    InputApproval,
    InputCompaction,
    InputFile,
    InputFunctionCall,
    InputFunctionOutput,
    InputImage,
    InputMessage,
    InputReference,
    InputRefusal,
    InputText,
    OtherItem,
)
from agent_host.wire.items import KINDS
from agent_host.wire.request import KNOWN_FIELDS, CreateRequest, parse_request, stored_items
from agent_host.wire.response import ResponseFacts, snapshot


def parsed(**fields: Any) -> CreateRequest:
    return parse_request(json.dumps({"input": "hi", **fields}).encode())


def words(hint: Any) -> set[str]:
    """The words of a literal type, also inside an optional one."""
    return {word for part in get_args(hint) for word in ({part} if isinstance(part, str) else words(part))}


def numbered() -> Any:
    numbers = itertools.count()
    return lambda prefix: f"{prefix}_{next(numbers)}"


FULL: dict[str, Any] = {
    "model": "m",
    "instructions": "Be kind.",
    "previous_response_id": "resp_1",
    "store": False,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "include": ["reasoning.encrypted_content"],
    "metadata": {"k" * 64: "v" * 512, **{f"k{n}": "v" for n in range(15)}},
    "max_output_tokens": 16,
    "max_tool_calls": 1,
    "temperature": 0.5,
    "top_p": 0.25,
    "presence_penalty": 0.5,
    "frequency_penalty": -1,
    "top_logprobs": 20,
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": {"type": "function", "name": "f"},
    "parallel_tool_calls": False,
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "truncation": "auto",
    "service_tier": "fast",
    "safety_identifier": "s",
    "prompt_cache_key": "p",
    "prompt_cache_retention": "24h",
    "user": "u",
}


def test_the_fields_are_those_of_the_client_library() -> None:
    """Every field that the installed client can send is known here."""
    sent = set(get_type_hints(create.ResponseCreateParamsBase)) | {"stream"}
    assert sent <= KNOWN_FIELDS
    assert {"agent_session_id", "agent_reference"} == KNOWN_FIELDS - sent - {"presence_penalty", "frequency_penalty"}


def test_the_item_kinds_are_those_of_the_client_library() -> None:
    """Every kind of item that the installed client can send is known here, and no other."""
    sent = {word for member in get_args(ResponseInputItemParam) for word in words(get_type_hints(member)["type"])}
    assert sent == set(KINDS)


def test_the_tools_and_includes_are_those_of_the_client_library() -> None:
    """Every kind of tool, and everything that may be included, passes."""
    kinds = {word for member in get_args(ToolParam) for word in words(get_type_hints(member)["type"])}
    tools = [{"type": kind, "name": "n"} for kind in sorted(kinds)]
    assert len(parsed(tools=tools, include=sorted(words(ResponseIncludable))).tools) == len(kinds)


def test_a_string_is_one_message_of_the_user() -> None:
    """A string, a message without type and a typed message say the same."""
    plain = parsed(input="hi").items
    assert plain == (InputMessage("user", (InputText("hi", "input"),), path="input"),)
    for more in ({}, {"type": "message"}, {"type": None}):
        (item,) = parsed(input=[{"role": "user", "content": "hi", **more}]).items
        assert item == InputMessage("user", (InputText("hi", "input[0].content"),), path="input[0]")


def test_defaults_are_those_of_the_api() -> None:
    """What is not sent has its default, and none of it is repeated."""
    request = parsed()
    assert request.model is None
    assert (request.store, request.background, request.stream) == (True, False, False)
    assert (request.instructions, request.previous_response_id, request.conversation) == (None, None, None)
    assert (request.metadata, request.echo, request.tools, request.tool_choice) == ({}, {}, (), "auto")


def test_null_is_as_good_as_absent() -> None:
    """A request with null in every optional field is the request without them."""
    assert parsed(**dict.fromkeys(KNOWN_FIELDS - {"input"})) == parsed()


def test_input_may_be_missing_if_something_is_continued() -> None:
    """A response or conversation can be continued without new input, also with an empty one."""
    for body in ({}, {"input": []}, {"input": ""}, {"input": None}):
        for state in ({"previous_response_id": "resp_1"}, {"conversation": "conv_1"}):
            assert parse_request(json.dumps({**body, **state}).encode()).items == ()


def test_a_conversation_is_a_string_or_an_object() -> None:
    """Both ways to name a conversation name it."""
    assert parsed(conversation="conv_1").conversation == "conv_1"
    assert parsed(conversation={"id": "conv_1"}).conversation == "conv_1"


def test_the_parts_of_a_message_are_read() -> None:
    """Text, images and files keep their order, and each knows its place."""
    content = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": "data:x", "file_id": None, "detail": None},
        {"type": "input_image", "file_id": "file_1", "detail": "original"},
        {"type": "input_file", "filename": "f", "file_data": "data:y"},
    ]
    (item,) = parsed(input=[{"role": "user", "content": content, "id": "msg_1", "status": "completed"}]).items
    path = "input[0].content"
    assert item == InputMessage(
        "user",
        (
            InputText("look", f"{path}[0]"),
            InputImage("data:x", None, "auto", f"{path}[1]"),
            InputImage(None, "file_1", "original", f"{path}[2]"),
            InputFile("f", "data:y", None, None, f"{path}[3]"),
        ),
        id="msg_1",
        status="completed",
        path="input[0]",
    )


def test_what_the_assistant_said_can_be_sent_back() -> None:
    """A message of ours is accepted as input with everything that was in it, and with what libraries add."""
    text = {"type": "output_text", "text": "a", "annotations": [{"type": "x"}], "logprobs": [], "parsed": {"a": 1}}
    message = {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "status": "completed",
        "phase": "final_answer",
        "content": [text, {"type": "refusal", "refusal": "no"}],
        "agent": None,
    }
    (item,) = parsed(input=[message]).items
    assert isinstance(item, InputMessage)
    assert item.phase == "final_answer"
    assert item.parts == (
        InputText("a", "input[0].content[0]", ({"type": "x"},)),
        InputRefusal("no", "input[0].content[1]"),
    )


TYPED = {"message", "function_call", "function_call_output", "mcp_approval_response", "item_reference", "compaction"}


@pytest.mark.parametrize("kind", sorted(set(KINDS) - TYPED))
def test_other_items_are_kept(kind: str) -> None:
    """An item that has no type of its own is kept as it came, without its nulls."""
    raw = {"type": kind, "id": "x_1", "call_id": "call_1", "output": [], "something_new": {"a": 1}}
    (item,) = parsed(input=[{**raw, "status": None, "encrypted_content": None}]).items
    assert item == OtherItem(kind, raw, "input[0]")


def test_a_call_that_is_sent_back_is_read() -> None:
    """A call comes back with what servers put on it; that is kept beside what it says."""
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
    (item,) = parsed(input=[{**call, "status": "completed", "namespace": None}]).items
    assert item == InputFunctionCall("call_1", "f", "{}", "input[0]", "fc_1", {"status": "completed"})


def test_the_output_of_a_call_is_text_or_parts() -> None:
    """A string is one text part, and an array may hold text, images and files."""
    output = {"type": "function_call_output", "call_id": "call_1"}
    parts = [{"type": "input_text", "text": "a"}, {"type": "input_image", "file_id": "file_1"}]
    plain, rich = parsed(input=[{**output, "output": "yes"}, {**output, "output": parts, "id": "fco_1"}]).items
    path = "input[0].output"
    assert plain == InputFunctionOutput("call_1", (InputText("yes", path),), "input[0]", is_text=True)
    path = "input[1].output"
    given = (InputText("a", f"{path}[0]"), InputImage(None, "file_1", "auto", f"{path}[1]"))
    assert rich == InputFunctionOutput("call_1", given, "input[1]", "fco_1")


def test_an_approval_is_read() -> None:
    """A decision has the request it decides, and perhaps a reason."""
    approval = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": False}
    silent, explained = parsed(input=[{**approval, "id": None}, {**approval, "id": "mcpa_1", "reason": "no"}]).items
    assert silent == InputApproval("mcpr_1", False, "input[0]")
    assert explained == InputApproval("mcpr_1", False, "input[1]", "no", "mcpa_1")


def test_a_compaction_is_read() -> None:
    """What stands for an earlier conversation is a handle."""
    (item,) = parsed(input=[{"type": "compaction", "id": "cmp_1", "encrypted_content": "h"}]).items
    assert item == InputCompaction("h", "input[0]", "cmp_1")


def test_an_id_alone_is_a_reference() -> None:
    """An item that has nothing but an id refers to a stored one, as one that says so."""
    for item in ({"id": "msg_1"}, {"id": "msg_1", "type": "item_reference"}, {"id": "msg_1", "type": None}):
        assert parsed(input=[item]).items == (InputReference("msg_1", "input[0]"),)


def _client_fields(kind: str) -> set[str]:
    """What the installed client may send for an item, and what it may have read of one and send back."""
    found: set[str] = set()
    for member in get_args(ResponseInputItemParam):
        hints = get_type_hints(member)
        if kind in words(hints["type"]):
            found |= set(hints)
    for model in get_args(get_args(ResponseItem)[0]):
        if kind in words(model.model_fields["type"].annotation):
            found |= set(model.model_fields)
    return found


@pytest.mark.parametrize("kind", sorted(TYPED - {"message"}))
def test_the_fields_of_typed_items_are_those_of_the_client_library(kind: str) -> None:
    """No field that the installed client knows of an item is refused, be it null or not."""
    values: dict[str, Any] = {
        **dict.fromkeys(("id", "call_id", "name", "arguments", "approval_request_id", "encrypted_content"), "x"),
        "type": kind,
        "output": "x",
        "approve": True,
        "status": "completed",
        "caller": {"type": "direct"},
    }
    assert _client_fields(kind)
    assert len(parsed(input=[{name: values.get(name) for name in _client_fields(kind)}]).items) == 1
    assert len(parsed(input=[{name: values.get(name, "x") for name in _client_fields(kind)}]).items) == 1


def test_an_item_that_is_repeated_counts_once() -> None:
    """Clients send the same item twice; it is one, as long as it says the same."""
    item = {"role": "user", "content": "a", "id": "msg_1"}
    items = parsed(input=[item, {**item, "status": None}, {"role": "user", "content": "b"}]).items
    assert [getattr(item, "path", None) for item in items] == ["input[0]", "input[2]"]


def test_a_fingerprint_is_of_what_was_asked() -> None:
    """The order of keys, white space and nulls make no difference; everything else does."""
    body = {"input": [{"role": "user", "content": "a"}], "metadata": {"a": "1", "b": "2"}, "stream": True}
    one = parse_request(json.dumps(body).encode()).fingerprint
    shuffled = {"store": None, **dict(reversed(body.items())), "metadata": {"b": "2", "a": "1"}}
    assert parse_request(json.dumps(shuffled, indent=2).encode()).fingerprint == one
    for change in ({"stream": False}, {"metadata": {"a": "1"}}, {"input": "a"}, {"user": "u"}):
        assert parse_request(json.dumps({**body, **change}).encode()).fingerprint != one


def test_the_same_bytes_are_the_same_request() -> None:
    """A request can be stored as it came and be read again."""
    body = json.dumps({**FULL, "input": [{"role": "user", "content": "a"}]}).encode()
    assert parse_request(body) == parse_request(body)


def test_set_fields_are_repeated_and_the_response_stays_valid() -> None:
    """Everything set is echoed in its normal form, except what the response has no place for."""
    request = parsed(**FULL)
    assert request.echo == {
        "max_output_tokens": 16,
        "max_tool_calls": 1,
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 0.5,
        "frequency_penalty": -1,
        "top_logprobs": 20,
        "tools": [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}],
        "tool_choice": {"type": "function", "name": "f"},
        "parallel_tool_calls": False,
        "text": {
            "format": {"type": "json_schema", "name": "n", "schema": {}, "description": None, "strict": False},
            "verbosity": "low",
        },
        "reasoning": {"effort": "low", "summary": None},
        "truncation": "auto",
        "service_tier": "priority",
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "prompt_cache_retention": "24h",
        "user": "u",
    }
    assert len(request.metadata) == 16
    assert request.tools == tuple(request.echo["tools"])
    msgspec.json.encode(request.echo)


def test_echoed_fields_satisfy_strict_clients(strict_response: Any) -> None:
    """A response that repeats a full request validates (schemas of answers aside, which one schema cannot hold)."""
    request = parsed(**{**FULL, "text": {"verbosity": "low", "format": {"type": "json_object"}}})
    facts = ResponseFacts("resp_1", 1, "m", metadata=request.metadata, echo=request.echo)
    strict_response(snapshot(facts, status="completed", output=[]))


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1},
        {"temperature": 1.0},
        {"truncation": "disabled"},
        {"service_tier": "auto"},
        {"service_tier": "default"},
        {"text": {}},
        {"text": {"format": {"type": "text"}, "verbosity": None}},
        {"reasoning": {"effort": None}},
        {"tools": []},
        {"tool_choice": "auto"},
        {"parallel_tool_calls": True},
    ],
    ids=str,
)
def test_defaults_that_were_sent_are_not_repeated(fields: dict[str, Any]) -> None:
    """An echo holds only what differs, so that little is stored."""
    assert parsed(**fields).echo == {}


def test_input_is_stored_as_complete_items() -> None:
    """Each stored item has an id, a type and a status, and is one that clients can read when they list it."""
    request = parsed(
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "a"},
                    {"type": "input_image", "file_id": "file_1"},
                    {"type": "input_file", "file_url": "https://x"},
                ],
            },
            {
                "role": "assistant",
                "id": "msg_mine",
                "content": [{"type": "output_text", "text": "b"}, {"type": "refusal", "refusal": "c"}],
                "phase": "commentary",
            },
            {"role": "system", "content": "d"},
            {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "call_1", "output": "yes"},
        ]
    )
    stored = stored_items(request, numbered())
    assert [item["id"] for item in stored] == ["msg_0", "msg_mine", "msg_1", "fc_2", "fco_3"]
    assert stored[0]["content"][1] == {"type": "input_image", "file_id": "file_1", "detail": "auto"}
    assert stored[1]["phase"] == "commentary"
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseItem)
    for item in stored:
        adapter.validate_python(item)


def test_stored_items_can_be_sent_again() -> None:
    """What was stored is good input: reading it again gives the same items."""
    items = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b"}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "namespace": "n"},
        {"type": "function_call_output", "call_id": "call_1", "output": "yes"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "yes"}]},
        {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True, "reason": "fine"},
        {"type": "compaction", "encrypted_content": "h"},
        {"type": "item_reference", "id": "msg_9"},
        {"type": "reasoning", "summary": []},
    ]
    stored = stored_items(parsed(input=items), numbered())
    assert stored[3]["output"] == "yes"
    assert [item["type"] for item in stored[2:]] == [item["type"] for item in items[2:]]
    assert stored_items(parsed(input=stored), numbered()) == stored


def test_limits_are_inclusive() -> None:
    """The longest input that is allowed is allowed."""
    (item,) = parsed(input="x" * wire_input.MAX_TEXT).items
    assert isinstance(item, InputMessage)
    assert len(parsed(input=[{"role": "user", "content": ""}] * 10_000).items) == 10_000
    (item,) = parsed(input=[{"type": "function_call_output", "call_id": "c" * 64, "output": ""}]).items
    assert isinstance(item, InputFunctionOutput)
