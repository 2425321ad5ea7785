"""Streamed turns, read by the stock client with its strictest validation."""

import asyncio
import itertools
from typing import Any, Never

import pydantic
import pytest
from openai import OpenAI
from openai.types.responses import ResponseStreamEvent

from agent_host import Executor, TextDelta, Workflow, WorkflowBuilder, WorkflowContext, executor, handler

STRICT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
TERMINAL = {"response.completed", "response.incomplete", "response.failed"}


class Draft(Executor):
    """Comments on what it is about to do; its outputs are intermediate."""

    @handler
    async def draft(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("about "))
        await ctx.yield_output(TextDelta(text))
        await ctx.yield_output("thinking")
        await ctx.send_message(text)


class Say(Executor):
    """Answers in pieces; between two of them it waits until it may go on."""

    def __init__(self, may_go_on: asyncio.Event) -> None:
        super().__init__("say")
        self.may_go_on = may_go_on
        self.said = 0

    @handler
    async def say(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.said += 1
        await ctx.yield_output(TextDelta("Hel"))
        await self.may_go_on.wait()
        await ctx.yield_output(TextDelta(f"lo {text}"))
        await ctx.yield_output(f"number {self.said}")


def drafting(may_go_on: asyncio.Event | None = None) -> Workflow:
    if may_go_on is None:
        may_go_on = asyncio.Event()
        may_go_on.set()
    draft, say = Draft("draft"), Say(may_go_on)
    return (
        WorkflowBuilder(start_executor=draft, name="drafting", output_from=[say], intermediate_output_from=[draft])
        .add_edge(draft, say)
        .build()
    )


async def read(stream: Any) -> list[Any]:
    return [event async for event in stream]


async def test_every_event_of_a_stream_is_what_the_client_expects(serve_app: Any, sse_events: Any) -> None:
    """Each event passes the client's own types, they are numbered from 0 without a gap, and one ends the stream."""
    site = await serve_app(drafting())
    answer = await site.http.post("/responses", json={"input": "you", "stream": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = sse_events(answer.text)
    for event in events:
        assert STRICT.validate_python(event).type == event["type"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert events[0]["response"]["output"] == []
    assert events[1]["type"] == "response.in_progress"
    assert [event["type"] for event in events if event["type"] in TERMINAL] == ["response.completed"]
    assert events[-1]["type"] == "response.completed"
    named = [line.removeprefix("event: ") for line in answer.text.splitlines() if line.startswith("event: ")]
    assert named == [event["type"] for event in events]
    assert {event["response"]["id"] for event in events if "response" in event} == {events[0]["response"]["id"]}


async def test_the_last_event_shows_what_is_stored(serve_app: Any) -> None:
    """The response of the terminal event equals what GET returns."""
    site = await serve_app(drafting())
    events = await read(await site.client.responses.create(input="you", stream=True))
    assert await site.client.responses.retrieve(events[-1].response.id) == events[-1].response


async def test_a_streamed_and_a_plain_turn_say_the_same(serve_app: Any) -> None:
    """Streaming changes when a client sees something, not what."""
    site = await serve_app(drafting())
    streamed = (await read(await site.client.responses.create(input="you", stream=True)))[-1].response
    plain = await site.say("you")

    def shown(response: Any) -> list[Any]:
        return [(item.phase, item.status, [part.text for part in item.content]) for item in response.output]

    assert shown(streamed) == shown(plain)


async def test_the_phase_of_a_message_follows_from_the_designation_of_its_executor(serve_app: Any) -> None:
    """Outputs are final answers, intermediate outputs commentary, whole or in pieces, in the order they were made."""
    site = await serve_app(drafting())
    response = await site.say("you")
    assert [(item.phase, item.content[0].text) for item in response.output] == [
        ("commentary", "about you"),
        ("commentary", "thinking"),
        ("final_answer", "Hello you"),
        ("final_answer", "number 1"),
    ]


@executor
async def mixed(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output("whole")
    await ctx.yield_output(TextDelta("piece"))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_whole_output_is_shown_when_its_superstep_has_succeeded(serve_app: Any, stream: bool) -> None:
    """Text in pieces takes its place when it begins, a whole output when nothing can take it back any more."""
    site = await serve_app(WorkflowBuilder(start_executor=mixed).build())
    answer = await site.client.responses.create(input="x", stream=stream)
    response = (await read(answer))[-1].response if stream else answer
    assert [item.content[0].text for item in response.output] == ["piece", "whole"]


async def test_a_piece_of_text_arrives_before_its_handler_has_ended(serve_app: Any) -> None:
    """The client reads the first delta while the handler still waits for the client."""
    may_go_on = asyncio.Event()
    site = await serve_app(drafting(may_go_on))
    seen: list[str] = []
    async for event in await site.client.responses.create(input="you", stream=True):
        if event.type == "response.output_text.delta":
            seen.append(event.delta)
            if event.delta == "Hel":
                assert not may_go_on.is_set()
                may_go_on.set()
    assert "Hel" in seen
    assert "lo you" in seen


async def test_the_stream_helper_of_the_client_returns_the_final_response(serve_app: Any) -> None:
    """`client.responses.stream(...)` takes the events without complaint, in its asynchronous form and the other."""
    site = await serve_app(drafting())
    async with site.client.responses.stream(model="any", input="you") as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    stored = await site.client.responses.retrieve(final.id)
    assert final.output_text == stored.output_text == "about youthinkingHello younumber 1"

    def in_a_thread() -> tuple[str, int]:
        with (
            OpenAI(base_url=site.url, api_key="none", _strict_response_validation=True) as client,
            client.responses.stream(model="any", input="me", previous_response_id=final.id) as stream,
        ):
            deltas = sum(event.type == "response.output_text.delta" for event in stream)
            return stream.get_final_response().output_text, deltas

    text, deltas = await asyncio.to_thread(in_a_thread)
    assert text.endswith("Hello menumber 2")
    assert deltas >= 5


async def test_a_response_can_be_continued_the_moment_its_stream_ends(serve_app: Any) -> None:
    """The terminal event is sent when the turn is stored: whoever reads it can go on at once, a hundred times over."""
    site = await serve_app(drafting())
    last: dict[str, str] = {}
    for number in range(1, 101):
        async with await site.client.responses.create(input="you", stream=True, **last) as stream:
            async for event in stream:
                if event.type == "response.completed":
                    last = {"previous_response_id": event.response.id}
                    break
        assert event.response.output_text.endswith(f"number {number}")


@executor
async def separators(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(TextDelta("a\u2028b\u0085c\r\nd\ne"))
    await ctx.yield_output(TextDelta("\N{PILE OF POO}"))


async def test_text_with_unusual_line_ends_survives_a_stream(serve_app: Any) -> None:
    """No character of a text can break the framing."""
    site = await serve_app(WorkflowBuilder(start_executor=separators).build())
    events = await read(await site.client.responses.create(input="x", stream=True))
    assert events[-1].response.output_text == "a\u2028b\u0085c\r\nd\ne\N{PILE OF POO}"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == (
        events[-1].response.output_text
    )


class Waiting(Executor):
    """Says nothing until it is told to go on."""

    def __init__(self, may_go_on: asyncio.Event) -> None:
        super().__init__("waiting")
        self.may_go_on = may_go_on

    @handler
    async def wait(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await self.may_go_on.wait()
        await ctx.yield_output("at last")


async def test_a_silent_stream_is_kept_alive_by_comments(serve_app: Any) -> None:
    """While nothing happens comments are sent, and the stock client does not mind them."""
    may_go_on = asyncio.Event()
    workflow = WorkflowBuilder(start_executor=Waiting(may_go_on)).build()
    site = await serve_app(workflow, keep_alive=0.02)
    lines: list[str] = []
    async with site.http.stream("POST", "/responses", json={"input": "x", "stream": True}) as answer:
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count(": keep-alive") == 3:
                may_go_on.set()
    assert lines[-3].startswith("event: response.completed")
    may_go_on.clear()
    reading = asyncio.create_task(read(await site.client.responses.create(input="x", stream=True)))
    await asyncio.wait([reading], timeout=0.1)
    may_go_on.set()
    assert (await reading)[-1].response.output_text == "at last"


@pytest.mark.parametrize("streams", [40])
async def test_streams_at_once_do_not_mix(serve_app: Any, streams: int) -> None:
    """Many streams of one workflow each get their own events, numbered from 0."""
    site = await serve_app(drafting())

    async def one(number: int) -> list[Any]:
        return await read(await site.client.responses.create(input=f"n{number}", stream=True))

    for number, events in enumerate(await asyncio.gather(*map(one, range(streams)))):
        assert [event.sequence_number for event in events] == list(itertools.islice(itertools.count(), len(events)))
        assert f"Hello n{number}number 1" in events[-1].response.output_text
