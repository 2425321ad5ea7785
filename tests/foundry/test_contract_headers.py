"""What stands in the headers of a hosted agent's answers, and what the agent reads in those of requests."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from agent_host.foundry.calls import call_headers, on_behalf_of

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


async def test_a_ready_agent_says_that_it_is_healthy(hosted: Any) -> None:
    """A probe needs no call id, gets 200 and JSON, and its answer belongs to no session."""
    site = await hosted("E")
    del site.http.headers["x-agent-foundry-call-id"]
    answer = await site.http.get("/readiness")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    assert answer.headers["content-type"] == "application/json"
    assert "x-agent-session-id" not in answer.headers


@pytest.mark.parametrize("path", ["/readiness", "/nowhere", "/responses", "/responses/caresp_1", "/liveness"])
async def test_every_answer_names_the_server_and_the_request(site: Any, path: str) -> None:
    """Also one of an address that does not exist."""
    answer = await site.http.get(path)
    assert re.fullmatch(r"agent-host/[\w.]+ \(python/3\.\d+\)", answer.headers["x-platform-server"])
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_a_host_of_ones_own_tells_the_platform_nothing(serve_app: Any, desk: Any) -> None:
    """Without a platform there are no platform headers, no session, no snapshot hooks, and ids begin with `resp`."""
    site = await serve_app(desk)
    answers = [await site.http.post("/responses", json={"input": "x"}), await site.http.get("/responses/resp_1")]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith(("x-platform", "x-agent"))]
    assert answers[0].json()["id"].startswith("resp_")
    assert "agent_session_id" not in answers[0].json()
    assert (await site.http.post("/_agent/before-snapshot", json={})).status_code == 404


async def test_the_request_id_is_that_of_the_trace_else_the_callers(post: Any) -> None:
    """With both, the trace wins; a trace context that is none is passed over."""
    assert (await post(input="x", headers={"x-request-id": "abc"})).headers["x-request-id"] == "abc"
    both = await post(input="x", headers={"traceparent": TRACEPARENT, "x-request-id": "zzz"})
    assert both.headers["x-request-id"] == TRACE
    for broken in (f"00-{'0' * 32}-b7ad6b7169203331-01", f"ff{TRACEPARENT[2:]}", "x"):
        answer = await post(input="x", headers={"traceparent": broken, "x-request-id": "zzz"})
        assert answer.headers["x-request-id"] == "zzz"


@pytest.mark.parametrize("path", ["/responses", "/v1/responses"])
async def test_without_a_call_id_the_platform_speaks_another_protocol(site: Any, fault: Any, path: str) -> None:
    """The answer is 501 and says which version to declare, and nothing has run."""
    del site.http.headers["x-agent-foundry-call-id"]
    answer = await site.http.post(path, json={"input": "x"})
    assert fault(answer) == (501, "unsupported_container_protocol_version", "", "platform")
    assert "2.0.0" in answer.json()["error"]["message"]


async def test_calls_made_for_a_request_carry_its_call_id_and_not_its_user(post: Any) -> None:
    """Handlers that run at the same time each have the call id of their own request, in the background too."""
    assert call_headers() == {}
    one, two = await asyncio.gather(*(post(input="call", headers={"x-agent-foundry-call-id": f"c{n}"}) for n in (1, 2)))
    told = [answer.json()["output"][0]["content"][0]["text"] for answer in (one, two)]
    assert told == [f"{ {'x-agent-foundry-call-id': call} }" for call in ("c1", "c2")]


async def test_a_websocket_needs_a_call_id_too(site: Any) -> None:
    """Without one it is refused; all turns of one that has one carry it."""
    url = f"{site.url.replace('http', 'ws')}/responses"
    with pytest.raises(InvalidStatus) as refused:
        await connect(url)
    assert refused.value.response.status_code == 501
    async with connect(url, additional_headers={"x-agent-foundry-call-id": "c3"}) as ws:
        for _ in range(2):
            await ws.send(json.dumps({"type": "response.create", "input": "call"}))
            while (event := json.loads(await ws.recv()))["type"] != "response.completed":
                pass
            assert event["response"]["output"][0]["content"][0]["text"] == "{'x-agent-foundry-call-id': 'c3'}"


async def test_a_turn_that_is_taken_up_carries_the_call_id_of_its_own_request(
    hosted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is another request that finds it left behind."""
    site = await hosted()
    seen: list[dict[str, str]] = []

    async def take(key: Any, **options: Any) -> None:
        """Nothing yet: the turn stays as one that its process has left."""

    monkeypatch.setattr(site.host.background, "take", take)
    made = (await site.http.post("/responses", json={"input": "call", "background": True})).json()
    monkeypatch.undo()
    read_events = site.host.store.read_events

    async def noting(*arguments: Any) -> Any:
        seen.append(call_headers())
        return await read_events(*arguments)

    monkeypatch.setattr(site.host.store, "read_events", noting)
    with on_behalf_of("another"):
        await site.host.settle_lapsed("ann", made["id"])
    assert seen[0] == {"x-agent-foundry-call-id": "call-1"}
    while (told := (await site.http.get(f"/responses/{made['id']}")).json())["status"] != "completed":
        await asyncio.sleep(0.02)
    assert told["output"][0]["content"][0]["text"] == "{'x-agent-foundry-call-id': 'call-1'}"


async def test_the_call_id_stands_in_no_log(post: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Not even where a turn has failed."""
    caplog.set_level("DEBUG")
    await post(input="fail", headers={"x-agent-foundry-call-id": "secret-call"})
    assert caplog.records
    assert "secret-call" not in caplog.text


async def test_the_old_user_header_names_nobody(site: Any) -> None:
    """What the first version of the protocol called a user is passed over."""
    del site.http.headers["x-agent-user-id"]
    mine = await site.http.post("/responses", json={"input": "x"}, headers={"x-agent-user-isolation-key": "u1"})
    answer = await site.http.get(f"/responses/{mine.json()['id']}", headers={"x-agent-user-isolation-key": "u2"})
    assert (mine.status_code, answer.status_code) == (200, 200)


async def test_a_stream_is_an_event_stream_that_nobody_keeps_back(post: Any, sse_events: Any) -> None:
    """Its headers forbid caches and buffers; its numbers have no gap; its end is its last event, without `[DONE]`."""
    answer = await post(input="x", stream=True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    events = sse_events(answer.text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.completed")
    assert "[DONE]" not in answer.text


async def test_a_silent_stream_is_kept_alive_by_comments(serve: Any, tmp_path: Path) -> None:
    """The platform's variable says after how many seconds, and 0 switches the comments off."""
    program = tmp_path / "slow.py"
    program.write_text(SLOW)
    counts = []
    for seconds in ("1", "0"):
        host = serve(f"{program}:workflow", env={"SSE_KEEPALIVE_INTERVAL": seconds})
        with host.client.with_streaming_response.responses.create(input="x", stream=True) as answer:
            counts.append(answer.read().count(b": keep-alive\n\n"))
        host.stop()
    assert counts == [1, 0]


SLOW = """
import asyncio
from typing import Never
from agent_host import WorkflowBuilder, WorkflowContext, executor

@executor
async def slow(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await asyncio.sleep(1.6)
    await ctx.yield_output(text)

workflow = WorkflowBuilder(start_executor=slow, name="slow").build()
"""
