"""More than the host can take: it refuses before anything has happened, in order, and does not fall over."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Never, TypeVar

import pytest

from agent_host import Executor, TextDelta, Workflow, WorkflowBuilder, WorkflowContext, config, handler
from agent_host.stores.database import Connection
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase

T = TypeVar("T")


class Gate(Executor):
    """Notes that a turn has begun, and waits until it may end; or speaks many, or long, deltas."""

    begun: list[str] = config()
    may_end: asyncio.Semaphore = config()

    def __init__(self, begun: list[str], may_end: asyncio.Semaphore) -> None:
        super().__init__("gate")
        self.begun = begun
        self.may_end = may_end

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        kind, _, number = text.partition(" ")
        if kind == "deltas":
            for index in range(int(number)):
                await ctx.yield_output(TextDelta(f"{index % 10}"))
                if index % 100 == 0:
                    await asyncio.sleep(0)
        elif kind == "long":
            await ctx.yield_output(TextDelta("x" * int(number)))
        else:
            self.begun.append(text)
            async with self.may_end:
                await ctx.yield_output(text)


class Counted(SqliteDatabase):
    """Counts the transactions that are asked for."""

    asked = 0

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        self.asked += 1
        return await super().write(fn, then)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        self.asked += 1
        return await super().read(fn)


@pytest.fixture
def begun() -> list[str]:
    return []


@pytest.fixture
def may_end() -> asyncio.Semaphore:
    return asyncio.Semaphore(0)


@pytest.fixture
def workflow(begun: list[str], may_end: asyncio.Semaphore) -> Workflow:
    return WorkflowBuilder(start_executor=Gate(begun, may_end), name="gated").build()


@pytest.fixture
def database(tmp_path: Any) -> Counted:
    return Counted(f"{tmp_path}/host.db")


async def test_a_refused_turn_touches_nothing(
    serve_app: Any, workflow: Workflow, database: Counted, may_end: asyncio.Semaphore, eventually: Any
) -> None:
    """At ten times the load all kinds of turns get 429 with a time to come back; the store is not even read."""
    site = await serve_app(workflow, SqlStore(database), max_concurrent_turns=2, max_waiting_turns=2)
    asked = [asyncio.create_task(site.say(str(number))) for number in range(4)]
    await eventually(lambda: "2 running, 2 waiting" in repr(site.host.runs), "the host is full")
    before = database.asked
    kinds: list[dict[str, Any]] = [{}, {"stream": True}, {"background": True}, {"previous_response_id": "resp_1"}]
    answers = await asyncio.gather(
        *(
            site.http.post("/responses", json={"input": "x", **kinds[n % 4]}, headers={"idempotency-key": f"{n % 3}"})
            for n in range(40)
        )
    )
    assert [answer.status_code for answer in answers] == [429] * 40
    assert {answer.headers["retry-after"] for answer in answers} == {"5"}
    assert {answer.json()["error"]["code"] for answer in answers} == {"rate_limit_exceeded"}
    assert database.asked == before
    for _ in asked:
        may_end.release()
    assert [(await each).output_text for each in asked] == ["0", "1", "2", "3"]


async def test_background_turns_that_come_together_are_counted_together(
    serve_app: Any, workflow: Workflow, begun: list[str], may_end: asyncio.Semaphore, eventually: Any
) -> None:
    """Of forty at once those are accepted that may run and wait, and all of these are finished, first come first."""
    site = await serve_app(workflow, max_concurrent_turns=1, max_waiting_turns=3)
    answers = await asyncio.gather(
        *(site.http.post("/responses", json={"input": f"{n}", "background": True}) for n in range(40))
    )
    accepted = [answer.json()["id"] for answer in answers if answer.status_code == 200]
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 36
    for _ in accepted:
        may_end.release()
    await eventually(lambda: site.host.runs.running == 0 and len(begun) == 4, "all have run")
    for response_id in accepted:
        assert (await site.client.responses.retrieve(response_id)).status == "completed"


async def test_foreground_and_background_turns_wait_in_one_line(
    serve_app: Any, workflow: Workflow, begun: list[str], may_end: asyncio.Semaphore, eventually: Any
) -> None:
    """Neither kind overtakes the other."""
    site = await serve_app(workflow, max_concurrent_turns=1)
    asked = []
    for number in range(6):
        asked.append(asyncio.create_task(site.say(str(number), background=number % 2 == 1)))
        await eventually(lambda number=number: f" {number} waiting" in repr(site.host.runs), f"{number} has come")
    for _ in asked:
        may_end.release()
    await asyncio.gather(*asked)
    await eventually(lambda: site.host.runs.running == 0, "all have run")
    assert begun == ["0", "1", "2", "3", "4", "5"]


async def test_a_body_that_comes_slowly_takes_no_place(
    serve_app: Any, workflow: Workflow, may_end: asyncio.Semaphore, eventually: Any
) -> None:
    """Others are served while it comes, and when it is complete it is served too."""
    site = await serve_app(workflow, max_concurrent_turns=1, max_waiting_turns=0)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    writer.write(b"POST /responses HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 17\r\n\r\n")
    writer.write(b'{"input":')
    await writer.drain()
    may_end.release()
    assert (await site.say("quick")).output_text == "quick"
    writer.write(b' "slow"}')
    may_end.release()
    assert b'"text":"slow"' in await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("background", [False, True])
async def test_the_cost_of_ten_thousand_tiny_deltas(
    serve_app: Any, workflow: Workflow, database: Counted, sse_events: Any, background: bool
) -> None:
    """Each is one event and none a transaction of its own; in the background they are written together."""
    site = await serve_app(workflow, SqlStore(database))
    await site.http.post("/responses", json={"input": "deltas 1"})
    before = database.transactions
    body = {"input": "deltas 10000", "stream": True, "background": background}
    events = sse_events((await site.http.post("/responses", json=body)).text)
    transactions = database.transactions - before
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds.count("response.output_text.delta") == 10_000
    assert len(kinds) == 10_000 + (9 if background else 8)
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "0123456789" * 1000
    assert transactions == 1 if not background else transactions < 250


async def test_one_huge_output(serve_app: Any, workflow: Workflow) -> None:
    """Twenty megabytes in one delta reach the client whole, live and from the store, without a second transaction."""
    size = 20_000_000
    site = await serve_app(workflow)
    async with site.http.stream("POST", "/responses", json={"input": f"long {size}", "stream": True}) as answer:
        text = b"".join([piece async for piece in answer.aiter_bytes()])
    *_, last = text.rstrip().split(b"\n\n")
    response = json.loads(last.partition(b"data: ")[2])["response"]
    assert text.endswith(b"\n\n")
    assert len(response["output"][0]["content"][0]["text"]) == size
    assert (await site.http.get(f"/responses/{response['id']}")).json() == response
