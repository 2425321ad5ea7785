"""Background turns that were left behind: what becomes of them when a host finds them."""

import asyncio
import json
import time
from typing import Any, Never

import openai
import pytest

from agent_host import (
    Executor,
    TextDelta,
    WorkflowBuilder,
    WorkflowContext,
    config,
    create_app,
    handler,
    open_store,
    response_handler,
)
from agent_host.engine.view import View
from agent_host.engine.workflow import Workflow
from agent_host.foundry.identity import Identity
from agent_host.server import background
from agent_host.server.continuation import Continuation
from agent_host.server.host import Sources
from agent_host.server.stored import stored_request
from agent_host.settings import Settings
from agent_host.stores.records import Guard, TurnInFlight
from agent_host.wire.request import parse_request
from tests.server.unsteady import UnsteadyStore

WHO = Identity("", "request-1", {"x-client-team": "blue"})


class Echo(Executor):
    """Counts in its state, and says what it heard and who asked."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.count = 0

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.count += 1
        await ctx.yield_output(f"{self.count}: {text} {dict(ctx.turn.client_headers)}")


def echoing() -> Workflow:
    return WorkflowBuilder(start_executor=Echo(), name="echoing").build()


async def left_behind(path: str, request: bytes, *, attempts: int = 0, has_begun: bool = True) -> None:
    """A store with a turn that processes had accepted and taken, and had begun with or not, when they died."""
    root = (await echoing().definition()).root
    store = open_store(path)
    await store.open()
    turn = TurnInFlight("resp_left", root.id, int(time.time()), background=True, request=request)
    await store.admit("", turn, [root])
    for number in range(attempts):
        await store.take("", "resp_left", f"process {number}", now=number * 10.0, until=number * 10.0 + 5)
        if has_begun:
            await store.begin("", Guard("resp_left", f"process {number}"), [])
    await store.aclose()


def asking(text: Any, workflow: str = "echoing", **more: Any) -> bytes:
    body = json.dumps({"input": text, "background": True, **more}).encode()
    place = View("chk_any", 0, 0, 0, {}, "")
    return stored_request(workflow, body, WHO, Continuation(place, parse_request(body).items))


async def ended(site: Any) -> Any:
    while (found := await site.client.responses.retrieve("resp_left")).status in ("queued", "in_progress"):
        await asyncio.sleep(0.01)
    return found


async def test_a_turn_that_was_only_accepted_is_taken(serve_app: Any, tmp_path: Any) -> None:
    """It runs as its request asked, headers included, and its stream begins with the beginning."""
    path = f"{tmp_path}/left.db"
    await left_behind(path, asking("hello"))
    site = await serve_app(echoing(), path)
    response = await ended(site)
    assert response.output_text == "1: hello {'x-client-team': 'blue'}"
    events = [event async for event in await site.client.responses.retrieve("resp_left", stream=True)]
    assert [event.type for event in events[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (await site.say("more", "resp_left")).output_text.startswith("2: more")


@pytest.mark.parametrize(
    ("request_bytes", "attempts", "words"),
    [
        (asking("x", "another"), 0, "the workflow 'another' is no longer served here"),
        (asking("x"), 3, "it was begun 3 times and did not come to its end"),
        (asking([{"role": "assistant", "content": "x"}]), 0, "cannot take"),
    ],
    ids=["another workflow", "three attempts", "an input it no longer takes"],
)
async def test_a_turn_that_cannot_go_on_ends_as_failed(
    serve_app: Any, tmp_path: Any, request_bytes: bytes, attempts: int, words: str
) -> None:
    """The response says why, has one last event, and can be deleted like any other."""
    path = f"{tmp_path}/left.db"
    await left_behind(path, request_bytes, attempts=attempts)
    site = await serve_app(echoing(), path)
    response = await ended(site)
    assert response.status == "failed"
    assert words in response.error.message
    events = [event async for event in await site.client.responses.retrieve("resp_left", stream=True)]
    assert [event.type for event in events].count("response.failed") == 1
    assert events[-1].response == response
    await site.client.responses.delete("resp_left")


async def test_a_turn_that_waited_while_processes_died_is_taken(serve_app: Any, tmp_path: Any) -> None:
    """Whatever killed them, it was not the turn: without a place it has run nowhere."""
    path = f"{tmp_path}/left.db"
    await left_behind(path, asking("hello"), attempts=5, has_begun=False)
    site = await serve_app(echoing(), path)
    assert (await ended(site)).output_text.startswith("1: hello")


async def test_a_host_serves_while_it_looks_for_what_was_left_behind(serve_app: Any, tmp_path: Any) -> None:
    """However many turns there are to take up, the start does not wait for them."""
    await left_behind(f"{tmp_path}/left.db", asking("hello"))
    store = UnsteadyStore(tmp_path / "left.db")
    gate = store.hold("take")
    async with asyncio.timeout(5):
        site = await serve_app(echoing(), store)
        assert (await site.http.get("/readiness")).status_code == 200
        assert (await site.say("x")).output_text.startswith("1: x")
        await gate.reached.wait()
    gate.open()
    assert (await ended(site)).output_text.startswith("1: hello")


async def test_a_turn_that_another_process_has_taken_is_left_at_once(serve_app: Any, tmp_path: Any) -> None:
    """Its first events that are refused end the work on it; nobody pays for what nobody will see."""

    class Ticking(Executor):
        @handler
        async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
            while True:
                await ctx.yield_output(TextDelta("tick "))
                await asyncio.sleep(0.01)

    site = await serve_app(WorkflowBuilder(start_executor=Ticking("ticking"), name="ticking").build())
    response = await site.say("x", background=True)
    await asyncio.sleep(0.1)
    assert len(site.host.background) == 1
    await site.host.store.take("", response.id, "another", now=0, until=time.time() + 60, by_force=True)
    async with asyncio.timeout(background.RENEW_EVERY / 2):
        while len(site.host.background):
            await asyncio.sleep(0.01)
    assert (await site.host.store.read_turn("", response.id)).status == "in_progress"


class Cashier(Executor):
    """Asks, with a limit in time; charges when it is answered."""

    def __init__(self) -> None:
        super().__init__("cashier")

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.request_info("sure?", str, expires_in=60)

    @response_handler
    async def charge(self, asked: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.send_message(f"charged {answer}")


class Passing(Executor):
    """Hands on what it hears."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.send_message(text)


class Printer(Executor):
    """Prints when the test lets it."""

    may_print: asyncio.Event = config()

    def __init__(self) -> None:
        super().__init__("printer")
        self.may_print = asyncio.Event()

    @handler
    async def print_it(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await self.may_print.wait()
        await ctx.yield_output(text)


@pytest.mark.parametrize("stopped", ["before its first superstep", "after its first superstep"])
async def test_an_answer_in_time_counts_however_late_the_turn_is_taken_up(
    serve_app: Any, tmp_path: Any, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question may have expired by the time at which the turn goes on: the answer was accepted before."""
    path, now, printer = f"{tmp_path}/till.db", [1000.0], Printer()
    cashier = Cashier()
    workflow = WorkflowBuilder(start_executor=cashier, name="till").add_edge(cashier, printer).build()
    sources = Sources(clock=lambda: now[0])
    settings = Settings(shutdown_grace=0.05)
    site = await serve_app(create_app(workflow, path, sources=sources, settings=settings))
    asked = await site.say("pay")
    answer = [{"type": "function_call_output", "call_id": asked.output[0].call_id, "output": "yes"}]
    if stopped == "before its first superstep":
        monkeypatch.setattr(site.host.background, "begin", lambda key, work, stop: work.close())
    taken = await site.client.responses.create(input=answer, previous_response_id=asked.id, background=True)
    async with asyncio.timeout(20):
        while stopped == "after its first superstep":
            turn = await site.host.store.read_turn("", taken.id)
            if turn.commit != turn.start_commit:
                break
    await site.host.aclose()
    now[0] += 100
    printer.may_print.set()
    site = await serve_app(create_app(workflow, path, sources=sources, settings=settings))
    async with asyncio.timeout(20):
        while (found := await site.client.responses.retrieve(taken.id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
    assert (found.status, found.output_text) == ("completed", "charged yes")


class Unreadable(UnsteadyStore):
    """A store that may fail to give back what a turn goes on from."""

    async def recorded(self, *arguments: Any) -> Any:
        await self._reach("recorded")
        return await super().recorded(*arguments)


async def test_a_turn_that_cannot_be_read_back_for_a_moment_is_begun_again(
    serve_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was accepted: the failure of the store is another attempt, and no failure of the turn."""
    monkeypatch.setattr(background, "LEASE", 0.1)
    monkeypatch.setattr(background, "RENEW_EVERY", 0.02)
    path, first, printer = tmp_path / "till.db", Passing("first"), Printer()
    workflow = WorkflowBuilder(start_executor=first, name="till").add_edge(first, printer).build()
    site = await serve_app(create_app(workflow, f"{path}", settings=Settings(shutdown_grace=0.05)))
    taken = await site.say("x", background=True)
    async with asyncio.timeout(20):
        while (turn := await site.host.store.read_turn("", taken.id)).commit == turn.start_commit:
            await asyncio.sleep(0.01)
    await site.host.aclose()
    printer.may_print.set()
    store = Unreadable(path)
    store.failures["recorded"] = 2
    site = await serve_app(workflow, store)
    async with asyncio.timeout(20):
        while (found := await site.client.responses.retrieve(taken.id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
    assert (found.status, found.output_text) == ("completed", "x")
    assert store.called["recorded"] == 3


@pytest.mark.parametrize("verb", ["lapsed", "read_events"])
async def test_a_store_that_fails_for_a_while_is_no_death_of_the_process(
    serve_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The turn is looked for and taken again until it goes on, and no attempt is counted; the host serves meanwhile."""
    monkeypatch.setattr(background, "RENEW_EVERY", 0.02)
    await left_behind(f"{tmp_path}/left.db", asking("hello"), attempts=2)
    store = UnsteadyStore(tmp_path / "left.db")
    store.failures[verb] = 3
    site = await serve_app(echoing(), store)
    await eventually_called(store, verb, 4)
    assert (await ended(site)).output_text.startswith("1: hello")


async def eventually_called(store: UnsteadyStore, verb: str, times: int) -> None:
    async with asyncio.timeout(5):
        while store.called[verb] < times:
            await asyncio.sleep(0.01)


async def test_a_parent_that_was_deleted_meanwhile_is_not_needed(serve_app: Any, tmp_path: Any) -> None:
    """The turn begins at the commit that was found when it was accepted."""
    path = f"{tmp_path}/left.db"
    await left_behind(path, asking("x", previous_response_id="resp_gone"))
    site = await serve_app(echoing(), path)
    response = await ended(site)
    assert (response.status, response.previous_response_id) == ("completed", "resp_gone")


async def test_what_cannot_be_read_back_is_given_up(
    serve_app: Any, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The host starts and serves others; the log names the turn, and clients hear that there is none."""
    path = f"{tmp_path}/left.db"
    await left_behind(path, b"not a request")
    site = await serve_app(echoing(), path)
    assert (await site.say("hello")).status == "completed"
    while await site.host.store.is_in_flight("", "resp_left"):
        await asyncio.sleep(0.01)
    with pytest.raises(openai.NotFoundError):
        await site.client.responses.retrieve("resp_left")
    assert "resp_left cannot be read back and is given up" in caplog.text
