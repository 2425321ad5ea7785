"""The WebSocket mode through the stock client: its connection, and its sessions with lanes."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketError,
    ResponsesWebSocketLimits,
)

from tests.clients.remembering import workflow

LIMITS = ResponsesWebSocketLimits(
    max_lanes=20, max_events_per_lane=1000, max_events=10_000, max_bytes_per_lane=10**7, max_bytes=10**8
)
OPTIONS: Any = {"max_size": None, "proxy": None}


@pytest.fixture
async def client(serve_app: Any) -> AsyncIterator[AsyncOpenAI]:
    site = await serve_app(workflow, api_key="secret")
    async with AsyncOpenAI(base_url=site.url + "/v1", api_key="secret") as stock:
        yield stock


async def answered(lane: Any, text: str, **more: Any) -> Any:
    await lane.send({"type": "response.create", "input": text, **more})
    return await lane.get_final_response()


async def test_a_connection(client: AsyncOpenAI) -> None:
    """The client's own connection sends a turn and reads typed events until it has ended."""
    async with client.responses.connect(websocket_connection_options=OPTIONS) as connection:
        await connection.response.create(input="one", store=False)
        events = []
        async for event in connection:
            events.append(event)
            if event.type == "response.completed":
                break
        assert events[0].type == "response.created"
        assert event.response.output_text == "1: one"
        await connection.response.create(input="two", previous_response_id=event.response.id)
        async for event in connection:
            if event.type == "response.completed":
                break
        assert event.response.output_text == "2: one two"


async def test_many_lanes_at_once(client: AsyncOpenAI) -> None:
    """Each lane has a chain of its own; the accumulators of the client find every event where it belongs."""

    async def chain(lane: Any, name: str) -> str:
        previous: dict[str, str] = {}
        for number in range(5):
            response = await answered(lane, f"{name}.{number}", store=number % 2 == 0, **previous)
            previous = {"previous_response_id": response.id}
        text: str = response.output_text
        return text

    async with (
        client.responses.connect(websocket_connection_options=OPTIONS) as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        names = [f"lane-{number}" for number in range(12)]
        texts = await asyncio.gather(*(chain(session.lane(name), name) for name in names))
    assert texts == ["5: " + " ".join(f"{name}.{number}" for number in range(5)) for name in names]


async def test_an_error_reaches_its_lane(client: AsyncOpenAI) -> None:
    """The client raises it for the lane that it names, and the lane stays usable."""
    async with (
        client.responses.connect(websocket_connection_options=OPTIONS) as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        lane = session.lane("a")
        with pytest.raises(ResponsesWebSocketError) as caught:
            await answered(lane, "x", previous_response_id="resp_1")
        assert caught.value.event.error.code == "previous_response_not_found"
        assert caught.value.event.status == 400
        assert (await answered(lane, "one")).output_text == "1: one"


async def test_a_warm_up(client: AsyncOpenAI) -> None:
    """Its response ends empty, and the client continues it."""
    async with (
        client.responses.connect(websocket_connection_options=OPTIONS) as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        warm = await answered(session.default, "warm", generate=False)
        assert (warm.status, warm.output) == ("completed", [])
        assert (await answered(session.default, "up", previous_response_id=warm.id)).output_text == "1: warm\n\nup"
