"""Checkpoints for whoever uses the engine alone: the storage users know, over any commit log.

A storage decodes with the types of the workflows that were built or run with it; before that, ids, kinds and
sizes can be read, and looking at values raises.
"""

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit, CommitKind, cells_of
from agent_host.engine.codec import Codec
from agent_host.engine.lane import ReadBlobs, View, gather, read_view
from agent_host.engine.ports import Boundary, CommitLog
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException, WorkflowConflictError


class MemoryLog:
    """A commit log in dicts of bytes. Nothing in it can be changed by whoever wrote or reads it."""

    def __init__(self) -> None:
        self._commits: dict[str, Commit] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._heads: dict[tuple[str, str], str] = {}

    def __repr__(self) -> str:
        return f"<MemoryLog {len(self._commits)} commits, {len(self._blobs)} blobs, {len(self._heads)} heads>"

    async def head(self, workflow: str, session_id: str) -> str | None:
        return self._heads.get((workflow, session_id))

    async def chain(self, commit_id: str) -> list[Commit]:
        chain: list[Commit] = []
        commit = self._commits.get(commit_id)
        while commit is not None:
            chain.append(commit)
            commit = None if commit.complete else self._commits.get(commit.parent or "")
        return chain

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        return {blob: self._blobs[blob] for blob in hashes if blob in self._blobs}

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        if not commits:
            return
        key = (commits[-1].workflow, commits[-1].session_id)
        self._refuse_moved(key, expected_head)
        new = {commit.id for commit in commits}
        for commit in commits:
            if not (commit.parent is None or commit.parent in self._commits or commit.parent in new):
                raise WorkflowConflictError(
                    f"The commit {commit.id!r} follows {commit.parent!r}, which is not stored. Nothing was written."
                )
        for commit in commits:
            self._blobs.update(commit.blobs)
            self._commits.setdefault(commit.id, _stripped(commit) if commit.blobs else commit)
        self._heads[key] = commits[-1].id

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        self._refuse_moved((workflow, session_id), expected_head)
        if to not in self._commits:
            raise CheckpointNotFoundError(f"There is no checkpoint {to!r}.")
        self._heads[workflow, session_id] = to

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        found = [c for c in self._commits.values() if c.workflow == workflow and session_id in (None, c.session_id)]
        return sorted(found, key=lambda commit: (commit.created_at, commit.seq))

    async def delete(self, commit_id: str) -> bool:
        gone = self._commits.get(commit_id)
        if gone is None:
            return False
        if gone.kind == "root":
            raise WorkflowCheckpointException(f"The checkpoint {commit_id!r} is the initial state; it stays.")
        if commit_id in self._heads.values():
            raise WorkflowCheckpointException(f"The checkpoint {commit_id!r} is the newest of its session; it stays.")
        for child in [c for c in self._commits.values() if c.parent == commit_id and not c.complete]:
            whole = cells_of(await self.chain(child.id))
            self._commits[child.id] = _stripped(child, delta=whole, complete=True, distance=0)
            self._shorten(child)
        del self._commits[commit_id]
        return True

    def _shorten(self, ancestor: Commit) -> None:
        """Correct the distances below a commit that has become complete."""
        waiting = [ancestor.id]
        while waiting:
            parent = self._commits[waiting.pop()]
            for child in [c for c in self._commits.values() if c.parent == parent.id and not c.complete]:
                self._commits[child.id] = _stripped(child, distance=parent.distance + 1)
                waiting.append(child.id)

    def _refuse_moved(self, key: tuple[str, str], expected: str | None) -> None:
        head = self._heads.get(key)
        if head != expected:
            raise WorkflowConflictError(
                f"Session {key[1]!r} of workflow {key[0]!r} moved on to {head!r} while this run still started from "
                f"{expected!r}. Nothing was written; run again from the new head."
            )


def _stripped(commit: Commit, **changes: Any) -> Commit:
    return dataclasses.replace(commit, blobs={}, **changes)


@dataclass(frozen=True, slots=True)
class WorkflowCheckpoint:
    """One commit as a user looks at it. Values are decoded on access, freshly each time: nothing can be damaged."""

    commit: Commit
    _cells: Mapping[str, bytes] = field(repr=False)
    _bodies: Mapping[bytes, Any] = field(repr=False)
    _codec: Codec | None = field(repr=False)

    @property
    def checkpoint_id(self) -> str:
        return self.commit.id

    @property
    def workflow_name(self) -> str:
        return self.commit.workflow

    @property
    def session_id(self) -> str:
        return self.commit.session_id

    @property
    def previous_checkpoint_id(self) -> str | None:
        return self.commit.parent

    @property
    def kind(self) -> CommitKind:
        return self.commit.kind

    @property
    def seq(self) -> int:
        """The position along the parent chain, across sessions; the root has 0."""
        return self.commit.seq

    @property
    def step(self) -> int:
        """How many supersteps were completed up to here; input commits repeat the number before them."""
        return self.commit.step

    @property
    def graph_signature_hash(self) -> str:
        return self.commit.signature

    @property
    def timestamp(self) -> str:
        """When it was made, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.commit.created_at, UTC).isoformat()

    @property
    def state(self) -> dict[str, Any]:
        """Shared state by key."""
        return {key[len(cells.STATE) :]: self._decode(ref) for key, ref in cells.under(cells.STATE, self._cells)}

    @property
    def executor_states(self) -> dict[str, dict[str, Any]]:
        """What each executor has stored: its hook's dict, or its changed attributes."""
        found: dict[str, dict[str, Any]] = {}
        for key, reference in cells.under(cells.EXECUTOR, self._cells):
            executor, attribute = cells.split_executor_key(key)
            if attribute is None:
                found.setdefault(executor, {}).update(self._decode(reference))
            else:
                found.setdefault(executor, {})[attribute] = self._decode(reference)
        return found

    @property
    def messages(self) -> dict[str, list[Any]]:
        """Queued messages by the executor that sent them."""
        found: dict[str, list[Any]] = {}
        for _, reference in cells.under(cells.QUEUE, self._cells):
            source, *_, value = self._decode(reference)
            found.setdefault(source, []).append(value)
        return found

    @property
    def waiting_in_joins(self) -> dict[tuple[str, str], list[Any]]:
        """Messages that wait in a fan-in, by (edge group, source)."""
        found: dict[tuple[str, str], list[Any]] = {}
        for key, reference in cells.under(cells.JOIN, self._cells):
            found.setdefault(cells.split_join_key(key), []).append(self._decode(reference)[-1])
        return found

    @property
    def pending_request_info_events(self) -> dict[str, Any]:
        """The data of every open request, by its id."""
        requests = (self._decode(reference) for _, reference in cells.under(cells.REQUEST, self._cells))
        return {request_id: data for request_id, _, data, _ in requests}

    def _decode(self, reference: bytes) -> Any:
        if self._codec is None:
            raise WorkflowCheckpointException(
                "This storage does not know the workflow's types yet. Build or run the workflow with it, "
                "or pass codec= to the storage."
            )
        return self._codec.decode(reference, self._bodies)


class CheckpointStorage:
    """Checkpoints of one or more workflows, by workflow name and session."""

    def __init__(self, log: CommitLog, codec: Codec | None = None) -> None:
        self.log = log
        self._codec = codec

    def bind(self, codec: Codec) -> None:
        """Allow the types of one more workflow when decoding."""
        if self._codec is None:
            self._codec = codec
        elif not codec.types <= self._codec.types:
            self._codec = self._codec.union(codec)

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """The checkpoint with this id. Raises `CheckpointNotFoundError`."""
        commit, view = await read_view(self.log.chain, checkpoint_id)
        whole = view.cells
        bodies = await gather(list(whole.values()), self._codec or Codec(), self.log.blobs)
        return WorkflowCheckpoint(commit, whole, bodies, self._codec)

    async def list_checkpoints(self, *, workflow_name: str, session_id: str | None = None) -> list[WorkflowCheckpoint]:
        """The checkpoints of a workflow, oldest first."""
        return [await self.load(c.id) for c in await self.log.commits(workflow_name, session_id)]

    async def list_checkpoint_ids(self, *, workflow_name: str, session_id: str | None = None) -> list[str]:
        """Their ids, oldest first."""
        return [commit.id for commit in await self.log.commits(workflow_name, session_id)]

    async def get_latest(self, *, workflow_name: str, session_id: str = "default") -> WorkflowCheckpoint | None:
        """The head of a session: its newest checkpoint, never another session's."""
        head = await self.log.head(workflow_name, session_id)
        return await self.load(head) if head else None

    async def delete(self, checkpoint_id: str) -> bool:
        """Remove a checkpoint that is no head; those after it stay whole. False if there is none."""
        return await self.log.delete(checkpoint_id)


class InMemoryCheckpointStorage(CheckpointStorage):
    """Checkpoints as bytes in the memory of this process."""

    def __init__(self, codec: Codec | None = None) -> None:
        super().__init__(MemoryLog(), codec)


class HeadPublisher:
    """Publishes a run's boundaries to a commit log and moves the head of its session along."""

    def __init__(self, log: CommitLog, session_id: str, head: str | None, root: Commit) -> None:
        self._log = log
        self._session_id = session_id
        self._head = head
        self._root = root

    async def publish(self, boundary: Boundary) -> None:
        commits = boundary.commits
        if not commits:
            return
        if commits[0].parent == self._root.id:
            commits = (self._root, *commits)  # stored with the first commit that descends from it
        await self._log.commit(commits, self._head)
        self._head = commits[-1].id

    async def stand_at(self, commit_id: str) -> None:
        """Make a stored commit, or the root, the head of the session."""
        if commit_id == self._head:
            return
        if commit_id == self._root.id:
            await _store_root(self._log, self._root)
        await self._log.move_head(self._root.workflow, self._session_id, commit_id, self._head)
        self._head = commit_id


async def _store_root(log: CommitLog, root: Commit) -> None:
    while not await log.chain(root.id):
        head = await log.head(root.workflow, root.session_id)
        with contextlib.suppress(WorkflowConflictError):  # somebody else stores a root at this moment
            await log.commit([root], head)


async def head_view(log: CommitLog, workflow: str, session_id: str, root: Commit) -> tuple[str | None, View]:
    """The head of a session and the state there; the root's state for a session that has never committed."""
    head = await log.head(workflow, session_id)
    if head is None:
        return None, root_view(root)
    _, view = await read_view(log.chain, head)
    return head, view


def root_view(root: Commit) -> View:
    """The initial state as a view."""
    return View.of(root, {key: reference for key, reference in root.delta.items() if reference is not None})


def blobs_with_root(root: Commit, read: ReadBlobs | None) -> ReadBlobs:
    """Blob reads that find the root's own blobs even where no store holds them yet."""

    async def read_blobs(hashes: Collection[bytes]) -> dict[bytes, bytes]:
        found = {blob: root.blobs[blob] for blob in hashes if blob in root.blobs}
        missing = [blob for blob in hashes if blob not in found]
        return {**found, **await read(missing)} if missing and read is not None else found

    return read_blobs
