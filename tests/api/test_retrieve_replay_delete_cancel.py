"""What can be done with a response that is there: read, replay, list, cancel, delete."""

import asyncio
import json
from typing import Any

import openai
import pytest

from tests.api.clerk import Clerk, office

UNKNOWN = "resp_" + "0" * 48


def texts(items: Any) -> list[str]:
    """The texts of listed messages."""
    return [item["content"][0]["text"] for item in items]


# --- Reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["think hi", "ask Where?|When?", "fail so far", "object Oslo"])
async def test_a_response_is_read_as_it_was_answered(site: Any, text: str) -> None:
    """Byte for byte the same JSON, whatever became of the turn."""
    made = await site.http.post("/responses", json={"input": text, "metadata": {"a": "b"}})
    read = await site.http.get(f"/responses/{made.json()['id']}")
    assert read.status_code == 200
    assert read.content == made.content


@pytest.mark.parametrize("verb", ["retrieve", "delete", "cancel", "input_items"])
@pytest.mark.parametrize("response_id", [UNKNOWN, "not-an-id", "resp_ünknown"])
async def test_an_unknown_response_is_not_found(site: Any, verb: str, response_id: str) -> None:
    """Whatever is wanted of it, the client raises its class for 404, and the message names the id."""
    responses = site.client.responses
    with pytest.raises(openai.NotFoundError) as caught:
        await (responses.input_items.list if verb == "input_items" else getattr(responses, verb))(response_id)
    assert response_id in str(caught.value)
    assert caught.value.code == "response_not_found"
    assert len(site.requests) == 1


async def test_what_is_not_stored_is_not_found(site: Any) -> None:
    """With `store: false` there is nothing to read, to replay, to list or to continue."""
    made = await site.say("hi", store=False)
    assert made.output_text == "1: hi"
    for path in ("", "?stream=true", "/input_items"):
        assert (await site.http.get(f"/responses/{made.id}{path}")).status_code == 404
    with pytest.raises(openai.BadRequestError):
        await site.say("on", made.id)


@pytest.mark.parametrize("how", ["alone", "under a key", "in a conversation"])
async def test_a_foreground_response_is_there_when_it_has_ended(site: Any, clerk: Clerk, begun: Any, how: str) -> None:
    """Until then nobody can read, cancel, delete or continue it; to try does it no harm."""
    more: dict[str, Any] = {"under a key": {"extra_headers": {"idempotency-key": "k1"}}}.get(how, {})
    if how == "in a conversation":
        more = {"conversation": (await site.client.conversations.create()).id}
    stream = await site.say("wait", stream=True, **more)
    response_id = (await anext(aiter(stream))).response.id
    path = f"/responses/{response_id}"
    await begun()
    for method, part in (("GET", ""), ("GET", "?stream=true"), ("POST", "/cancel"), ("DELETE", "")):
        assert (await site.http.request(method, path + part)).status_code == 404
    with pytest.raises(openai.BadRequestError):
        await site.say("on", response_id)
    clerk.may_go_on.set()
    last = [event async for event in stream][-1]
    assert last.type == "response.completed"
    assert await site.client.responses.retrieve(response_id) == last.response


# --- Replay ------------------------------------------------------------------------------------------------------

STREAMED = ["count 3", "hi", "think hi", "ask Where?|When?", "fail", "large 100000"]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("text", STREAMED)
async def test_a_replay_is_the_original(site: Any, told: Any, text: str, background: bool) -> None:
    """The very events, in their order and with their numbers, once and again."""
    live = await told(site, {"input": text, "background": background, "reasoning": {"summary": "auto"}})
    path = f"/responses/{live[0]['response']['id']}"
    assert await told(site, path) == live
    assert await told(site, path) == live


@pytest.mark.parametrize("background", [False, True])
async def test_approvals_are_replayed(serve_checked: Any, clerk: Clerk, told: Any, background: bool) -> None:
    """The request, and the call that was approved, come again as they came."""
    site = await serve_checked(office(clerk), approvals="mcp")
    asked = await told(site, {"input": "refund 5", "background": background})
    response = asked[-1]["response"]
    given = {"type": "mcp_approval_response", "approval_request_id": response["output"][0]["id"], "approve": True}
    body = {"input": [given], "previous_response_id": response["id"], "background": background}
    done = await told(site, body)
    assert "response.mcp_call.completed" in {event["type"] for event in done}
    for live in (asked, done):
        assert await told(site, f"/responses/{live[0]['response']['id']}") == live


@pytest.mark.parametrize("background", [False, True])
async def test_what_was_taken_back_is_replayed_as_far_as_it_is_kept(site: Any, told: Any, background: bool) -> None:
    """Text of a failed attempt is in the log of a background response only; elsewhere its pieces come back empty."""
    live = await told(site, {"input": "fail so far", "background": background})
    pieces = [event for event in live if event["type"] == "response.output_text.delta"]
    assert [event["delta"] for event in pieces] == ["so far"]
    if not background:
        pieces[0]["delta"] = ""
    assert await told(site, f"/responses/{live[0]['response']['id']}") == live


async def test_what_was_not_streamed_can_be_replayed(site: Any, told: Any) -> None:
    """A plain response has events too; the last one shows it."""
    made = (await site.http.post("/responses", json={"input": "think hi"})).json()
    events = await told(site, f"/responses/{made['id']}")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == made


@pytest.mark.parametrize("background", [False, True])
async def test_a_replay_begins_behind_the_place_that_it_is_given(site: Any, background: bool) -> None:
    """The place is the number of the last event that the client has seen; behind the last there is nothing."""
    live = [event async for event in await site.say("count 5", stream=True, background=background)]
    response_id = live[0].response.id
    for place in (0, 3, len(live) - 2, len(live) - 1, len(live), 10**9):
        stream = await site.client.responses.retrieve(response_id, stream=True, starting_after=place)
        assert [event async for event in stream] == live[place + 1 :]


@pytest.mark.parametrize(
    ("path", "param", "code"),
    [
        ("?stream=true&starting_after=abc", "starting_after", "invalid_type"),
        ("?stream=true&starting_after=-1", "starting_after", "integer_below_min_value"),
        ("?stream=perhaps", "stream", "invalid_value"),
        ("?include[]=bogus", "include[0]", "invalid_value"),
        ("/input_items?limit=0", "limit", "integer_below_min_value"),
        ("/input_items?limit=101", "limit", "integer_above_max_value"),
        ("/input_items?limit=x", "limit", "invalid_type"),
        ("/input_items?order=x", "order", "invalid_value"),
    ],
)
async def test_a_fault_behind_the_question_mark_is_named(site: Any, path: str, param: str, code: str) -> None:
    """It is a 400 in the shape of every error, with the name of the parameter."""
    made = await site.say("hi")
    answer = await site.http.get(f"/responses/{made.id}{path}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


async def test_a_running_response_is_told_from_its_beginning_and_then_live(
    site: Any, clerk: Clerk, begun: Any, told: Any
) -> None:
    """Those who come late see the same events as those who were there, once each."""
    made = await site.say("wait a b c", background=True)
    await begun()
    reading = [asyncio.create_task(told(site, f"/responses/{made.id}")) for _ in range(3)]
    await asyncio.wait(reading, timeout=0.05)
    behind = asyncio.create_task(told(site, f"/responses/{made.id}", starting_after=2))
    clerk.may_go_on.set()
    first, *others = await asyncio.gather(*reading)
    assert [event["sequence_number"] for event in first] == list(range(len(first)))
    assert first[-1]["type"] == "response.completed"
    assert all(other == first for other in others)
    assert await behind == first[3:]
    assert await told(site, f"/responses/{made.id}") == first


# --- Input items -------------------------------------------------------------------------------------------------


async def test_input_items_come_in_pages(site: Any) -> None:
    """Newest first and twenty at a time unless something else is asked for; each page says where it begins and ends."""
    said = [{"role": "user", "content": f"n{number}"} for number in range(25)]
    made = await site.client.responses.create(model="any", input=said)
    path = f"/responses/{made.id}/input_items"
    page = (await site.http.get(path)).json()
    assert (page["object"], page["has_more"]) == ("list", True)
    assert texts(page["data"]) == [f"n{number}" for number in range(24, 4, -1)]
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])

    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = (await site.http.get(path, params={"order": "asc", "limit": 2, **cursor})).json()
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        seen += texts(page["data"])
        assert page["has_more"] is (len(seen) < 25)
        if not page["has_more"]:
            break
        assert len(page["data"]) == 2
        cursor = {"after": page["last_id"]}
    assert seen == [f"n{number}" for number in range(25)]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_the_stock_client_turns_the_pages(site: Any, order: str) -> None:
    """Iterating over the list yields every item once, in its order."""
    said = [{"role": "user", "content": f"n{number}"} for number in range(45)]
    made = await site.client.responses.create(model="any", input=said)
    found = [item async for item in site.client.responses.input_items.list(made.id, order=order)]
    assert len({item.id for item in found}) == 45
    numbers = range(45) if order == "asc" else range(44, -1, -1)
    assert [item.content[0].text for item in found] == [f"n{number}" for number in numbers]


async def test_input_items_are_those_of_the_own_request(site: Any) -> None:
    """What a response continues has its items elsewhere; each item has an id, the one it came with if it had one."""
    one = await site.say("one")
    given = [{"role": "user", "content": "two", "id": "msg_mine"}, {"role": "user", "content": "3"}]
    two = await site.client.responses.create(model="any", previous_response_id=one.id, input=given)
    items = (await site.http.get(f"/responses/{two.id}/input_items", params={"order": "asc"})).json()["data"]
    assert texts(items) == ["two", "3"]
    assert items[0]["id"] == "msg_mine"
    assert items[1]["id"].startswith("msg_")
    assert {item["type"] for item in items} == {"message"}


async def test_an_answer_is_an_input_item(site: Any) -> None:
    """The output of a call is listed with the call that it answers."""
    asked = await site.say("ask Where?")
    output = {"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "here"}
    answered = await site.client.responses.create(model="any", previous_response_id=asked.id, input=[output])
    (item,) = [item async for item in site.client.responses.input_items.list(answered.id)]
    assert (item.type, item.call_id, item.output) == ("function_call_output", output["call_id"], "here")
    assert item.id


# --- Deletion ----------------------------------------------------------------------------------------------------


async def test_a_deleted_response_is_gone(site: Any) -> None:
    """It cannot be read, replayed, listed, cancelled, deleted again or continued; the client is told in one request."""
    made = await site.say("hi")
    answer = await site.http.delete(f"/responses/{made.id}")
    assert answer.json() == {"id": made.id, "object": "response", "deleted": True}
    for method, path in (
        ("GET", ""), ("GET", "?stream=true"), ("GET", "/input_items"), ("POST", "/cancel"), ("DELETE", ""),
    ):  # fmt: skip
        gone = await site.http.request(method, f"/responses/{made.id}{path}")
        assert gone.status_code == 404
        assert made.id in gone.json()["error"]["message"]
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("on", made.id)
    assert (caught.value.code, caught.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_the_stock_client_expects_nothing_of_a_deletion(site: Any) -> None:
    """Its method returns None."""
    made = await site.say("hi")
    assert await site.client.responses.delete(made.id) is None


async def test_what_continued_a_deleted_response_lives_on(site: Any) -> None:
    """A branch has its whole past with it: it can be read and continued."""
    one = await site.say("one")
    two = await site.say("two", one.id)
    await site.client.responses.delete(one.id)
    assert await site.client.responses.retrieve(two.id) == two
    assert (await site.say("three", two.id)).output_text == "3: one|two|three"


async def test_a_running_response_is_not_deleted(site: Any, clerk: Clerk, begun: Any, ended: Any) -> None:
    """It is cancelled first: 400, and the turn goes on."""
    made = await site.say("wait", background=True)
    await begun()
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.delete(made.id)
    assert made.id in str(caught.value)
    clerk.may_go_on.set()
    assert (await ended(site, made.id)).status == "completed"
    await site.client.responses.delete(made.id)


# --- Cancellation ------------------------------------------------------------------------------------------------


async def test_a_background_response_can_be_cancelled(site: Any, begun: Any, told: Any) -> None:
    """The answer to an empty request says so, also the second time; the stream ends with one terminal event."""
    made = await site.say("wait", background=True)
    await begun()
    following = asyncio.create_task(told(site, f"/responses/{made.id}"))
    await asyncio.wait([following], timeout=0.05)
    answer = await site.http.post(
        f"/responses/{made.id}/cancel", content=b"", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    assert answer.json()["status"] == "cancelled"
    again = await site.client.responses.cancel(made.id)
    assert again.status == "cancelled"
    assert await site.client.responses.retrieve(made.id) == again
    events = await following
    assert [event["type"] for event in events if "response" in event][2:] == ["response.in_progress", "response.failed"]
    assert events[-1]["response"] == answer.json()


@pytest.mark.parametrize("seen", range(1, 8))
async def test_a_response_ends_once_whenever_it_is_cancelled(site: Any, clerk: Clerk, told: Any, seen: int) -> None:
    """Several cancel it after some event of its stream: all get the same answer, which the one last event shows."""
    clerk.may_go_on.set()
    ends = []
    async with await site.say("wait a b c d e f", stream=True, background=True) as stream:
        async for event in stream:
            if event.type == "response.created":
                path = f"/responses/{event.response.id}"
            if event.sequence_number == seen:
                answers = await asyncio.gather(*(site.http.post(f"{path}/cancel") for _ in range(3)))
            if event.type in ("response.completed", "response.failed"):
                ends.append(event.response.status)
    (response,) = {answer.text for answer in answers}
    (status,) = ends
    assert status in ("cancelled", "completed")
    assert (await site.http.get(path)).text == response
    events = await told(site, path)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"] == json.loads(response)


async def test_a_cancelled_response_can_be_continued(site: Any, begun: Any) -> None:
    """The next turn starts from where the cancelled one had started."""
    one = await site.say("one")
    made = await site.say("wait", one.id, background=True)
    await begun()
    await site.client.responses.cancel(made.id)
    assert (await site.say("two", made.id)).output_text == "2: one|two"


async def test_a_response_that_waits_for_its_turn_can_be_cancelled(
    serve_checked: Any, clerk: Clerk, begun: Any
) -> None:
    """It is never begun."""
    site = await serve_checked(office(clerk), max_concurrent_turns=1)
    first = await site.say("wait", background=True)
    await begun()
    second = await site.say("wait", background=True)
    assert (await site.client.responses.retrieve(second.id)).status == "queued"
    assert (await site.client.responses.cancel(second.id)).status == "cancelled"
    assert (await site.client.responses.cancel(first.id)).status == "cancelled"
    assert clerk.done == ["begun"]
    assert (await site.say("hi")).output_text == "1: hi"


async def test_a_foreground_response_is_not_cancelled(site: Any) -> None:
    """Only what runs in the background can be; the message is the one that clients know."""
    made = await site.say("hi")
    with pytest.raises(openai.BadRequestError, match=r"Cannot cancel a synchronous response\."):
        await site.client.responses.cancel(made.id)
    assert await site.client.responses.retrieve(made.id) == made


@pytest.mark.parametrize("text", ["hi", "ask Where?", "fail"])
async def test_a_response_that_has_ended_stays_as_it_is(site: Any, ended: Any, text: str) -> None:
    """Cancelling it gives it back, with the status that it has."""
    made = await site.say(text, background=True)
    before = await ended(site, made.id)
    assert before.status == ("failed" if text == "fail" else "completed")
    assert await site.client.responses.cancel(made.id) == before
    assert await site.client.responses.retrieve(made.id) == before
