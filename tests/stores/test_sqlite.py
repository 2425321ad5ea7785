"""The SQLite database: one writer with group commit, callers that may be cancelled, a bounded write-ahead log."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent_host.errors import CheckpointDecodeError, StoreError
from agent_host.stores.database import Connection
from agent_host.stores.records import ConversationMove, OpenCall
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from agent_host.testing.commit_log_contract import BODY, ROOT, child
from agent_host.testing.records import conversation, foreground, item, response
from agent_host.testing.turn_contract import KEY


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    database = SqliteDatabase(f"{tmp_path}/t.db")
    await database.open()
    await database.write(lambda connection: connection.execute("CREATE TABLE numbers (n INTEGER UNIQUE)").rowcount)
    yield database
    await database.aclose()


def insert(number: int) -> Callable[[Connection], int]:
    return lambda connection: connection.execute("INSERT INTO numbers VALUES (?)", (number,)).rowcount


def numbers(connection: Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM numbers ORDER BY n").fetchall()]


class Stopper:
    """A command that holds the writer until it is released."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = threading.Event()
        self.release = threading.Event()

    def __call__(self, connection: Connection) -> int:
        rowcount = insert(self.number)(connection)
        self.begun.set()
        assert self.release.wait(10)
        return rowcount


async def hold(database: SqliteDatabase, stopper: Stopper) -> asyncio.Task[int]:
    task = asyncio.create_task(database.write(stopper))
    assert await asyncio.to_thread(stopper.begun.wait, 10)
    return task


async def turns_of_the_loop(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_writers_that_wait_share_one_commit(database: SqliteDatabase) -> None:
    """Thirty-two writers that wait for a busy writer need one transaction, not thirty-two."""
    before = database.transactions
    stopper = Stopper(0)
    first = await hold(database, stopper)
    rest = [asyncio.create_task(database.write(insert(number))) for number in range(1, 33)]
    await turns_of_the_loop()
    stopper.release.set()
    assert await asyncio.gather(first, *rest) == [1] * 33
    assert database.transactions == before + 2


async def test_concurrent_writers_need_fewer_commits_than_they_are(database: SqliteDatabase) -> None:
    """Without any help by the test, too."""
    before = database.transactions
    await asyncio.gather(*(database.write(insert(number)) for number in range(32)))
    assert database.transactions - before < 32


async def test_a_failing_command_leaves_its_batch_alone(database: SqliteDatabase) -> None:
    """In one batch, what a failing command wrote before it failed is undone; its neighbours' rows stay."""

    def fails_after_writing(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers VALUES (666)")
        raise LookupError("mine")

    stopper = Stopper(0)
    first = await hold(database, stopper)
    rest = [
        asyncio.create_task(database.write(command))
        for command in (insert(1), fails_after_writing, insert(2), insert(1), insert(3))
    ]
    await turns_of_the_loop()
    stopper.release.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, LookupError, int, StoreError, int]
    assert await database.read(numbers) == [0, 1, 2, 3]


async def test_a_failing_command_alone_changes_nothing(database: SqliteDatabase) -> None:
    """A batch of one needs no savepoint and is undone all the same."""

    def fails_after_writing(connection: Connection) -> None:
        connection.execute("INSERT INTO numbers VALUES (666)")
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.write(fails_after_writing)
    assert await database.read(numbers) == []


async def test_a_full_disk_changes_nothing(database: SqliteDatabase) -> None:
    """Writes that find no space raise a `StoreError` that says so; small ones beside them and later ones succeed."""

    def limit(connection: Connection) -> int:
        return int(connection.execute("PRAGMA max_page_count = 60").fetchone()[0])

    def fill(connection: Connection) -> None:
        connection.execute("CREATE TABLE big (body BLOB)")
        connection.execute("INSERT INTO big VALUES (zeroblob(1000000))")

    await database.write(limit)
    stopper = Stopper(0)
    first = await hold(database, stopper)
    rest = [asyncio.create_task(database.write(command)) for command in (insert(1), fill, insert(2))]
    await turns_of_the_loop()
    stopper.release.set()
    results = await asyncio.gather(first, *rest, return_exceptions=True)
    assert [type(result) for result in results] == [int, int, StoreError, int]
    assert "No space is left" in str(results[2])
    assert await database.read(numbers) == [0, 1, 2]
    with pytest.raises(StoreError, match="No space is left"):
        await database.write(fill)
    assert await database.write(insert(3)) == 1


async def test_a_cancelled_caller_returns_after_its_transaction(database: SqliteDatabase) -> None:
    """Cancelled three times while the transaction runs, the caller waits for its end and is then cancelled."""
    stopper = Stopper(7)
    task = await hold(database, stopper)
    for _ in range(3):
        task.cancel()
        await turns_of_the_loop()
        assert not task.done()
    stopper.release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.read(numbers) == [7]


async def test_a_caller_cancelled_in_the_queue_returns_after_its_transaction(database: SqliteDatabase) -> None:
    """A command that still waits is not taken back: it runs, and only then the cancellation is raised."""
    stopper = Stopper(0)
    first = await hold(database, stopper)
    waiting = asyncio.create_task(database.write(insert(1)))
    await turns_of_the_loop()
    waiting.cancel()
    await turns_of_the_loop()
    assert not waiting.done()
    stopper.release.set()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await first == 1
    assert await database.read(numbers) == [0, 1]


async def test_a_cancelled_caller_whose_command_fails_is_cancelled(database: SqliteDatabase) -> None:
    """The cancellation wins over the error, and nothing is stored."""
    await database.write(insert(1))
    stopper = Stopper(1)
    stopper.release.set()
    task = asyncio.create_task(database.write(stopper))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await database.read(numbers) == [1]


async def test_a_timeout_ends_after_the_transaction(database: SqliteDatabase) -> None:
    """`asyncio.timeout` cancels natively: it is raised as TimeoutError, but not before the row is there."""
    stopper = Stopper(5)
    threading.Timer(0.05, stopper.release.set).start()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await database.write(stopper)
    assert await database.read(numbers) == [5]


async def test_a_reader_cannot_write(database: SqliteDatabase) -> None:
    """A function that writes where it should read is an error, not a second writer."""
    with pytest.raises(StoreError):
        await database.read(insert(1))
    assert await database.read(numbers) == []


async def test_reads_do_not_wait_for_the_writer(database: SqliteDatabase) -> None:
    """While a transaction runs, reads answer from the state before it."""
    stopper = Stopper(1)
    task = await hold(database, stopper)
    assert await database.read(numbers) == []
    stopper.release.set()
    await task
    assert await database.read(numbers) == [1]


async def test_two_event_loops_share_a_database(database: SqliteDatabase) -> None:
    """Each caller is answered in its own loop."""

    def in_another_loop() -> list[int]:
        async def write_some() -> list[int]:
            return await asyncio.gather(*(database.write(insert(number)) for number in range(10, 20)))

        return asyncio.run(write_some())

    other = asyncio.create_task(asyncio.to_thread(in_another_loop))
    await asyncio.gather(*(database.write(insert(number)) for number in range(10)))
    assert await other == [1] * 10
    assert await database.read(numbers) == list(range(20))


async def test_the_log_is_emptied_when_nobody_writes(tmp_path: Path) -> None:
    """Some time after the last write the write-ahead log has no length."""
    database = SqliteDatabase(f"{tmp_path}/t.db", idle_seconds=0.01)
    await database.open()
    log = tmp_path / "t.db-wal"
    await database.write(lambda connection: connection.execute("CREATE TABLE t (x)").rowcount)
    async with asyncio.timeout(10):
        while log.stat().st_size:
            await asyncio.sleep(0.01)
    await database.aclose()
    assert not log.exists()


async def test_the_log_is_emptied_when_it_is_long(tmp_path: Path) -> None:
    """Under steady writing the write-ahead log stays near its limit; an open read only delays that."""
    database = SqliteDatabase(f"{tmp_path}/t.db", idle_seconds=3600, longest_log=100_000)
    await database.open()
    log = tmp_path / "t.db-wal"
    await database.write(lambda connection: connection.execute("CREATE TABLE t (x)").rowcount)
    reader = sqlite3.connect(f"{tmp_path}/t.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM t").fetchall()
    for _ in range(40):
        await database.write(lambda connection: connection.execute("INSERT INTO t VALUES (zeroblob(5000))").rowcount)
    assert log.stat().st_size > 200_000
    reader.execute("ROLLBACK")
    reader.close()
    for _ in range(40):
        await database.write(lambda connection: connection.execute("INSERT INTO t VALUES (zeroblob(5000))").rowcount)
    assert log.stat().st_size < 150_000
    await database.aclose()


async def test_what_is_flushed(database: SqliteDatabase) -> None:
    """The writer flushes at every commit and never copies the log back inside one."""

    def settings(connection: Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "wal_autocheckpoint", "busy_timeout")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await database.write(settings) == ["wal", 2, 1, 0, 10_000]


async def test_a_database_shows_its_state(tmp_path: Path) -> None:
    """The repr tells the file, the state and how many commands shared how many transactions."""
    database = SqliteDatabase(f"{tmp_path}/t.db")
    assert repr(database) == f"<SqliteDatabase {tmp_path}/t.db new, 0 commands in 0 transactions>"
    await database.open()
    await database.write(numbers_table)
    assert repr(SqlStore(database)) == f"<SqlStore <SqliteDatabase {tmp_path}/t.db open, 1 commands in 1 transactions>>"
    await database.aclose()
    assert "closed" in repr(database)


def numbers_table(connection: Connection) -> None:
    connection.execute("CREATE TABLE numbers (n)")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("UPDATE blobs SET body = x'00' WHERE user_id = ''", "Blob [0-9a-f]{32} is damaged"),
        ("UPDATE commits SET delta = x'c1' WHERE id = 'chk_two'", "Commit chk_two is damaged"),
        ("DELETE FROM commits WHERE id = 'chk_one'", "its ancestor chk_one is missing"),
    ],
)
async def test_damage_is_named(tmp_path: Path, damage: str, named: str) -> None:
    """A body without its hash, an unreadable delta and a gap in a chain are errors that name the thing."""
    database = SqliteDatabase(f"{tmp_path}/t.db")
    store = SqlStore(database)
    await store.open()
    one = child(ROOT, "one", BODY)
    two = child(one, "two")
    await store.finish("", response("1", ROOT, two), [ROOT, one, two])
    await database.write(lambda connection: connection.execute(damage).rowcount)
    with pytest.raises(CheckpointDecodeError, match=named):
        await store.read_chain("", two.id)
        await store.read_blobs("", one.blobs)
    await store.aclose()


async def test_a_foreground_turn_is_one_transaction(tmp_path: Path) -> None:
    """Admission writes nothing, with a conversation and a key either; the end is one transaction with all it stores."""
    database = SqliteDatabase(f"{tmp_path}/t.db")
    store = SqlStore(database)
    await store.open()
    await store.create_conversation("", conversation("1"), [])
    before = database.commands
    for number, turn in enumerate((foreground("1"), foreground("2", conversation="conv_1", key=KEY))):
        await store.admit("", turn)
        assert database.commands == before + number
        record = replace(response(turn.id[5:], ROOT, ROOT), items=("msg_1", "msg_2"), calls=(OpenCall("call_1", "a"),))
        move = ConversationMove("conv_1", None, (item("1"),)) if turn.conversation else None
        await store.finish("", record, [ROOT], move=move, key=turn.key)
        assert database.commands == before + number + 1
    await store.aclose()
