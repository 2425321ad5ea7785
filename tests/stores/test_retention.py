"""Forgetting in a SQLite file: whatever its history was and wherever it was cut off, what stays reads as before."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host.engine.checkpoint import BLOB, INLINE, Commit, blob_hash, body_references, cell_references, cells_of
from agent_host.errors import StoreError
from agent_host.stores import SavePoint, Store
from agent_host.stores.database import Connection
from agent_host.stores.records import CommitName, Compaction, ConversationMove, Freed, Guard
from agent_host.stores.retention import collect
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from agent_host.testing.commit_log_contract import ROOT, child, nested
from agent_host.testing.records import background, conversation, response

T = TypeVar("T")
KINDS = ["finish", "failed", "background", "conversation", "compaction", "session", "delete", "in flight"]
Move = tuple[str, int, int]


class Died(BaseException):
    """The process has died."""


class MortalDatabase(SqliteDatabase):
    """A database whose process dies before or after one of its writes."""

    def __init__(self) -> None:
        super().__init__(None)
        self.writes_left: int | None = None
        self.is_written = False

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        if self.writes_left is None:
            return await super().write(fn, then)
        self.writes_left -= 1
        if self.writes_left < 0:
            if self.is_written:
                await super().write(fn, then)
            raise Died
        return await super().write(fn, then)


class History:
    """A store with what was done to it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commits: list[Commit] = [ROOT]
        self.count = 0

    def make(self, start: Commit, seed: int, session: str) -> Commit:
        """A commit with an own cell, a removal now and then, and blobs that others may have too."""
        self.count += 1
        leaf = b"\x00\x00leaf%d" % (seed % 3)
        commit = child(start, f"c{self.count}", leaf, nested(b"%d" % (seed % 4), leaf), session=session)
        delta = {**commit.delta, "a": None if seed % 3 else INLINE + b"\x00\x00%d" % seed}
        if seed % 5 == 0:
            delta = {key: ref for key, ref in delta.items() if ref is not None} | {"b": BLOB + blob_hash(leaf)}
        commit = replace(commit, delta=delta, complete=seed % 5 == 0, distance=0 if seed % 5 == 0 else commit.distance)
        self.commits.append(commit)
        return commit

    async def do(self, kind: str, at: int, seed: int) -> None:
        """One step; those that make no sense any more, such as continuing from what went, are refused."""
        start, name = self.commits[at % len(self.commits)], f"{kind}{self.count}"
        record = replace(response(name, start, start), created_at=seed)
        session = record.id
        if kind == "delete":
            await self.store.delete_response("", f"resp_finish{seed}")
        elif kind == "failed":
            await self.store.finish("", record, [ROOT])
        elif kind == "compaction":
            await self.store.keep_compaction("", Compaction(name, seed, b"", start.id))
        elif kind == "session":
            await self.store.commit_log().commit([ROOT, self.make(start, seed, f"s{self.count}")], None)
        elif kind in ("background", "in flight"):
            await self.store.admit("", background(name, start_commit=start.id), [ROOT])
            await self.store.take("", record.id, "me", now=0, until=10)
            for number in range(seed % 4):
                start = self.make(start, seed + number, session)
                await self.store.step("", Guard(record.id, "me"), [start], [])
            if kind == "background":
                await self.store.finish("", replace(record, commit=start.id), [], guard=Guard(record.id, "me"))
        else:
            move = None
            if kind == "conversation":
                move = ConversationMove(f"conv_{name}", None)
                await self.store.create_conversation("", replace(conversation(name), created_at=seed), [])
            commit = self.make(start, seed, session)
            await self.store.finish("", replace(record, commit=commit.id), [ROOT, commit], move=move)

    async def points(self) -> dict[SavePoint, Any]:
        """Whatever can be continued, with all of its state down to the last blob."""
        found = {}
        for point in await self.store.save_points(0):
            found[point] = await self._state(point.commit)
        return found

    async def _state(self, commit_id: str) -> Any:
        cells = cells_of(await self.store.read_chain("", commit_id))
        bodies: dict[bytes, bytes] = {}
        wanted = {hash_ for ref in cells.values() for hash_ in cell_references(ref)}
        while wanted:
            found = await self.store.read_blobs("", wanted)
            assert found.keys() == wanted, "a blob is missing"
            bodies |= found
            wanted = {each for body in found.values() for each in body_references(body)} - bodies.keys()
        return cells, bodies


async def run_history(moves: list[Move], before: int, dies_after: int | None, is_written: bool) -> None:
    database = MortalDatabase()
    store = SqlStore(database)
    await store.open()
    history = History(store)
    await store.finish("", response("first", ROOT, ROOT), [ROOT])
    for kind, at, seed in moves:
        try:
            await history.do(kind, at, seed)
        except StoreError:
            continue
    points = await history.points()
    database.writes_left, database.is_written = dies_after, is_written
    with contextlib.suppress(Died):
        await collect(store, before, [ROOT.id])
    database.writes_left = None
    cut = await history.points()
    assert all(points[point] == state for point, state in cut.items())
    assert {point for point in points if point.kind != "response"} <= cut.keys()
    # What is left can be continued, and the next round ends what was begun.
    for number, point in enumerate(cut):
        start = (await store.read_chain("", point.commit))[0]
        after = child(start, f"after{number}", session=f"resp_after{number}")
        await store.finish("", replace(response(f"after{number}", start, after), created_at=10**6), [after])
    await collect(store, before, [ROOT.id])
    whole = await history.points()
    assert all(points.get(point, state) == state for point, state in whole.items())
    assert not await collect(store, before, [ROOT.id])
    await store.aclose()


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 40), st.integers(0, 40)), max_size=25),
    st.integers(0, 45),
    st.none() | st.integers(0, 6),
    st.booleans(),
)
def test_what_stays_reads_as_before(moves: list[Move], before: int, dies_after: int | None, is_written: bool) -> None:
    """Branches, conversations, compactions, sessions, steps, deletions, and a death between any two writes."""
    asyncio.run(run_history(moves, before, dies_after, is_written))


class BusyDatabase(SqliteDatabase):
    """A database in which something is stored right before the next write of a collection, that is, after its mark."""

    def __init__(self) -> None:
        super().__init__(None)
        self.before_write: Callable[[], Any] | None = None

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        if self.before_write is not None:
            before, self.before_write = self.before_write, None
            await before()
        return await super().write(fn, then)


@pytest.mark.parametrize("newest_goes", [False, True], ids=["behind the mark", "in the place of the newest"])
async def test_a_blob_that_is_named_again_stays(newest_goes: bool) -> None:
    """R64: a turn that ends between the mark and the removal keeps the blobs that it names, whatever its place."""
    database = BusyDatabase()
    store = SqlStore(database)
    await store.open()
    leaf, other = b"\x00\x00leaf", b"\x00\x00other"
    whole = nested(b"whole", leaf)
    gone = child(ROOT, "gone", whole, leaf, other, session="resp_1")
    newest = child(ROOT, "newest", session="s1")
    await store.finish("", response("1", ROOT, gone), [ROOT, gone])
    await store.commit_log().commit([newest], None)
    await store.commit_log().move_head("support", "s1", ROOT.id, newest.id)
    await store.delete_response("", "resp_1")
    assert (await store.prune([CommitName("", gone.id)])).count == 1
    again = replace(child(ROOT, "again", whole, session="resp_2"), blobs={})

    async def end_a_turn() -> None:
        if newest_goes:
            await store.commit_log().delete(newest.id)
        await store.finish("", response("2", ROOT, again), [again])

    database.before_write = end_a_turn
    freed = await store.collect_blobs()
    assert await store.read_blobs("", gone.blobs) == {blob_hash(each): each for each in (whole, leaf)} | (
        {blob_hash(other): other} if newest_goes else {}
    )
    assert freed == (Freed() if newest_goes else Freed(1, len(other)))
    assert (await store.collect_blobs()).count == newest_goes
    await store.aclose()


async def test_large_blobs_go_in_several_steps() -> None:
    """R64: one transaction removes so many bytes at most, so that turns need not wait for all of them."""
    database = SqliteDatabase(None)
    store = SqlStore(database)
    await store.open()
    large = [b"\x00\x00" + bytes([number]) * 3_000_000 for number in range(4)]
    gone = child(ROOT, "gone", *large, session="resp_1")
    await store.finish("", response("1", ROOT, gone), [ROOT, gone])
    await store.delete_response("", "resp_1")
    await store.prune([CommitName("", gone.id)])
    writes: list[object] = []
    write = database.write

    async def counted(fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        writes.append(fn)
        return await write(fn, then)

    database.write = counted  # type: ignore[method-assign]  # one store, one test
    assert (await store.collect_blobs()).count == 4
    assert len(writes) == 2
    await store.aclose()
