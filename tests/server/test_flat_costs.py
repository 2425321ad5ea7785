"""A turn costs the same however long its conversation is: counts, not times."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler, state
from agent_host.engine.executors.template import Template
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.encoding import Body
from agent_host.server import background
from agent_host.stores.database import Connection, Cursor
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from agent_host.wire import sse
from tests.server.test_transactions import stepping

T = TypeVar("T")

WINDOW = 64
"""So many turns bring one commit that holds everything twice, and one full index of a long list."""


@dataclass
class Costs:
    """What was asked of the database, the codec and the executors."""

    statements: int = 0
    bytes: int = 0
    blobs: int = 0
    encodes: int = 0
    values: int = 0
    clones: int = 0

    def taken(self) -> "Costs":
        """What there is, which is counted from zero again."""
        now = Costs(**vars(self))
        vars(self).update(vars(Costs()))
        return now


class CostedConnection:
    """A connection whose statements are counted, with the bytes that are given to them."""

    def __init__(self, connection: Connection, costs: Costs) -> None:
        self._connection = connection
        self._costs = costs

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        self._costs.statements += 1
        self._costs.bytes += sum(len(one) for one in parameters if isinstance(one, str | bytes))
        self._costs.blobs += sql.startswith("INSERT INTO blobs")
        return self._connection.execute(sql, parameters)


class CostedDatabase(SqliteDatabase):
    """A database that counts what is asked of it."""

    def __init__(self, path: str, costs: Costs) -> None:
        super().__init__(path)
        self._costs = costs

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        return await super().write(lambda connection: fn(CostedConnection(connection, self._costs)), then)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        return await super().read(lambda connection: fn(CostedConnection(connection, self._costs)))


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Counts the encodes of cells, the values walked for them, and the clones of executors.

    The host looks after background turns by the clock, which is no cost of a turn, so it does not here.
    """
    costs = Costs()
    monkeypatch.setattr(background, "RENEW_EVERY", 3600)

    def counted(owner: type, name: str, field: str) -> None:
        original = getattr(owner, name)

        def count(*arguments: Any, **named: Any) -> Any:
            setattr(costs, field, getattr(costs, field) + 1)
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, count)

    counted(Codec, "encode", "encodes")
    counted(Body, "tree", "values")
    counted(Template, "clone", "clones")
    return costs


class Memory(Executor):
    history: list[str] = state(factory=list)

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.history.append(text)
        await ctx.yield_output(f"{len(self.history)}")


class HookedMemory(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.history: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.history.append(text)
        await ctx.yield_output(f"{len(self.history)}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"history": self.history}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.history = state["history"]


def remembering(memory: Executor) -> Workflow:
    return WorkflowBuilder(start_executor=memory, name="remembering").build()


async def chain(site: Any, turns: int, costs: Costs, *, conversation: str | None = None) -> list[Costs]:
    """The costs of each of several turns of 2 KB, of which each continues the one before it."""
    each = []
    previous: str | None = None
    for turn in range(1, turns + 1):
        body: dict[str, Any] = {"input": f"{turn:05}" * 400}
        if conversation is not None:
            body["conversation"] = conversation
        elif previous is not None:
            body["previous_response_id"] = previous
        costs.taken()
        answer = (await site.http.post("/responses", json=body)).json()
        each.append(costs.taken())
        assert answer["output"][0]["content"][0]["text"] == f"{turn}"
        previous = answer["id"]
    return each


def assert_flat(each: list[Costs]) -> None:
    """The last window of turns costs what the second one did; the first fills what is kept in memory."""
    early, late = each[WINDOW : 2 * WINDOW], each[-WINDOW:]
    assert {one.statements - one.blobs for one in late} == {one.statements - one.blobs for one in early}
    assert {one.clones for one in late} == {one.clones for one in early} == {1}
    assert max(one.encodes for one in late) <= max(one.encodes for one in early)
    for name in ("bytes", "blobs", "values"):
        before, after = (sum(getattr(one, name) for one in window) for window in (early, late))
        assert after < 1.2 * before, f"{name}: {before} in {WINDOW} early turns, {after} in late ones"


@pytest.mark.parametrize("memory", [Memory, HookedMemory])
async def test_a_chain_of_a_thousand_turns_costs_the_same_to_its_end(
    serve_app: Any, tmp_path: Any, costs: Costs, memory: type[Executor]
) -> None:
    """Statements, bytes, blobs, encodes and clones of a turn do not grow, with state by default and with hooks.

    On disk all of them, with requests, responses and state, take less than 10 MB.
    """
    site = await serve_app(remembering(memory("memory")), SqlStore(CostedDatabase(str(tmp_path / "a.db"), costs)))
    each = await chain(site, 1000, costs)
    assert_flat(each)
    assert_flat(each[:200])
    await site.host.aclose()
    assert (tmp_path / "a.db").stat().st_size < 10_000_000


async def test_a_conversation_of_two_hundred_turns_costs_the_same_to_its_end(
    serve_app: Any, tmp_path: Any, costs: Costs
) -> None:
    """The same holds for turns that name a conversation, whose items stand in a list of their own."""
    site = await serve_app(remembering(Memory("memory")), SqlStore(CostedDatabase(str(tmp_path / "a.db"), costs)))
    conversation = (await site.http.post("/conversations", json={})).json()
    each = await chain(site, 200, costs, conversation=conversation["id"])
    assert_flat(each)


async def test_messages_that_cannot_change_are_encoded_only_for_a_commit(serve_app: Any, costs: Costs) -> None:
    """A turn of three supersteps encodes six cells: of each executor its notes, twice, and its key of shared state."""
    site = await serve_app(stepping())
    first = await site.say("x")
    costs.taken()
    await site.say("x", first.id)
    spent = costs.taken()
    assert (spent.clones, spent.encodes) == (3, 6)


async def test_an_event_of_a_stream_is_encoded_once(serve_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream has as many JSON encodes as events, a plain answer none."""
    events: list[dict[str, Any]] = []
    original = sse.encode

    def counted(event: dict[str, Any]) -> bytes:
        events.append(event)
        return original(event)

    monkeypatch.setattr(sse, "encode", counted)
    site = await serve_app(stepping())
    await site.say("x")
    assert events == []
    seen = [event async for event in await site.say("x", stream=True)]
    assert [event["type"] for event in events] == [event.type for event in seen]


async def test_calls_that_run_one_at_a_time_need_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of executors runs in the caller's task; a fan-out has one for each of its executors."""
    made: list[str] = []
    loop = asyncio.get_running_loop()
    original = loop.create_task

    def counted(work: Any, **named: Any) -> Any:
        made.append(work.__qualname__)
        return original(work, **named)

    split, joined = Pass("split"), Join("join")
    wide = [Pass(f"w{number}") for number in range(5)]
    flow = (
        WorkflowBuilder(start_executor=split, name="wide")
        .add_fan_out_edges(split, wide)
        .add_fan_in_edges(wide, joined)
        .build()
    )
    await flow.run("x")
    monkeypatch.setattr(loop, "create_task", counted)
    assert (await flow.run("x")).get_outputs() == ["xxxxx"]
    assert len(made) == len(wide)


class Pass(Executor):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)


class Join(Executor):
    @handler
    async def take(self, texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output("".join(texts))
