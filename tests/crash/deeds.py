"""Cells of the crash matrix that are no turn: opening a store, editing a conversation, deaths in a row, freezing.

Each leaves a living host and a sound store behind, and is False if the process did not come by the point.
"""

import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

from openai import NotFoundError

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.crash.cells import SUPERSTEPS, last_text
from tests.crash.mortal_host import LOST, PATIENCE, WORKING, MortalHost, wait_for
from tests.crash.soundness import faults

_numbers = iter(range(10**9))


def new_name(word: str) -> str:
    return f"{word}{next(_numbers)}"


def open_store(host: MortalHost, passage: int) -> bool:
    """A store whose making was cut off anywhere is made whole by the next start."""
    host.kill()
    for path in host.folder.glob("host.db*"):
        path.unlink()
    host.set(Trap(CrashPoint.OPENING, passage))
    host.spawn()
    if host.serves():
        host.trap.unlink()
        return False
    host.start()
    assert last_text(host.client.responses.create(input=f"{new_name('opened')} work"))
    assert faults(host.store) == []
    return True


def open_with_a_turn(host: MortalHost) -> bool:
    """A turn that was left behind is taken up also if the first start after that dies."""
    name = new_name("left")
    host.set(Trap(CrashPoint.STEPPED))
    response = host.client.responses.create(input=f"{name} work", background=True)
    assert host.has_died(within=PATIENCE)
    host.set(Trap(CrashPoint.OPENED))
    host.spawn()
    assert not host.serves()
    host.start()
    assert last_text(host.ended(response.id)) == name
    assert faults(host.store) == []
    return True


def add_items(host: MortalHost) -> bool:
    """Items that were not acknowledged are not there; made again, the request adds them once."""
    conversation = host.client.conversations.create().id
    name = new_name("talk")
    host.client.responses.create(input=f"{name} work", conversation=conversation)
    items: Any = [{"type": "message", "role": "user", "content": text} for text in ("one", "two")]

    def listed() -> list[str]:
        found = host.client.conversations.items.list(conversation, order="asc").data
        return [item.content[0].text for item in found]

    before = listed()
    if not _dies(
        host, CrashPoint.ADDING_ITEMS, lambda: host.client.conversations.items.create(conversation, items=items)
    ):
        return False
    assert listed() == before
    host.client.conversations.items.create(conversation, items=items)
    assert listed() == [*before, "one", "two"]
    return True


def delete_conversation(host: MortalHost) -> bool:
    """A conversation whose deletion was cut off is whole and goes on; deleted again, it is gone."""
    conversation = host.client.conversations.create().id
    name, after = new_name("talk"), new_name("talk")
    host.client.responses.create(input=f"{name} work", conversation=conversation)
    if not _dies(host, CrashPoint.DELETING_CONVERSATION, lambda: host.client.conversations.delete(conversation)):
        return False
    response = host.client.responses.create(input=f"{after} work", conversation=conversation)
    assert last_text(response) == f"{name} {after}"
    host.client.conversations.delete(conversation)
    assert _is_gone(lambda: host.client.conversations.retrieve(conversation))
    assert last_text(host.client.responses.retrieve(response.id)) == f"{name} {after}"
    return True


def delete_response(host: MortalHost) -> bool:
    """A response whose deletion was cut off is as it was; deleted again, it is gone and its child is not."""
    name, after = new_name("said"), new_name("said")
    response = host.ended(host.client.responses.create(input=f"{name} ask", background=True).id)
    call = {"type": "function_call_output", "call_id": response.output[-1].call_id, "output": "work"}
    if not _dies(host, CrashPoint.DELETING_RESPONSE, lambda: host.client.responses.delete(response.id)):
        return False
    assert host.client.responses.retrieve(response.id) == response
    answered = host.client.responses.create(input=[call], previous_response_id=response.id)
    host.client.responses.delete(response.id)
    assert _is_gone(lambda: host.client.responses.retrieve(response.id))
    child = host.client.responses.create(input=f"{after} work", previous_response_id=answered.id)
    assert last_text(child) == f"{name} {after}"
    return True


def _dies(host: MortalHost, point: CrashPoint, request: Callable[[], object]) -> bool:
    """Whether the process dies over a request; another one is there then, on a sound store."""
    host.set(Trap(point))
    with suppress(*LOST):
        request()
        host.trap.unlink()
        return False
    assert host.has_died(within=PATIENCE)
    assert faults(host.store) == []
    host.start()
    return True


def _is_gone(look: Callable[[], object]) -> bool:
    try:
        look()
    except NotFoundError:
        return True
    return False


def die_three_times(host: MortalHost, point: CrashPoint) -> bool:
    """A turn over which three processes have died is given up: one terminal event, and it can be continued."""
    name, after = new_name("deadly"), new_name("after")
    parent = host.client.responses.create(input=f"{new_name('parent')} work")
    host.set(Trap(point))
    with suppress(*LOST):  # it may die before it answers
        host.client.responses.create(input=f"{name} work", background=True, previous_response_id=parent.id)
    assert host.has_died(within=PATIENCE)
    ((response_id,),) = host.query("SELECT id FROM turns")
    for _ in range(2):
        host.set(Trap(point))
        host.spawn()
        assert host.has_died(within=PATIENCE), host.log
    host.start()
    ended = host.ended(response_id)
    assert ended.status == "failed"
    assert "3 times" in ended.error.message
    assert [event["type"] for event in host.events(response_id)].count("response.failed") == 1
    child = host.client.responses.create(input=f"{after} work", previous_response_id=response_id)
    assert last_text(child) == f"{last_text(parent)} {after}"
    assert faults(host.store) == []
    return True


def freeze(host: MortalHost, point: CrashPoint, *, taken_over: bool) -> bool:
    """A process that was stopped keeps its file from every other one.

    Thawed after its lease it goes on with its turn, or, if the turn has another owner by then, writes nothing more:
    the turn ends once.
    """
    name = new_name("frozen")
    host.set(Trap(point, action="stop"))
    response = host.client.responses.create(input=f"{name} work", background=True)
    wait_for(lambda: not host.trap.exists(), "it freezes")
    time.sleep(0.05)
    arguments = ["serve", WORKING, "--port", "0", "--store", f"sqlite:///{host.store}"]
    second = subprocess.run(
        [sys.executable, "-m", "agent_host", *arguments], cwd=host.folder, capture_output=True, text=True, timeout=20,
        check=False,
    )  # fmt: skip
    assert second.returncode != 0
    assert f"in use by process {host.process.pid}" in second.stderr
    with closing(sqlite3.connect(host.store, isolation_level=None)) as connection:
        # What another process on a shared store would have done when the lease had lapsed.
        owner = ", owner = 'another', attempt = attempt + 1" if taken_over else ""
        connection.execute(f"UPDATE turns SET lease_until = 0{owner} WHERE id = ?", (response.id,))
    before = host.events(response.id)
    host.process.send_signal(signal.SIGCONT)
    if taken_over:
        wait_for(lambda: "has another owner" in host.log or "left for later" in host.log, f"it lets go\n{host.log}")
        assert host.events(response.id) == before, "the former owner has written"
    ended = host.ended(response.id)
    assert last_text(ended) == name
    kinds = [event["type"] for event in host.events(response.id)]
    assert kinds.count("response.completed") == 1
    assert faults(host.store) == []
    most = 2 if taken_over else 1
    effects = Counter(host.effects(name))
    assert set(effects) == {effect for part in SUPERSTEPS["work"] for effect in part}
    assert max(effects.values()) <= most, effects
    return True
