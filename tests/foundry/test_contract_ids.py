"""The ids of a hosted agent's responses and items, its sessions, and the conversations of the platform."""

import re
from typing import Any

import pytest

from agent_host.server.stored import read_request

RESPONSE = re.compile("caresp_([0-9a-f]{16}00)[A-Za-z0-9]{32}")
GIVEN = f"caresp_{'0' * 18}{'A' * 32}"


def key(identifier: str) -> str:
    """The part of an id that a whole chain shares."""
    return identifier.partition("_")[2][:18]


async def test_a_turn_is_a_completed_response_with_the_platforms_id(post: Any) -> None:
    """The id has the prefix, the partition key and the length that the platform expects."""
    answer = await post(input="hi")
    body = answer.json()
    assert (answer.status_code, body["object"], body["status"]) == (200, "response", "completed")
    assert RESPONSE.fullmatch(body["id"])


async def test_the_stock_client_reads_what_the_platform_adds(site: Any) -> None:
    """Its strict types take plain answers and streams, and several turns follow each other."""
    first = await site.say("one", extra_body={"agent_session_id": "S"})
    assert first.model_extra["agent_session_id"] == "S"
    async with site.client.responses.stream(input="two", model="m", previous_response_id=first.id) as stream:
        second = await stream.get_final_response()
    assert second.output_text == "one, two"


@pytest.mark.parametrize("more", [{}, {"background": True}, {"stream": True}], ids=str)
async def test_items_and_what_continues_share_the_partition_of_the_response(
    site: Any, post: Any, eventually: Any, more: dict[str, Any]
) -> None:
    """So one key finds a chain with all its items."""
    first = (await post(input="hi")).json()
    answer = await post(input="again", previous_response_id=first["id"], **more)
    second = re.search(RESPONSE, answer.text)
    assert second is not None
    assert {key(item["id"]) for item in first["output"]} == {key(first["id"])} == {second[1]}


async def test_a_body_names_its_session(site: Any, post: Any) -> None:
    """The header, the response, each event and the stored response tell it."""
    answer = await post(input="x", agent_session_id="S")
    assert (answer.headers["x-agent-session-id"], answer.json()["agent_session_id"]) == ("S", "S")
    stored = await site.http.get(f"/responses/{answer.json()['id']}")
    assert stored.json()["agent_session_id"] == "S"


@pytest.mark.parametrize("background", [False, True])
async def test_every_snapshot_in_a_stream_names_the_session(post: Any, sse_events: Any, background: bool) -> None:
    """From the first event to the last, however the turn runs."""
    answer = await post(input="x", agent_session_id="S", stream=True, background=background)
    assert answer.headers["x-agent-session-id"] == "S"
    shown = [event["response"] for event in sse_events(answer.text) if "response" in event]
    assert len(shown) >= 3
    assert {response["agent_session_id"] for response in shown} == {"S"}


async def test_a_background_turn_is_stored_with_its_session_and_its_call_id(site: Any, post: Any) -> None:
    """Whoever reads it or goes on with it later knows both; the call id is nowhere else."""
    made = (await post(input="wait 10", agent_session_id="S", background=True)).json()
    assert (await site.http.get(f"/responses/{made['id']}")).json()["agent_session_id"] == "S"
    in_flight = await site.host.store.read_turn("ann", made["id"])
    who = read_request(in_flight.request).who("ann")
    assert (who.session_id, who.call_id) == ("S", "call-1")
    assert "call-1" not in repr(who)


async def test_a_session_must_be_fit_for_a_header(post: Any, fault: Any) -> None:
    """What would end the header's line is refused before anything runs."""
    answer = await post(input="x", agent_session_id="S\r\nx-injected: 1")
    assert fault(answer) == (400, "invalid_value", "agent_session_id", "user")
    assert "x-injected" not in answer.headers


async def test_the_sandboxs_session_is_that_of_every_answer(hosted: Any) -> None:
    """Also of one that found nothing or read nothing; what the address names behind its question mark is no session."""
    site = await hosted("E")
    answers = [
        await site.http.post("/responses?agent_session_id=Q", json={"input": "x"}),
        await site.http.post("/responses", content=b"{bad"),
        await site.http.get(f"/responses/{GIVEN}"),
        await site.http.delete(f"/responses/{GIVEN}"),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 404, 404]
    assert {answer.headers["x-agent-session-id"] for answer in answers} == {"E"}


async def test_without_a_session_a_conversation_or_chain_has_one_of_its_own(post: Any) -> None:
    """The same one for each of its turns; a turn that continues nothing is in a new one."""
    sessions = [(await post(input="x", conversation="c1")).headers["x-agent-session-id"] for _ in range(2)]
    assert sessions[0] == sessions[1]
    alone = await post(input="x")
    second = await post(input="x", previous_response_id=alone.json()["id"])
    third = await post(input="x", previous_response_id=second.json()["id"])
    assert second.headers["x-agent-session-id"] == third.headers["x-agent-session-id"]
    seen = [sessions[0], *(answer.headers["x-agent-session-id"] for answer in (alone, second))]
    assert len(set(seen)) == 3
    assert all(re.fullmatch("[0-9a-f]{63}", session) for session in seen)


@pytest.mark.parametrize("named", ["c1", {"id": "c1"}])
async def test_any_conversation_of_the_platform_is_taken(post: Any, named: Any) -> None:
    """The platform has made it; its turns follow each other, and the answer names it."""
    await post(input="one", conversation="c1")
    answer = (await post(input="two", conversation=named)).json()
    assert answer["conversation"] == {"id": "c1"}
    assert answer["output"][0]["content"][0]["text"] == "one, two"


async def test_the_platform_serves_the_conversations(site: Any) -> None:
    """The container has no endpoints for them."""
    assert (await site.http.post("/conversations", json={})).status_code == 404
    assert (await site.http.get("/conversations/c1/items")).status_code == 404


@pytest.mark.parametrize("more", [{}, {"background": True}, {"store": False}], ids=str)
async def test_the_platform_may_choose_the_id_of_a_response(post: Any, more: dict[str, Any]) -> None:
    """An id of the right form is used, and its items are in its partition."""
    answer = (await post(input="x", headers={"x-agent-response-id": GIVEN}, **more)).json()
    assert answer["id"] == GIVEN
    assert all(key(item["id"]) == key(GIVEN) for item in answer["output"])


@pytest.mark.parametrize("given", ["zz", "caresp_", f"resp_{GIVEN[7:]}", GIVEN[:-1], "caresp_" + "x" * 50])
async def test_an_id_of_another_form_is_refused(post: Any, fault: Any, given: str) -> None:
    """It could not be found again by the platform."""
    answer = await post(input="x", headers={"x-agent-response-id": given})
    assert fault(answer) == (400, "invalid_value", "response_id", "user")


async def test_an_id_is_given_once(site: Any, post: Any, fault: Any) -> None:
    """On purpose unlike the official server, which writes over the first response."""
    first = await post(input="x", headers={"x-agent-response-id": GIVEN})
    for more in ({}, {"background": True}):
        again = await post(input="y", headers={"x-agent-response-id": GIVEN}, **more)
        assert fault(again) == (400, "response_id_taken", "response_id", "user")
    assert (await site.http.get(f"/responses/{GIVEN}")).json() == first.json()
