"""Checkpoints for whoever uses the engine alone: the storage users know, over any commit log.

A storage decodes with the types of the workflows that were built or run with it; before that, ids, kinds and
sizes can be read, and looking at values raises.
"""

import contextlib
import os
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import get_args

from agent_host.engine.checkpoint import MANIFEST_EVERY, Commit, CommitKind, cells_of
from agent_host.engine.ports import CommitLog
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.iterations import steps_since_input
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.retention import Retention, find_pauses
from agent_host.engine.storage.sealed_log import SealedLog, Wrapper
from agent_host.engine.storage.workflow_checkpoint import WorkflowCheckpoint
from agent_host.engine.view import collect, read_whole
from agent_host.errors import (
    CheckpointDecodeError,
    WorkflowCheckpointException,
    WorkflowConflictError,
    WorkflowValidationError,
)

PINNED = frozenset({"root", "manual"})


class CheckpointStorage:
    """Checkpoints of one or more workflows, by workflow name and session.

    A `wrapper`, an object with `seal` and `unseal` for bytes, encrypts or signs what is stored: `sealed_log.py` says
    what of it stays readable.
    """

    def __init__(self, log: CommitLog, codec: Codec | None = None, *, wrapper: Wrapper | None = None) -> None:
        self.log = log if wrapper is None else SealedLog(log, wrapper)
        self._codec = codec

    def bind(self, codec: Codec) -> None:
        """Allow the types of one more workflow when decoding."""
        if self._codec is None:
            self._codec = codec
        elif not self._codec.covers(codec):
            self._codec = self._codec.union(codec)

    # --- Reading ---

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """The checkpoint with this id. Raises `CheckpointNotFoundError`."""
        return await self._load(checkpoint_id, {})

    async def _load(self, checkpoint_id: str, at_hand: dict[bytes, bytes]) -> WorkflowCheckpoint:
        chain = await read_whole(self.log.chain, checkpoint_id)
        steps = await steps_since_input(chain, self.log.chain)
        whole = cells_of(chain)
        bodies = await collect(whole.values(), at_hand.get, at_hand.__setitem__, self.log.blobs)
        return WorkflowCheckpoint(chain[0], steps, whole, bodies, self._codec)

    async def list_checkpoints(self, *, workflow_name: str, session_id: str | None = None) -> list[WorkflowCheckpoint]:
        """The checkpoints of a workflow, oldest first."""
        at_hand: dict[bytes, bytes] = {}  # what several hold is read once, and held once
        return [await self._load(c.id, at_hand) for c in await self.log.commits(workflow_name, session_id)]

    async def list_checkpoint_ids(self, *, workflow_name: str, session_id: str | None = None) -> list[str]:
        """Their ids, oldest first."""
        return [commit.id for commit in await self.log.commits(workflow_name, session_id)]

    async def get_latest(self, *, workflow_name: str, session_id: str = "default") -> WorkflowCheckpoint | None:
        """The head of a session: its newest checkpoint, never another session's."""
        head = await self.log.head(workflow_name, session_id)
        return await self.load(head) if head else None

    # --- Writing ---

    async def save(self, checkpoint: WorkflowCheckpoint) -> str:
        """Store a checkpoint that was loaded from this or another storage, and return its id.

        One that is stored already is left as it is. A parent that is not stored here is not named. The checkpoint
        becomes its session's head if the session has none, or if it follows the head.
        """
        if checkpoint.path:
            raise ValueError("The view of a nested workflow is a part of a checkpoint. Save the whole checkpoint.")
        commit = checkpoint.commit
        while not await self.log.chain(commit.id):
            fitting = await self._fitted(checkpoint)
            head = await self.log.head(commit.workflow, commit.session_id)
            with contextlib.suppress(WorkflowConflictError):  # the session, or its parent, changed at this moment
                if head is None or head == commit.parent or commit.kind == "root":
                    await self.log.commit([fitting], head)
                else:
                    await self._store_beside(fitting, head)
        return commit.id

    async def _fitted(self, checkpoint: WorkflowCheckpoint) -> Commit:
        """The checkpoint's commit with its blobs, as a change of its parent if that is stored here."""
        commit, own, blobs = checkpoint.commit, dict(checkpoint._cells), dict(checkpoint._bodies)
        chain = await self.log.chain(commit.parent) if commit.parent is not None else []
        if not chain or chain[0].distance + 1 >= MANIFEST_EVERY:
            parent = commit.parent if chain else None
            return replace(commit, parent=parent, delta=own, complete=True, distance=0, blobs=blobs)
        before = cells_of(chain)
        delta: dict[str, bytes | None] = {key: ref for key, ref in own.items() if before.get(key) != ref}
        delta |= dict.fromkeys(before.keys() - own.keys())
        return replace(commit, delta=delta, complete=False, distance=chain[0].distance + 1, blobs=blobs)

    async def _store_beside(self, commit: Commit, head: str) -> None:
        """Store a commit of a session that has moved on, and leave the session where it stands."""
        (at, *_) = await self.log.chain(head)
        if (at.workflow, at.session_id) == (commit.workflow, commit.session_id):
            await self.log.commit([commit, at], head)
        else:  # the session stands at a commit of another one, from which it was forked
            await self.log.commit([commit], head)
            await self.log.move_head(commit.workflow, commit.session_id, head, commit.id)

    async def delete(self, checkpoint_id: str) -> bool:
        """Remove a checkpoint that is no head; those after it stay whole. False if there is none.

        Raises `WorkflowCheckpointException` for the head of a session and for an initial state.
        """
        return await self.log.delete(checkpoint_id)

    async def prune(
        self,
        workflow_name: str,
        *,
        session_id: str | None = None,
        keep_last: int | None = None,
        keep_kinds: AbstractSet[str] = PINNED,
        older_than: float | None = None,
        keep_pauses: bool = True,
        now: Callable[[], float] = time.time,
    ) -> list[str]:
        """Remove old checkpoints, then the values that nothing needs any more; returns the removed ids, oldest first.

        Of every session goes what is neither among its newest `keep_last` nor younger than `older_than` seconds; at
        least one of the two must be given. Heads and initial states always stay, kinds in `keep_kinds` stay, and,
        with `keep_pauses`, so do checkpoints with open requests. What stays reads as before.
        """
        if keep_last is not None and keep_last < 0:
            raise ValueError(f"keep_last must not be negative; got {keep_last}.")
        unknown = set(keep_kinds) - set(get_args(CommitKind))
        if unknown:
            raise ValueError(f"keep_kinds is a set of {', '.join(get_args(CommitKind))}; got {min(unknown)!r}.")
        if keep_last is None and older_than is None:
            raise ValueError("prune() needs keep_last, older_than or both: which checkpoints may go.")
        since = None if older_than is None else now() - older_than
        retention = Retention(keep_last, since, keep_kinds, keep_pauses)
        by_session: dict[str, list[Commit]] = {}
        for commit in await self.log.commits(workflow_name, session_id):
            by_session.setdefault(commit.session_id, []).append(commit)
        removed: list[str] = []
        for session, commits in by_session.items():
            head = await self.log.head(workflow_name, session)
            pauses = await find_pauses(commits, self.log.chain) if keep_pauses else set()
            removable = retention.removable(commits, {head} if head else (), pauses)
            # Newest first: only what stays is then completed in place of what it was read through.
            gone = {commit_id for commit_id in reversed(removable) if await self._removed(commit_id)}
            removed += [commit_id for commit_id in removable if commit_id in gone]
        if removed:
            await self.log.collect()
        return removed

    async def _removed(self, commit_id: str) -> bool:
        try:
            return await self.log.delete(commit_id)
        except CheckpointDecodeError:
            raise
        except WorkflowCheckpointException:  # a root, or the head of a session that was forked there
            return False


def storage_given(given: object) -> CheckpointStorage | None:
    """An argument `checkpoint_storage`. Raises `WorkflowValidationError` if it is neither a storage nor None."""
    if given is None or isinstance(given, CheckpointStorage):
        return given
    raise WorkflowValidationError(
        f"checkpoint_storage takes a CheckpointStorage, such as FileCheckpointStorage('checkpoints'); got {given!r}."
    )


class InMemoryCheckpointStorage(CheckpointStorage):
    """Checkpoints as bytes in the memory of this process."""

    def __init__(self, codec: Codec | None = None, *, wrapper: Wrapper | None = None) -> None:
        super().__init__(MemoryLog(), codec, wrapper=wrapper)


class FileCheckpointStorage(CheckpointStorage):
    """Checkpoints in the files of a directory, one for each session, that any process of the machine may share.

    A checkpoint is on the disk when its run goes on. Of two processes that continue one session at once, the slower
    one gets `WorkflowConflictError`.
    """

    def __init__(
        self, path: str | os.PathLike[str], codec: Codec | None = None, *, wrapper: Wrapper | None = None
    ) -> None:
        super().__init__(FileLog(path), codec, wrapper=wrapper)
