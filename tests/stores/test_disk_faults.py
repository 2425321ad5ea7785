"""Faults of the disk: each is an error that names the file and the remedy, makes nothing worse, and passes."""

import asyncio
import errno
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from agent_host import Executor, TextDelta, Workflow, WorkflowBuilder, WorkflowContext, config, executor, handler
from agent_host.errors import StoreError, StoreFormatError
from agent_host.server import background, event_log
from agent_host.stores import open_store, sqlite_file
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from agent_host.testing.commit_log_contract import ROOT
from agent_host.testing.records import response

LARGE = 200_000


class First(Executor):
    """Waits until the test lets it go on, then says something that needs space."""

    may_go: asyncio.Event = config()

    def __init__(self, may_go: asyncio.Event) -> None:
        super().__init__("first")
        self.may_go = may_go

    @handler
    async def begin(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(TextDelta("begun"))
        await self.may_go.wait()
        await ctx.send_message(text)
        await ctx.yield_output(text * LARGE)


@executor
async def second(text: str, ctx: WorkflowContext[str, str]) -> None:
    await ctx.yield_output("second")


@pytest.fixture
def may_go() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def workflow(may_go: asyncio.Event) -> Workflow:
    first = First(may_go)
    builder = WorkflowBuilder(start_executor=first, name="two", output_from=[first, second])
    return builder.add_edge(first, second).build()


@pytest.fixture
def database(tmp_path: Path) -> SqliteDatabase:
    return SqliteDatabase(f"{tmp_path}/host.db")


async def fill(database: SqliteDatabase) -> None:
    """Let the file grow no more, which is what a full disk does to it."""
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1").fetchall())


async def free(database: SqliteDatabase) -> None:
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 1000000").fetchall())


async def test_a_foreground_turn_on_a_full_disk_is_refused_and_the_next_works(
    serve_app: Any, workflow: Workflow, database: SqliteDatabase, may_go: asyncio.Event,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The client is told not to try again by itself, the log names file and remedy, and no restart is needed."""
    site = await serve_app(workflow, SqlStore(database))
    may_go.set()
    one = (await site.http.post("/responses", json={"input": "a"})).json()
    await fill(database)
    refused = await site.http.post("/responses", json={"input": "b", "previous_response_id": one["id"]})
    assert refused.status_code == 500
    assert refused.headers["x-should-retry"] == "false"
    assert f"No space is left to write {database!r}".split("<")[0] in caplog.text
    assert "host.db" in caplog.text
    assert "Traceback" not in caplog.text
    assert (await site.http.get(f"/responses/{one['id']}")).json() == one
    await free(database)
    two = await site.http.post("/responses", json={"input": "b", "previous_response_id": one["id"]})
    assert two.json()["status"] == "completed"


async def test_a_background_turn_waits_for_a_full_disk(
    serve_app: Any, workflow: Workflow, database: SqliteDatabase, may_go: asyncio.Event, eventually: Any,
    sse_events: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What a superstep has made is written when there is space again; nothing runs twice, no event is lost."""
    monkeypatch.setattr(event_log, "AGAIN_AFTER", 0.02)
    caplog.set_level(logging.INFO)
    site = await serve_app(workflow, SqlStore(database))
    accepted = (await site.http.post("/responses", json={"input": "a", "background": True})).json()
    await eventually(lambda: site.host.runs.running == 1, "it runs")
    await asyncio.sleep(0.1)
    await fill(database)
    may_go.set()
    await eventually(lambda: caplog.text.count("waits for the store") > 2, "it has tried several times")
    assert "No space is left" in caplog.text
    assert (await site.http.get(f"/responses/{accepted['id']}")).json()["status"] == "in_progress"
    await free(database)
    events = sse_events((await site.http.get(f"/responses/{accepted['id']}", params={"stream": True})).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"
    said = [part["text"] for item in events[-1]["response"]["output"] for part in item["content"]]
    assert said == ["begun", "a" * LARGE, "second"]


async def test_a_background_turn_on_a_disk_that_stays_full_is_not_lost(
    serve_app: Any, workflow: Workflow, database: SqliteDatabase, may_go: asyncio.Event, eventually: Any,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """This attempt gives it up after a while, and a later one ends it."""
    monkeypatch.setattr(event_log, "AGAIN_AFTER", 0.001)
    monkeypatch.setattr(background, "LEASE", 0.5)
    caplog.set_level(logging.INFO)
    site = await serve_app(workflow, SqlStore(database))
    accepted = (await site.http.post("/responses", json={"input": "a", "background": True})).json()
    await eventually(lambda: site.host.runs.running == 1, "it runs")
    await asyncio.sleep(0.1)
    await fill(database)
    may_go.set()
    await eventually(lambda: "left for later" in caplog.text, "this attempt has ended")
    await free(database)

    async def ended() -> Any:
        await site.host.settle_lapsed("", accepted["id"])
        return (await site.http.get(f"/responses/{accepted['id']}")).json()

    for _ in range(100):
        if (await ended())["status"] == "completed":
            break
        await asyncio.sleep(0.05)
    assert (await ended())["status"] == "completed"


@contextmanager
def no_space(folder: Path) -> Iterator[None]:
    """Until the end of the block nothing can be written in a folder: really, where a disk may be mounted on it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=False).returncode:
        with patch.object(sqlite_file, "open", side_effect=OSError(errno.ENOSPC, "No space left"), create=True):
            yield
        return
    (folder / "filler").write_bytes(b"x" * 2 * 1024 * 1024)
    yield
    (folder / "filler").unlink()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that may become a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    yield folder
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


async def test_a_disk_that_is_full_at_the_start(small_disk: Path) -> None:
    """The error says that there is no space, and the file can be opened when there is."""
    store = open_store(f"{small_disk}/a.db")
    with no_space(small_disk):
        for _ in range(2):
            with pytest.raises(StoreError, match=r"No space is left to write .*/a\.db"):
                await store.open()
    await store.open()
    await store.aclose()


async def test_a_lock_that_cannot_be_taken(tmp_path: Path) -> None:
    """The file in the way is named, and the store is not made."""
    (tmp_path / "a.db.lock").mkdir()
    with pytest.raises(StoreError, match=r"cannot be used: .*a\.db\.lock"):
        await open_store(f"{tmp_path}/a.db").open()
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_that_is_removed_while_it_is_served(tmp_path: Path, replaced: bool) -> None:
    """Nothing is stored where nobody would find it again; put back, the file is served on."""
    path = tmp_path / "a.db"
    store = open_store(str(path))
    await store.open()
    await store.finish("", response("1", ROOT, ROOT), [ROOT])
    path.rename(tmp_path / "moved.db")
    if replaced:
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"a\.db was removed or replaced while it was served.*Put it back"):
            await store.finish("", response("2", ROOT, ROOT), [])
    (tmp_path / "moved.db").rename(path)
    await store.finish("", response("2", ROOT, ROOT), [])
    await store.aclose()
    again = open_store(str(path))
    await again.open()
    assert await again.read_response("", "resp_2") == response("2", ROOT, ROOT)
    await again.aclose()


async def stored(path: Path, count: int) -> None:
    """A store with many responses, closed in order."""
    store = open_store(str(path))
    await store.open()
    for number in range(count):
        await store.finish("", response(f"{number:04}", ROOT, ROOT), [ROOT] if not number else [])
    await store.aclose()


async def test_a_damaged_page_is_named_when_it_is_read(tmp_path: Path) -> None:
    """What lies on other pages is still served, and what is damaged is an error that names the file and the remedy."""
    path = tmp_path / "a.db"
    await stored(path, 300)
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        for page in range(pages // 2, pages):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)
    before = path.read_bytes()
    store = open_store(str(path))
    errors: list[str] = []
    try:
        await store.open()
        for number in range(300):
            try:
                await store.read_response("", f"resp_{number:04}")
            except StoreFormatError as error:
                errors.append(str(error))
    except StoreFormatError as error:
        errors.append(str(error))
    await store.aclose()
    assert errors
    assert {"a.db is damaged" in error and "Restore it from a backup" in error for error in errors} == {True}
    assert path.read_bytes()[: len(before)].count(b"\xff" * 4096) > 0


async def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    """A copy that was cut short is not served."""
    path = tmp_path / "a.db"
    await stored(path, 100)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreFormatError, match=r"a\.db is damaged"):
        await open_store(str(path)).open()


async def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    """It is no database any more, and is not written to."""
    path = tmp_path / "a.db"
    await stored(path, 10)
    with path.open("r+b") as file:
        file.write(b"\xff" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreFormatError, match="not a SQLite database"):
        await open_store(str(path)).open()
    assert path.read_bytes() == before


async def test_a_damaged_log_costs_its_end_only(tmp_path: Path) -> None:
    """The transactions before the damage are there, those behind it are not, and the next is stored."""
    store = open_store(f"{tmp_path}/a.db")
    await store.open()
    for number in range(20):
        await store.finish("", response(f"{number:04}", ROOT, ROOT), [ROOT] if not number else [])
    for name in ("a.db", "a.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / name.replace("a.db", "b.db"))
    await store.aclose()
    log = tmp_path / "b.db-wal"
    with log.open("r+b") as file:
        file.seek(log.stat().st_size // 2)
        file.write(b"\xff" * 5000)
    store = open_store(f"{tmp_path}/b.db")
    await store.open()
    found = [await store.read_response("", f"resp_{number:04}") is not None for number in range(20)]
    assert found[0]
    assert not found[-1]
    assert found == sorted(found, reverse=True)
    await store.finish("", response("9999", ROOT, ROOT), [])
    assert await store.read_response("", "resp_9999") is not None
    await store.aclose()
