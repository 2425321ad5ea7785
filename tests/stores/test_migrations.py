"""Migrations of SQLite files: whole steps, in order, ending at the schema that is written down."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_host.errors import TurnConflictError
from agent_host.stores import open_store, queries, rows
from agent_host.stores.migrate import Migration, migrate, migrations, version_of
from agent_host.stores.records import ConversationMove, Heard
from agent_host.testing.commit_log_contract import BODY, ROOT, bare, child
from agent_host.testing.records import begun, conversation, response

STORES = Path(queries.__file__).parent
STEPS = [
    Migration(1, "CREATE TABLE a (x)"),
    Migration(2, "ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (1, 2);"),
]


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def schema(connection: sqlite3.Connection) -> dict[str, str]:
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {name: re.sub(r"\s*([(),])\s*", r"\1", " ".join(sql.split())) for name, sql in rows}


def test_all_migrations_make_the_schema(connection: sqlite3.Connection) -> None:
    """Taken one after the other, the steps give exactly the tables and indexes of schema.sql."""
    for number, step in enumerate(migrations(), start=1):
        assert step.version == number
        migrate(connection, migrations()[:number])
    written_down = sqlite3.connect(":memory:")
    written_down.executescript(queries.sql_text("sqlite/schema.sql"))
    assert schema(connection) == schema(written_down)
    written_down.close()


def test_steps_are_taken_once(connection: sqlite3.Connection) -> None:
    """An older file is brought up to date without repeating what it has seen; a current one is left alone."""
    migrate(connection, STEPS[:1])
    assert version_of(connection) == 1
    for _ in range(2):
        migrate(connection, STEPS)
        assert version_of(connection) == 2
        assert connection.execute("SELECT x, y FROM a").fetchall() == [(1, 2)]


def test_a_step_that_fails_leaves_no_trace(connection: sqlite3.Connection) -> None:
    """Its statements are undone, the steps before it stay, and the file says so."""
    broken = Migration(3, "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1);")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        migrate(connection, [*STEPS, broken])
    assert version_of(connection) == 2
    assert set(schema(connection)) == {"a"}


def test_queries_are_described_and_used() -> None:
    """Each statement has one sentence of description, and the code names exactly the statements that exist."""
    sections = re.findall(r"^-- (\w+) --\n-- [A-Z][^\n]*\.\n(?!--)", queries.sql_text("queries.sql"), re.MULTILINE)
    code = "".join(path.read_text() for path in STORES.glob("*.py"))
    assert sections == list(queries.QUERIES)
    assert set(re.findall(r'QUERIES\["(\w+)"\]', code)) == set(sections)


def test_queries_are_valid(connection: sqlite3.Connection) -> None:
    """Every statement can be prepared on the schema, and finds its rows through an index where there is one."""
    migrate(connection, migrations())
    for name, text in queries.QUERIES.items():
        statement = text.replace("...", "?")
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", ["x"] * statement.count("?")).fetchall()
        # Of the turns in flight there are few, and the lists of heads are for all of them.
        scans = [row[3] for row in plan if re.match(r"SCAN (?!heads|turns|t\b|v\b|heirs|chain|line|CONSTANT)", row[3])]
        assert not scans, (name, scans)


@pytest.fixture
def first_format(tmp_path: Path) -> Path:
    """A file as the first version of the program has written it, with a root, a turn and a head."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, migrations()[:1])
    one = child(ROOT, "one", BODY)
    rows.insert_commits(connection, "", (ROOT, one), TurnConflictError)
    connection.execute(queries.QUERIES["put_head"], ("", "support", "s1", one.id))
    columns = ("", "resp_1", None, ROOT.id, one.id, None, "completed", 100, 101, b"\x01\x02", b"input", b"body")
    connection.execute(f"INSERT INTO responses VALUES ({', '.join('?' * len(columns))})", columns)
    connection.close()
    return path


async def test_what_older_responses_hold_can_be_found(tmp_path: Path) -> None:
    """Their items are known by their ids, and so is what the states at their ends have heard."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path, isolation_level=None)
    migrate(connection, migrations()[:2])
    one = child(ROOT, "one", BODY, session="resp_1")
    for commit, home in ((ROOT, "*"), (one, "")):
        columns = (home, commit.id, commit.parent, "w", commit.session_id, commit.kind, 0, 0, 0.0, "", 1, 0, b"\x80")
        connection.execute(f"INSERT INTO commits VALUES ({', '.join('?' * len(columns))})", columns)
    given, body = b'[{"id": "msg_1", "type": "message"}]', b'{"model": "m", "output": [{"id": "msg_2"}]}'
    for name, start, end in (("resp_1", ROOT, one), ("resp_2", one, one)):
        columns = ("", name, None, start.id, end.id, None, "completed", 100, 101, b"", given, body)
        connection.execute(f"INSERT INTO responses VALUES ({', '.join('?' * len(columns))})", columns)
    connection.close()
    store = open_store(str(path))
    await store.open()
    record = await store.read_response("", "resp_1")
    assert record is not None
    assert record.items == ("msg_1", "msg_2")
    assert await store.find_items("", ["msg_1", "msg_2"]) == dict.fromkeys(("msg_1", "msg_2"), (given, body))
    assert await store.read_heard("", one.id) == [Heard("resp_1", ("msg_1", "msg_2"))]
    await store.aclose()


async def test_a_file_of_the_first_format_is_brought_up_to_date(first_format: Path) -> None:
    """All it holds is read as it was written, and the verbs that came later work on it."""
    one = child(ROOT, "one", BODY)
    store = open_store(str(first_format))
    await store.open()
    log = store.commit_log()
    assert await store.read_response("", "resp_1") == response("1", ROOT, one)
    assert await log.head("support", "s1") == one.id
    assert await log.chain(one.id) == [bare(one), bare(ROOT)]
    assert await log.blobs([*one.blobs, *ROOT.blobs]) == {**one.blobs, **ROOT.blobs}
    await log.record("support", "s1", one.id, {"a": b"1"})
    assert await log.recorded("support", "s1", one.id) == {"a": b"1"}
    assert await log.collect() == 0
    await store.create_conversation("", conversation("1"), [])
    guard = await begun(store, "2", start_commit=one.id, conversation="conv_1")
    two = child(one, "two")
    await store.finish("", response("2", one, two), [two], guard=guard, move=ConversationMove("conv_1", None))
    assert await store.delete_response("", "resp_1")
    assert [point.name for point in await store.save_points(0)] == ["s1", "conv_1", "resp_2"]
    await store.aclose()


async def test_an_older_file_is_read_without_bringing_it_up_to_date(first_format: Path) -> None:
    """So that what a new version could not continue is known before it has touched the store."""
    before = first_format.read_bytes()
    store = open_store(str(first_format), read_only=True)
    await store.open()
    assert [point.name for point in await store.save_points(0)] == ["s1", "resp_1"]
    assert await store.read_response("", "resp_1") == response("1", ROOT, child(ROOT, "one", BODY))
    assert await store.commit_log().recorded("support", "s1", "chk_one") == {}
    assert await store.read_conversation("", "conv_1") is None
    assert await store.lapsed(0) == []
    assert await store.read_chain("", child(ROOT, "one", BODY).id) == [bare(child(ROOT, "one", BODY)), bare(ROOT)]
    await store.aclose()
    assert first_format.read_bytes() == before
