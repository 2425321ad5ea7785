"""A process that is killed loses nothing that it has acknowledged, and leaves nothing half done."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent_host.engine.storage.file_log import FileLog
from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT, bare, bodies, child
from agent_host.testing.records import response

WRITER = """
import asyncio, sys
from agent_host.engine.storage.file_log import FileLog
from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.records import response

async def lane(store, lane):
    last = ROOT
    for number in range(100_000):
        name = f"{lane}-{number}"
        commit = child(last, name, name.encode() * 300)
        await store.finish("", response(name, last, commit), [commit])
        sys.stdout.write(name + "\\n")
        sys.stdout.flush()
        last = commit

async def main():
    store = open_store(sys.argv[1])
    await store.open()
    await store.finish("", response("0", ROOT, ROOT), [ROOT])
    await asyncio.gather(*(lane(store, number) for number in range(8)))

asyncio.run(main())
"""


def run_and_kill(path: Path, after: int) -> list[str]:
    """Start a writer, kill it after so many acknowledgements, and return all that it has made."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(after)]
        process.kill()
        acknowledged += process.stdout.readlines()
    # The last line may be cut off by the kill.
    return [line.strip() for line in acknowledged if line.endswith("\n")]


@pytest.mark.parametrize("after", [1, 50, 400])
async def test_acknowledged_turns_survive_a_kill(tmp_path: Path, after: int) -> None:
    """R13: everything acknowledged is there with commit and blob, and every response that is there is whole."""
    path = tmp_path / "a.db"
    acknowledged = await asyncio.to_thread(run_and_kill, path, after)
    assert len(acknowledged) >= after

    store = open_store(str(path))
    await store.open()
    for name in acknowledged:
        record = await store.read_response("", f"resp_{name}")
        assert record is not None
        chain = await store.read_chain("", record.commit)
        assert chain[-1] == bare(ROOT)
        body = name.encode() * 300
        assert await store.read_blobs("", child(ROOT, name, body).blobs) == child(ROOT, name, body).blobs
    # The killed process left no lane that cannot go on.
    last = (await store.read_chain("", f"chk_{acknowledged[-1]}"))[0]
    after_crash = child(last, "after")
    await store.finish("", response("after", last, after_crash), [after_crash])
    await store.aclose()

    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    responses, commits = (
        connection.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("responses", "commits")
    )
    connection.close()
    assert responses == commits


NOTER = """
import asyncio, sys
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.file_log import FileLog
from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT, child

async def main(kind, path):
    if kind == "sqlite":
        store = open_store(path)
        await store.open()
        log = store.commit_log()
    else:
        log = FileLog(path)
    last, head = ROOT, None
    for number in range(100_000):
        kept = child(last, f"kept{number}", b"\\x00\\x00kept%d" % number * 50)
        gone = child(kept, f"gone{number}", b"\\x00\\x00gone%d" % number * 50)
        await log.commit([ROOT, kept, gone], head)
        await log.move_head("support", "s1", kept.id, gone.id)
        await log.delete(gone.id)
        await log.collect()
        for note in range(3):
            await log.record("support", "s1", kept.id, {f"note{note}": b"%d" % number})
            sys.stdout.write(f"{number} {note}\\n")
            sys.stdout.flush()
        last, head = kept, kept.id

asyncio.run(main(*sys.argv[1:]))
"""


def run_and_kill_noter(kind: str, path: Path, after: int) -> tuple[int, int]:
    """Start a process that commits, collects and notes, kill it, and return the last thing it has acknowledged."""
    command = [sys.executable, "-c", NOTER, kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(after)]
        process.kill()
        acknowledged += [line for line in process.stdout.readlines() if line.endswith("\n")]
    number, note = acknowledged[-1].split()
    return int(number), int(note)


@pytest.mark.parametrize("kind", ["sqlite", "files"])
@pytest.mark.parametrize("after", [1, 17, 40])
async def test_notes_and_what_was_kept_survive_a_kill(tmp_path: Path, kind: str, after: int) -> None:
    """R28: after a kill at any moment every acknowledged note is there, and every commit has all of its blobs."""
    path = tmp_path / "a"
    number, note = await asyncio.to_thread(run_and_kill_noter, kind, path, after)
    store = open_store(str(path)) if kind == "sqlite" else None
    if store is not None:
        await store.open()
    log = store.commit_log() if store is not None else FileLog(path)
    head = await log.head("support", "s1")
    if head == f"chk_kept{number}":
        noted = await log.recorded("support", "s1", head)
        assert noted.items() >= {f"note{n}": b"%d" % number for n in range(note + 1)}.items()
    else:  # it has gone on, and had just not told
        assert note == 2
        assert head in (f"chk_kept{number + 1}", f"chk_gone{number + 1}")
    for kept in range(number + 1):
        body = b"\x00\x00kept%d" % kept * 50
        assert await log.blobs(bodies(body)) == bodies(body)
    assert len(await log.chain(head or "")) >= number + 2
    await log.collect()
    gone = {hash_: body for n in range(number + 1) for hash_, body in bodies(b"\x00\x00gone%d" % n * 50).items()}
    assert await log.blobs(gone) == {}
    if store is not None:
        await store.aclose()
