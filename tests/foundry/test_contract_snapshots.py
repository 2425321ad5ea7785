"""Memory snapshots: the platform copies a ready process, and each copy becomes that of a session."""

import os
from typing import Any

import pytest

from agent_host.ids import random_bytes

BEFORE, AFTER = ("/_agent/before-snapshot", "/_before_snapshot"), ("/_agent/after-restore", "/_after_restore")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is put back when the test has ended."""
    for name in ("FOUNDRY_HOSTING_ENVIRONMENT", "FOUNDRY_AGENT_SESSION_ID", "TEAM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def context(session: str = "S", restore: str = "r1", **overrides: str) -> dict[str, Any]:
    told = {"session_id": session, "restore_id": restore}
    return {"session_context": {**told, "session_env_overrides": overrides} if overrides else told}


@pytest.mark.parametrize("path", BEFORE)
async def test_a_snapshot_is_taken_of_a_host_that_is_ready(site: Any, path: str) -> None:
    """However often it is asked for; the platform sends no call id, and no session is told."""
    del site.http.headers["x-agent-foundry-call-id"]
    for body in ({}, {"anything": 1}):
        answer = await site.http.post(path, json=body)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert "x-agent-session-id" not in answer.headers
    assert site.host.definition is not None


@pytest.mark.parametrize("path", AFTER)
@pytest.mark.usefixtures("variables")
async def test_a_restored_process_belongs_to_its_session(site: Any, path: str) -> None:
    """Answers name it, and the workflow's own program finds its variables; asking again changes nothing."""
    for _ in range(2):
        answer = await site.http.post(path, json=context(TEAM="blue"))
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert (os.environ["FOUNDRY_AGENT_SESSION_ID"], os.environ["TEAM"]) == ("S", "blue")
    made = await site.http.post("/responses", json={"input": "x"})
    assert (made.headers["x-agent-session-id"], made.json()["agent_session_id"]) == ("S", "S")


@pytest.mark.usefixtures("variables")
async def test_a_process_serves_one_session(site: Any, fault: Any) -> None:
    """Another one's is refused and changes nothing; the same one's may be restored again."""
    await site.http.post(AFTER[0], json=context())
    refused = await site.http.post(AFTER[0], json=context("other", "r2", TEAM="red"))
    assert fault(refused) == (409, "session_mismatch", "", "user")
    assert "TEAM" not in os.environ
    assert (await site.http.post(AFTER[0], json=context(restore="r3", TEAM="red"))).status_code == 200
    assert os.environ["TEAM"] == "red"


@pytest.mark.usefixtures("variables")
async def test_two_copies_of_a_process_are_not_taken_for_each_other(site: Any) -> None:
    """Randomness that was fetched before the snapshot is not used, and the owner's name is another."""
    random_bytes(1)
    before, owner = random_bytes._bytes, site.host.background.owner
    await site.http.post(AFTER[0], json=context())
    assert random_bytes._bytes != before
    assert site.host.background.owner != owner


@pytest.mark.parametrize(("path", "body", "code"), [
    (BEFORE[0], b"[1]", "invalid_before_snapshot_request"),
    (BEFORE[0], b"", "invalid_before_snapshot_request"),
    (AFTER[0], b"{}", "invalid_after_restore_request"),
    (AFTER[0], b'{"session_context": {"session_id": "", "restore_id": "r"}}', "invalid_after_restore_request"),
    (AFTER[0], b'{"session_context": {"session_id": "s"}}', "invalid_after_restore_request"),
    (
        AFTER[0], b'{"session_context": {"session_id": "s", "restore_id": "r", "session_env_overrides": {"A": 1}}}',
        "invalid_after_restore_request",
    ),
])  # fmt: skip
@pytest.mark.usefixtures("variables")
async def test_a_faulty_hook_changes_nothing(site: Any, path: str, body: bytes, code: str) -> None:
    """The answer is 400 with the hook's own code."""
    answer = await site.http.post(path, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)
    assert "FOUNDRY_AGENT_SESSION_ID" not in os.environ


@pytest.mark.usefixtures("variables")
async def test_a_session_that_cannot_be_had_leaves_the_environment_alone(site: Any, fault: Any) -> None:
    """What the platform says of the session must be what it would say at a start."""
    bad = context(TEAM="blue", FOUNDRY_HOSTING_ENVIRONMENT="x", FOUNDRY_AGENT_SESSION_GUID="XYZ")
    answer = await site.http.post(AFTER[0], json=bad)
    assert fault(answer) == (500, "after_restore_failed", "", "platform")
    assert "FOUNDRY_AGENT_SESSION_GUID" in answer.headers["x-platform-error-detail"]
    assert not {"TEAM", "FOUNDRY_AGENT_SESSION_GUID", "FOUNDRY_AGENT_SESSION_ID"} & os.environ.keys()
    assert site.host.settings.platform.session_id == ""
