"""Turns in the background: answered at once, polled, followed, and not bound to the client that has asked for them."""

import asyncio
import json
from typing import Any

import pytest

from tests.api.clerk import Clerk, office


async def connected(site: Any, body: dict[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request for a stream over a connection of its own, to be dropped at any moment."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    content = json.dumps({"stream": True, "background": True, **body}).encode()
    writer.write(
        b"POST /responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)
    )
    return reader, writer


async def event_of(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next event of a connection."""
    while not (line := await reader.readline()).startswith(b"data: "):
        assert line
    event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
    return event


async def drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_background_response_is_answered_at_once(site: Any, clerk: Clerk, begun: Any, ended: Any) -> None:
    """It has not ended and has no output yet; what is read meanwhile has the same id and is on its way."""
    made = await site.say("wait", background=True)
    assert made.status in ("queued", "in_progress")
    assert (made.output, made.usage, made.completed_at, made.background) == ([], None, None, True)
    await begun()
    running = await site.client.responses.retrieve(made.id)
    assert (running.id, running.status, running.usage) == (made.id, "in_progress", None)
    clerk.may_go_on.set()
    assert (await ended(site, made.id)).status == "completed"


@pytest.mark.parametrize("text", ["hi", "think hi", "count 20", "ask Where?", "large 200000"])
async def test_polling_ends_with_what_a_foreground_turn_answers(site: Any, ended: Any, text: str) -> None:
    """The usual loop ends, and the output is complete."""
    made = await site.say(text, background=True)
    final = await ended(site, made.id)
    plain = await site.say(text)
    assert final.status == plain.status == "completed"
    assert final.output_text == plain.output_text
    assert [item.type for item in final.output] == [item.type for item in plain.output]
    assert final.usage == plain.usage


@pytest.mark.parametrize("seen", [1, 3, 5])
async def test_a_client_that_comes_back_misses_nothing(
    site: Any, clerk: Clerk, begun: Any, told: Any, seen: int
) -> None:
    """It drops its connection after some events; the turn goes on, and the rest is told behind the last one it saw."""
    reader, writer = await connected(site, {"input": "wait a b c"})
    before = [await event_of(reader) for _ in range(seen)]
    await drop(writer)
    await begun()
    path = f"/responses/{before[0]['response']['id']}"
    back = asyncio.create_task(told(site, path, starting_after=before[-1]["sequence_number"]))
    await asyncio.wait([back], timeout=0.25)
    clerk.may_go_on.set()
    events = [*before, *await back]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    assert events == await told(site, path)


async def test_the_stock_client_comes_back(site: Any, clerk: Clerk) -> None:
    """It breaks off its loop, and goes on with the number of the last event."""
    seen = []
    async with await site.say("wait a b c", stream=True, background=True) as stream:
        async for event in stream:
            seen.append(event)
            if event.type == "response.output_text.delta":
                break
    clerk.may_go_on.set()
    rest = await site.client.responses.retrieve(
        seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number
    )
    events = [*seen, *[event async for event in rest]]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.output[0].content[0].text == "waiting a b c "


@pytest.mark.parametrize("count", [30])
async def test_no_response_is_stuck_when_its_client_leaves_early(site: Any, ended: Any, count: int) -> None:
    """Whoever hangs up after the first event finds the response finished later."""

    async def one(number: int) -> str:
        reader, writer = await connected(site, {"input": f"n{number}"})
        first = await event_of(reader)
        assert first["type"] == "response.created"
        await drop(writer)
        final = await ended(site, first["response"]["id"])
        return f"{final.status} {final.output_text}"

    assert await asyncio.gather(*map(one, range(count))) == [f"completed 1: n{number}" for number in range(count)]


async def test_a_background_failure_is_read_as_such(site: Any, ended: Any) -> None:
    """Polling gets a plain 200 with the status failed and the error; the stream ends with the same."""
    made = await site.say("fail so far", background=True)
    await ended(site, made.id)
    answer = await site.http.get(f"/responses/{made.id}")
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["error"]["code"]) == ("failed", "server_error")
    assert "kettle" in body["error"]["message"]


async def test_a_response_that_has_not_ended_cannot_be_continued(
    site: Any, clerk: Clerk, begun: Any, ended: Any
) -> None:
    """The client is told to poll it or to cancel it; when it has ended it can be continued."""
    made = await site.say("wait", background=True)
    await begun()
    answer = await site.http.post("/responses", json={"input": "on", "previous_response_id": made.id})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == ("previous_response_id", "previous_response_not_ready")
    assert made.id in error["message"]
    clerk.may_go_on.set()
    await ended(site, made.id)
    assert (await site.say("on", made.id)).output_text == "2: wait|on"


async def test_background_turns_wait_for_a_place_and_run_in_order(
    serve_checked: Any, clerk: Clerk, begun: Any, ended: Any
) -> None:
    """Those that do not run yet are queued, and are told so."""
    site = await serve_checked(office(clerk), max_concurrent_turns=1)
    first = await site.say("wait", background=True)
    await begun()
    others = [await site.say(f"n{number}", background=True) for number in range(3)]
    states = [(await site.client.responses.retrieve(made.id)).status for made in (first, *others)]
    assert states == ["in_progress", "queued", "queued", "queued"]
    clerk.may_go_on.set()
    finals = [await ended(site, made.id) for made in others]
    assert [final.output_text for final in finals] == ["1: n0", "1: n1", "1: n2"]


async def test_a_request_that_is_sent_again_gives_the_response_that_it_gave(
    site: Any, clerk: Clerk, begun: Any
) -> None:
    """Under one key nothing runs twice: neither while the response is made nor afterwards, in no mode."""
    headers = {"idempotency-key": "k1"}
    body = {"input": "wait", "background": True}
    first = await site.http.post("/responses", json=body, headers=headers)
    await begun()
    second = await site.http.post("/responses", json=body, headers=headers)
    clerk.may_go_on.set()
    assert second.json()["id"] == first.json()["id"]
    third = await site.http.post("/responses", json=dict(reversed(body.items())), headers=headers)
    assert third.json()["id"] == first.json()["id"]
    assert clerk.done == ["begun"]
    other = await site.http.post("/responses", json={**body, "input": "hi"}, headers=headers)
    assert other.status_code == 400
    assert other.json()["error"]["code"] == "idempotency_mismatch"


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_that_is_asked_for_again_is_the_same_stream(
    site: Any, clerk: Clerk, begun: Any, told: Any, background: bool
) -> None:
    """Under one key all who ask get the same events, while the response is made and afterwards."""
    asked = {"input": "wait a b", "background": background}
    headers = {"idempotency-key": "k1"}
    first = asyncio.create_task(told(site, asked, headers=headers))
    await begun()
    second = asyncio.create_task(told(site, asked, headers=headers))
    await asyncio.wait([second], timeout=0.1)
    clerk.may_go_on.set()
    events = await first
    assert await second == events
    assert await told(site, asked, headers=headers) == events
    assert clerk.done == ["begun"]


@pytest.mark.parametrize("background", [False, True])
async def test_of_requests_at_once_under_one_key_one_is_run(
    site: Any, clerk: Clerk, ended: Any, background: bool
) -> None:
    """The others get its response."""
    clerk.may_go_on.set()
    body = {"input": "wait", "background": background}
    headers = {"idempotency-key": "k1"}
    answers = await asyncio.gather(*(site.http.post("/responses", json=body, headers=headers) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    await ended(site, answers[0].json()["id"])
    assert clerk.done == ["begun"]
