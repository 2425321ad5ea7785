"""What an archive of a long chain costs."""

from dataclasses import replace

import pytest

from agent_host.stores import open_store, response_rows
from agent_host.stores.database import Connection
from agent_host.stores.records import Heard
from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.records import response


async def test_what_was_heard_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the first commit is walked from where an archive begins, not from each of its commits."""
    store = open_store("sqlite://")
    await store.open()
    last, walked, read_heard = ROOT, [], response_rows.read_heard
    for number in range(70):
        commit = child(last, f"c{number}", session=f"resp_{number}", complete=number % 32 == 31)
        previous = f"resp_{number - 1}" if number else None
        record = response(str(number), last, commit)
        await store.finish("", replace(record, previous_response_id=previous, heard=(f"msg_{number}",)), [ROOT, commit])
        last = commit

    def walk(connection: Connection, own: str, commit_id: str) -> list[Heard]:
        walked.append(commit_id)
        return read_heard(connection, own, commit_id)

    monkeypatch.setattr(response_rows, "read_heard", walk)
    archive = await store.read_archive("", "resp_69")
    assert archive is not None
    assert [commit.heard for commit in archive.commits] == [(), *((f"msg_{number}",) for number in range(70))]
    assert walked == [ROOT.id]
    await store.aclose()
