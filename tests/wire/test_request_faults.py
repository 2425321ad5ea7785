"""Which fault of a request is reported, and how."""

import json
from typing import Any

import msgspec
import pytest

from agent_host.wire.body import MAX_VALUES
from agent_host.wire.input import InputMessage, InputText
from agent_host.wire.problems import Problem
from agent_host.wire.request import parse_request

USER = {"role": "user", "content": "hi"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1"}


def said(*parts: Any, role: str = "user", **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": list(parts), **more}]


def refusal(body: Any, lenient: bool = False) -> Problem:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(Problem) as caught:
        parse_request(raw, lenient=lenient)
    return caught.value


UNREADABLE = [b"{not json", b"", b"\xff", b'"\xff"', b'{"input": NaN}', b'{"input":"\\ud800"}', b"[" * 100_000]

# Each row: what is sent besides `input: "hi"`, and the param and code of the answer.
FIELD_FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": 7}, "model", "invalid_type"),
    ({"zzz_unknown": 1}, "zzz_unknown", "unknown_parameter"),
    ({"zzz_unknown": None}, "zzz_unknown", "unknown_parameter"),
    ({"stream": "yes"}, "stream", "invalid_type"),
    ({"store": "yes"}, "store", "invalid_type"),
    ({"store": 1}, "store", "invalid_type"),
    ({"background": "yes"}, "background", "invalid_type"),
    ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    ({"max_output_tokens": 16.0}, "max_output_tokens", "invalid_type"),
    ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
    ({"max_tool_calls": 0}, "max_tool_calls", "integer_below_min_value"),
    ({"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ({"temperature": 2.5}, "temperature", "decimal_above_max_value"),
    ({"temperature": "hot"}, "temperature", "invalid_type"),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
    ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}", "string_above_max_length"),
    ({"metadata": {"k": 1}}, "metadata.k", "invalid_type"),
    ({"metadata": []}, "metadata", "invalid_type"),
    ({"include": ["bogus.thing"]}, "include[0]", "invalid_value"),
    ({"include": "reasoning.encrypted_content"}, "include", "invalid_type"),
    ({"truncation": "bogus"}, "truncation", "invalid_value"),
    ({"service_tier": "bogus"}, "service_tier", "invalid_value"),
    ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "missing_required_parameter"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name", "invalid_value"),
    ({"tools": [{"type": "function", "name": "f" * 65}]}, "tools[0].name", "string_above_max_length"),
    ({"tools": [{"type": "function", "name": "f", "parameters": "{}"}]}, "tools[0].parameters", "invalid_type"),
    ({"tools": [{"type": "bogus"}]}, "tools[0].type", "invalid_value"),
    ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [7]}, "tools[0]", "invalid_type"),
    ({"tool_choice": "bogus"}, "tool_choice", "invalid_value"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name", "missing_required_parameter"),
    (
        {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
        "tool_choice.tools",
        "array_below_min_length",
    ),
    ({"tool_choice": 7}, "tool_choice", "invalid_type"),
    ({"text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter"),
    ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema", "missing_required_parameter"),
    ({"text": {"format": {"type": "bogus"}}}, "text.format.type", "invalid_value"),
    ({"text": {"verbosity": "bogus"}}, "text.verbosity", "invalid_value"),
    ({"text": {"bogus": 1}}, "text.bogus", "unknown_parameter"),
    ({"reasoning": {"effort": "bogus"}}, "reasoning.effort", "invalid_value"),
    ({"reasoning": {"bogus": 1}}, "reasoning.bogus", "unknown_parameter"),
    (
        {"stream": True, "stream_options": {"include_usage": True}},
        "stream_options.include_usage",
        "unknown_parameter",
    ),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options", "invalid_value"),
    ({"instructions": 7}, "instructions", "invalid_type"),
    ({"safety_identifier": "x" * 129}, "safety_identifier", "string_above_max_length"),
    ({"prompt_cache_key": "x" * 65}, "prompt_cache_key", "string_above_max_length"),
    ({"prompt": {"version": "1"}}, "prompt.id", "missing_required_parameter"),
    ({"previous_response_id": 7}, "previous_response_id", "invalid_type"),
    ({"previous_response_id": "resp 1"}, "previous_response_id", "invalid_value"),
    ({"previous_response_id": ""}, "previous_response_id", "invalid_value"),
    ({"conversation": 7}, "conversation", "invalid_type"),
    ({"conversation": {}}, "conversation.id", "missing_required_parameter"),
    ({"conversation": {"id": "conv 1"}}, "conversation.id", "invalid_value"),
    ({"background": True, "store": False}, "background", "unsupported_parameter"),
    ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "", "mutually_exclusive_parameters"),
]

INPUT_FAULTS: list[tuple[Any, str, str]] = [
    (7, "input", "invalid_type"),
    ({}, "input", "invalid_type"),
    ([], "", "missing_required_parameter"),
    ("", "", "missing_required_parameter"),
    ([7], "input[0]", "invalid_type"),
    ([USER, {"type": "bogus_item"}], "input[1]", "invalid_value"),
    ([{"type": 7}], "input[0].type", "invalid_type"),
    ([{"role": "bogus", "content": "x"}], "input[0]", "invalid_value"),
    ([{"role": 7, "content": "x"}], "input[0].role", "invalid_type"),
    ([{"content": "x"}], "input[0].role", "missing_required_parameter"),
    ([{"role": "user"}], "input[0].content", "missing_required_parameter"),
    ([{"role": "user", "content": None}], "input[0].content", "invalid_type"),
    ([{"role": "user", "content": 7}], "input[0].content", "invalid_type"),
    ([{**USER, "bogus": 1}], "input[0].bogus", "unknown_parameter"),
    ([{**USER, "phase": "commentary"}], "input[0].phase", "unknown_parameter"),
    ([{**USER, "status": "bogus"}], "input[0].status", "invalid_value"),
    ([{**USER, "id": ""}], "input[0].id", "string_below_min_length"),
    (said(7), "input[0].content[0]", "invalid_type"),
    (said({"text": "x"}), "input[0].content[0].type", "missing_required_parameter"),
    (said({"type": "bogus"}), "input[0].content[0].type", "invalid_value"),
    (said({"type": "output_text", "text": "x"}), "input[0].content[0].type", "invalid_value"),
    (said({"type": "input_text", "text": "x"}, role="assistant"), "input[0].content[0].type", "invalid_value"),
    (said({"type": "input_text"}), "input[0].content[0].text", "missing_required_parameter"),
    (said({"type": "input_text", "text": None}), "input[0].content[0].text", "invalid_type"),
    (said({"type": "input_text", "text": "x", "bogus": 1}), "input[0].content[0].bogus", "unknown_parameter"),
    (said({"type": "input_image"}), "input[0].content[0].image_url", "missing_required_parameter"),
    (said({"type": "input_image", "image_url": {"url": "x"}}), "input[0].content[0].image_url", "invalid_type"),
    (
        said({"type": "input_image", "image_url": "x", "detail": "bogus"}),
        "input[0].content[0].detail",
        "invalid_value",
    ),
    (said({"type": "input_file", "filename": "f"}), "input[0].content[0].file_data", "missing_required_parameter"),
    ([{"type": "function_call_output", "output": "x"}], "input[0].call_id", "missing_required_parameter"),
    (
        [{"type": "function_call_output", "call_id": "c" * 65, "output": "x"}],
        "input[0].call_id",
        "string_above_max_length",
    ),
    ([{"type": "mcp_approval_response", "approval_request_id": "m"}], "input[0].approve", "missing_required_parameter"),
    ([{"type": "item_reference"}], "input[0].id", "missing_required_parameter"),
    ([{"type": "item_reference", "id": 7}], "input[0].id", "invalid_type"),
    ([{"type": "item_reference", "id": "x" * 257}], "input[0].id", "string_above_max_length"),
    ([{"type": "item_reference", "id": "a\x00b"}], "input[0].id", "invalid_value"),
    ([{"type": "reasoning", "id": "a b"}], "input[0].id", "invalid_value"),
    ([{"type": "compaction"}], "input[0].encrypted_content", "missing_required_parameter"),
    ([{"type": "compaction", "encrypted_content": 7}], "input[0].encrypted_content", "invalid_type"),
    ([{**CALL, "call_id": ""}], "input[0].call_id", "string_below_min_length"),
    ([{**CALL, "arguments": {}}], "input[0].arguments", "invalid_type"),
    ([{**CALL, "name": "f" * 129}], "input[0].name", "string_above_max_length"),
    ([{**CALL, "status": "bogus"}], "input[0].status", "invalid_value"),
    ([{**CALL, "bogus": 1}], "input[0].bogus", "unknown_parameter"),
    ([OUTPUT], "input[0].output", "missing_required_parameter"),
    ([{**OUTPUT, "output": None}], "input[0].output", "invalid_type"),
    ([{**OUTPUT, "output": {"a": 1}}], "input[0].output", "invalid_type"),
    ([{**OUTPUT, "output": [{"type": "bogus"}]}], "input[0].output[0].type", "invalid_value"),
    ([{**OUTPUT, "output": [{"type": "output_text", "text": "x"}]}], "input[0].output[0].type", "invalid_value"),
    ([{**OUTPUT, "output": "x", "bogus": 1}], "input[0].bogus", "unknown_parameter"),
    (
        [{"type": "mcp_approval_response", "approval_request_id": "m", "approve": "yes"}],
        "input[0].approve",
        "invalid_type",
    ),
    ([{**USER, "id": "msg_1"}, {"role": "user", "content": "ho", "id": "msg_1"}], "input", "duplicate_item"),
    ([USER] * 10_001, "input", "too_many_input_items"),
    (said(*[{"type": "input_text", "text": ""}] * 10_001), "input[0].content", "array_above_max_length"),
    ("x" * 10_485_761, "input", "string_above_max_length"),
]


@pytest.mark.parametrize("body", UNREADABLE, ids=lambda body: repr(body[:12]))
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """A body that cannot be read is a 400 with a body of its own, whatever is wrong with it."""
    problem = refusal(body)
    assert (problem.status, problem.code) == (400, "invalid_json")


@pytest.mark.parametrize("body", [[], "text", 7, None, True], ids=repr)
def test_a_body_is_an_object(body: Any) -> None:
    """JSON that is not an object is of the wrong type."""
    assert refusal(body).code == "invalid_type"


def test_json_without_bottom_is_refused() -> None:
    """What is nested so deep that it could not be written again is not accepted either."""
    deep: Any = {}
    for _ in range(150):
        deep = {"a": deep}
    assert refusal({"input": "hi", "tools": [{"type": "function", "name": "f", "parameters": deep}]}).code == (
        "invalid_json"
    )


@pytest.mark.parametrize(("fields", "param", "code"), FIELD_FAULTS, ids=lambda value: str(value)[:60])
def test_a_field_fault_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    """A bad field is answered with its path and a code."""
    problem = refusal({"input": "hi", **fields})
    assert (problem.status, problem.type) == (400, "invalid_request_error")
    assert (problem.param or "", problem.code) == (param, code)


@pytest.mark.parametrize(("value", "param", "code"), INPUT_FAULTS, ids=lambda value: str(value)[:60])
def test_an_input_fault_is_named(value: Any, param: str, code: str) -> None:
    """A bad item or part is answered with its path and a code."""
    problem = refusal({"input": value})
    assert problem.status == 400
    assert (problem.param or "", problem.code) == (param, code)


@pytest.mark.parametrize("body", [{}, {"model": "m"}, {"input": None}, {"prompt": {"id": "p"}}])
def test_a_request_needs_input(body: dict[str, Any]) -> None:
    """Without input and without anything to continue there is nothing to do."""
    problem = refusal(body)
    assert (problem.param, problem.code) == ("input", "missing_required_parameter")


def test_chat_messages_are_told_where_to_go() -> None:
    """A request in the shape of the chat completions API learns what the field is called here."""
    problem = refusal({"model": "m", "messages": [USER]})
    assert (problem.param, problem.code) == (None, "unsupported_parameter")
    assert "'input'" in problem.message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("inptu", "input"), ("modle", "model"), ("metadat", "metadata"), ("storee", "store"), ("max_tokens", None)],
)
def test_a_misspelt_field_is_recognised(typed: str, meant: str | None) -> None:
    """Two typing errors at most are seen through; anything farther is not guessed at."""
    message = refusal({"input": "hi", typed: 1}).message
    assert message.endswith(f"Did you mean '{meant}'?") if meant else "Did you mean" not in message


def test_faults_have_an_order() -> None:
    """Of several faults the same one is reported, whatever the order of keys: missing, unknown, field, together."""
    faults: list[tuple[dict[str, Any], str]] = [
        ({"zzz_unknown": 1}, "unknown_parameter"),
        ({"input": [7]}, "invalid_type"),
        ({"truncation": "bogus"}, "invalid_value"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "mutually_exclusive_parameters"),
    ]
    for place, (_, code) in enumerate(faults):
        body: dict[str, Any] = {"input": "hi"}
        for fault, _ in faults[place:]:
            body |= fault
        assert refusal(body).code == code
        assert refusal(dict(reversed(body.items()))).code == code
        assert refusal(body | {"input": None, "previous_response_id": None, "conversation": None}).param == "input"


CROWD = {
    "arrays": "[]",
    "objects": '{"":1}',
    "numbers": "1.5",
    "texts": '""',
    "texts with quotes and backslashes": r'"\\\"[\\"',
}


@pytest.mark.parametrize("value", CROWD.values(), ids=CROWD)
def test_more_values_than_may_be_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """A body of small values would take many times its bytes; it costs no more than a look."""
    monkeypatch.setattr(msgspec.json, "decode", lambda body: pytest.fail("it was decoded"))
    problem = refusal(f'{{"input":[{",".join([value] * MAX_VALUES)}]}}'.encode())
    assert (problem.status, problem.code) == (413, "request_too_large")
    assert str(MAX_VALUES) in problem.message


@pytest.mark.parametrize("before", ["", '"', "\\"], ids=["nothing", "a quote", "a backslash"])
def test_what_texts_hold_are_no_values(before: str) -> None:
    """Data may be sent as a text, however many commas and brackets are in it, and whatever stands before them."""
    texts = [before, "[1,2],{" * 300_000]
    items = parse_request(json.dumps({"input": [{"role": "user", "content": text} for text in texts]}).encode()).items
    parts = [part for item in items if isinstance(item, InputMessage) for part in item.parts]
    assert [part.text for part in parts if isinstance(part, InputText)] == texts


def test_a_conversation_of_as_many_items_as_may_be_is_read() -> None:
    """Ten parts in each of them are not too many values."""
    parts = [{"type": "input_text", "text": "a, b"}] * 10
    items = [{"type": "message", "role": "user", "content": parts}] * 10_000
    assert len(parse_request(json.dumps({"input": items}).encode()).items) == 10_000


def test_a_lenient_reader_ignores_what_it_does_not_know() -> None:
    """Unknown fields pass anywhere; known fields are judged as always."""
    body = {
        "input": [{**USER, "bogus": 1, "content": [{"type": "input_text", "text": "hi", "bogus": 1}]}],
        "zzz_unknown": 1,
        "text": {"bogus": 1},
        "reasoning": {"bogus": 1},
    }
    assert len(parse_request(json.dumps(body).encode(), lenient=True).items) == 1
    assert refusal({**body, "store": "yes"}, lenient=True).param == "store"
