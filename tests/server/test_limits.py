"""How many turns run and wait: beyond that requests are refused, and waiting costs neither a thread nor the order."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Never

import openai
import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, config, handler
from agent_host.errors import StoreClosedError
from agent_host.server.runs import Runs


class Gate(Executor):
    """Each turn notes that it has begun and waits until it may end."""

    begun: list[str] = config()

    def __init__(self, begun: list[str], may_end: asyncio.Semaphore) -> None:
        super().__init__("gate")
        self.begun = begun
        self.may_end = may_end

    @handler
    async def pass_through(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.begun.append(text)
        async with self.may_end:
            await ctx.yield_output(text)


def gated(begun: list[str], may_end: asyncio.Semaphore) -> Workflow:
    return WorkflowBuilder(start_executor=Gate(begun, may_end), name="gated").build()


async def test_more_turns_than_may_run_and_wait_are_refused(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, eventually: Any
) -> None:
    """The one too many gets 429 with a time to come back, and nothing of it is stored; the waiting run in order."""
    begun: list[str] = []
    may_end = asyncio.Semaphore(0)
    site = await serve_app(gated(begun, may_end), max_concurrent_turns=2, max_waiting_turns=2)
    running = []
    for name, state in zip("abcd", ("1 running, 0", "2 running, 0", "2 running, 1", "2 running, 2"), strict=True):
        running.append(asyncio.create_task(site.say(name)))
        await eventually(lambda state=state: f"{state} waiting" in repr(site.host.runs), f"{name} has come")
    with pytest.raises(openai.RateLimitError) as caught:
        await site.client.with_options(max_retries=0).responses.create(input="e")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.response.headers["retry-after"] == "5"
    for _ in range(4):
        may_end.release()
    assert [(await each).output_text for each in running] == ["a", "b", "c", "d"]
    assert begun == ["a", "b", "c", "d"]
    assert len(stored_statuses(tmp_path / "host.db")) == 4
    may_end.release()
    assert (await site.say("f")).output_text == "f"


async def ask(site: Any, text: str) -> bytes:
    """One plain turn over a connection of its own, without the weight of a client library."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    body = b'{"input": "%b"}' % text.encode()
    head = b"POST /responses HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_thousand_waiting_turns_cost_no_threads(serve_app: Any, eventually: Any) -> None:
    """They all wait in the one event loop, and all of them are answered."""
    begun: list[str] = []
    may_end = asyncio.Semaphore(0)
    site = await serve_app(gated(begun, may_end), max_concurrent_turns=500, max_waiting_turns=500)
    asked = [asyncio.create_task(ask(site, f"n{number}")) for number in range(1000)]
    await eventually(lambda: "500 running, 500 waiting" in repr(site.host.runs), "all wait")
    assert threading.active_count() < 20
    for _ in range(1000):
        may_end.release()
    answers = await asyncio.gather(*asked)
    assert all(f'"text":"n{number}"'.encode() in answer for number, answer in enumerate(answers))


async def test_going_down_refuses_turns_that_wait(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, eventually: Any
) -> None:
    """Those that have not begun get 503 so that clients try elsewhere; the one that runs ends as failed."""
    site = await serve_app(gated([], asyncio.Semaphore(0)), max_concurrent_turns=1, shutdown_grace=0.05)
    once = site.client.with_options(max_retries=0)
    running, waiting = (asyncio.create_task(once.responses.create(input=name)) for name in ("a", "b"))
    await eventually(lambda: "1 running, 1 waiting" in repr(site.host.runs), "one runs, one waits")
    await site.host.drain()
    with pytest.raises(openai.InternalServerError) as caught:
        await waiting
    assert caught.value.status_code == 503
    assert caught.value.code == "shutting_down"
    assert (await running).status == "failed"
    assert list(stored_statuses(tmp_path / "host.db").values()) == ["failed"]


# --- The places themselves ---------------------------------------------------------------------------------------


async def hold(runs: Runs, until: asyncio.Event) -> None:
    async with runs.place():
        await until.wait()


async def turns(runs: Runs, count: int) -> list[tuple["asyncio.Task[None]", asyncio.Event]]:
    made = [(asyncio.create_task(hold(runs, until)), until) for until in (asyncio.Event() for _ in range(count))]
    await asyncio.sleep(0)
    return made


async def hold_and_then(runs: Runs, until: asyncio.Event, then: Callable[[], object]) -> None:
    """Give a place back and do something in the same moment, before whoever was given it has woken up."""
    async with runs.place():
        await until.wait()
    then()


async def test_a_waiter_that_leaves_in_the_moment_of_its_turn_passes_it_on() -> None:
    """The place goes to the next in line; none is lost, and in the end all are free."""
    runs, until = Runs(1, 10), asyncio.Event()
    first = asyncio.create_task(hold_and_then(runs, until, lambda: second.cancel()))
    (second, _), (third, end_third) = await turns(runs, 2)
    until.set()
    end_third.set()
    await asyncio.wait_for(asyncio.gather(first, second, third, return_exceptions=True), 5)
    assert second.cancelled()
    assert not third.cancelled()
    assert repr(runs) == "<Runs 0 running, 0 waiting>"
    await asyncio.wait_for(runs.drain(10), 1)


async def test_the_last_waiter_that_leaves_in_the_moment_of_its_turn_frees_the_host() -> None:
    """Nobody is left, so the host can go down at once."""
    runs, until = Runs(1, 10), asyncio.Event()
    first = asyncio.create_task(hold_and_then(runs, until, lambda: second.cancel()))
    ((second, _),) = await turns(runs, 1)
    until.set()
    await asyncio.gather(first, second, return_exceptions=True)
    assert second.cancelled()
    await asyncio.wait_for(runs.drain(10), 1)


async def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    """A place that was given away is taken, even if its turn has not woken up yet."""
    runs, until, order = Runs(1, 10), asyncio.Event(), list[str]()

    async def once(name: str) -> None:
        async with runs.place():
            order.append(name)

    async def twice() -> None:
        async with runs.place():
            await until.wait()
        await once("again")

    first, second = asyncio.create_task(twice()), asyncio.create_task(once("second"))
    await asyncio.sleep(0)
    until.set()
    await asyncio.gather(first, second)
    assert order == ["second", "again"]


async def test_going_down_sends_waiters_away_and_cuts_off_the_rest() -> None:
    """Those who wait are refused at once; those who run are cut off after the grace."""
    runs = Runs(1, 10)
    (running, _), (waiting, _) = await turns(runs, 2)
    await runs.drain(0.01)
    assert running.cancelled()
    with pytest.raises(StoreClosedError):
        await waiting
    with pytest.raises(StoreClosedError):
        await hold(runs, asyncio.Event())


async def test_a_waiter_that_leaves_while_the_host_goes_down_disturbs_nothing() -> None:
    """Its place was never given to it, so it gives none back."""
    runs = Runs(1, 10)
    (running, end), (waiting, _) = await turns(runs, 2)
    draining = asyncio.create_task(runs.drain(10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert repr(runs) == "<Runs 1 running, 0 waiting, draining>"
    end.set()
    await draining
    await running
