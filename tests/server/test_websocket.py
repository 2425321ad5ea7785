"""The WebSocket mode: turns in lanes over one connection, what the connection remembers, and how it ends."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Never

import pytest
from starlette.applications import Starlette
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from agent_host import (
    Executor,
    TextDelta,
    WorkflowBuilder,
    WorkflowContext,
    config,
    create_app,
    handler,
    response_handler,
)
from agent_host.server import websocket
from agent_host.settings import Settings
from tests.wire.conftest import strict_event

__all__ = ["strict_event"]

TERMINAL = {"response.completed", "response.failed", "error"}


class Memo(Executor):
    """Remembers what it was told. It can also ask, fail, and wait until the test lets it go on."""

    begun: list[str] = config()
    may_end: asyncio.Event = config()

    def __init__(self) -> None:
        super().__init__("memo")
        self.told: list[str] = []
        self.begun = []
        self.may_end = asyncio.Event()

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.begun.append(text)
        self.told.append(text)
        if text.startswith("wait"):
            await ctx.yield_output(TextDelta(text))
            await self.may_end.wait()
        elif text == "fail":
            raise ValueError("told to fail")
        elif text == "ask":
            await ctx.request_info("How many?", int)
        else:
            await ctx.yield_output("|".join(self.told))

    @response_handler
    async def answered(self, question: str, number: int, ctx: WorkflowContext[Never, str]) -> None:
        self.told.append(str(number))
        await ctx.yield_output("|".join(self.told))


class Client:
    """One connection. `turn` sends a request and reads to its end; other lanes' events are kept for `heard`."""

    def __init__(self, socket: ClientConnection, check: Callable[[dict[str, Any]], None]) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []
        self._check = check

    async def send(self, *frames: Any) -> None:
        for frame in frames:
            await self.socket.send(json.dumps(frame))

    async def create(self, text: Any, **more: Any) -> None:
        await self.send({"type": "response.create", "input": text, **more})

    async def next(self) -> dict[str, Any]:
        """The next frame, which is an event as in a stream, or an error with what errors have."""
        frame = await asyncio.wait_for(self.socket.recv(), 20)
        assert isinstance(frame, str)
        event: dict[str, Any] = json.loads(frame)
        if event["type"] == "error":
            assert {"type", "code", "message", "param"} == set(event["error"])
            assert event["status"] >= 400
        else:
            self._check({name: value for name, value in event.items() if name != "stream_id"})
        self.heard.append(event)
        return event

    async def until(self, *types: str, lane: str | None = None) -> dict[str, Any]:
        while True:
            event = await self.next()
            if event["type"] in types and event.get("stream_id") == lane:
                return event

    async def end(self, lane: str | None = None) -> Any:
        """The response of a lane's turn, or the error that it got instead."""
        last = await self.until(*TERMINAL, lane=lane)
        return last["error"] if last["type"] == "error" else last["response"]

    async def turn(self, text: Any, **more: Any) -> Any:
        await self.create(text, **more)
        return await self.end(more.get("stream_id"))


def said(response: Any) -> str:
    return "".join(item["content"][0]["text"] for item in response["output"])


def ws(site: Any) -> str:
    return str(site.url).replace("http://", "ws://")


@pytest.fixture
def memo() -> Memo:
    return Memo()


@pytest.fixture
async def site(serve_app: Any, memo: Memo) -> Any:
    return await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build(), shutdown_grace=0.2)


Dial = Callable[..., Any]


@pytest.fixture
def dial(site: Any, strict_event: Callable[[dict[str, Any]], None]) -> Dial:
    """Opens connections to the site; everything that comes over them is checked against the published types."""

    @asynccontextmanager
    async def open_one(path: str = "/v1/responses", **more: Any) -> AsyncIterator[Client]:
        async with connect(ws(site) + path, proxy=None, **more) as socket:
            yield Client(socket, strict_event)

    return open_one


# --- A turn ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/responses", "/v1/responses"])
async def test_a_turn_gives_the_events_of_a_stream(dial: Dial, site: Any, sse_events: Any, path: str) -> None:
    """The same events as server-sent ones, each a JSON text frame, without an end marker; the response is stored."""
    async with dial(path) as client:
        response = await client.turn("one")
        streamed = sse_events((await site.http.post("/responses", json={"input": "one", "stream": True})).text)
        assert [list(event) for event in client.heard] == [list(event) for event in streamed]
        assert [event["sequence_number"] for event in client.heard] == list(range(len(streamed)))
        assert client.heard[-1]["type"] == "response.completed"
        assert (await site.client.responses.retrieve(response["id"])).output_text == "one"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.socket.recv(), 0.05)


async def test_turns_follow_each_other_on_one_connection(dial: Dial, site: Any) -> None:
    """A response is continued by the next frame and by HTTP, from wherever it was made."""
    first = await site.say("one")
    async with dial() as client:
        second = await client.turn("two", previous_response_id=first.id)
        assert said(second) == "one|two"
        assert said(await client.turn("three")) == "three"
        assert (await site.say("three", second["id"])).output_text == "one|two|three"


async def test_a_workflow_that_fails_ends_its_turn_alone(dial: Dial) -> None:
    """A failed response is a response; the connection goes on."""
    async with dial() as client:
        assert (await client.turn("fail"))["status"] == "failed"
        assert said(await client.turn("one")) == "one"


async def test_a_key_or_an_id_of_the_upgrade_is_not_that_of_each_turn(dial: Dial) -> None:
    """Two requests over one connection are two, whatever headers the connection was opened with."""
    async with dial(additional_headers={"idempotency-key": "k", "x-request-id": "r"}) as client:
        assert said(await client.turn("one")) == "one"
        assert said(await client.turn("two")) == "two"


async def test_workflow_events_for_those_who_ask(dial: Dial) -> None:
    """They stand between the response's own, on the lane of their turn."""
    async with dial(additional_headers={"x-workflow-events": "1"}) as client:
        await client.create("one", stream_id="a")
        shown = []
        while not shown or shown[-1]["type"] != "response.completed":
            shown.append(json.loads(await client.socket.recv()))
    assert {event["stream_id"] for event in shown} == {"a"}
    assert [event for event in shown if event["type"].startswith("workflow.")]


# --- Frames that are refused ---------------------------------------------------------------------------------------

REFUSED = {
    "no JSON": ("{", 400, "invalid_json", ""),
    "no object": ("[]", 400, "invalid_type", ""),
    "no type": ('{"input": "x"}', 400, "missing_required_parameter", "type"),
    "another type": ('{"type": "response.steer", "input": "x"}', 400, "invalid_value", "type"),
    "no input": ('{"type": "response.create"}', 400, "missing_required_parameter", "input"),
    "a wrong field": ('{"type": "response.create", "input": 1}', 400, "invalid_type", "input"),
    "an unknown field": ('{"type": "response.create", "input": "x", "y": 1}', 400, "unknown_parameter", "y"),
    "in the background": (
        '{"type": "response.create", "input": "x", "background": true}', 400, "unsupported_parameter", "background",
    ),
    "a flag that is none": (
        '{"type": "response.create", "input": "x", "generate": 1}', 400, "invalid_type", "generate",
    ),
    "an unknown response": (
        '{"type": "response.create", "input": "x", "previous_response_id": "resp_1"}',
        400, "previous_response_not_found", "previous_response_id",
    ),
    "an unknown conversation": (
        '{"type": "response.create", "input": "x", "conversation": "conv_1"}',
        404, "conversation_not_found", "conversation",
    ),
    "an empty lane": ('{"type": "response.create", "input": "x", "stream_id": ""}', 400, "invalid_stream_id", None),
    "a lane with a space": ('{"type": "response.create", "stream_id": "a b"}', 400, "invalid_stream_id", None),
    "a lane that is a number": ('{"type": "response.create", "stream_id": 1}', 400, "invalid_stream_id", None),
    "a lane with a long name": (
        f'{{"type": "response.create", "stream_id": "{"a" * 257}"}}', 400, "invalid_stream_id", None,
    ),
    "binary": (b"{}", 400, "invalid_json", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_a_refused_frame_leaves_the_connection_usable(dial: Dial, name: str) -> None:
    """The fault is a frame with status, code and the field; nothing was begun, and the next turn works."""
    sent, status, code, param = REFUSED[name]
    async with dial() as client:
        await client.socket.send(sent)
        error = await client.next()
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", status, code)
        assert error["error"]["param"] == ("stream_id" if param is None else param)
        assert "stream_id" not in error
        assert said(await client.turn("one")) == "one"


async def test_an_error_names_the_lane_that_it_is_for(dial: Dial) -> None:
    """Also one of a frame that cannot be a turn."""
    async with dial() as client:
        await client.send({"type": "x", "stream_id": "a"}, {"type": "response.create", "stream_id": "a"})
        assert [(await client.next())["stream_id"] for _ in range(2)] == ["a", "a"]


async def test_a_frame_that_is_too_large_is_refused(serve_app: Any, memo: Memo) -> None:
    """The limit is that of bodies."""
    site = await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build(), max_body_bytes=100)
    async with connect(ws(site) + "/responses", proxy=None) as socket:
        await socket.send(json.dumps({"type": "response.create", "input": "x" * 100}))
        error = json.loads(await socket.recv())
        assert (error["status"], error["error"]["code"]) == (413, "request_too_large")


async def test_a_fault_of_the_host_is_told_and_logged(
    dial: Dial, site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The frame has the id under which the log has the traceback; the connection goes on."""

    async def broken(*_: Any) -> Never:
        raise RuntimeError("broken")

    async with dial() as client:
        one = await client.turn("one")
        with monkeypatch.context() as patched:
            patched.setattr(site.host.store, "resolve", broken)
            error = await client.turn("two", previous_response_id=one["id"])
        assert error["code"] == "server_error"
        [record] = [record for record in caplog.records if record.exc_info]
        assert record.getMessage().split()[1] in error["message"]
        assert said(await client.turn("two", previous_response_id=one["id"])) == "one|two"


# --- What the connection remembers ---------------------------------------------------------------------------------


async def test_an_unstored_response_is_continued_over_its_connection(dial: Dial, site: Any) -> None:
    """From any lane, twice if need be; the store knows nothing of it."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        two = await client.turn("two", store=False, previous_response_id=one["id"], stream_id="a")
        assert said(two) == "one|two"
        other = await client.turn("other", store=False, previous_response_id=one["id"])
        assert said(other) == "one|other"
        assert (await site.http.get(f"/responses/{two['id']}")).status_code == 404
        assert len(await site.host.store.save_points(0)) == 0


async def test_an_unstored_response_is_unknown_everywhere_else(dial: Dial, site: Any) -> None:
    """On another connection and over HTTP it cannot be continued; a fresh turn on the same connection works."""
    async with dial() as client:
        one = await client.turn("one", store=False)
    answer = await site.http.post("/responses", json={"input": "x", "previous_response_id": one["id"]})
    assert answer.json()["error"]["code"] == "previous_response_not_found"
    async with dial() as client:
        assert (await client.turn("two", previous_response_id=one["id"]))["code"] == "previous_response_not_found"
        assert said(await client.turn("two", store=False)) == "two"


async def test_a_stored_turn_stores_what_it_stands_on(dial: Dial, site: Any) -> None:
    """Behind unstored turns, a stored one can be continued by everybody; also a second one from the same place."""
    long = "x" * 5000  # more than a cell holds by itself
    async with dial() as client:
        one = await client.turn(long, store=False)
        two = await client.turn("two", store=False, previous_response_id=one["id"])
        three = await client.turn("three", previous_response_id=two["id"])
        again = await client.turn("again", previous_response_id=two["id"])
    assert said(three) == f"{long}|two|three"
    site.host._views.clear()
    assert (await site.say("four", three["id"])).output_text == f"{long}|two|three|four"
    assert (await site.say("five", again["id"])).output_text == f"{long}|two|again|five"


async def test_a_failed_unstored_turn_is_continued_from_where_it_began(dial: Dial) -> None:
    """Its own input is not part of the state, as with stored ones."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        failed = await client.turn("fail", store=False, previous_response_id=one["id"])
        assert failed["status"] == "failed"
        assert said(await client.turn("two", store=False, previous_response_id=failed["id"])) == "one|two"


async def test_a_question_of_an_unstored_turn_is_answered_over_its_connection(dial: Dial) -> None:
    """It is open until it is answered, also behind a turn that has failed; over HTTP such a turn fails."""
    async with dial() as client:
        one = await client.turn("ask", store=False)
        [call] = one["output"]
        missing = await client.turn("two", store=False, previous_response_id=one["id"], stream_id="fork")
        assert missing["code"] == "missing_tool_output"
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "7"}
        for store in (False, True):
            await client.create([output], store=store, previous_response_id=one["id"])
            assert said(await client.end()) == "ask|7"


async def test_a_failed_continuation_forgets_what_it_continued(dial: Dial) -> None:
    """On its own lane; what fails elsewhere is a fork, and leaves it to those who made it."""
    wrong = [{"type": "function_call_output", "call_id": "call_1", "output": "7"}]
    async with dial() as client:
        one = await client.turn("one", store=False)
        await client.create(wrong, previous_response_id=one["id"], stream_id="fork")
        assert (await client.end("fork"))["code"] == "unknown_tool_call"
        assert said(await client.turn("two", store=False, previous_response_id=one["id"])) == "one|two"
        await client.create(wrong, previous_response_id=one["id"])
        assert (await client.end())["code"] == "unknown_tool_call"
        assert (await client.turn("two", previous_response_id=one["id"]))["code"] == "previous_response_not_found"


async def test_a_compacted_history_begins_a_new_chain(dial: Dial, site: Any) -> None:
    """What the endpoint for compaction gave is input like any other."""
    one = await site.say("one")
    compacted = (await site.http.post("/responses/compact", json={"previous_response_id": one.id, "model": "m"})).json()
    async with dial() as client:
        items = [*compacted["output"], {"type": "message", "role": "user", "content": "two"}]
        response = await client.turn(items, store=False, tools=[])
        assert response["status"] == "completed"
        assert said(response).endswith("two")


async def test_a_warm_up_runs_nothing_and_keeps_its_input(dial: Dial, site: Any, memo: Memo) -> None:
    """Its response is empty and unstored; the turn that continues it finds the input before its own."""
    async with dial() as client:
        one = await client.turn("one")
        warm = await client.turn("warm", generate=False, previous_response_id=one["id"])
        assert [event["type"] for event in client.heard[-3:]] == [
            "response.created", "response.in_progress", "response.completed",
        ]  # fmt: skip
        assert (warm["output"], warm["store"], memo.begun) == ([], False, ["one"])
        warmer = await client.turn("warmer", generate=False, previous_response_id=warm["id"])
        two = await client.turn("two", previous_response_id=warmer["id"])
        assert said(two) == "one|warm\n\nwarmer\n\ntwo"
        listed = (await site.client.responses.input_items.list(two["id"], order="asc")).data
        assert [item.content[0].text for item in listed] == ["warm", "warmer", "two"]
        assert (await site.http.get(f"/responses/{warm['id']}")).status_code == 404
        wrong = await client.turn("x", generate=False, previous_response_id="resp_1")
        assert wrong["code"] == "previous_response_not_found"


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


# --- Who may connect -----------------------------------------------------------------------------------------------


async def test_the_upgrade_needs_the_key(serve_app: Any, memo: Memo) -> None:
    """Without it the handshake is refused like any request; with it a page of any site may connect."""
    site = await serve_app(WorkflowBuilder(start_executor=memo, name="memo").build(), api_key="secret")
    for headers in ({}, {"authorization": "Bearer wrong"}):
        with pytest.raises(InvalidStatus) as refused:
            await connect(ws(site) + "/v1/responses", proxy=None, additional_headers=headers)
        assert refused.value.response.status_code == 401
        assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    right = {"authorization": "Bearer secret"}
    async with connect(ws(site) + "/v1/responses", proxy=None, additional_headers=right, origin="http://x") as socket:
        await socket.send('{"type": "response.create", "input": "x"}')
        assert json.loads(await socket.recv())["type"] == "response.created"


async def test_a_page_of_another_site_may_not_connect(dial: Dial, site: Any) -> None:
    """Browsers let every page open WebSockets to this machine; one of the host's own address may."""
    with pytest.raises(InvalidStatus) as refused:
        async with dial(origin="http://elsewhere.example"):
            pass
    assert refused.value.response.status_code == 403
    assert json.loads(refused.value.response.body)["error"]["code"] == "foreign_origin"
    async with dial(origin=site.url) as client:
        assert said(await client.turn("one")) == "one"


async def test_a_server_that_cannot_refuse_closes(memo: Memo, tmp_path: Any) -> None:
    """Without the extension for it, the answer to a wrong key is a close before the handshake is done."""
    workflow = WorkflowBuilder(start_executor=memo, name="memo").build()
    app: Starlette = create_app(workflow, f"sqlite:///{tmp_path}/a.db", settings=Settings(api_key="secret"))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "path": "/responses", "headers": [], "query_string": b"", "subprotocols": []}
    await app(scope, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]


# --- The log -------------------------------------------------------------------------------------------------------


async def test_a_turn_is_one_line_of_the_log(dial: Dial, caplog: pytest.LogCaptureFixture) -> None:
    """It tells the path, the status, the time, and which response or which error it was."""
    caplog.set_level(logging.INFO, "agent_host")
    async with dial() as client:
        await client.turn("one")
        await client.turn("x", previous_response_id="resp_1")
        await client.send([])
        await client.next()
    lines = [record.getMessage() for record in caplog.records if record.name == "agent_host.access"]
    wanted = [
        r"WS /v1/responses 200 [0-9.]+ ms resp_\w+ completed",
        r"WS /v1/responses 400 [0-9.]+ ms previous_response_not_found",
        r"WS /v1/responses 400 invalid_type",
    ]
    assert len(lines) == len(wanted)
    for line, pattern in zip(lines, wanted, strict=True):
        assert re.fullmatch(pattern, line), line
