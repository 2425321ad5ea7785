"""Requests for a response over HTTP: what is accepted, what is repeated, and how a refusal is told."""

from typing import Any, Never

import pytest

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, executor
from agent_host.wire.request import KNOWN_FIELDS

ANSWER = {
    "type": "message",
    "role": "assistant",
    "id": "msg_1",
    "status": "completed",
    "phase": "final_answer",
    "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": None,
    "encrypted_content": None,
    "status": None,
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "done"}
USER = {"role": "user", "content": "hi"}


@executor(id="echo")
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


def echoing() -> Workflow:
    return WorkflowBuilder(start_executor=echo, name="echoing").build()


@pytest.mark.parametrize(
    "given",
    [
        "hi",
        [USER],
        [{"type": "message", **USER}],
        [{**USER, "id": "msg_mine", "status": "completed"}],
        [{**USER, "id": None, "status": None}],
        [USER, ANSWER, USER],
        [USER, REASONING, ANSWER, USER],
        [USER, CALL, OUTPUT, USER],
    ],
    ids=lambda given: str([item.get("type", "user") for item in given] if isinstance(given, list) else given),
)
async def test_an_input_may_have_any_form(serve_app: Any, given: Any) -> None:
    """A string, items with and without type, and whatever was an output before: the workflow hears the user."""
    site = await serve_app(echoing())
    response = await site.client.responses.create(model="m", input=given)
    assert (response.status, response.output_text) == ("completed", "hi")


async def test_null_is_as_good_as_absent(serve_app: Any) -> None:
    """A request with null in every field but its input gets the answer of one without them."""
    site = await serve_app(echoing())
    nulls = dict.fromkeys(KNOWN_FIELDS - {"input"})
    plain, full = [
        (await site.http.post("/responses", json={"input": "hi", **more})).json() for more in ({}, nulls)
    ]  # fmt: skip
    own = {"id", "created_at", "completed_at", "output"}
    assert {key: full[key] for key in full.keys() - own} == {key: plain[key] for key in plain.keys() - own}


async def test_what_was_set_is_repeated(serve_app: Any) -> None:
    """The answer shows the request's settings, and the same ones when it is read again; `include` has no place."""
    site = await serve_app(echoing())
    settings = {
        "metadata": {"a": "b"},
        "instructions": "Be kind.",
        "truncation": "auto",
        "store": True,
        "max_tool_calls": 3,
        "parallel_tool_calls": False,
        "user": "u",
        "prompt_cache_key": "k",
    }
    body = {"input": "hi", "include": ["reasoning.encrypted_content"], **settings}
    answer = (await site.http.post("/responses", json=body)).json()
    again = (await site.http.get(f"/responses/{answer['id']}")).json()
    for shown in (answer, again):
        assert {name: shown[name] for name in settings} == settings
        assert "include" not in shown


@pytest.mark.parametrize("body", [b"{not json", b'{"stream": true, "input": 7}', b'{"stream": true, "input": []}'])
async def test_a_refusal_is_never_a_stream(serve_app: Any, body: bytes) -> None:
    """Whatever the request wanted, a fault is an answer of its own, before anything is streamed."""
    site = await serve_app(echoing())
    answer = await site.http.post("/responses", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/json")
    assert set(answer.json()) == {"error"}


async def test_a_bad_field_wins_over_an_unknown_response(serve_app: Any) -> None:
    """What is wrong with the request itself is said before anything is looked for."""
    site = await serve_app(echoing())
    body = {"input": "hi", "previous_response_id": "resp_unknown", "truncation": "bogus"}
    error = (await site.http.post("/responses", json=body)).json()["error"]
    assert (error["param"], error["code"]) == ("truncation", "invalid_value")
    error = (await site.http.post("/responses", json={**body, "truncation": "auto"})).json()["error"]
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_found")
