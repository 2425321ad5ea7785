"""What the tests of the API share: a served office whose every answer is checked, and the events of a stream."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from tests.api.clerk import Clerk, office
from tests.published import strict_event, strict_response

__all__ = ["strict_event", "strict_response"]

Check = Callable[[dict[str, Any]], None]


@dataclass
class Heard:
    """Everything that a host has answered: its JSON bodies, and the bytes of its streams."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    streams: list[bytearray] = field(default_factory=list)

    async def listen(self, answer: httpx2.Response) -> None:
        if answer.headers["content-type"] == "application/json":
            self.bodies.append(json.loads(await answer.aread()))
        else:
            self.streams.append(bytearray())
            assert isinstance(answer.stream, httpx2.AsyncByteStream)
            answer.stream = Copied(answer.stream, self.streams[-1])

    def events(self) -> list[dict[str, Any]]:
        """The events whose frames have come whole."""
        lines = [line for stream in self.streams for line in bytes(stream).rpartition(b"\n\n")[0].split(b"\n")]
        return [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: ")]


class Copied(httpx2.AsyncByteStream):
    """A stream whose bytes are kept as they pass."""

    def __init__(self, stream: httpx2.AsyncByteStream, kept: bytearray) -> None:
        self._stream = stream
        self._kept = kept

    def __aiter__(self) -> AsyncIterator[bytes]:
        self._pieces = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        # No generator: one that a client leaves in the middle would outlive the test's event loop.
        piece = await anext(self._pieces)
        self._kept += piece
        return piece

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.fixture
async def serve_checked(serve_app: Any, strict_response: Check, strict_event: Check) -> AsyncIterator[Any]:
    """Serves like `serve_app`; in the end all that was answered must satisfy the published schemas."""
    heard = Heard()

    async def serve(*what: Any, **settings: Any) -> Any:
        site = await serve_app(*what, **settings)
        site.http.event_hooks["response"].append(heard.listen)
        return site

    yield serve
    for body in heard.bodies:
        if body.get("object") == "response" and "deleted" not in body:
            strict_response(publishable(body))
    for event in heard.events():
        if "response" in event:
            event["response"] = publishable(event["response"])
        if not event["type"].startswith("workflow."):
            strict_event(event)


def publishable(response: dict[str, Any]) -> dict[str, Any]:
    """The response without what it repeats of its request and Open Responses has no types for.

    These are tools of OpenAI's own kinds, and the schema of a text, of which the two say opposite things.
    """
    tools = [tool for tool in response["tools"] if tool["type"] == "function"]
    return {**response, "tools": tools, "text": {**response["text"], "format": {"type": "text"}}}


@pytest.fixture
async def clerk() -> Clerk:
    return Clerk()


@pytest.fixture
async def site(serve_checked: Any, clerk: Clerk) -> Any:
    """The office with the default settings."""
    return await serve_checked(office(clerk))


@pytest.fixture
def begun(clerk: Clerk, eventually: Any) -> Any:
    """Waits until a clerk who is to wait does."""

    async def wait(times: int = 1) -> None:
        await eventually(lambda: clerk.done.count("begun") >= times, "the clerk waits")

    return wait


@pytest.fixture
def ended(eventually: Any) -> Any:
    """Polls a background response as the guides say, and returns it when it has ended."""

    async def poll(site: Any, response_id: str) -> Any:
        async with asyncio.timeout(20):
            while (found := await site.client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
                await asyncio.sleep(0.01)
        return found

    return poll


@pytest.fixture
def told(sse_events: Any) -> Any:
    """Reads a whole stream and returns its events: `await told(site, {"input": ...})`, or of a GET by its path."""

    async def read(site: Any, what: dict[str, Any] | str, **more: Any) -> list[dict[str, Any]]:
        if isinstance(what, str):
            answer = await site.http.get(what, params={"stream": "true", **more})
        else:
            answer = await site.http.post("/responses", json={"stream": True, **what}, **more)
        assert answer.status_code == 200, answer.text
        events: list[dict[str, Any]] = sse_events(answer.text)
        return events

    return read
