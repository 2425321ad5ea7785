"""Opening a store: addresses, and files that cannot be used."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_host.errors import GuardLostError, StoreError, StoreFormatError, StoreLockedError
from agent_host.stores import open_store
from agent_host.stores.migrate import APPLICATION_ID, migrations
from agent_host.testing.commit_log_contract import ROOT, bare
from agent_host.testing.records import background, begun, foreground, response


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        (":memory:", "in memory"),
        ("sqlite:///data/a.db", f"{os.getcwd()}/data/a.db"),
        ("sqlite:////srv/a.db", " /srv/a.db"),
        ("data/a.db", f"{os.getcwd()}/data/a.db"),
        ("/srv/a.db", " /srv/a.db"),
    ],
)
def test_addresses(url: str, shown: str) -> None:
    """An address is a sqlite URL or the path of a file; nothing is opened by naming it."""
    assert shown in repr(open_store(url))


@pytest.mark.parametrize("url", ["redis://host", "sqlite:a.db", "sqlite://host/a.db", "mysql:///a", ""])
def test_other_addresses_are_refused(url: str) -> None:
    """The error names the address and the ones that work."""
    with pytest.raises(StoreError, match=r"sqlite:///relative/path\.db") as caught:
        open_store(url)
    assert repr(url) in str(caught.value)


async def refused(path: Path | str, kind: type[StoreError]) -> str:
    store = open_store(str(path))
    with pytest.raises(kind) as caught:
        await store.open()
    assert type(caught.value) is kind
    await store.aclose()
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    """The first start needs no preparation."""
    store = open_store(f"{tmp_path}/not/yet/there/a.db")
    await store.open()
    await store.aclose()
    assert (tmp_path / "not/yet/there/a.db").exists()


async def test_nobody_else_on_the_machine_can_read_a_new_store(tmp_path: Path) -> None:
    """The file and those beside it are their owner's; the permissions of one that is there stay as they are."""
    for permissions in (0o600, 0o640):
        store = open_store(f"{tmp_path}/a.db")
        await store.open()
        await store.finish("", response(str(permissions), ROOT, ROOT), [ROOT])
        beside = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        await store.aclose()
        assert beside.pop("a.db.lock") == 0o600
        assert beside == dict.fromkeys(("a.db", "a.db-wal", "a.db-shm"), permissions)
        (tmp_path / "a.db").chmod(0o640)


async def test_a_stored_file_is_opened_again(tmp_path: Path) -> None:
    """What one store has written the next one reads; the file is marked as ours."""
    for expected in (False, True):
        store = open_store(f"{tmp_path}/a.db")
        await store.open()
        assert await store.holds_root(ROOT.id) is expected
        if not expected:
            await store.finish("", response("1", ROOT, ROOT), [ROOT])
        await store.aclose()
    connection = sqlite3.connect(tmp_path / "a.db")
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (migrations()[-1].version,)
    connection.close()


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """It is named, refused and left as it is."""
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 100)
    assert "not a SQLite database" in await refused(path, StoreFormatError)
    assert path.read_text() == "dear diary, " * 100


async def test_a_database_of_another_program(tmp_path: Path) -> None:
    """With tables or a mark that are not ours a database is refused and left as it is."""
    for name, statement in (("tables.db", "CREATE TABLE t (x)"), ("mark.db", "PRAGMA application_id = 7")):
        path = tmp_path / name
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.close()
        before = path.read_bytes()
        assert "another program" in await refused(path, StoreFormatError)
        assert path.read_bytes() == before


async def test_a_file_of_a_newer_version(tmp_path: Path) -> None:
    """Both versions and the remedy are named."""
    store = open_store(f"{tmp_path}/a.db")
    await store.open()
    await store.aclose()
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    message = await refused(tmp_path / "a.db", StoreFormatError)
    assert "format 999" in message
    assert f"up to {migrations()[-1].version}" in message
    assert "Upgrade" in message


async def test_a_damaged_file(tmp_path: Path) -> None:
    """A file whose pages are overwritten is a damaged store, not an error of sqlite3."""
    store = open_store(f"{tmp_path}/a.db")
    await store.open()
    await store.aclose()
    with open(tmp_path / "a.db", "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 4000)
    assert "damaged" in await refused(tmp_path / "a.db", StoreFormatError)


async def test_a_directory_is_no_file(tmp_path: Path) -> None:
    """The remedy names a file in it."""
    assert f"{tmp_path}/agent_host.db" in await refused(tmp_path, StoreError)


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    """A file where a directory is needed is named."""
    (tmp_path / "file").write_text("")
    assert "cannot be used" in await refused(tmp_path / "file" / "a.db", StoreError)


@pytest.fixture
def folder_of_nobody() -> Iterator[Path]:
    """A directory, and a process that is not root in it: root may write everywhere."""
    migrations()  # read now: nobody may have no access to the folder that the package lies in
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        if os.geteuid() == 0:
            os.chown(name, 65534, -1)
            os.seteuid(65534)
            yield Path(name)
            os.seteuid(0)
        else:
            yield Path(name)
        os.chmod(name, 0o755)


async def test_a_directory_without_permission(folder_of_nobody: Path) -> None:
    """The file and the remedy are named."""
    folder_of_nobody.chmod(0o555)
    assert "Allow this user" in await refused(folder_of_nobody / "a.db", StoreError)
    assert "Allow this user" in await refused(folder_of_nobody / "new" / "a.db", StoreError)


async def test_a_read_only_file(folder_of_nobody: Path) -> None:
    """A store that can be read but not written is refused at the start, not at the first turn."""
    path = folder_of_nobody / "a.db"
    store = open_store(str(path))
    await store.open()
    await store.aclose()
    path.chmod(0o444)
    assert "read-only" in await refused(path, StoreError)


async def test_a_second_store_in_one_process(tmp_path: Path) -> None:
    """The file is taken until the first store is closed; the second may then try again."""
    first, second = open_store(f"{tmp_path}/a.db"), open_store(f"{tmp_path}/a.db")
    await first.open()
    with pytest.raises(StoreLockedError):
        await second.open()
    await first.aclose()
    await second.open()
    await second.aclose()


async def test_a_second_process(tmp_path: Path) -> None:
    """It is refused with the file, the process that has it and the remedy; when that has ended, it may open."""
    script = (
        "import asyncio, sys\n"
        "from agent_host.stores import open_store\n"
        "async def main():\n"
        "    store = open_store(sys.argv[1])\n"
        "    await store.open()\n"
        "    print('open', flush=True)\n"
        "    sys.stdin.read()\n"
        "    await store.aclose()\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "a.db"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"open\n"
        message = await refused(path, StoreLockedError)
        assert f"process {process.pid}" in message
        assert "name another file" in message
        process.kill()
    store = open_store(str(path))
    await store.open()
    await store.aclose()


async def test_an_open_that_is_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    """The file is free again, for this store and for others."""
    store = open_store(f"{tmp_path}/a.db")
    task = asyncio.create_task(store.open())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.open()
    assert not await store.holds_root(ROOT.id)
    await store.aclose()


async def test_a_store_in_use_is_read_beside_its_server(tmp_path: Path) -> None:
    """What the running server has stored is seen at once by a reader, which takes no lock and changes nothing."""
    path = tmp_path / "a.db"
    server, reader = open_store(str(path)), open_store(str(path), read_only=True)
    await server.open()
    await server.finish("", response("1", ROOT, ROOT), [ROOT])
    await reader.open()
    assert [point.name for point in await reader.save_points(0)] == ["resp_1"]
    await server.finish("", response("2", ROOT, ROOT), [])
    assert [point.name for point in await reader.save_points(0)] == ["resp_1", "resp_2"]
    assert await reader.read_chain("", ROOT.id) == [bare(ROOT)]
    for change in (reader.finish("", response("3", ROOT, ROOT), []), reader.commit_log().collect()):
        with pytest.raises(StoreError, match="read only"):
            await change
    await reader.aclose()
    await server.finish("", response("4", ROOT, ROOT), [])
    await server.aclose()


async def test_a_store_nobody_serves_is_read(tmp_path: Path) -> None:
    """Reading neither needs a server nor leaves anything that keeps one from starting."""
    path = tmp_path / "a.db"
    for name in ("1", "2"):
        server = open_store(str(path))
        await server.open()
        await server.finish("", response(name, ROOT, ROOT), [ROOT])
        await server.aclose()
        reader = open_store(str(path), read_only=True)
        await reader.open()
        assert await reader.read_response("", f"resp_{name}") == response(name, ROOT, ROOT)
        await reader.aclose()


@pytest.mark.parametrize("url", ["sqlite://", ":memory:"])
def test_memory_is_not_opened_to_be_read_only(url: str) -> None:
    """There would never be anything in it."""
    with pytest.raises(StoreError, match="lies in memory"):
        open_store(url, read_only=True)


async def test_reading_makes_no_file(tmp_path: Path) -> None:
    """A store that is not there, or of another program, is an error that names it; nothing is made or written."""
    store = open_store(f"{tmp_path}/deep/a.db", read_only=True)
    with pytest.raises(StoreError, match=r"no store at .*deep/a\.db"):
        await store.open()
    await store.aclose()
    (tmp_path / "notes.txt").write_text("dear diary, " * 100)
    with pytest.raises(StoreFormatError, match="not a SQLite database"):
        await open_store(f"{tmp_path}/notes.txt", read_only=True).open()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


async def test_leases_lapse_when_a_file_is_opened(tmp_path: Path) -> None:
    """R45: whoever owned a turn is gone with its process: the turn can be taken at once, and its old guard is void;
    opening the file to read it changes nothing."""
    path = str(tmp_path / "a.db")
    store = open_store(path)
    await store.open()
    guard = await begun(store, "1")
    await store.step("", guard, [], [b"a"])
    reader = open_store(path, read_only=True)
    await reader.open()
    assert await reader.lapsed(9) == []
    await reader.aclose()
    assert await store.lapsed(9) == []
    await store.aclose()

    store = open_store(path)
    await store.open()
    assert [found.turn.id for found in await store.lapsed(0)] == ["resp_1"]
    with pytest.raises(GuardLostError):
        await store.step("", guard.after(1), [], [b"b"])
    turn = await store.take("", "resp_1", "me", now=0, until=10)
    assert turn is not None
    assert (turn.attempt, turn.last_sequence) == (1, 0)
    await store.aclose()


async def test_foreground_turns_end_with_their_process(tmp_path: Path) -> None:
    """R36: nothing is left of them that would keep the next process from their conversation."""
    for _ in range(2):
        store = open_store(f"{tmp_path}/a.db")
        await store.open()
        await store.admit("", foreground("1", conversation="conv_1"))
        await store.aclose()


async def test_nothing_is_admitted_to_a_store_that_is_read(tmp_path: Path) -> None:
    """Not even a turn that would write nothing yet."""
    server = open_store(f"{tmp_path}/a.db")
    await server.open()
    reader = open_store(f"{tmp_path}/a.db", read_only=True)
    await reader.open()
    for change in (
        reader.admit("", foreground("1")),
        reader.admit("", background("1")),
        reader.release("", "resp_1"),
        reader.append([]),
        reader.forget_events(0, 1),
    ):
        with pytest.raises(StoreError, match="read only"):
            await change
    await reader.aclose()
    await server.aclose()
