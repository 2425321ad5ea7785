"""A plain turn: what a client may send, and what it gets."""

import re
import types
import typing
from typing import Any

import openai
import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming

from tests.api.clerk import Clerk, office

REQUIRED_KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model", "instructions"),
    *("previous_response_id", "conversation", "output", "usage", "parallel_tool_calls", "tools", "tool_choice"),
    *("truncation", "text", "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
    *("reasoning", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key", "user"),
}
NULL_WHEN_UNSET = {
    *("error", "incomplete_details", "instructions", "previous_response_id", "conversation", "max_output_tokens"),
    *("max_tool_calls", "safety_identifier", "prompt_cache_key", "user"),
}


async def test_a_plain_request_gets_a_complete_response(site: Any) -> None:
    """It is JSON with status completed, an id with the API's prefix, and a message as its output."""
    answer = await site.http.post("/responses", json={"model": "any", "input": "hi"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["object"], body["status"]) == ("response", "completed")
    assert re.match(r"resp_[A-Za-z0-9]+$", body["id"])
    (message,) = body["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"] == [{"type": "output_text", "text": "1: hi", "annotations": [], "logprobs": []}]


async def test_the_strictest_client_accepts_a_response(site: Any) -> None:
    """The stock client validates every field, and finds the text where it expects it."""
    assert site.client._strict_response_validation
    response = await site.client.responses.create(model="any", input="hi")
    assert response.output_text == "1: hi"
    assert response._request_id


async def test_every_key_is_on_the_wire(site: Any) -> None:
    """What is not set is null and not absent, except for the verbosity of the text, where null is refused."""
    body = (await site.http.post("/responses", json={"input": "hi"})).json()
    assert set(body) == REQUIRED_KEYS
    assert {name for name, value in body.items() if value is None} == NULL_WHEN_UNSET
    assert body["text"] == {"format": {"type": "text"}}
    assert body["reasoning"] == {"effort": None, "summary": None}
    assert [type(body[name]) for name in ("created_at", "completed_at")] == [int, int]


async def test_usage_has_all_its_numbers(site: Any) -> None:
    """Also those that newer clients insist on."""
    usage = (await site.http.post("/responses", json={"input": "hi"})).json()["usage"]
    assert usage == {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }


async def test_what_a_client_sets_is_repeated(site: Any) -> None:
    """The response shows the fields that it was asked with; `include` is not one of them."""
    given = {
        "model": "mine", "metadata": {"a": "b"}, "instructions": "be brief", "truncation": "auto", "store": True,
        "max_tool_calls": 3, "parallel_tool_calls": False, "user": "u1", "prompt_cache_key": "k1",
    }  # fmt: skip
    asked = {**given, "input": "hi", "include": ["reasoning.encrypted_content"]}
    body = (await site.http.post("/responses", json=asked)).json()
    assert {name: body[name] for name in given} == given
    assert "include" not in body
    assert (await site.http.get(f"/responses/{body['id']}")).json() == body


async def test_a_stream_is_asked_for_in_the_body(site: Any) -> None:
    """Stock clients accept JSON also when they want a stream, so the header decides nothing."""
    headers = {"accept": "application/json"}
    streamed = await site.http.post("/responses", json={"input": "hi", "stream": True}, headers=headers)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    plain = await site.http.post("/responses", json={"input": "hi"}, headers={"accept": "text/event-stream"})
    assert plain.headers["content-type"] == "application/json"


def nullable_fields() -> list[str]:
    """The fields of a request that the client library's types allow to be null."""
    hints = typing.get_type_hints(ResponseCreateParamsNonStreaming, include_extras=False)
    unions = (typing.Union, types.UnionType)
    found = [n for n, t in hints.items() if typing.get_origin(t) in unions and type(None) in typing.get_args(t)]
    assert len(found) > 15
    return sorted(found)


async def test_null_is_as_good_as_absent(site: Any) -> None:
    """A client may send null in every field whose type allows it, one by one or all at once."""
    fields = nullable_fields()
    plain = (await site.http.post("/responses", json={"input": "hi"})).json()
    for chosen in (*([name] for name in fields), fields):
        body = (await site.http.post("/responses", json={"input": "hi", **dict.fromkeys(chosen)})).json()
        same = {"id", "created_at", "completed_at", "output"}
        assert {**body, **{name: plain[name] for name in same}} == plain, chosen


TYPED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
SAID = {
    "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "final_answer",
    "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}],
}  # fmt: skip
ALLOWED = {
    "text": "hi",
    "an item without a type": [{"role": "user", "content": "hi"}],
    "an item without a type, with parts": [{"role": "user", "content": TYPED["content"]}],
    "a typed item": [TYPED],
    "a user's item with a status": [{**TYPED, "status": "completed"}],
    "a user's item with an id": [{**TYPED, "id": "msg_2"}],
    "what the assistant said": [{"role": "user", "content": "hey"}, SAID, TYPED],
    "what the assistant said, with nulls": [{**SAID, "status": None, "phase": None}, TYPED],
    "a system message": [{"role": "system", "content": "be brief"}, TYPED],
    "a thought without its secret": [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": None, "content": None}, SAID, TYPED,
    ],
    "a call and its output": [
        {"role": "user", "content": "hey"},
        {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call_output", "call_id": "c", "output": "42"}, SAID, TYPED,
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
async def test_input_may_take_many_forms(site: Any, name: str) -> None:
    """All forms that mean the same are answered in the same way, whatever stands in the history before."""
    response = await site.client.responses.create(model="any", input=ALLOWED[name])
    assert (response.status, response.output_text) == ("completed", "1: hi")


async def test_whatever_was_put_out_may_be_sent_back(site: Any) -> None:
    """Messages, calls and reasoning of earlier outputs are taken as input, as the client's library dumps them."""
    reasoned = await site.say("think hi", reasoning={"summary": "auto"})
    asked = await site.say("ask Where?")
    assert {item.type for item in (*reasoned.output, *asked.output)} == {"message", "reasoning", "function_call"}
    for nulls in (False, True):
        history = [item.model_dump(exclude_none=not nulls) for item in (*reasoned.output, *asked.output)]
        answer = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "here"}
        done = {"role": "assistant", "content": "I see."}
        again = await site.client.responses.create(model="any", input=[*history, answer, done, TYPED])
        assert again.output_text == "1: hi"


async def test_no_two_items_of_a_conversation_have_one_id(site: Any) -> None:
    """Neither in the outputs nor in the inputs of its responses, so that a client may refer to any of them."""
    ids: list[str] = []
    last = None
    for text in ("think hi", "think ho", "hi", "think hi"):
        response = await site.say(text, last)
        ids += [item.id for item in response.output]
        ids += [item.id async for item in site.client.responses.input_items.list(response.id)]
        last = response.id
    assert len(ids) == 4 + 4 + 3 * 2
    assert len(set(ids)) == len(ids)


async def test_what_is_continued_needs_no_input(site: Any) -> None:
    """A turn without input goes on with an empty one; where nothing is continued input is required."""
    one = await site.say("one")
    for fields in ({}, {"input": []}, {"input": None}):
        more = await site.http.post("/responses", json={"previous_response_id": one.id, **fields})
        assert more.json()["output"][0]["content"][0]["text"] == "2: one|"
    assert (await site.http.post("/responses", json={"model": "any"})).status_code == 400


async def test_every_answer_has_a_request_id(site: Any) -> None:
    """Successes, streams and errors carry the header by which the log finds them."""
    made = await site.http.post("/responses", json={"input": "hi"})
    answers = [
        made,
        await site.http.post("/responses", json={"input": "hi", "stream": True}),
        await site.http.post("/responses", json={}),
        await site.http.get(f"/responses/{made.json()['id']}"),
        await site.http.get("/nowhere"),
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 5
    assert all(ids)


async def test_other_models_can_be_refused(serve_checked: Any, clerk: Clerk) -> None:
    """With strict models a request names the workflow or nothing; any other name is refused before anything happens."""
    site = await serve_checked(office(clerk), strict_model=True)
    assert (await site.say("hi", model="office")).model == "office"
    assert (await site.say("hi")).model == "office"
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as caught:
            await site.say("ask Where?", model="gpt-x", stream=stream)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert clerk.done == []
