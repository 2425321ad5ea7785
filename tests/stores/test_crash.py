"""A process that is killed loses nothing that it has acknowledged, and leaves nothing half done."""

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT, bare, child
from agent_host.testing.store_contract import response

WRITER = """
import asyncio, sys
from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.store_contract import response

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
