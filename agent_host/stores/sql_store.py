"""The verbs of `Store` over a SQL database, each written once.

Rule 1: each verb is one synchronous function of one transaction; the class only carries it to the database. A
cancelled request can therefore never leave half a verb behind.
Rule 2: statements are in `sql/queries.sql`; which database runs them is not known here.
"""

from collections.abc import Collection, Sequence

from agent_host.engine.checkpoint import Commit
from agent_host.errors import TurnConflictError
from agent_host.stores import rows
from agent_host.stores.base import CommitLog
from agent_host.stores.database import Connection, Database
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import ResponseRecord, ResumePoint, SavePoint
from agent_host.stores.sql_commit_log import SqlCommitLog


class SqlStore:
    """A store in a SQL database; the promises are those of `Store`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __repr__(self) -> str:
        return f"<SqlStore {self._database!r}>"

    async def open(self) -> None:
        """Open the database; `StoreError` with the remedy if that is not possible."""
        await self._database.open()

    async def aclose(self) -> None:
        """End what has begun and close the database."""
        await self._database.aclose()

    async def resolve(self, user: str, response_id: str) -> ResumePoint | None:
        """Where a turn that continues this response starts; None if it is unknown."""
        return await self._database.read(lambda connection: _resolve(connection, rows.partition(user), response_id))

    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown."""
        own = rows.partition(user)
        return await self._database.read(lambda connection: rows.select_chain(connection, own, commit_id))

    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The verified bodies of the blobs that are stored."""
        own = rows.partition(user)
        return await self._database.read(lambda connection: rows.checked(rows.select_blobs(connection, own, hashes)))

    async def finish(self, user: str, record: ResponseRecord, commits: Sequence[Commit]) -> None:
        """Store the end of a turn, or raise `TurnConflictError` and store nothing."""
        await self._database.write(lambda connection: _finish(connection, rows.partition(user), record, commits))

    async def read_response(self, user: str, response_id: str) -> ResponseRecord | None:
        """A stored response; None if it is unknown."""
        own = rows.partition(user)
        return await self._database.read(lambda connection: _read_response(connection, own, response_id))

    async def holds_root(self, commit_id: str) -> bool:
        """Whether this root commit is stored."""
        return await self._database.read(lambda connection: _holds_root(connection, commit_id))

    async def save_points(self, since: float) -> list[SavePoint]:
        """Every session's head, and every response since a time in seconds, of every user."""
        return await self._database.read(lambda connection: _save_points(connection, since))

    def commit_log(self, user: str = "") -> CommitLog:
        """The engine's face of this store, for one user."""
        return SqlCommitLog(self._database, user)


def _resolve(connection: Connection, own: str, response_id: str) -> ResumePoint | None:
    row = connection.execute(QUERIES["select_resume_point"], (own, response_id)).fetchone()
    return None if row is None else ResumePoint(*row)


def _read_response(connection: Connection, own: str, response_id: str) -> ResponseRecord | None:
    row = connection.execute(QUERIES["select_response"], (own, response_id)).fetchone()
    return None if row is None else ResponseRecord(*row)


def _holds_root(connection: Connection, commit_id: str) -> bool:
    return connection.execute(QUERIES["find_root"], (commit_id,)).fetchone() is not None


def _save_points(connection: Connection, since: float) -> list[SavePoint]:
    heads = connection.execute(QUERIES["select_heads"]).fetchall()
    responses = connection.execute(QUERIES["select_recent_responses"], (since,)).fetchall()
    return [
        *(SavePoint(rows.user_of(own), "session", name, workflow, commit) for own, workflow, name, commit in heads),
        *(
            SavePoint(rows.user_of(own), "response", name, workflow, commit)
            for own, workflow, name, commit in responses
        ),
    ]


def _finish(connection: Connection, own: str, record: ResponseRecord, commits: Sequence[Commit]) -> None:
    if connection.execute(QUERIES["insert_response"], _response_row(own, record)).rowcount != 1:
        raise TurnConflictError(f"Response {record.id} exists already. Nothing was stored; use a new id.")
    rows.insert_commits(connection, own, commits, TurnConflictError)
    # Every stored response can be continued, so the commit it names must be there.
    if not any(commit.id == record.commit for commit in commits) and not rows.is_stored(connection, own, record.commit):
        raise TurnConflictError(
            f"Response {record.id} names commit {record.commit}, which is neither stored nor handed over. "
            "Nothing was stored."
        )


def _response_row(own: str, record: ResponseRecord) -> tuple[str | int | bytes | None, ...]:
    return (
        own,
        record.id,
        record.previous_response_id,
        record.start_commit,
        record.commit,
        record.conversation,
        record.status,
        record.created_at,
        record.completed_at,
        record.delta_lengths,
        record.input,
        record.body,
    )
