"""The WebSocket mode: a turn over one connection, frames that are refused, who may connect, and the log."""

import asyncio
import json
import logging
import re
from typing import Any, Never

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from agent_host import WorkflowBuilder, create_app
from agent_host.settings import Settings
from tests.server.websocket_client import Dial, Memo, dial, memo, said, site, strict_event, ws

__all__ = ["dial", "memo", "site", "strict_event"]


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
    with pytest.raises(InvalidStatus) as refused:
        here = {"host": "127.0.0.1", "port": int(site.url.rpartition(":")[2]), "proxy": None}
        await connect("ws://elsewhere.example/responses", origin=Origin("http://elsewhere.example"), **here)
    assert json.loads(refused.value.response.body)["error"]["code"] == "untrusted_host"
    async with dial(origin=site.url) as client:
        assert said(await client.turn("one")) == "one"


async def test_a_server_that_cannot_refuse_closes(memo: Memo, tmp_path: Any) -> None:
    """Without the extension for it, the answer to a wrong key is a close before the handshake is done."""
    workflow = WorkflowBuilder(start_executor=memo, name="memo").build()
    app = create_app(workflow, f"sqlite:///{tmp_path}/a.db", settings=Settings(api_key="secret"))
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
