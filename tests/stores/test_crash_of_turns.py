"""A process that is killed inside a verb about turns or conversations leaves the verb done or not begun."""

import asyncio
import sqlite3
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent_host.stores import Store, open_store
from agent_host.stores.records import Guard
from agent_host.testing.commit_log_contract import ROOT, bodies, child
from agent_host.testing.records import response

WRITER = """
import asyncio, sys
from dataclasses import replace
from agent_host.stores import open_store
from agent_host.stores.records import Append, ConversationMove, IdempotencyKey, OpenCall
from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.records import background, conversation, item, response
from agent_host.stores.records import Guard

def done():
    sys.stdout.write("done\\n")
    sys.stdout.flush()

async def main():
    store = open_store(sys.argv[1])
    await store.open()
    last, head = ROOT, None
    await store.finish("", response("root", ROOT, ROOT), [ROOT])
    await store.create_conversation("", conversation("1"), [])
    for n in range(100_000):
        commit = child(last, f"{n}", b"body%d" % n * 500, session=f"resp_{n}")
        key, guard = IdempotencyKey(f"key_{n}", b"fingerprint"), Guard(f"resp_{n}", "me")
        await store.add_items("", "conv_1", [item(f"{n}a"), item(f"{n}b")])
        done()
        turn = background(f"{n}", start_commit=last.id, conversation="conv_1", key=key, request=b"r" * 5000)
        await store.admit("", turn)
        done()
        await store.take("", f"resp_{n}", "me", now=0, until=1e12)
        done()
        await store.begin("", guard, [])
        done()
        await store.record("", guard, {"a": b"1", "b": b"2"})
        done()
        await store.step("", guard, [commit], [b"0", b"1"])
        done()
        await store.append([Append("", guard.after(2), (b"2", b"3"))])
        done()
        record = replace(
            response(f"{n}", last, commit), background=True, items=(f"own_{n}",), calls=(OpenCall(f"call_{n}", "r"),),
            completed_at=n,
        )
        position = (await store.waiting_items("", "conv_1")).position
        move = ConversationMove("conv_1", head, (item(f"{n}c"),), position)
        await store.finish("", record, [], guard=guard.after(4), events=[b"4"], move=move, key=key)
        done()
        await store.delete_item("", "conv_1", f"msg_{n}a")
        done()
        await store.delete_response("", f"resp_{n - 2}")
        done()
        await store.forget_events(n, 100)
        done()
        last, head = commit, commit.id

asyncio.run(main())
"""


def run_and_kill(path: Path, after: int) -> int:
    """Start a writer, kill it after so many acknowledged verbs, and return how many it has acknowledged."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(after)]
        process.kill()
        acknowledged += process.stdout.readlines()
    assert set(acknowledged[:-1]) <= {"done\n"}
    return sum(line == "done\n" for line in acknowledged)


@dataclass
class Seen:
    """What a store shows of the writer's turns, and what each of its verbs changes for turn `n`."""

    items: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    head: str | None = None
    responses: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    own_items: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    events: dict[int, int] = field(default_factory=dict)
    notes: int = 0
    turn: tuple[int, str, str, int, int] | None = None
    commits: int = 0

    def add(self, n: int) -> None:
        self.items += [f"{n}a", f"{n}b"]
        self.waiting = [f"{n}a", f"{n}b"]

    def admit(self, n: int) -> None:
        self.turn = (n, "queued", f"chk_{n - 1}" if n else ROOT.id, 0, -1)
        self.keys.append(n)

    def take(self, n: int) -> None:
        self.turn = (n, "in_progress", f"chk_{n - 1}" if n else ROOT.id, 0, -1)

    def begin(self, n: int) -> None:
        self.turn = (n, "in_progress", f"chk_{n - 1}" if n else ROOT.id, 1, -1)

    def record(self, n: int) -> None:
        self.notes = 2

    def step(self, n: int) -> None:
        self.turn = (n, "in_progress", f"chk_{n}", 1, 1)
        self.notes, self.commits, self.events[n] = 0, self.commits + 1, 2

    def append(self, n: int) -> None:
        self.turn = (n, "in_progress", f"chk_{n}", 1, 3)
        self.events[n] = 4

    def finish(self, n: int) -> None:
        self.turn, self.head, self.waiting, self.events[n] = None, f"chk_{n}", [], 5
        self.items.append(f"{n}c")
        for found in (self.responses, self.own_items, self.calls):
            found.append(n)

    def delete_item(self, n: int) -> None:
        self.items.remove(f"{n}a")

    def delete_response(self, n: int) -> None:
        for found in (self.responses, self.own_items, self.calls, self.keys):
            if n - 2 in found:
                found.remove(n - 2)
        self.events.pop(n - 2, None)

    def expire(self, n: int) -> None:
        self.events.pop(n - 1, None)


VERBS = (
    Seen.add,
    Seen.admit,
    Seen.take,
    Seen.begin,
    Seen.record,
    Seen.step,
    Seen.append,
    Seen.finish,
    Seen.delete_item,
    Seen.delete_response,
    Seen.expire,
)


def after(verbs: int) -> Seen:
    """What is to be seen after so many verbs."""
    seen = Seen()
    for number in range(verbs):
        VERBS[number % len(VERBS)](seen, number // len(VERBS))
    return seen


async def look(store: Store, turns: int) -> Seen:
    """What is to be seen of so many turns."""
    page = await store.list_items("", "conv_1", after=None, limit=1_000_000, newest_first=False)
    conversation = await store.read_conversation("", "conv_1")
    assert page is not None
    assert conversation is not None
    waiting = await store.waiting_items("", "conv_1")
    seen = Seen([item.id[4:] for item in page[0]], [item.id[4:] for item in waiting.items], conversation.head)
    for n in range(turns):
        if await store.read_response("", f"resp_{n}") is not None:
            seen.responses.append(n)
        if await store.find_key("", f"key_{n}", 0) is not None:
            seen.keys.append(n)
        if await store.find_items("", [f"own_{n}"]):
            seen.own_items.append(n)
        if await store.find_call("", f"call_{n}") is not None:
            seen.calls.append(n)
        if events := await store.read_events("", f"resp_{n}", -1, 100):
            assert events == [b"%d" % number for number in range(len(events))]
            seen.events[n] = len(events)
        if await store.read_chain("", f"chk_{n}"):
            body = bodies(b"body%d" % n * 500)
            assert await store.read_blobs("", body) == body
            seen.commits += 1
        turn = await store.read_turn("", f"resp_{n}")
        if turn is not None:
            assert turn.request == b"r" * 5000
            seen.turn = (n, turn.status, turn.commit, turn.attempt, turn.last_sequence)
        seen.notes += len(await store.recorded("", f"resp_{n}"))
    return seen


@pytest.mark.parametrize("acknowledged", [*range(1, 1 + len(VERBS)), 27, 64, 151])
async def test_every_verb_is_whole_after_a_kill(tmp_path: Path, acknowledged: int) -> None:
    """R28, R36, R41: after a kill at any moment the store shows the verbs that were acknowledged, and of the one that
    was not all or nothing; the turn in flight is free to be taken, and goes on from where it stands."""
    path = tmp_path / "a.db"
    verbs = await asyncio.to_thread(run_and_kill, path, acknowledged)
    store = open_store(str(path))
    await store.open()
    seen = await look(store, verbs // len(VERBS) + 2)
    assert seen in (after(verbs), after(verbs + 1))

    lapsed = await store.lapsed(0)
    assert [found.turn.id for found in lapsed] == ([f"resp_{seen.turn[0]}"] if seen.turn else [])
    for found in lapsed:
        turn = await store.take("", found.turn.id, "after", now=0, until=10)
        assert turn is not None
        start = (await store.read_chain("", turn.commit))[0]
        end = child(start, "after")
        guard = Guard(turn.id, "after", turn.last_sequence)
        await store.finish("", response(turn.id[5:], start, end), [end], guard=guard, events=[b"end"])
    await store.aclose()

    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table in ("turns", "turn_requests", "turn_notes"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    connection.close()
