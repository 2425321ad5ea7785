"""Clients that read slowly or not at all: they cost little memory, hold up nobody, and a slow one gets everything."""

import asyncio
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest
from websockets.asyncio.client import connect

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, config, handler
from agent_host.server import streams

PIECE = 100_000


class Flood(Executor):
    """Says as many pieces as it is told to, and counts them."""

    said: list[int] = config()

    def __init__(self, said: list[int]) -> None:
        super().__init__("flood")
        self.said = said

    @handler
    async def flood(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        for number in range(int(text)):
            self.said.append(number)
            await ctx.yield_output(TextDelta(f"{number % 10}" * PIECE))
            await asyncio.sleep(0.001)


@pytest.fixture
def said() -> list[int]:
    return []


@pytest.fixture
async def site(serve_app: Any, said: list[int], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(streams, "MOST_UNSENT", 2_000_000)
    monkeypatch.setattr(streams, "SLOW_AFTER", 0.3)
    monkeypatch.setattr(streams, "STALLED_AFTER", 1.0)
    return await serve_app(WorkflowBuilder(start_executor=Flood(said), name="flood").build())


@asynccontextmanager
async def connected(
    site: Any, method: bytes, path: bytes, body: dict[str, Any] | None = None, *, buffer: int = 4096
) -> AsyncIterator[socket.socket]:
    """A connection with a small buffer that has sent a request and reads the answer only when the test does."""
    content = json.dumps(body).encode() if body is not None else b""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    with raw:
        await loop.sock_connect(raw, ("127.0.0.1", int(site.url.rpartition(":")[2])))
        head = b"%b %b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        await loop.sock_sendall(raw, head % (method, path, len(content)) + content)
        yield raw


async def rest(raw: socket.socket, pause: float = 0) -> bytes:
    """All that comes until the connection ends."""
    loop, received = asyncio.get_running_loop(), b""
    while piece := await asyncio.wait_for(loop.sock_recv(raw, 65536), 20):
        received += piece
        await asyncio.sleep(pause)
    return received


async def test_a_foreground_stream_that_is_not_read_is_cut_off(
    site: Any, said: list[int], tmp_path: Any, stored_statuses: Any, eventually: Any,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of 200 MB little is made and less is kept; the turn is stored as cancelled, others are served meanwhile."""
    monkeypatch.setattr(streams, "STALLED_AFTER", 60)
    tracemalloc.start()
    try:
        async with connected(site, b"POST", b"/responses", {"input": "2000", "stream": True}) as raw:
            await eventually(lambda: said, "the turn runs")
            assert (await site.say("1")).status == "completed"
            await eventually(lambda: len(stored_statuses(tmp_path / "host.db")) == 2, "the turn has ended")
            assert b"response.completed" not in await rest(raw)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert list(stored_statuses(tmp_path / "host.db").values()) == ["completed", "cancelled"]
    assert len(said) < 1500
    assert peak < 2 * len(said) * PIECE + 20_000_000
    assert "takes nothing" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_client_that_does_not_read_the_end_is_cut_off(
    site: Any, tmp_path: Any, stored_statuses: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its turn has ended and stays completed; only the connection is given up, after a while."""
    async with connected(site, b"POST", b"/responses", {"input": "15", "stream": True}):
        await eventually(lambda: "takes nothing" in caplog.text, "the stream is cut off")
        assert site.host.runs.running == 0
        assert list(stored_statuses(tmp_path / "host.db").values()) == ["completed"]


async def test_a_slow_reader_gets_everything(site: Any) -> None:
    """One that takes a little at a time is waited for, however much waits for it."""
    body = {"input": "40", "stream": True}
    async with connected(site, b"POST", b"/responses", body, buffer=65536) as raw:
        received = await rest(raw, pause=0.002)
    assert received.count(b"event: response.output_text.delta\n") == 40
    assert b"event: response.completed\n" in received


async def test_a_follower_that_does_not_read_holds_up_nobody(
    site: Any, said: list[int], eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The background turn ends, another follower reads all of it, and the stalled one can come back for the rest."""
    accepted = (await site.http.post("/responses", json={"input": "100", "background": True})).json()
    path = f"/responses/{accepted['id']}?stream=true"
    async with connected(site, b"GET", path.encode()) as raw:
        whole = (await site.http.get(path)).text
        assert whole.count("event: response.output_text.delta\n") == 100
        assert "event: response.completed\n" in whole
        await eventually(lambda: "takes nothing" in caplog.text, "the stream is cut off")
        assert b"response.completed" not in await rest(raw)
    assert (await site.http.get(path)).text == whole
    assert "Traceback" not in caplog.text


async def test_a_websocket_that_is_not_read_is_cut_off(
    site: Any, said: list[int], tmp_path: Any, stored_statuses: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Its turn ends as that of a client that has left; what waited for it is dropped, and others are served."""
    address = f"ws{site.url.removeprefix('http')}/v1/responses"
    async with connect(address, proxy=None, max_queue=1, compression=None) as socket:
        await socket.send(json.dumps({"type": "response.create", "input": "2000"}))
        await eventually(lambda: said, "the turn runs")
        assert (await site.say("1")).status == "completed"
        await eventually(lambda: len(stored_statuses(tmp_path / "host.db")) == 2, "the turn has ended")
        assert sorted(stored_statuses(tmp_path / "host.db").values()) == ["cancelled", "completed"]
    assert len(said) < 1500
    assert "takes nothing; its connection is cut off" in caplog.text
    assert "Traceback" not in caplog.text
