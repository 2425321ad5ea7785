"""Requests with a fault, over a socket: which one is named, and how."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

UNKNOWN = "resp_" + "0" * 48

# Each row: what is sent besides `input: "hi"`, and the param and code of the answer.
FIELDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "no input": ({"input": None}, "input", "missing_required_parameter"),
    "an empty input": ({"input": []}, "", "missing_required_parameter"),
    "an empty text": ({"input": ""}, "", "missing_required_parameter"),
    "an input of the wrong type": ({"input": 7}, "input", "invalid_type"),
    "an item of the wrong type": ({"input": [7]}, "input[0]", "invalid_type"),
    "an unknown kind of item": ({"input": [{"type": "bogus_item"}]}, "input[0]", "invalid_value"),
    "an unknown role": ({"input": [{"role": "bogus", "content": "x"}]}, "input[0]", "invalid_value"),
    "no content": ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    "an unknown kind of part": (
        {"input": [{"role": "user", "content": [{"type": "bogus"}]}]}, "input[0].content[0].type", "invalid_value",
    ),
    "an unknown field": ({"zzz_unknown": 1}, "zzz_unknown", "unknown_parameter"),
    "an unknown field of an item": (
        {"input": [{"role": "user", "content": "x", "bogus": 1}]}, "input[0].bogus", "unknown_parameter",
    ),
    "store that is text": ({"store": "yes"}, "store", "invalid_type"),
    "background that is text": ({"background": "yes"}, "background", "invalid_type"),
    "too few tokens": ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    "no tool calls": ({"max_tool_calls": 0}, "max_tool_calls", "integer_below_min_value"),
    "17 keys": ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata", "object_above_max_properties"),
    "a long value": ({"metadata": {"k": "v" * 513}}, "metadata.k", "string_above_max_length"),
    "a long key": ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 65}", "string_above_max_length"),
    "an unknown include": ({"include": ["bogus.thing"]}, "include[0]", "invalid_value"),
    "an unknown truncation": ({"truncation": "bogus"}, "truncation", "invalid_value"),
    "a function without a name": ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    "an unknown choice of tool": ({"tool_choice": "bogus"}, "tool_choice", "invalid_value"),
    "a schema without a name": (
        {"text": {"format": {"type": "json_schema"}}}, "text.format.name", "missing_required_parameter",
    ),
    "background that is not stored": ({"background": True, "store": False}, "background", "unsupported_parameter"),
    "a malformed id": ({"previous_response_id": "resp 1"}, "previous_response_id", "invalid_value"),
    "an unknown id": ({"previous_response_id": UNKNOWN}, "previous_response_id", "previous_response_not_found"),
    "two things to continue": (
        {"previous_response_id": UNKNOWN, "conversation": "conv_1"}, "", "mutually_exclusive_parameters",
    ),
    "a bad field and an unknown id": (
        {"previous_response_id": UNKNOWN, "truncation": "bogus"}, "truncation", "invalid_value",
    ),
    "a bad item and an unknown id": ({"previous_response_id": UNKNOWN, "input": [7]}, "input[0]", "invalid_type"),
}  # fmt: skip


@pytest.fixture
async def untouched(site: Any, tmp_path: Path, stored_statuses: Any) -> AsyncIterator[Any]:
    """The office; in the end nothing may be stored."""
    yield site
    assert stored_statuses(tmp_path / "host.db") == {}


def fault(answer: Any, status: int = 400) -> dict[str, str]:
    """The error of an answer, whose values must all be strings: one client library shows no message otherwise."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, dict[str, str]] = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert all(isinstance(value, str) for value in body["error"].values())
    return body["error"]


@pytest.mark.parametrize("name", FIELDS)
async def test_a_fault_is_named_in_every_mode(untouched: Any, name: str) -> None:
    """The answer is a 400 in JSON, also to those who want a stream, and nothing has begun."""
    fields, param, code = FIELDS[name]
    for mode in ({}, {"stream": True}, {"background": True}):
        error = fault(await untouched.http.post("/responses", json={"input": "hi", **mode, **fields}))
        assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
        assert error["message"]


async def test_a_wish_for_a_stream_must_be_a_boolean(untouched: Any) -> None:
    """Text is not taken for true."""
    error = fault(await untouched.http.post("/responses", json={"input": "hi", "stream": "yes"}))
    assert (error["param"], error["code"]) == ("stream", "invalid_type")


@pytest.mark.parametrize("body", [b"{not json", b"", b"[]", b"\xff\xfe"])
async def test_what_is_no_json_object_is_refused(untouched: Any, body: bytes) -> None:
    """The answer has the shape of every error, not that of a web framework."""
    fault(await untouched.http.post("/responses", content=body))


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": 16},
        {"max_tool_calls": 1},
        {"metadata": {f"k{n}": "v" for n in range(16)}},
        {"metadata": {"k" * 64: "v" * 512}},
        {"include": ["reasoning.encrypted_content", "message.output_text.logprobs"]},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_value_at_its_limit_is_taken(site: Any, fields: dict[str, Any]) -> None:
    """Limits are inclusive."""
    assert (await site.say("hi", **fields)).status == "completed"


async def test_a_model_need_not_be_named(site: Any) -> None:
    """One host serves one workflow, so it is no fault to leave the model out: the response names the workflow."""
    assert (await site.http.post("/responses", json={"input": "hi"})).json()["model"] == "office"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v1/nowhere", 404),
        ("POST", "/v1/chat/completions", 404),
        ("GET", "/v1/responses", 405),
        ("PATCH", f"/v1/responses/{UNKNOWN}", 405),
        ("GET", f"/v1/responses/{UNKNOWN}/cancel", 405),
        ("POST", f"/v1/responses/{UNKNOWN}/input_items", 405),
    ],
)
async def test_an_address_that_is_not_served_is_refused_in_the_same_shape(
    untouched: Any, method: str, path: str, status: int
) -> None:
    """Unknown paths and wrong methods have the error body that clients show."""
    assert fault(await untouched.http.request(method, path), status)["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_stock_client_shows_a_fault_after_one_request(site: Any, stream: bool) -> None:
    """It raises its class for 400 with code and param, before the first event, and does not try again."""
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("hi", stream=stream, truncation="bogus")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "truncation")
    assert json.loads(caught.value.response.content)["error"]["message"] in str(caught.value)
    assert site.requests == ["POST /responses"]
