"""Requests that are refused: each gets one clear answer in the common shape, and nothing is stored."""

import json
from typing import Any, Never

import openai
import pytest

from agent_host import WorkflowBuilder, WorkflowContext, executor


@executor
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


@pytest.fixture
async def site(serve_app: Any) -> Any:
    return await serve_app(WorkflowBuilder(start_executor=echo, name="echo").build(), max_body_bytes=5000)


def fault(answer: Any, status: int) -> dict[str, Any]:
    """The error of an answer that is JSON in the common shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert all(isinstance(value, str) for value in body["error"].values())
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    return error


UNKNOWN = "resp_" + "0" * 48

REFUSED = {
    "not JSON": (b"{", None, "", "invalid_json"),
    "nothing": (b"", None, "", "invalid_json"),
    "not an object": (b"[]", None, "", "invalid_type"),
    "no input": ({}, None, "input", "missing_required_parameter"),
    "empty input": ({"input": ""}, None, "", "missing_required_parameter"),
    "a field of the wrong type": ({"input": "x", "stream": "yes"}, None, "stream", "invalid_type"),
    "an unknown field": ({"input": "x", "inputs": 1}, None, "inputs", "unknown_parameter"),
    "a role that does not exist": ({"input": [{"role": "boss", "content": "x"}]}, None, "input[0]", "invalid_value"),
    "an unknown previous response": (
        {"input": "x", "previous_response_id": UNKNOWN}, None, "previous_response_id", "previous_response_not_found",
    ),
    "a bad field and an unknown id": (
        {"input": "x", "previous_response_id": UNKNOWN, "store": 1}, None, "store", "invalid_type",
    ),
    "an input the workflow cannot take and an unknown id": (
        {
            "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}],
            "previous_response_id": UNKNOWN,
        }, None, "input[0].content[0]", "unsupported_input",
    ),
    "an unknown conversation": (
        {"input": "x", "conversation": "conv_1"}, 404, "conversation", "conversation_not_found",
    ),
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_bad_request_is_refused_before_anything_happens(
    site: Any, name: str, stream: bool, tmp_path: Any, stored_statuses: Any
) -> None:
    """Status, code and the name of the field are those that clients know; a stream is refused by a plain answer."""
    body, status, param, code = REFUSED[name]
    if isinstance(body, dict) and stream:
        body = {"stream": True, **body}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await site.http.post("/responses", content=content)
    error = fault(answer, status or 400)
    assert (error["param"], error["code"]) == (param, code)
    assert error["type"] == "invalid_request_error"
    assert stored_statuses(tmp_path / "host.db") == {}


async def test_the_stock_client_understands_a_refusal(site: Any) -> None:
    """It raises its own class, with code, parameter and request id, and asks once only."""
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("x", UNKNOWN)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"
    assert UNKNOWN in str(caught.value)
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError):
        await site.client.responses.retrieve(UNKNOWN)
    assert len(site.requests) == 2


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_that_is_too_large_is_refused(site: Any, declared: bool) -> None:
    """The limit is named; whether the length was announced or not, the client gets the answer and may go on."""
    content = json.dumps({"input": "x" * 3_000_000}).encode()

    async def pieces() -> Any:
        for start in range(0, len(content), 65536):
            yield content[start : start + 65536]

    answer = await site.http.post("/responses", content=content if declared else pieces())
    error = fault(answer, 413)
    assert error["code"] == "request_too_large"
    assert "5000" in error["message"]
    assert (await site.say("x")).output_text == "x"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_may_have_as_many_bytes_as_the_limit(site: Any, declared: bool) -> None:
    """One byte more is refused, also if it comes in a piece of its own."""

    async def pieces(content: bytes) -> Any:
        yield content[:-1]
        yield content[-1:]

    for size, status in ((5000, 200), (5001, 413)):
        content = json.dumps({"input": "x"}).encode().ljust(size)
        answer = await site.http.post("/responses", content=content if declared else pieces(content))
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/responses", "POST"),
        ("/v1/responses/x", "DELETE, GET, HEAD"),
        ("/responses/x/cancel", "POST"),
        ("/conversations/x", "DELETE, GET, HEAD, POST"),
        ("/v1/conversations/x/items", "GET, HEAD, POST"),
        ("/conversations/x/items/y", "DELETE, GET, HEAD"),
        ("/models/x", "GET, HEAD"),
        ("/readiness", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_not_allowed_is_answered_with_those_that_are(site: Any, path: str, allowed: str) -> None:
    """All of them are named, whatever route each has."""
    answer = await site.http.patch(path)
    fault(answer, 405)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("POST", "/responses/", 404, "not_found"),
        ("GET", "/responses", 405, "method_not_allowed"),
        ("PUT", "/v1/responses", 405, "method_not_allowed"),
        ("POST", f"/responses/{UNKNOWN}", 405, "method_not_allowed"),
        ("GET", f"/responses/{UNKNOWN}", 404, "response_not_found"),
        ("GET", "/responses/not-an-id", 404, "response_not_found"),
    ],
)
async def test_an_address_that_does_not_exist_is_answered_in_the_common_shape(
    site: Any, method: str, path: str, status: int, code: str
) -> None:
    """Unknown paths and methods are JSON errors too, naming what was asked for."""
    answer = await site.http.request(method, path)
    error = fault(answer, status)
    assert error["code"] == code
    assert path.rpartition("/")[2] in error["message"]
    assert (status != 405) or answer.headers["allow"]


async def test_both_base_addresses_work(site: Any) -> None:
    """A client may be given the host's address with `/v1` or without."""
    for prefix in ("", "/v1"):
        answer = await site.http.post(f"{prefix}/responses", json={"input": "x"})
        stored = await site.http.get(f"{prefix}/responses/{answer.json()['id']}")
        assert stored.json() == answer.json()


async def test_the_request_id_of_the_caller_is_kept_if_it_is_harmless(site: Any) -> None:
    """It comes back in the answer; one that could damage a log is replaced."""
    kept = await site.http.post("/responses", json={"input": "x"}, headers={"x-request-id": "mine-1"})
    assert kept.headers["x-request-id"] == "mine-1"
    replaced = await site.http.post("/responses", json={"input": "x"}, headers={"x-request-id": "a b"})
    assert replaced.headers["x-request-id"] not in ("", "a b")


async def test_readiness_says_that_requests_are_taken(site: Any) -> None:
    """The probe answers 200 with a body."""
    answer = await site.http.get("/readiness")
    assert answer.status_code == 200
    assert answer.json() == {"status": "healthy"}


# --- The API key -------------------------------------------------------------------------------------------------


async def test_with_a_key_only_those_who_have_it_are_served(serve_app: Any) -> None:
    """A missing or wrong key is 401 for every address, the right one is served, and the probe needs none."""
    site = await serve_app(WorkflowBuilder(start_executor=echo, name="echo").build(), api_key="right")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "right"}, {"authorization": "Bearer"}):
        for method, path in (("POST", "/v1/responses"), ("GET", f"/responses/{UNKNOWN}"), ("GET", "/nowhere")):
            answer = await site.http.request(method, path, headers=headers, json={"input": "x"})
            assert fault(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.AuthenticationError):
        await site.say("x")
    assert (await site.client.with_options(api_key="right").responses.create(input="x")).output_text == "x"
    assert (await site.http.get("/readiness")).status_code == 200


@pytest.mark.parametrize("scheme", ["bearer", "BEARER"])
async def test_the_scheme_of_a_key_is_written_in_any_case(serve_app: Any, scheme: str) -> None:
    """Schemes of authorization have no case, keys do."""
    site = await serve_app(WorkflowBuilder(start_executor=echo, name="echo").build(), api_key="right")
    right, wrong = {"authorization": f"{scheme} right"}, {"authorization": f"{scheme} RIGHT"}
    assert (await site.http.post("/responses", json={"input": "x"}, headers=right)).status_code == 200
    assert (await site.http.post("/responses", json={"input": "x"}, headers=wrong)).status_code == 401
