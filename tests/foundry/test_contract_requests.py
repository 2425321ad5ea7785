"""What a hosted agent takes and what it refuses. Where bodies and codes differ from the official server's, they are
those of OpenAI's: clients of both kinds must read them."""

from typing import Any

import pytest

from tests.foundry.stand_in import Project

UNKNOWN = f"caresp_{'0' * 18}{'A' * 32}"

REFUSED = {
    "no JSON": (b"{bad", (400, "invalid_json", "")),
    "no object": ([1], (400, "invalid_type", "")),
    "a field of the wrong type": ({"input": "x", "stream": "yes"}, (400, "invalid_type", "stream")),
    "a background turn that is not stored": (
        {"input": "x", "background": True, "store": False}, (400, "unsupported_parameter", "background"),
    ),
    "options of a stream without one": (
        {"input": "x", "stream_options": {}}, (400, "invalid_value", "stream_options"),
    ),
    "too much metadata": (
        {"input": "x", "metadata": {str(n): "" for n in range(17)}},
        (400, "object_above_max_properties", "metadata"),
    ),
    "an id that is none": (
        {"input": "x", "previous_response_id": "not an id"}, (400, "invalid_value", "previous_response_id"),
    ),
    "an id of another form, which may be one": (
        {"input": "x", "previous_response_id": "resp_123"},
        (400, "previous_response_not_found", "previous_response_id"),
    ),
    "an unknown response": (
        {"input": "x", "previous_response_id": UNKNOWN},
        (400, "previous_response_not_found", "previous_response_id"),
    ),
    "an agent that is none": (
        {"input": "x", "agent_reference": {"type": "foo", "name": "x"}},
        (400, "invalid_value", "agent_reference.type"),
    ),
    "an agent without a name": (
        {"input": "x", "agent_reference": {"type": "agent_reference"}},
        (400, "missing_required_parameter", "agent_reference.name"),
    ),
    "an agent with an empty name": (
        {"input": "x", "agent_reference": {"type": "agent_reference", "name": ""}},
        (400, "string_below_min_length", "agent_reference.name"),
    ),
    "no input": ({}, (400, "missing_required_parameter", "input")),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_faulty_request_is_the_users_fault(post: Any, fault: Any, stored: Any, name: str) -> None:
    """Status, code and field are OpenAI's on purpose, not the official server's; the header says whose fault it is."""
    body, expected = REFUSED[name]
    answer = await post(body, headers={"x-request-id": "r-1"})
    assert fault(answer) == (*expected, "user")
    assert answer.headers["x-request-id"] == "r-1"
    assert "x-platform-error-detail" not in answer.headers
    assert stored() == {}


@pytest.fixture
def stored(platform: Project) -> Any:
    """Every value in the state store."""
    return lambda: platform.items("agent_host")


@pytest.mark.parametrize("name", ["internal_metadata", "isolation_key", "inputs"])
async def test_a_field_that_the_api_does_not_have_is_passed_over(post: Any, name: str) -> None:
    """Gateways add their own; nothing of it stands in the answer."""
    answer = await post({"input": "x", name: {"secret": "value"}})
    assert answer.status_code == 200
    assert name not in answer.text
    assert "secret" not in answer.text


@pytest.mark.parametrize("path", ["/responses/compact", "/responses/input_tokens"])
async def test_what_is_only_asked_about_may_have_fields_of_the_gateway_too(site: Any, path: str) -> None:
    """They are passed over at every endpoint that reads a request."""
    answer = await site.http.post(path, json={"model": "m", "input": "x", "internal_metadata": 1})
    assert answer.status_code == 200


async def test_a_background_turn_with_fields_of_the_gateway_is_read_back(site: Any, post: Any, eventually: Any) -> None:
    """What was let in when it came is not refused when the turn is looked at."""
    answer = await post({"input": "wait 5", "background": True, "internal_metadata": 1})
    running = await site.http.get(f"/responses/{answer.json()['id']}")
    assert running.json()["status"] in ("queued", "in_progress")


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/responses", 405), ("POST", "/invocations", 404), ("GET", "/invocations/x", 404),
    ("GET", "/nowhere", 404), ("PUT", "/responses/caresp_1", 405),
])  # fmt: skip
async def test_an_address_that_is_not_served_says_so(site: Any, method: str, path: str, status: int) -> None:
    """Unlike the official server's, the answer has the shape of every other error. The only protocol is `responses`."""
    answer = await site.http.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == status
    assert answer.json()["error"]["code"]


@pytest.mark.parametrize("verb", ["GET", "DELETE", "cancel", "input_items"])
@pytest.mark.parametrize("response_id", ["abc", UNKNOWN, "a b"])
async def test_an_id_that_nothing_has_is_not_found(site: Any, fault: Any, verb: str, response_id: str) -> None:
    """A malformed one too: on purpose 404 as at OpenAI, where the official server says 400."""
    path = f"/responses/{response_id}"
    answer = await {
        "GET": lambda: site.http.get(path),
        "DELETE": lambda: site.http.delete(path),
        "cancel": lambda: site.http.post(f"{path}/cancel"),
        "input_items": lambda: site.http.get(f"{path}/input_items"),
    }[verb]()
    assert fault(answer) == (404, "response_not_found", "response_id", "user")


@pytest.mark.parametrize(("query", "param"), [
    ("limit=0", "limit"), ("limit=101", "limit"), ("order=up", "order"),
])  # fmt: skip
async def test_a_page_out_of_bounds_names_its_parameter(
    site: Any, post: Any, fault: Any, query: str, param: str
) -> None:
    """As for every list."""
    made = (await post(input="hi")).json()
    status, _, named, source = fault(await site.http.get(f"/responses/{made['id']}/input_items?{query}"))
    assert (status, named, source) == (400, param, "user")


async def test_a_text_is_listed_as_one_message_of_the_user(site: Any, post: Any) -> None:
    """It has an id, and the page says that there is no more."""
    made = (await post(input="hi")).json()
    page = (await site.http.get(f"/responses/{made['id']}/input_items")).json()
    [item] = page["data"]
    assert (item["role"], item["content"][0]["text"]) == ("user", "hi")
    assert (page["first_id"], page["last_id"], page["has_more"]) == (item["id"], item["id"], False)
