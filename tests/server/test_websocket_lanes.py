"""The lanes of a WebSocket, and how it ends."""

import asyncio
import json
import logging
from typing import Any, Never

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent_host import WorkflowBuilder, create_app
from agent_host.server import websocket
from tests.server.websocket_client import Client, Dial, Memo, dial, memo, said, site, strict_event, ws

__all__ = ["dial", "memo", "site", "strict_event"]


# --- Lanes ---------------------------------------------------------------------------------------------------------


async def test_lanes_run_side_by_side_and_each_in_order(dial: Dial, memo: Memo) -> None:
    """A lane that waits holds up itself alone; its next turn begins when the last has ended."""
    async with dial() as client:
        await client.create("wait", stream_id="slow")
        await client.create("second", stream_id="slow")
        await client.until("response.output_text.delta", lane="slow")
        assert said(await client.turn("fast", stream_id="fast")) == "fast"
        assert said(await client.turn("plain")) == "plain"
        assert memo.begun == ["wait", "fast", "plain"]
        memo.may_end.set()
        assert said(await client.end("slow")) == "wait"
        assert said(await client.end("slow")) == "second"
        of_lane = [event["sequence_number"] for event in client.heard if event.get("stream_id") == "slow"]
        assert of_lane == [*range(of_lane.index(0, 1)), *range(len(of_lane) - of_lane.index(0, 1))]


async def test_sixteen_turns_run_at_once_and_the_others_wait(dial: Dial, memo: Memo, eventually: Any) -> None:
    """The seventeenth begins when one of them has ended."""
    async with dial() as client:
        for number in range(20):
            await client.create(f"wait {number}", stream_id=f"lane-{number}")
        await eventually(lambda: len(memo.begun) == 16, "sixteen have begun")
        await asyncio.sleep(0.05)
        assert memo.begun == [f"wait {number}" for number in range(16)]
        memo.may_end.set()
        ended = 0
        while ended < 20:
            ended += (await client.next())["type"] == "response.completed"
        assert memo.begun[16:] == [f"wait {number}" for number in range(16, 20)]


async def test_thirty_two_lanes_may_have_names(dial: Dial) -> None:
    """The next new name is refused; old ones and the unnamed lane go on."""
    async with dial() as client:
        for number in range(32):
            assert said(await client.turn("x", stream_id=f"{number}")) == "x"
        error = await client.turn("x", stream_id="one-more")
        assert (error["code"], error["param"]) == ("websocket_stream_limit_reached", "stream_id")
        assert said(await client.turn("x", stream_id="31")) == "x"
        assert said(await client.turn("x")) == "x"


async def test_more_frames_than_may_wait_are_refused(dial: Dial, memo: Memo, site: Any) -> None:
    """What is refused for want of room may come again: the response that it continues is not forgotten."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        for _ in range(1 + websocket.MOST_WAITING):
            await client.create("wait")
        assert (await client.turn("x", previous_response_id=one["id"]))["code"] == "rate_limit_exceeded"
        memo.may_end.set()
        for _ in range(1 + websocket.MOST_WAITING):
            await client.end()
        assert said(await client.turn("two", previous_response_id=one["id"])) == "one|two"


async def test_a_busy_host_does_not_make_a_connection_forget(
    dial: Dial, memo: Memo, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that may come again has not failed."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        with monkeypatch.context() as patched:
            patched.setattr(site.host.runs, "_limit", 0)
            patched.setattr(site.host.runs, "_waiting_limit", 0)
            assert (await client.turn("two", previous_response_id=one["id"]))["code"] == "rate_limit_exceeded"
        assert said(await client.turn("two", previous_response_id=one["id"])) == "one|two"


# --- The end of a connection ---------------------------------------------------------------------------------------


async def test_a_client_that_leaves_cancels_its_turns(
    dial: Dial, memo: Memo, tmp_path: Any, stored_statuses: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that run are stored as cancelled, those that wait never begin, and the log stays calm."""
    async with dial() as client:
        for lane in ("a", "b"):
            await client.create(f"wait {lane}", stream_id=lane)
            await client.create("never", stream_id=lane)
            await client.until("response.output_text.delta", lane=lane)
        client.socket.transport.abort()
    await eventually(lambda: len(stored_statuses(tmp_path / "host.db")) == 2, "both are stored")
    assert set(stored_statuses(tmp_path / "host.db").values()) == {"cancelled"}
    assert memo.begun == ["wait a", "wait b"]
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


async def test_going_down_lets_turns_end_and_closes_the_connection(
    dial: Dial, memo: Memo, site: Any, tmp_path: Any, stored_statuses: Any
) -> None:
    """What runs gets the grace, what waits and what still comes is refused, then the close frame says why."""
    async with dial() as client:
        await client.create("wait", stream_id="ends")
        await client.create("never", stream_id="ends")
        await client.until("response.output_text.delta", lane="ends")
        draining = asyncio.create_task(site.host.drain())
        await asyncio.sleep(0.05)
        late = await client.turn("late")
        assert late["code"] == "shutting_down"
        memo.may_end.set()
        assert (await client.end("ends"))["status"] == "completed"
        assert (await client.end("ends"))["code"] == "shutting_down"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, "shutting down" in closed.value.rcvd.reason) == (1012, True)
        await draining
    assert list(stored_statuses(tmp_path / "host.db").values()) == ["completed"]
    with pytest.raises(InvalidStatus) as refused:
        await connect(ws(site) + "/responses", proxy=None)
    assert refused.value.response.status_code == 503


async def test_a_turn_that_is_cut_off_before_it_has_begun_is_refused(
    dial: Dial, site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may be slow when the host goes down; the client is told that it may ask elsewhere."""
    asked = asyncio.Event()

    async def slow(*_: Any) -> Never:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(site.host.store, "resolve", slow)
    async with dial() as client:
        await client.create("x", previous_response_id="resp_1")
        await asked.wait()
        draining = asyncio.create_task(site.host.drain())
        assert (await client.end())["code"] == "shutting_down"
        await draining


async def test_a_turn_that_outlasts_the_grace_ends_as_failed(dial: Dial, site: Any) -> None:
    """The connection is told before it is closed."""
    async with dial() as client:
        await client.create("wait")
        await client.until("response.output_text.delta")
        draining = asyncio.create_task(site.host.drain())
        assert (await client.end())["status"] == "failed"
        with pytest.raises(ConnectionClosed):
            await client.next()
        await draining


async def test_a_connection_lasts_for_a_time(
    serve_app: Any, memo: Memo, monkeypatch: pytest.MonkeyPatch, strict_event: Any
) -> None:
    """Then it takes no turn more and says so; what runs may end, and the connection is closed."""
    monkeypatch.setattr(websocket.WebSocketEndpoint.__init__, "__kwdefaults__", {"lifetime": 0.3})
    site = await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build())
    async with connect(ws(site) + "/responses", proxy=None) as socket:
        client = Client(socket, strict_event)
        await client.create("wait", stream_id="a")
        await client.create("never", stream_id="a")
        error = await client.until("error")
        assert error["error"]["code"] == "websocket_connection_limit_reached"
        assert (await client.turn("late"))["code"] == "websocket_connection_limit_reached"
        memo.may_end.set()
        assert said(await client.end("a")) == "wait"
        assert (await client.end("a"))["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1000
    assert memo.begun == ["wait"]


async def test_an_idle_connection_is_told_why_it_ends(
    serve_app: Any, memo: Memo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one without turns gets the error before the close frame."""
    monkeypatch.setattr(websocket.WebSocketEndpoint.__init__, "__kwdefaults__", {"lifetime": 0.05})
    site = await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build())
    async with connect(ws(site) + "/responses", proxy=None) as socket:
        error = json.loads(await socket.recv())
        assert error["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_a_client_that_does_not_read_is_not_worked_for(memo: Memo, tmp_path: Any, eventually: Any) -> None:
    """The next turn of a lane begins when all of the last one has been taken."""
    app = create_app(WorkflowBuilder(start_executor=memo, name="memo").build(), f"sqlite:///{tmp_path}/a.db")
    reads = asyncio.Event()
    incoming: asyncio.Queue[Any] = asyncio.Queue()
    for text in ("one", "two"):
        frame = json.dumps({"type": "response.create", "input": text})
        incoming.put_nowait({"type": "websocket.receive", "text": frame})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            await reads.wait()

    scope = {"type": "websocket", "path": "/responses", "headers": [], "query_string": b"", "subprotocols": []}
    serving = asyncio.create_task(app(scope, incoming.get, send))
    await eventually(lambda: memo.begun, "the first turn has begun")
    await asyncio.sleep(0.1)
    assert memo.begun == ["one"]
    reads.set()
    await eventually(lambda: memo.begun == ["one", "two"], "the second turn has begun")
    incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})
    await serving
    await app.state.agent_host.aclose()
