"""Idempotency keys: the same request under the same key is one turn, whenever it comes again."""

import asyncio
import json
from typing import Any, Never

import openai
import pytest

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler
from agent_host.server.app import create_app
from agent_host.server.host import Sources
from agent_host.settings import Settings
from agent_host.wire.request import parse_request


class Counting(Executor):
    """Counts its turns beside the workflow, and waits when told to."""

    def __init__(self, gate: asyncio.Event) -> None:
        super().__init__("counting")
        self.gate = gate
        self.turns: list[str] = []

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        COUNTED.append(text)
        if text == "wait":
            await self.gate.wait()
        if text == "fail":
            raise ValueError("failed")
        await ctx.yield_output(f"{text} {len(COUNTED)}")


COUNTED: list[str] = []


@pytest.fixture
async def site(serve_app: Any) -> Any:
    COUNTED.clear()
    gate = asyncio.Event()
    found = await serve_app(WorkflowBuilder(start_executor=Counting(gate), name="counting").build())
    found.gate = gate
    return found


def under(key: str) -> dict[str, Any]:
    return {"extra_headers": {"Idempotency-Key": key}}


async def test_a_finished_request_is_answered_again(site: Any) -> None:
    """Plain and as a stream: the same response, and the workflow ran once."""
    first = await site.say("one", **under("k"))
    again = await site.say("one", **under("k"))
    assert again == first
    events = [event async for event in await site.client.responses.create(input="two", stream=True, **under("s"))]
    replayed = [event async for event in await site.client.responses.create(input="two", stream=True, **under("s"))]
    assert replayed == events
    assert COUNTED == ["one", "two"]


async def test_a_running_request_is_joined(site: Any) -> None:
    """Three at once are one turn; all three hear its end."""
    tasks = [asyncio.create_task(site.say("wait", **under("k"))) for _ in range(3)]
    await asyncio.sleep(0.1)
    site.gate.set()
    responses = await asyncio.gather(*tasks)
    assert len({response.id for response in responses}) == 1
    assert COUNTED == ["wait"]


async def test_a_request_that_waits_for_a_place_is_joined(serve_app: Any, eventually: Any) -> None:
    """Two that have waited for a place are one turn, also if the first has ended when the second gets its place."""
    COUNTED.clear()
    gate = asyncio.Event()
    workflow = WorkflowBuilder(start_executor=Counting(gate), name="counting").build()
    site = await serve_app(workflow, max_concurrent_turns=1)
    busy = asyncio.create_task(site.say("wait"))
    await eventually(lambda: COUNTED, "one runs")
    talk = (await site.client.conversations.create()).id
    first, second = (asyncio.create_task(site.say("pay", conversation=talk, **under("k"))) for _ in range(2))
    await eventually(lambda: "2 waiting" in repr(site.host.runs), "two wait")
    gate.set()
    assert (await first).id == (await second).id
    assert (await busy).status == "completed"
    assert COUNTED == ["wait", "pay"]


async def test_a_background_request_is_joined(site: Any) -> None:
    """The second request gets the response as it is now, and can follow it as a stream."""
    first = await site.say("wait", background=True, **under("k"))
    again = await site.say("wait", background=True, **under("k"))
    assert again.id == first.id
    assert again.status in ("queued", "in_progress")
    site.gate.set()
    while (await site.client.responses.retrieve(first.id)).status != "completed":
        await asyncio.sleep(0.01)
    assert (await site.say("wait", background=True, **under("k"))).status == "completed"
    assert COUNTED == ["wait"]


async def test_another_request_under_the_key_is_refused(site: Any) -> None:
    """A 400 that says so, and nothing ran; a different order of keys in the body is the same request."""
    await site.say("one", **under("k"))
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("two", **under("k"))
    assert caught.value.code == "idempotency_mismatch"
    assert COUNTED == ["one"]
    headers = {"Idempotency-Key": "order"}
    bodies = ['{"input": "three", "metadata": {}}', '{"metadata": {}, "input": "three"}']
    ids = [(await site.http.post("/v1/responses", content=body, headers=headers)).json()["id"] for body in bodies]
    assert ids[0] == ids[1]


async def test_a_failed_turn_is_told_again_as_failed(site: Any) -> None:
    """The failure is the response of that key; a new key tries again."""
    first = await site.say("fail", **under("k"))
    again = await site.say("fail", **under("k"))
    assert first.status == again.status == "failed"
    assert first.id == again.id
    assert COUNTED == ["fail"]


async def test_a_turn_that_is_not_stored_has_no_key(site: Any) -> None:
    """There is nothing to give again, so each request is a turn."""
    await site.say("one", store=False, **under("k"))
    await site.say("one", store=False, **under("k"))
    assert COUNTED == ["one", "one"]


async def test_a_key_that_is_too_long_is_refused(site: Any) -> None:
    """A 400 that names the header."""
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("one", **under("k" * 257))
    assert caught.value.param == "idempotency-key"


async def test_a_key_is_forgotten_after_a_day(serve_app: Any, tmp_path: Any) -> None:
    """From then on it stands for a new request."""
    COUNTED.clear()
    now = [1_000_000.0]
    workflow = WorkflowBuilder(start_executor=Counting(asyncio.Event()), name="counting").build()
    app = create_app(workflow, f"{tmp_path}/k.db", settings=Settings(), sources=Sources(clock=lambda: now[0]))
    site = await serve_app(app)
    first = await site.say("one", **under("k"))
    now[0] += 24 * 3600 - 1
    assert (await site.say("one", **under("k"))).id == first.id
    now[0] += 2
    second = await site.say("one", **under("k"))
    assert second.id != first.id
    assert (await site.say("one", **under("k"))).id == second.id


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_whose_first_one_has_vanished_is_the_first_one(
    site: Any, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """It waited for a turn whose process has died without a trace; the client need not send it once more."""
    find_key, looks, body = site.host.store.find_key, [], json.dumps({"input": "one", "stream": stream}).encode()

    async def found_once(user: str, key: str, since: float) -> Any:
        looks.append(key)
        fingerprint = parse_request(body).fingerprint
        return (fingerprint, "resp_gone") if len(looks) == 1 else await find_key(user, key, since)

    monkeypatch.setattr(site.host.store, "find_key", found_once)
    answer = await site.http.post("/responses", content=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 200
    assert "one 1" in answer.text
    assert COUNTED == ["one"]
