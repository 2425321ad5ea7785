"""What the engine asks of the outside: a place for commits, and someone to publish a boundary to."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent_host.engine.checkpoint import Commit


class CommitLog(Protocol):
    """Blobs, commits, and one head per (workflow, session), changed together or not at all."""

    async def head(self, workflow: str, session_id: str) -> str | None:
        """The id of the session's newest commit; None if the session has never committed."""
        ...

    async def chain(self, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown."""
        ...

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of these blobs; a blob that is not stored is absent from the answer."""
        ...

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        """Store the commits with their blobs and make the last one the head of its session, atomically.

        A commit or blob that is stored already is left as it is. If the head is not `expected_head`, raises
        `WorkflowConflictError` and changes nothing.
        """
        ...

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        """Point a session at a stored commit, under the same condition as `commit`."""
        ...

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        """The stored commits of a workflow, or of one of its sessions, by `(created_at, seq)`, without blobs."""
        ...

    async def delete(self, commit_id: str) -> bool:
        """Remove a commit that is no session's head; its children stay readable. False if there is none.

        Raises `WorkflowCheckpointException` for a head.
        """
        ...

    async def collect(self) -> int:
        """Remove the blobs that no stored commit needs, directly or through other blobs; returns their number."""
        ...

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that starts from `head`, by key; an entry noted before is replaced.

        Notes belong to the session, not to the commit: they go with the next `commit` or `move_head` of the session,
        and a fork never sees them. If the session's head is not `head`, raises `WorkflowConflictError` and changes
        nothing.
        """
        ...

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        """What is noted of the superstep that starts from `head`; empty if the head is another one."""
        ...


@dataclass(frozen=True, slots=True)
class Boundary:
    """What the runner hands over at a boundary: the commits since the last one, and the events they settle."""

    commits: tuple[Commit, ...]
    events: tuple[Any, ...]


class Publisher(Protocol):
    """Makes boundaries durable. The runner goes on when `publish` returns."""

    async def publish(self, boundary: Boundary) -> None:
        """Store the boundary, or raise (`WorkflowConflictError` if the head moved) and store nothing."""
        ...

    async def record(self, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that runs, so that a retry after a crash does not repeat it."""
        ...

    async def recorded(self) -> dict[str, bytes]:
        """What an earlier attempt at the superstep that runs next has noted."""
        ...
