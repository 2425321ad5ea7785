"""Whatever is committed, forked, deleted, pruned, collected and copied: what is still there reads as it always did."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host import open_store
from agent_host.engine.checkpoint import BLOB, INLINE, Commit, blob_hash, body_references, cells_of
from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage, InMemoryCheckpointStorage
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.engine.storage.sealed_log import SealedLog
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException
from agent_host.testing.commit_log_contract import ROOT, bodies, nested
from tests.engine.sealing import Scrambler

SESSIONS = ["s1", "s2", "s3"]


@asynccontextmanager
async def in_memory() -> AsyncIterator[CommitLog]:
    yield MemoryLog()


@asynccontextmanager
async def in_files() -> AsyncIterator[CommitLog]:
    with tempfile.TemporaryDirectory() as path:
        yield FileLog(path)


@asynccontextmanager
async def in_sealed_files() -> AsyncIterator[CommitLog]:
    with tempfile.TemporaryDirectory() as path:
        yield SealedLog(FileLog(path), Scrambler())


@asynccontextmanager
async def in_sqlite() -> AsyncIterator[CommitLog]:
    store = open_store("sqlite://")
    await store.open()
    yield store.commit_log("ann")
    await store.aclose()


Change = tuple[str, int, int]
CHANGES = st.tuples(
    st.sampled_from(["commit", "commit", "commit", "fork", "delete", "prune", "collect", "copy"]),
    st.integers(0, 10_000),
    st.integers(0, 2),
)


@dataclass
class Content:
    """The cells and bodies that a commit had when it was made."""

    cells: dict[str, bytes]
    blobs: dict[bytes, bytes]


class History:
    """Makes changes, and knows what every commit must read as."""

    def __init__(self, log: CommitLog) -> None:
        self.log = log
        self.storage = CheckpointStorage(log)
        self.contents: dict[str, Content] = {}
        self.commits: dict[str, Commit] = {}
        self.removed: set[str] = set()

    async def apply(self, change: Change) -> None:
        verb, number, session = change
        await getattr(self, verb)(number, SESSIONS[session])

    def chosen(self, number: int) -> str:
        alive = [commit_id for commit_id in self.commits if commit_id not in self.removed]
        return alive[number % len(alive)]

    async def commit(self, number: int, session: str) -> None:
        head = await self.log.head("support", session)
        parent = self.commits[head or ROOT.id]
        before = self.contents[parent.id]
        leaf, top = nested(b"leaf%d" % (number % 5)), nested(b"top%d" % (number % 7), nested(b"leaf%d" % (number % 5)))
        key = f"k{number % 4}"
        delta: dict[str, bytes | None] = {key: BLOB + blob_hash(top), "n": INLINE + b"\x00\x00%d" % number}
        if number % 3 == 0 and f"k{(number + 1) % 4}" in before.cells:
            delta[f"k{(number + 1) % 4}"] = None
        cells = {k: v for k, v in {**before.cells, **delta}.items() if v is not None}
        complete = number % 6 == 0
        # What the parent has is not handed over again, as the engine does it.
        new = {hash_: body for hash_, body in bodies(leaf, top).items() if hash_ not in before.blobs}
        made = Commit(
            id=f"chk_{len(self.commits)}", parent=parent.id, workflow="support", session_id=session, kind="step",
            seq=parent.seq + 1, step=parent.step + 1, created_at=float(len(self.commits)), signature="sig",
            delta=dict(cells) if complete else delta, complete=complete,
            distance=0 if complete else (await self.log.chain(parent.id) or [ROOT])[0].distance + 1, blobs=new,
        )  # fmt: skip
        await self.log.commit([ROOT, made] if parent.id == ROOT.id else [made], head)
        self.commits[made.id] = made
        held = {**before.blobs, **bodies(leaf, top)}
        needed = needed_blobs([cells], {hash_: body_references(body) for hash_, body in held.items()})
        self.contents[made.id] = Content(cells, {hash_: held[hash_] for hash_ in needed})

    async def fork(self, number: int, session: str) -> None:
        to = self.chosen(number)
        if await self.log.chain(to):
            await self.log.move_head("support", session, to, await self.log.head("support", session))

    async def delete(self, number: int, session: str) -> None:
        gone = self.chosen(number)
        try:
            if await self.storage.delete(gone):
                self.removed.add(gone)
        except WorkflowCheckpointException:
            assert gone == ROOT.id or gone in [await self.log.head("support", name) for name in SESSIONS]

    async def prune(self, number: int, session: str) -> None:
        chosen = session if number % 2 else None
        self.removed |= set(await self.storage.prune("support", session_id=chosen, keep_last=number % 4))

    async def collect(self, number: int, session: str) -> None:
        await self.log.collect()

    async def copy(self, number: int, session: str) -> None:
        """Into another storage, deleted here, and back: it is what it was, with or without its parent."""
        commit_id = self.chosen(number)
        if not await self.log.chain(commit_id):
            return
        other = InMemoryCheckpointStorage()
        await other.save(await self.storage.load(commit_id))
        with contextlib.suppress(WorkflowCheckpointException):  # a root or a head
            await self.storage.delete(commit_id)
        heads = [await self.log.head("support", name) for name in SESSIONS]
        assert await self.storage.save(await other.load(commit_id)) == commit_id
        assert [await self.log.head("support", name) for name, head in zip(SESSIONS, heads, strict=True) if head] == [
            head for head in heads if head
        ]

    async def check(self) -> None:
        """Every commit that was not removed has its cells, and all bodies that these need; the others are unknown."""
        for commit_id, content in self.contents.items():
            if commit_id in self.removed:
                with pytest.raises(CheckpointNotFoundError):
                    await self.storage.load(commit_id)
            elif commit_id != ROOT.id or await self.log.chain(ROOT.id):
                loaded = await self.storage.load(commit_id)
                assert dict(loaded._cells) == content.cells
                assert dict(loaded._bodies) == content.blobs


@pytest.mark.parametrize("make_log", [in_memory, in_files, in_sealed_files, in_sqlite])
@settings(max_examples=25, deadline=None)
@given(changes=st.lists(CHANGES, min_size=5, max_size=30))
def test_survivors_never_change(make_log: Callable[[], Any], changes: list[Change]) -> None:
    """After each of any changes, every checkpoint that was not removed has the values it was made with."""

    async def play() -> None:
        async with make_log() as log:
            history = History(log)
            history.commits[ROOT.id] = replace(ROOT, blobs={})
            history.contents[ROOT.id] = Content(cells_of([ROOT]), dict(ROOT.blobs))
            for change in changes:
                await history.apply(change)
                await history.check()

    asyncio.run(play())
