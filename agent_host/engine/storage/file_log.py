"""A commit log in a directory: one file per session that is only appended to.

    sessions/<2 digits>/<30 digits>.log   what was committed to one session: `session_file.py`
    index/<2 digits>                      which file holds a commit: `commit_index.py`
    locks/                                files that hold nothing: `file_locks.py`

Rule 1: a file's name is a hash of workflow and session. No id, name or path from outside becomes part of a path.
Rule 2: what is committed to a session is one frame of its file, on the disk before the verb returns. What goes to
        other files with it, such as a root, is written before; the head moves last.
Rule 3: a verb that changes one session holds that session's lock; one that looks at all sessions holds the lock of
        all. The head is compared while it is held.
Rule 4: a run reads the files of its session and of those that session came from, and no other.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from agent_host.engine.checkpoint import Commit, cells_of
from agent_host.engine.running.tasks import ended
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.engine.storage.session_contents import PREVIOUS, Contents, Entry, Name
from agent_host.engine.storage.session_directory import SessionDirectory, file_key
from agent_host.errors import (
    CheckpointDecodeError,
    CheckpointNotFoundError,
    WorkflowCheckpointException,
    WorkflowConflictError,
)

T = TypeVar("T")


class FileLog:
    """A commit log in the files of one directory, which is made when it is first needed.

    Any number of processes of one machine may use the directory at once. `entropy(n)` gives n random bytes.
    """

    def __init__(self, path: str | os.PathLike[str], *, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._path = os.path.abspath(os.fspath(path))
        self._directory = SessionDirectory(self._path, entropy)

    def __repr__(self) -> str:
        return f"<FileLog {self._path}>"

    async def head(self, workflow: str, session_id: str) -> str | None:
        return await self._in_thread(self._head, (workflow, session_id))

    async def chain(self, commit_id: str) -> list[Commit]:
        return await self._in_thread(self._chain, commit_id)

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        return await self._in_thread(self._directory.bodies, hashes) if hashes else {}

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        if commits:
            await self._in_thread(self._commit, commits, expected_head)

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        await self._in_thread(self._move_head, (workflow, session_id), to, expected_head)

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        return await self._in_thread(self._commits, workflow, session_id)

    async def delete(self, commit_id: str) -> bool:
        return await self._in_thread(self._delete, commit_id)

    async def collect(self) -> int:
        return await self._in_thread(self._collect)

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        await self._in_thread(self._record, (workflow, session_id), head, entries)

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        return await self._in_thread(self._recorded, (workflow, session_id), head)

    async def _in_thread(self, fn: Callable[..., T], *arguments: object) -> T:
        """Run a verb to its end in a worker thread, also if the caller is cancelled meanwhile."""
        future = asyncio.get_running_loop().run_in_executor(None, partial(fn, *arguments))
        await ended([future])
        try:
            return future.result()
        except OSError as error:
            raise WorkflowCheckpointException(
                f"{error.filename or self._path} cannot be used: {error.strerror}. Allow this user to read and write "
                f"below {self._path}, and see that its disk has space."
            ) from error

    # --- In a worker thread: one session ---

    def _head(self, name: Name) -> str | None:
        with self._directory.file_of(name).read() as contents:
            return contents.head

    def _expect_head(self, name: Name, expected: str | None) -> None:
        head = self._head(name)
        if head != expected:
            raise WorkflowConflictError(
                f"Session {name[1]!r} of workflow {name[0]!r} stands at {head or 'no commit'}, not at "
                f"{expected or 'no commit'}: someone else committed to it. Nothing was stored; run again from its head."
            )

    def _chain(self, commit_id: str) -> list[Commit]:
        chain: list[Commit] = []
        key = self._directory.place(commit_id)
        while key is not None:
            with self._directory.file(key).read() as contents:
                part = _ancestry(contents, commit_id)
                chain += part
                commit_id = part[-1].parent or "" if part else ""
                key = None if not part or part[-1].complete else contents.elsewhere.get(commit_id)
        if chain and not chain[-1].complete:
            raise CheckpointDecodeError(
                f"Commit {chain[0].id} cannot be read: its ancestor {chain[-1].parent} is missing below {self._path}. "
                "Restore the directory from a backup, or continue from another checkpoint."
            )
        return [replace(commit, distance=len(chain) - 1 - position) for position, commit in enumerate(chain)]

    def _commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        by_name: dict[Name, dict[str, Commit]] = {}
        for commit in commits:
            by_name.setdefault((commit.workflow, commit.session_id), {})[commit.id] = commit
        last = commits[-1]
        own = (last.workflow, last.session_id)
        with self._directory.changing(by_name.keys()):
            self._expect_head(own, expected_head)
            places = self._places(commits)
            for name in by_name.keys() - {own}:
                self._write(name, list(by_name[name].values()), places, head=None)
            self._write(own, list(by_name[own].values()), places, head=last.id)

    def _places(self, commits: Sequence[Commit]) -> dict[str, bytes]:
        """The files of these commits and of their parents.

        Raises `WorkflowConflictError` if a commit that is not stored yet could not be read back.
        """
        places: dict[str, bytes] = {}
        for commit in commits:
            parent = commit.parent
            if parent is not None and parent not in places:
                place = self._directory.place(parent)
                if place is None and self._directory.place(commit.id) is None:
                    raise WorkflowConflictError(
                        f"The parent {parent} of commit {commit.id} is not stored, so it could not be read back. "
                        "Nothing was stored; start again from a stored commit."
                    )
                if place is not None:
                    places[parent] = place
            if parent is None and not commit.complete:
                raise WorkflowConflictError(
                    f"Commit {commit.id} has no parent and does not hold all of its cells. Nothing was stored."
                )
            places[commit.id] = file_key((commit.workflow, commit.session_id))
        return places

    def _write(self, name: Name, commits: Sequence[Commit], places: Mapping[str, bytes], *, head: str | None) -> None:
        file, key = self._directory.file_of(name), file_key(name)
        with file.read() as contents:
            new = [commit for commit in commits if commit.id not in contents.commits]
            bodies = {
                hash_: body for c in commits for hash_, body in c.blobs.items() if hash_ not in contents.blobs
            }  # fmt: skip
            elsewhere = {
                commit.parent: places[commit.parent]
                for commit in new
                if commit.parent is not None
                and places[commit.parent] != key
                and commit.parent not in contents.elsewhere
            }
        if not (new or bodies or head):
            return
        if new and head == new[-1].id:
            head = PREVIOUS
        file.append(Entry(head=head, elsewhere=elsewhere), new, bodies)
        with contextlib.suppress(OSError):  # the commit is on the disk; the index may lack entries
            self._directory.index([commit.id for commit in new], key)

    def _move_head(self, name: Name, to: str, expected_head: str | None) -> None:
        with self._directory.changing([name]):
            self._expect_head(name, expected_head)
            place = self._directory.place(to)
            if place is None:
                raise CheckpointNotFoundError(f"No commit {to} is stored, so session {name[1]!r} cannot move to it.")
            elsewhere = {to: place} if place != file_key(name) else {}
            self._directory.file_of(name).append(Entry(head=to, elsewhere=elsewhere))

    def _record(self, name: Name, head: str, entries: Mapping[str, bytes]) -> None:
        with self._directory.changing([name]):
            self._expect_head(name, head)
            if entries:
                self._directory.file_of(name).append(Entry(notes=dict(entries)))

    def _recorded(self, name: Name, head: str) -> dict[str, bytes]:
        with self._directory.file_of(name).read() as contents:
            return dict(contents.notes) if contents.head == head else {}

    # --- In a worker thread: all sessions ---

    def _commits(self, workflow: str, session_id: str | None) -> list[Commit]:
        if session_id is not None:
            keys = [file_key((workflow, session_id))]
        else:
            keys = [key for key, o in self._directory.survey().items() if o.name is not None and o.name[0] == workflow]
        found: list[Commit] = []
        distances: dict[str, int] = {}
        for key in keys:
            with self._directory.file(key).read() as contents:
                commits = list(contents.commits.values())
            for commit in commits:
                if commit.complete:
                    distances[commit.id] = 0
                elif commit.parent in distances:
                    distances[commit.id] = distances[commit.parent] + 1
                else:
                    distances[commit.id] = len(self._chain(commit.id)) - 1
                found.append(replace(commit, distance=distances[commit.id]))
        return sorted(found, key=lambda commit: (commit.created_at, commit.seq))

    def _delete(self, commit_id: str) -> bool:
        with self._directory.changing_all():
            own = self._directory.place(commit_id)
            if own is None:
                return False
            outlines = self._directory.survey()
            self._refuse_kept(commit_id, own)
            for outline in outlines.values():
                if outline.head == commit_id and outline.name is not None:
                    raise WorkflowCheckpointException(
                        f"Commit {commit_id} is the head of session {outline.name[1]!r} of workflow "
                        f"{outline.name[0]!r}; move the head first."
                    )
            # The heirs become complete before the commit goes, so that they are readable at any moment.
            for key, outline in outlines.items():
                if key != own and commit_id in outline.elsewhere:
                    heirs = self._heirs(commit_id, key)
                    if heirs:
                        self._directory.file(key).append(Entry(), heirs)
            self._directory.file(own).append(Entry(removed=(commit_id,)), self._heirs(commit_id, own))
            return True

    def _refuse_kept(self, commit_id: str, key: bytes) -> None:
        with self._directory.file(key).read() as contents:
            if contents.commits[commit_id].kind == "root":
                raise WorkflowCheckpointException(
                    f"Commit {commit_id} is the root of a workflow: every session begins there."
                )

    def _heirs(self, commit_id: str, key: bytes) -> list[Commit]:
        """The commits of a file that are read through this one, with all of their cells."""
        with self._directory.file(key).read() as contents:
            children = [c for c in contents.commits.values() if c.parent == commit_id and not c.complete]
        return [replace(child, delta=cells_of(self._chain(child.id)), complete=True) for child in children]

    def _collect(self) -> int:
        with self._directory.changing_all():
            keys = list(self._directory.survey())
            deltas: list[Mapping[str, bytes | None]] = []
            references: dict[bytes, Sequence[bytes]] = {}
            for key in keys:
                file = self._directory.file(key)
                with file.read() as contents:
                    deltas += [commit.delta for commit in contents.commits.values()]
                references |= file.references()
            needed = needed_blobs(deltas, references)
            for key in keys:
                file = self._directory.file(key)
                with file.read() as contents:
                    wasteful = contents.has_removed or not contents.blobs.keys() <= needed
                if wasteful:
                    file.rewrite(needed)
            return len(references.keys() - needed)


def _ancestry(contents: Contents, commit_id: str) -> list[Commit]:
    """A commit and those of its ancestors in the same file, newest first, back to a complete one."""
    found: list[Commit] = []
    commit = contents.commits.get(commit_id)
    while commit is not None:
        found.append(commit)
        commit = None if commit.complete else contents.commits.get(commit.parent or "")
    return found
