"""The engine's face of a SQL store: one user's commits and blobs, and one head per session.

Rule 1: each verb is one synchronous function of one transaction; the class only carries it to the database.
Rule 2: the head is compared in the transaction that moves it.
"""

from collections.abc import Collection, Mapping, Sequence

from agent_host.engine.checkpoint import Commit, cells_of
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException, WorkflowConflictError
from agent_host.stores import rows
from agent_host.stores.database import Connection, Database
from agent_host.stores.queries import QUERIES


class SqlCommitLog:
    """The commit log of one user in a SQL database. It holds no state of its own."""

    def __init__(self, database: Database, user: str) -> None:
        self._database = database
        self._own = rows.partition(user)

    async def head(self, workflow: str, session_id: str) -> str | None:
        """The id of the session's newest commit; None if the session has never committed."""
        return await self._database.read(lambda connection: _head(connection, self._own, workflow, session_id))

    async def chain(self, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown."""
        return await self._database.read(lambda connection: rows.select_chain(connection, self._own, commit_id))

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of these blobs; a blob that is not stored is absent from the answer."""
        return await self._database.read(lambda connection: rows.select_blobs(connection, self._own, hashes))

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        """Store the commits and make the last one the head, or raise `WorkflowConflictError` and change nothing."""
        if commits:
            await self._database.write(lambda connection: _commit(connection, self._own, commits, expected_head))

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        """Point a session at a stored commit, under the same condition as `commit`."""
        await self._database.write(
            lambda connection: _move_head(connection, self._own, workflow, session_id, to, expected_head)
        )

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        """The stored commits of a workflow, or of one of its sessions, by `(created_at, seq)`, without blobs."""
        return await self._database.read(lambda connection: _commits(connection, self._own, workflow, session_id))

    async def delete(self, commit_id: str) -> bool:
        """Remove a commit that is nobody's head; its descendants stay readable. False if there is none."""
        return await self._database.write(lambda connection: _delete(connection, self._own, commit_id))

    async def collect(self) -> int:
        """Remove the user's blobs that no stored commit needs; returns their number."""
        return await self._database.write(lambda connection: rows.delete_unneeded_blobs(connection, self._own))

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that starts from `head`, or raise `WorkflowConflictError`."""
        await self._database.write(
            lambda connection: _record(connection, self._own, workflow, session_id, head, entries)
        )

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        """What is noted of the superstep that starts from `head`; empty if the head is another one."""
        return await self._database.read(
            lambda connection: _recorded(connection, self._own, workflow, session_id, head)
        )


def _head(connection: Connection, own: str, workflow: str, session_id: str) -> str | None:
    row = connection.execute(QUERIES["select_head"], (own, workflow, session_id)).fetchone()
    return None if row is None else str(row[0])


def _expect_head(connection: Connection, own: str, workflow: str, session_id: str, expected: str | None) -> None:
    head = _head(connection, own, workflow, session_id)
    if head != expected:
        raise WorkflowConflictError(
            f"Session {session_id} of workflow {workflow} stands at {head or 'no commit'}, not at "
            f"{expected or 'no commit'}: someone else committed to it. Nothing was stored; run again from its head."
        )


def _commit(connection: Connection, own: str, commits: Sequence[Commit], expected_head: str | None) -> None:
    last = commits[-1]
    _expect_head(connection, own, last.workflow, last.session_id, expected_head)
    rows.insert_commits(connection, own, commits, WorkflowConflictError)
    _put_head(connection, own, last.workflow, last.session_id, last.id)


def _move_head(
    connection: Connection, own: str, workflow: str, session_id: str, to: str, expected_head: str | None
) -> None:
    _expect_head(connection, own, workflow, session_id, expected_head)
    if not rows.is_stored(connection, own, to):
        raise CheckpointNotFoundError(f"No commit {to} is stored, so session {session_id} cannot move to it.")
    _put_head(connection, own, workflow, session_id, to)


def _put_head(connection: Connection, own: str, workflow: str, session_id: str, to: str) -> None:
    connection.execute(QUERIES["put_head"], (own, workflow, session_id, to))
    connection.execute(QUERIES["delete_notes"], (own, workflow, session_id))


def _record(
    connection: Connection, own: str, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]
) -> None:
    _expect_head(connection, own, workflow, session_id, head)
    for name, body in entries.items():
        connection.execute(QUERIES["put_note"], (own, workflow, session_id, name, body))


def _recorded(connection: Connection, own: str, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
    if _head(connection, own, workflow, session_id) != head:
        return {}
    return dict(connection.execute(QUERIES["select_notes"], (own, workflow, session_id)).fetchall())


def _commits(connection: Connection, own: str, workflow: str, session_id: str | None) -> list[Commit]:
    if session_id is None:
        found = connection.execute(QUERIES["select_commits"], (own, workflow))
    else:
        found = connection.execute(QUERIES["select_session_commits"], (own, workflow, session_id))
    return [rows.commit_of(row) for row in found.fetchall()]


def _delete(connection: Connection, own: str, commit_id: str) -> bool:
    found = connection.execute(QUERIES["find_commit"], (own, commit_id)).fetchone()
    if found is None:
        return False
    if found[0] == "root":
        raise WorkflowCheckpointException(f"Commit {commit_id} is the root of a workflow: every session begins there.")
    head_of = connection.execute(QUERIES["find_head_at"], (own, commit_id)).fetchone()
    if head_of is not None:
        raise WorkflowCheckpointException(
            f"Commit {commit_id} is the head of session {head_of[1]} of workflow {head_of[0]}; move the head first."
        )
    continued = rows.find_continued(connection, own, commit_id)
    if continued is not None:
        raise WorkflowCheckpointException(
            f"Commit {commit_id} is what {continued} is continued from; it stays as long as that."
        )
    for child, distance in connection.execute(QUERIES["select_incomplete_children"], (own, commit_id)).fetchall():
        cells = cells_of(rows.select_chain(connection, own, child))
        connection.execute(QUERIES["shorten_distances"], (child, own, distance, own))
        connection.execute(QUERIES["complete_commit"], (rows.encoded(cells), own, child))
    connection.execute(QUERIES["delete_commit"], (own, commit_id))
    return True
