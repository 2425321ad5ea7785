"""What a host forgets while it serves, and what it keeps."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import openai
import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, create_app, handler, open_store
from agent_host.foundry.identity import Identity
from agent_host.server.host import Sources
from agent_host.server.retention import EVERY, FIRST_AFTER, Retention
from agent_host.server.turns import take_turn
from agent_host.settings import DAY, Settings
from agent_host.stores.records import Freed


class Step(Executor):
    """Remembers what it heard, and waits for the gate with what begins with "wait"."""

    def __init__(self, id: str, gate: asyncio.Event | None = None) -> None:
        super().__init__(id)
        self.gate = gate
        self.notes: list[str] = []

    @handler
    async def step(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.notes.append(text)
        if self.gate is not None and text.startswith("wait"):
            await self.gate.wait()
        await ctx.send_message(text)
        if self.id == "c":
            await ctx.yield_output(" ".join(self.notes))


def stepping(gate: asyncio.Event | None = None) -> Workflow:
    a, b, c = Step("a"), Step("b"), Step("c", gate)
    return WorkflowBuilder(start_executor=a, name="stepping", output_from=[c]).add_chain([a, b, c]).build()


class Clock:
    """A time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


async def forget(site: Any) -> list[Any]:
    """Two rounds, as an hour lies between them."""
    roots = [site.host.definition.root.id]
    return [await site.host.retention.round(roots) for _ in range(2)]


async def in_background(site: Any, text: str, previous: str | None = None) -> Any:
    answer = await site.say(text, previous, background=True)
    while answer.status in ("queued", "in_progress"):
        await asyncio.sleep(0.005)
        answer = await site.client.responses.retrieve(answer.id)
    return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


async def test_after_a_month(serve_app: Any, tmp_path: Path, clock: Clock) -> None:
    """Old responses are gone; the conversation, what continued them and turns in flight go on; the store is smaller."""
    gate = asyncio.Event()
    app = create_app(stepping(gate), f"sqlite:///{tmp_path}/a.db", settings=Settings(), sources=Sources(clock))
    site = await serve_app(app)
    conversation = await site.client.conversations.create()
    await site.say("before", conversation=conversation.id)
    last = None
    for number in range(20):
        last = (await site.say(f"{number} {'x' * 3000}", last)).id
    branch = await site.say("branch")
    waiting = asyncio.create_task(site.say("wait", branch.id))
    while site.host.runs.running == 0:
        await asyncio.sleep(0.005)
    clock.now += 29 * DAY
    young = await site.say("young", last)
    before = await site.host.store.describe()
    clock.now += 2 * DAY
    first, second = await forget(site)
    assert first.responses.count == 22
    assert first.commits == Freed()
    assert second.commits.count == 20
    assert second.blobs.count > 0
    after = await site.host.store.describe()
    assert (after.responses, after.conversations) == (1, 1)
    assert sum(after.sizes.values()) < sum(before.sizes.values()) / 2
    assert after.free > before.free
    for id_ in (last, branch.id):
        with pytest.raises(openai.NotFoundError):
            await site.client.responses.retrieve(id_)
        with pytest.raises(openai.BadRequestError) as caught:
            await site.say("more", id_)
        assert caught.value.code == "previous_response_not_found"
    assert (await site.say("after", conversation=conversation.id)).output_text == "before after"
    assert (await site.say("older", young.id)).output_text.endswith("young older")
    gate.set()
    ended = await waiting
    assert ended.output_text == "branch wait"
    assert (await site.say("on", ended.id)).output_text == "branch wait on"


async def test_blobs_go_with_what_needed_them(serve_app: Any, tmp_path: Path, clock: Clock) -> None:
    """What only a deleted response needed is gone after two rounds; what a branch of it needs is not."""
    app = create_app(stepping(), f"sqlite:///{tmp_path}/a.db", settings=Settings(), sources=Sources(clock))
    site = await serve_app(app)
    one = await site.say("x" * 50_000)
    two = await site.say("y" * 50_000, one.id)
    await site.client.responses.delete(two.id)
    first, second = await forget(site)
    assert not first
    assert second.commits.count == 1
    assert 50_000 < second.blobs.size < 200_000
    assert (await site.say("z", one.id)).output_text == "x" * 50_000 + " z"


async def test_responses_are_kept_for_ever_if_wanted(serve_app: Any, tmp_path: Path, clock: Clock) -> None:
    """With 0, no age is too old."""
    settings = Settings(keep_responses=0)
    app = create_app(stepping(), f"sqlite:///{tmp_path}/a.db", settings=settings, sources=Sources(clock))
    site = await serve_app(app)
    one = await site.say("x")
    clock.now += 10_000 * DAY
    assert not any(await forget(site))
    assert (await site.say("y", one.id)).output_text == "x y"


async def test_steps_in_the_background_cost_no_more(serve_app: Any, tmp_path: Path) -> None:
    """Once its steps are pruned, a chain of background turns takes as many commits as one in the foreground, and room
    within a quarter."""
    sizes = {}
    for name, say in (("foreground", lambda s, t, p: s.say(t, p)), ("background", in_background)):
        site = await serve_app(stepping(), f"sqlite:///{tmp_path}/{name}.db")
        last = None
        for number in range(40):
            last = (await say(site, f"{number} {'x' * 300}", last)).id
        await forget(site)
        found = await site.host.store.describe()
        assert found.commits == 41
        sizes[name] = found.sizes["commits"] + found.sizes["blobs"]
    assert sizes["background"] < 1.25 * sizes["foreground"]


async def test_rounds_come_by_themselves(tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """The first comes soon after the start, then one an hour; a line tells what went, and none that nothing did."""
    slept: list[float] = []
    woken: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await woken.get()

    store = open_store(f"sqlite:///{tmp_path}/a.db")
    app = create_app(stepping(), store, sources=Sources(clock))
    host = app.state.agent_host
    await host.open()
    await _turn(host)
    retention = Retention(store, 30 * DAY, clock, sleep=sleep)
    retention.start([host.definition.root.id])
    with caplog.at_level(logging.INFO, "agent_host"):
        for _ in range(2):
            woken.put_nowait(None)
            await _until(lambda: woken.empty() and len(slept) > 1)
        clock.now += 31 * DAY
        for count in (4, 5):
            woken.put_nowait(None)
            await _until(lambda count=count: len(slept) == count)
    assert slept == [FIRST_AFTER, *[EVERY] * 4]
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("retention")]
    assert [line.partition(",")[0] for line in lines] == ["retention: 1 response", "retention: 1 commit"]
    await retention.aclose()
    await retention.aclose()
    await host.aclose()


async def test_a_round_that_fails_is_tried_again(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why, and the next round comes as if nothing had been."""
    woken: asyncio.Queue[None] = asyncio.Queue()
    store = open_store(f"sqlite:///{tmp_path}/a.db")
    retention = Retention(store, 30 * DAY, clock, sleep=lambda _: woken.get())
    retention.start([])
    for _ in range(2):
        woken.put_nowait(None)
    await _until(lambda: caplog.text.count("The store is not open") >= 2)
    assert "is tried again in 3600 s" in caplog.text
    await retention.aclose()


async def _until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def _turn(host: Any) -> Any:
    """One plain turn of an opened host, without HTTP."""

    class Quiet:
        is_stream = False

        def tell(self, events: Any) -> None: ...

        def show(self, event: Any) -> Never:
            raise AssertionError

    return await take_turn(host, b'{"input": "x"}', Identity("", "r", {}), lambda *_: Quiet())
