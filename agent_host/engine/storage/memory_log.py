"""A commit log in the memory of this process."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from agent_host.engine.checkpoint import Commit, body_references, cells_of
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException, WorkflowConflictError


class MemoryLog:
    """A commit log in dicts of bytes. Nothing in it can be changed by whoever wrote or reads it."""

    def __init__(self) -> None:
        self._commits: dict[str, Commit] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._heads: dict[tuple[str, str], str] = {}
        self._notes: dict[tuple[str, str], dict[str, bytes]] = {}

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
        earlier: set[str] = set()
        for commit in commits:
            if not (self._is_readable(commit, earlier) or commit.id in self._commits):
                raise WorkflowConflictError(
                    f"The commit {commit.id!r} follows {commit.parent!r}, which is not stored. Nothing was written."
                )
            earlier.add(commit.id)
        for commit in commits:
            self._blobs.update(commit.blobs)
            self._commits.setdefault(commit.id, _stripped(commit) if commit.blobs else commit)
        self._put_head(key, commits[-1].id)

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        self._refuse_moved((workflow, session_id), expected_head)
        if to not in self._commits:
            raise CheckpointNotFoundError(f"There is no checkpoint {to!r}.")
        self._put_head((workflow, session_id), to)

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

    async def collect(self) -> int:
        needed = needed_blobs(
            (commit.delta for commit in self._commits.values()),
            {blob: body_references(body) for blob, body in self._blobs.items()},
        )
        unneeded = self._blobs.keys() - needed
        for blob in unneeded:
            del self._blobs[blob]
        return len(unneeded)

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        self._refuse_moved((workflow, session_id), head)
        self._notes.setdefault((workflow, session_id), {}).update(entries)

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        current = self._heads.get((workflow, session_id)) == head
        return dict(self._notes.get((workflow, session_id), {})) if current else {}

    def _is_readable(self, commit: Commit, earlier: AbstractSet[str]) -> bool:
        if commit.parent is None:
            return commit.complete
        return commit.parent in earlier or commit.parent in self._commits

    def _put_head(self, key: tuple[str, str], to: str) -> None:
        self._heads[key] = to
        self._notes.pop(key, None)

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
