"""Streams as they are on the wire: frames, the order of events, and how a stream ends whatever happens."""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.api.clerk import Clerk, office

WAITING = f"{Path(__file__).parents[1] / 'crash' / 'waiting.py'}:workflow"
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}
LIFECYCLE = TERMINAL | {"response.created", "response.queued", "response.in_progress"}
FRAME = re.compile(rb"event: (?P<event>[a-z_.]+)\ndata: (?P<data>\{[^\r\n]*\})\n\n|: keep-alive\n\n")

Event = Mapping[str, Any]

TALKS = {
    "a text in pieces": {"input": "count 3"},
    "a whole text": {"input": "hi"},
    "thoughts before the answer": {"input": "think hi"},
    "what the executors do": {"input": "think hi", "reasoning": {"summary": "auto"}},
    "a question": {"input": "ask Where?"},
    "two questions": {"input": "ask Where?|When?"},
    "a failure": {"input": "fail"},
    "a failure after some text": {"input": "fail so far"},
}


async def raw(site: Any, body: Mapping[str, Any]) -> bytes:
    """The bytes of a stream as they leave the host, without the chunks of HTTP around them."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    content = json.dumps({"stream": True, **body}).encode()
    writer.write(b"POST /responses HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n")
    writer.write(b"content-length: %d\r\n\r\n%b" % (len(content), content))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head
    pieces = []
    while size := int(await reader.readline(), 16):
        pieces.append(await reader.readexactly(size))
        await reader.readline()
    writer.close()
    await writer.wait_closed()
    return b"".join(pieces)


def shape(events: Sequence[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def of_item(events: Sequence[Event], index: int) -> list[Event]:
    """The events of one item of the output."""
    return [event for event in events if event.get("output_index") == index]


async def test_a_stream_is_frames_of_two_lines(site: Any) -> None:
    """Each frame names its event and holds one line of JSON; there are no ids, retries or carriage returns."""
    content = await raw(site, TALKS["thoughts before the answer"])
    frames = list(FRAME.finditer(content))
    assert b"".join(frame.group() for frame in frames) == content
    assert len(frames) > 10
    for frame in frames:
        assert json.loads(frame["data"])["type"].encode() == frame["event"]


@pytest.mark.parametrize("name", TALKS)
async def test_a_stream_has_a_beginning_and_one_end(site: Any, told: Any, name: str) -> None:
    """It is created, in progress, and ends with the only terminal event; the numbers have no gap."""
    events = await told(site, TALKS[name])
    assert shape(events)[:2] == ["created", "in_progress"]
    assert [number for number, event in enumerate(events) if event["type"] in TERMINAL] == [len(events) - 1]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))


@pytest.mark.parametrize("name", TALKS)
async def test_a_stream_tells_of_one_response(site: Any, told: Any, name: str) -> None:
    """All events of its life name one id; the last shows what can be read from then on, in full."""
    events = await told(site, TALKS[name])
    shown = [event["response"] for event in events if event["type"] in LIFECYCLE]
    assert len({response["id"] for response in shown}) == 1
    assert (await site.http.get(f"/responses/{shown[0]['id']}")).json() == shown[-1]


@pytest.mark.parametrize("mode", [{}, {"background": True}], ids=["foreground", "background"])
@pytest.mark.parametrize("name", TALKS)
async def test_the_first_events_show_no_output(site: Any, told: Any, name: str, mode: dict[str, Any]) -> None:
    """Neither while the response is made nor in a later replay do they show what came after them."""
    live = await told(site, {**TALKS[name], **mode})
    replayed = await told(site, f"/responses/{live[0]['response']['id']}")
    for events in (live, replayed):
        first = [event for event in events if event["type"] in LIFECYCLE - TERMINAL]
        assert len(first) == (3 if mode else 2)
        for event in first:
            assert event["response"]["output"] == []
            assert event["response"]["status"] in ("queued", "in_progress")
            assert (event["response"]["usage"], event["response"]["completed_at"]) == (None, None)


@pytest.mark.parametrize("name", TALKS)
async def test_items_keep_their_places_and_ids(site: Any, told: Any, name: str) -> None:
    """Places are dense from 0, and what an item was called when it was added it is called in the final output."""
    events = await told(site, TALKS[name])
    output = events[-1]["response"]["output"]
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == list(range(len(output)))
    for index, item in enumerate(output):
        own = of_item(events, index)
        assert shape(own)[0] == "output_item.added"
        assert shape(own)[-1] == "output_item.done"
        assert own[-1]["item"] == item
        assert {event["item_id"] for event in own[1:-1]} <= {item["id"]}
        kept = ("id", "type", "call_id", "name", *(["phase"] if item.get("status") != "incomplete" else []))
        assert [own[0]["item"].get(name) for name in kept] == [item.get(name) for name in kept]
        for inner in ("content_index", "summary_index"):
            places = [event[inner] for event in own if inner in event]
            assert sorted(set(places)) == list(range(len(set(places))))


async def test_a_text_is_told_in_the_order_of_clients(site: Any, told: Any) -> None:
    """Added, part added, deltas, text done, part done, item done; the pieces make the text, each with its logprobs."""
    own = of_item(await told(site, TALKS["a text in pieces"]), 0)
    assert shape(own) == [
        "output_item.added", "content_part.added", *["output_text.delta"] * 3, "output_text.done",
        "content_part.done", "output_item.done",
    ]  # fmt: skip
    assert own[0]["item"]["content"] == []
    assert own[0]["item"]["status"] == "in_progress"
    text = "".join(event["delta"] for event in own[2:5])
    assert text == own[5]["text"] == own[6]["part"]["text"] == own[7]["item"]["content"][0]["text"] == "0 1 2 "
    assert [event["logprobs"] for event in own[2:6]] == [[]] * 4


async def test_a_question_is_told_in_the_order_of_clients(site: Any, told: Any) -> None:
    """A function call is added without arguments, which then come, whole in the end, under one call id."""
    events = await told(site, TALKS["a question"])
    own = of_item(events, 0)
    assert shape(own)[-2:] == ["function_call_arguments.done", "output_item.done"]
    assert set(shape(own)[1:-2]) <= {"function_call_arguments.delta"}
    assert own[0]["item"]["arguments"] == ""
    assert "".join(event["delta"] for event in own[1:-2]) == own[-2]["arguments"] == '{"question":"Where?"}'
    assert own[-1]["item"] == events[-1]["response"]["output"][0]
    assert own[0]["item"]["call_id"] == own[-1]["item"]["call_id"]


async def test_reasoning_is_told_in_the_order_of_clients(site: Any, told: Any) -> None:
    """A client that asks for summaries sees what the executors do: each part added, told and done."""
    events = await told(site, TALKS["what the executors do"])
    own = of_item(events, 0)
    assert shape(own) == [
        "output_item.added", "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.done", "reasoning_summary_part.done", "output_item.done",
    ]  # fmt: skip
    assert own[0]["item"]["summary"] == []
    assert own[2]["delta"] == own[3]["text"] == own[-1]["item"]["summary"][0]["text"] == "Running think."


@pytest.mark.parametrize("progress", ["commentary", "reasoning"])
async def test_a_host_can_show_what_its_executors_do(serve_checked: Any, clerk: Clerk, progress: str) -> None:
    """Every client of such a host sees it, as messages on the way or as reasoning; the answer stays the answer."""
    site = await serve_checked(office(clerk), progress=progress)
    response = await site.say("hi")
    shown = response.output[:-1]
    if progress == "commentary":
        texts = [item.content[0].text for item in shown]
        assert {item.phase for item in shown} == {"commentary"}
    else:
        texts = [item.summary[0].text for item in shown]
    assert texts == ["Running think.", "Running clerk."]
    assert (response.output[-1].phase, response.output[-1].content[0].text) == ("final_answer", "1: hi")


async def test_events_of_the_workflow_are_for_those_who_ask(site: Any, told: Any) -> None:
    """With the header a stream has them too, without numbers; the events of the response are the same as without."""
    plain = await told(site, TALKS["a whole text"])
    verbose = await told(site, TALKS["a whole text"], headers={"x-workflow-events": "1"})
    own = [event for event in verbose if event["type"].startswith("workflow.")]
    assert {"workflow.executor_invoked", "workflow.executor_completed"} <= {event["type"] for event in own}
    assert not any("sequence_number" in event for event in own)
    assert shape([event for event in verbose if event not in own]) == shape(plain)
    assert not any(event["type"].startswith("workflow.") for event in plain)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_is_a_failed_response(site: Any, told: Any, stream: bool) -> None:
    """It has an error that strict clients know, and the same is read later; there is no event of type error."""
    if stream:
        events = await told(site, TALKS["a failure after some text"])
        assert "error" not in {event["type"] for event in events}
        response = events[-1]["response"]
    else:
        answer = await site.http.post("/responses", json=TALKS["a failure after some text"])
        assert answer.status_code == 200
        response = answer.json()
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "kettle" in response["error"]["message"]
    assert all(isinstance(response["error"][name], str) for name in ("code", "type", "message"))
    assert (await site.http.get(f"/responses/{response['id']}")).json() == response


async def test_a_large_event_is_one_frame(site: Any) -> None:
    """A megabyte of text comes in one well-formed last frame."""
    content = await raw(site, {"input": "large 1000000"})
    last = content[content.rindex(b"event: response.completed\n") :]
    found = FRAME.fullmatch(last)
    assert found
    assert len(found["data"]) > 1_000_000
    assert json.loads(found["data"])["response"]["output"][0]["content"][0]["text"] == "x" * 1_000_000


@pytest.mark.parametrize("background", [False, True])
async def test_an_idle_stream_is_kept_alive(serve_checked: Any, clerk: Clerk, begun: Any, background: bool) -> None:
    """While the workflow is silent comments come, and nothing but comments; then the stream goes on."""
    site = await serve_checked(office(clerk), keep_alive=0.02)
    reading = asyncio.create_task(raw(site, {"input": "wait", "background": background}))
    await begun()
    await asyncio.wait([reading], timeout=0.3)
    clerk.may_go_on.set()
    content = await reading
    frames = list(FRAME.finditer(content))
    assert b"".join(frame.group() for frame in frames) == content
    named = [frame["event"] for frame in frames]
    assert named[named.index(b"response.output_text.delta") :].count(None) >= 3
    assert frames[-1]["event"] == b"response.completed"


async def test_the_stock_client_does_not_notice_that_it_is_kept_alive(
    serve_checked: Any, clerk: Clerk, begun: Any
) -> None:
    """It reads the events before and after the silence and nothing else."""
    site = await serve_checked(office(clerk), keep_alive=0.02)
    stream = await site.say("wait", stream=True)
    seen = []
    async for event in stream:
        seen.append(event.type)
        if event.type == "response.output_text.delta":
            asyncio.get_running_loop().call_later(0.1, clerk.may_go_on.set)
    assert seen[-1] == "response.completed"
    assert set(seen) <= LIFECYCLE | {
        "response.output_item.added", "response.output_item.done", "response.content_part.added",
        "response.content_part.done", "response.output_text.delta", "response.output_text.done",
    }  # fmt: skip


async def test_a_background_response_can_be_continued_the_moment_its_stream_ends(site: Any) -> None:
    """Who reads the last event of a background stream can continue at once, a hundred times over."""
    last = None
    for number in range(1, 101):
        async with await site.say(f"n{number}", last, stream=True, background=True) as stream:
            async for event in stream:
                if event.type == "response.completed":
                    break
        last = event.response.id
        assert event.response.output_text.startswith(f"{number}: ")


def test_a_process_that_dies_leaves_nothing_in_progress(serve: Any, tmp_path: Path) -> None:
    """The stream just ends; after a restart a foreground turn is unknown, and a background turn comes to its end."""
    host = serve(WAITING)
    go = tmp_path / "go"
    streams = [
        host.client.responses.create(input=f"wait {go}", stream=True, background=background)
        for background in (False, True)
    ]
    ids = []
    for stream in streams:
        for event in stream:
            if event.type == "response.created":
                ids.append(event.response.id)
            if event.type == "response.output_text.delta":
                break
    host.kill()
    for stream in streams:
        with pytest.raises(openai.APIConnectionError):
            assert [event.type for event in stream if event.type in TERMINAL]
    go.touch()
    again = serve(WAITING)
    foreground = httpx2.get(f"{again.base_url}/responses/{ids[0]}")
    assert foreground.status_code == 404
    events = list(again.client.responses.retrieve(ids[1], stream=True))
    assert events[-1].type in TERMINAL
    assert again.client.responses.retrieve(ids[1]).status in ("completed", "failed")
