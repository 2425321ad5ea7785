"""What a turn costs the store: counts, not times."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.running.lane import Lane
from agent_host.stores.database import Connection, Cursor
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase

T = TypeVar("T")


class Counted:
    """A connection that notes the first words of every statement."""

    def __init__(self, connection: Connection, statements: list[str]) -> None:
        self._connection = connection
        self._statements = statements

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        self._statements.append(" ".join(sql.split()[:3]))
        return self._connection.execute(sql, parameters)


class CountingDatabase(SqliteDatabase):
    """A database that notes the statements of its transactions."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.statements: list[str] = []

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        return await super().write(lambda connection: fn(Counted(connection, self.statements)), then)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        return await super().read(lambda connection: fn(Counted(connection, self.statements)))


class Step(Executor):
    def __init__(self, id: str, barrier: asyncio.Barrier | None = None) -> None:
        super().__init__(id)
        self.barrier = barrier
        self.notes: list[str] = []

    @handler
    async def step(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.notes.append(text)
        ctx.set_state(self.id, len(self.notes))
        if self.barrier is not None and text.startswith("together"):
            await self.barrier.wait()
        await ctx.send_message(text)
        if self.id == "c":
            await ctx.yield_output(f"{len(self.notes)}")


def stepping(barrier: asyncio.Barrier | None = None) -> Workflow:
    a, b, c = Step("a"), Step("b"), Step("c", barrier)
    return WorkflowBuilder(start_executor=a, name="stepping", output_from=[c]).add_chain([a, b, c]).build()


async def test_a_turn_is_one_write_transaction(serve_app: Any, tmp_path: Any) -> None:
    """However many supersteps and executors took part, first turn or later, plain or streamed: one each."""
    database = SqliteDatabase(str(tmp_path / "a.db"))
    site = await serve_app(stepping(), SqlStore(database))
    before = (database.transactions, database.commands)
    last = None
    for number in range(1, 11):
        answer = await site.say("x", last, stream=number % 2 == 0)
        if number % 2 == 0:
            answer = [event async for event in answer][-1].response
        last = answer.id
        assert (database.transactions - before[0], database.commands - before[1]) == (number, number)


async def test_the_statements_of_a_turn(serve_app: Any, tmp_path: Any) -> None:
    """A turn without a conversation reads nothing before it runs, and what ends it is a handful of statements."""
    database = CountingDatabase(str(tmp_path / "a.db"))
    site = await serve_app(stepping(), SqlStore(database))
    await site.say("x")
    database.statements.clear()
    await site.say("x")
    assert database.statements == [
        "INSERT INTO responses",
        "INSERT INTO item_places",  # the user's message
        "INSERT INTO item_places",  # the answer
        "SELECT kind FROM",  # the commit that it continues
        "INSERT INTO commits",
    ]


async def test_a_turn_opens_one_lane(serve_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executors are cloned once for a turn, also if it continues another."""
    opened: list[str] = []
    original = Lane.open.__func__  # type: ignore[attr-defined]  # a classmethod's function

    async def counted(cls: type[Lane], *arguments: Any) -> Lane:
        opened.append(arguments[0])
        lane: Lane = await original(cls, *arguments)
        return lane

    monkeypatch.setattr(Lane, "open", classmethod(counted))
    site = await serve_app(stepping(), SqlStore(SqliteDatabase(str(tmp_path / "a.db"))))
    one = await site.say("x")
    two = await site.say("x", one.id)
    assert opened == [one.id, two.id]


async def test_reading_and_refusing_write_nothing(serve_app: Any, tmp_path: Any) -> None:
    """Neither GET nor a refused request nor an unstored turn is a transaction."""
    database = SqliteDatabase(str(tmp_path / "a.db"))
    site = await serve_app(stepping(), SqlStore(database))
    one = await site.say("x")
    before = database.transactions
    await site.client.responses.retrieve(one.id)
    await site.say("x", one.id, store=False)
    assert (await site.http.post("/responses", json={"input": 1})).status_code == 400
    assert (
        await site.http.post("/responses", json={"input": "x", "previous_response_id": "resp_1"})
    ).status_code == 400
    assert database.transactions == before


async def test_turns_that_end_together_share_transactions(serve_app: Any, tmp_path: Any) -> None:
    """32 turns are 32 commands in fewer COMMITs."""
    database = SqliteDatabase(str(tmp_path / "a.db"))
    site = await serve_app(stepping(asyncio.Barrier(32)), SqlStore(database))
    transactions, commands = database.transactions, database.commands
    await asyncio.gather(*(site.say(f"together{number}") for number in range(32)))
    assert database.commands - commands == 32
    assert database.transactions - transactions < 32
