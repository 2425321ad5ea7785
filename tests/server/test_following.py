"""Following a background response: nothing is missed, and the end of the host is an end of the stream."""

import asyncio
from typing import Any, Never

import openai
import pytest

from agent_host import TextDelta, WorkflowBuilder, WorkflowContext, executor
from agent_host.server import following as followed_by
from tests.server.unsteady import UnsteadyStore


def waiting(gate: asyncio.Event) -> Any:
    """A workflow that says something, waits for the gate, and says the rest."""

    @executor
    async def waits(text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(TextDelta("begun "))
        await gate.wait()
        await ctx.yield_output(TextDelta("ended"))

    return WorkflowBuilder(start_executor=waits, name="waits").build()


async def followed(site: Any, response_id: str) -> list[Any]:
    return [event async for event in await site.client.responses.retrieve(response_id, stream=True)]


async def test_many_followers_see_the_same(serve_app: Any) -> None:
    """Those who come at the beginning, in the middle and after the end see every event once."""
    gate = asyncio.Event()
    site = await serve_app(waiting(gate))
    response = await site.say("x", background=True)
    early = [asyncio.create_task(followed(site, response.id)) for _ in range(5)]
    await asyncio.sleep(0.1)
    middle = asyncio.create_task(followed(site, response.id))
    await asyncio.sleep(0.05)
    gate.set()
    seen = await asyncio.gather(*early, middle)
    after = await followed(site, response.id)
    assert all(events == after for events in seen)
    assert after[-1].response.output_text == "begun ended"
    assert [event.sequence_number for event in after] == list(range(len(after)))


async def test_a_stream_ends_in_order_when_the_host_goes_down(serve_app: Any) -> None:
    """The body ends without a last event and without an error; the turn is kept for the next start."""
    gate = asyncio.Event()
    site = await serve_app(waiting(gate), shutdown_grace=0)
    response = await site.say("x", background=True)
    following = asyncio.create_task(followed(site, response.id))
    await asyncio.sleep(0.1)
    await site.host.aclose()
    events = await asyncio.wait_for(following, 5)
    assert events[-1].type == "response.output_text.delta"
    assert site.host.background.left == 1


async def test_a_turn_that_ends_within_the_grace_is_followed_to_its_end(serve_app: Any) -> None:
    """Going down does not cut off those who follow a turn that still finishes."""
    gate = asyncio.Event()
    site = await serve_app(waiting(gate), shutdown_grace=5)
    response = await site.say("x", background=True)
    following = asyncio.create_task(followed(site, response.id))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(site.host.aclose())
    await asyncio.sleep(0.6)
    assert not following.done()
    gate.set()
    events = await asyncio.wait_for(following, 5)
    assert events[-1].type == "response.completed"
    await closing


async def test_a_head_of_a_stream_reads_no_event(serve_app: Any) -> None:
    """It is answered as for the response itself: nobody would see what a stream carries."""
    gate = asyncio.Event()
    site = await serve_app(waiting(gate))
    response = await site.say("x", background=True)
    asked = site.http.head(f"/responses/{response.id}", params={"stream": "true"})
    answer = await asyncio.wait_for(asked, 5)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/json"
    gate.set()
    await followed(site, response.id)


async def test_a_store_that_fails_for_a_moment_breaks_no_stream(
    serve_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again, and nothing is missed."""
    monkeypatch.setattr(followed_by, "POLL", 0.01)
    gate = asyncio.Event()
    store = UnsteadyStore(tmp_path / "host.db")
    site = await serve_app(waiting(gate), store)
    response = await site.say("x", background=True)
    reading = asyncio.create_task(followed(site, response.id))
    await asyncio.sleep(0.2)
    store.failures["read_events"] = 3
    gate.set()
    seen = await asyncio.wait_for(reading, 5)
    assert store.failures["read_events"] == 0
    assert seen[-1].response.output_text == "begun ended"
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


async def test_a_store_that_stays_away_ends_the_stream(
    serve_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever: the stream breaks off without a last event, and the client comes back."""
    monkeypatch.setattr(followed_by, "POLL", 0.01)
    gate = asyncio.Event()
    store = UnsteadyStore(tmp_path / "host.db")
    site = await serve_app(waiting(gate), store)
    response = await site.say("x", background=True)
    reading = asyncio.create_task(followed(site, response.id))
    await asyncio.sleep(0.2)
    store.failures["read_events"] = 1000
    gate.set()
    with pytest.raises(openai.APIConnectionError):
        await asyncio.wait_for(reading, 5)
    assert 1000 - store.failures["read_events"] == followed_by.MOST_TRIES
    store.failures["read_events"] = 0
    assert (await followed(site, response.id))[-1].type == "response.completed"
