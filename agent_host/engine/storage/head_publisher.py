"""Publish a run's boundaries to a commit log, and read where a session stands there."""

import contextlib
from collections.abc import Collection, Mapping

from agent_host.engine.checkpoint import Commit
from agent_host.engine.ports import Boundary, CommitLog
from agent_host.engine.view import ReadBlobs, View, read_view
from agent_host.errors import WorkflowConflictError


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

    async def record(self, entries: Mapping[str, bytes]) -> None:
        if self._head is not None:
            await self._log.record(self._root.workflow, self._session_id, self._head, entries)

    async def recorded(self) -> dict[str, bytes]:
        if self._head is None:
            return {}
        return await self._log.recorded(self._root.workflow, self._session_id, self._head)

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
