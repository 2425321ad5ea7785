"""The checker of the matrix and the soak sees what it is there to see."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.crash.mortal_host import PATIENCE, MortalHost
from tests.crash.soundness import faults, story_faults


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a dead process has left: turns that have ended, one that has not, a question, a conversation."""
    host = MortalHost(tmp_path_factory.mktemp("left"))
    host.start()
    talk = host.client.conversations.create().id
    host.client.responses.create(input="one work", conversation=talk)
    host.client.responses.create(input="two ask")
    host.ended(host.client.responses.create(input="three work", background=True).id)
    host.set(Trap(CrashPoint.NOTED))
    host.client.responses.create(input="four work", background=True)
    assert host.has_died(within=PATIENCE)
    host.close()
    return host.store


def test_what_a_dead_process_has_left_is_sound(left: Path) -> None:
    """Without damage there is nothing to find."""
    assert faults(left) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM turn_requests", "a turn without its request"),
        ("DELETE FROM turns", "a request without its turn"),
        ("DELETE FROM turns", "notes without their turn"),
        ("DELETE FROM turns", "events without turn or response"),
        ("UPDATE turns SET lease_until = NULL", "an owner without a lease"),
        ("UPDATE turns SET last_sequence = 99", "says 99 is its last event"),
        ("UPDATE turns SET id = (SELECT min(id) FROM responses)", "a turn that has ended"),
        ("DELETE FROM responses", "a place of an item whose response is gone"),
        ("DELETE FROM conversations", "an item without its conversation"),
        ("UPDATE conversations SET last_position = 0", "an item behind the end of its conversation"),
        ("UPDATE conversations SET head = 'chk_gone'", "the commit of conversation"),
        ("UPDATE calls SET commit_id = 'chk_gone'", "the commit of question"),
        ("UPDATE turns SET commit_id = 'chk_gone'", "the commit of turn"),
        ("UPDATE responses SET status = 'in_progress'", "a stored response that has not ended"),
        ("DELETE FROM commits WHERE kind = 'input'", "a commit whose parent is gone"),
        ("DELETE FROM blobs", "need is gone"),
        ("UPDATE blobs SET body = x'0000ff'", "a damaged blob"),
        ("DELETE FROM events WHERE first_sequence > 0 AND first_sequence < 9", "others"),
        (
            "DELETE FROM events WHERE last_sequence = (SELECT max(last_sequence) FROM events)",
            "has terminal events at []",
        ),
        ("DELETE FROM events", "a background response without its events"),
        ("DELETE FROM events", "it has none"),
    ],
)
def test_damage_is_found(left: Path, tmp_path: Path, damage: str, found: str) -> None:
    """Whatever is taken away or changed, the checker names it."""
    for path in left.parent.glob("host.db*"):
        shutil.copy(path, tmp_path)
    with closing(sqlite3.connect(tmp_path / "host.db", isolation_level=None)) as connection:
        assert connection.execute(damage).rowcount > 0
    assert [fault for fault in faults(tmp_path / "host.db") if found in fault] != []


ADDED = {"type": "response.output_item.added", "output_index": 0, "item": {"id": "a"}}
DONE = {"type": "response.output_item.done", "output_index": 0, "item": {"id": "a", "status": "completed"}}
ENDED = {"type": "response.completed", "response": {"output": [DONE["item"]]}}


@pytest.mark.parametrize(
    ("events", "found"),
    [
        ([ADDED, DONE, ENDED], ""),
        ([ADDED, ADDED], "opens behind 1 others"),
        ([DONE], "which is not open"),
        ([ADDED, DONE, DONE], "which is not open"),
        ([ADDED, {**DONE, "item": {"id": "b"}}], "under another id"),
        ([ADDED, {**DONE, "item": {"id": "a", "status": "incomplete", "content": ["x"]}}], "has content"),
        ([ADDED, DONE, {**ADDED, "output_index": 1}], "used twice"),
        ([{"type": "response.in_progress"}] * 2, "begins twice"),
        ([ADDED, ENDED], "not that of its events"),
    ],
)
def test_a_story_that_cannot_be_is_found(events: list[dict[str, object]], found: str) -> None:
    """Every item opens once and closes once, and the response is what its events have told."""
    said = list(story_faults(events))
    assert all(found in fault for fault in said)
    assert bool(said) == bool(found)
