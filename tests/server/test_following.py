"""Following a background response: nothing is missed, and the end of the host is an end of the stream."""

import asyncio
from typing import Any, Never

from agent_host import TextDelta, WorkflowBuilder, WorkflowContext, executor


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
