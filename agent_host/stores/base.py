"""The promise of a store: `Store`, and `CommitLog`, the narrow face that the engine used alone needs.

The rules are numbered; `agent_host.testing.store_contract` tests each of them under the same number. No
transaction, connection or query crosses these two classes, so that a database and a key-value service can
both keep the promise.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from agent_host.engine.checkpoint import Commit
from agent_host.stores.records import ResponseRecord, ResumePoint, SavePoint

SYSTEM = "*"
"""The partition of root commits and their blobs: read by every user, the name of none."""


class CommitLog(Protocol):
    """Blobs, commits and one head per (workflow, session) of one user: what the engine asks of the outside.

    R20  `head` is None for a session that has never committed.
    R21  `commit` stores its commits and blobs and makes the last one the head, or, if the head is not
         `expected_head` or a commit's parent is not stored, raises `WorkflowConflictError` and changes nothing.
         Without commits it does nothing.
    R22  `move_head` points a session at a stored commit under the same condition; `CheckpointNotFoundError` if
         there is no such commit.
    R23  `chain` and `blobs` answer as `Store.read_chain` and `Store.read_blobs`, but whether a body has its hash is
         left to the reader: a log may hold sealed bodies under the hashes of what they seal.
    R24  `commits` lists the commits of a workflow, or of one session, by `(created_at, seq)`, without blobs. The
         workflow's roots are among them.
    R25  `delete` removes a commit and keeps every descendant readable: the children become complete in the same
         step. False if there is no such commit.
    R26  `delete` of a head, of a root, or of what a stored response is continued from raises
         `WorkflowCheckpointException` and changes nothing.
    R27  Sessions of one user are invisible to every other: heads, commits and deletions.
    R28  If the process dies inside `commit`, `move_head`, `delete`, `record` or `collect`, every commit reads as before
         or as after; once the verb has returned, what it has done stays. The other verbs change nothing.
    R29  `collect` removes the user's blobs that no stored commit needs, directly or through other blobs, and tells how
         many; nothing that a stored commit of any session or user reads changes, root commits included.
    R30  `record` notes entries by key in addition to those noted before, of which it replaces those with the same key;
         `recorded` gives them back.
    R31  If the session's head is not the one named, `record` raises `WorkflowConflictError` and changes nothing, and
         `recorded` is empty.
    R32  Notes go with the next `commit` or `move_head` of their session, also if its head comes back to the same
         commit. No other session, workflow, fork or user sees them or makes them go.
    """

    async def head(self, workflow: str, session_id: str) -> str | None:
        """The id of the session's newest commit (R20)."""
        ...

    async def chain(self, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown (R23)."""
        ...

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of these blobs; a blob that is not stored is absent from the answer (R23)."""
        ...

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        """Store the commits and make the last one the head of its session, atomically (R21)."""
        ...

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        """Point a session at a stored commit (R22)."""
        ...

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        """The stored commits of a workflow, or of one of its sessions (R24)."""
        ...

    async def delete(self, commit_id: str) -> bool:
        """Remove a commit that is nobody's head (R25, R26)."""
        ...

    async def collect(self) -> int:
        """Remove the blobs that no stored commit needs; returns their number (R29)."""
        ...

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that starts from `head`, by key (R30-R32)."""
        ...

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        """What is noted of the superstep that starts from `head` (R30-R32)."""
        ...


class Store(Protocol):
    """Responses, commits and blobs, changed by one verb at a time.

    Everywhere:
    R1   Every record belongs to the user named in the call ("" is the one local user). Another user's id answers
         exactly as an unknown one, blobs included.
    R2   A commit of kind `root` and its blobs belong to no user: every user reads them. A user who happens to be
         called like the system partition is a user like any other.
    R3   What a verb has stored is seen by every call that begins after the verb has returned.
    R4   A verb whose caller is cancelled still runs to its end, whole or not at all; only then is the
         cancellation raised, however often it was asked for.
    R5   Verbs that run at the same time do not harm each other: the failure of one changes nothing for another.

    Opening and closing:
    R6   `open` makes an empty store or brings an older one up to date; it may be called again. If the process
         dies inside it, the next `open` goes on from the last whole step.
    R7   `aclose` ends what has begun, releases everything and may be called again. A verb before `open` or
         after `aclose`, and `open` after `aclose`, raise `StoreClosedError`.

    Reading; if the process dies inside one of these, nothing has changed:
    R8   `resolve` gives what a turn needs to continue a response, None for an unknown response.
    R9   `read_chain` gives the commit and its ancestors back to a complete one, newest first, without blobs; the
         empty list for an unknown commit. A chain with a gap raises `CheckpointDecodeError` naming the gap.
    R10  `read_blobs` gives the bodies of any number of hashes, without those that are not stored. A body that
         does not have its hash raises `CheckpointDecodeError` naming it.
    R11  `read_response` gives the record as `finish` was given it, None for an unknown response.
    R12  `holds_root` tells whether a root commit is stored.
    R17  `save_points` lists, of every user, the head of every session and every response that was created at a time or
         after it.

    Finishing a turn:
    R13  `finish` stores the commits with their blobs and the response, all of it or nothing. If the process dies
         inside it, all of it is there or nothing; once it has returned, it survives the process and the power.
    R14  The response's id is new for this user, else `TurnConflictError`, and nothing has changed.
    R15  The parent of each commit is stored or stands earlier in `commits`, a commit without parent is complete,
         and the response's commit is stored or among `commits`; else `TurnConflictError`, and nothing has changed.
    R16  A commit or blob that is stored already is left as it is.
    """

    async def open(self) -> None:
        """Make the store usable (R6); raises `StoreError` with the remedy if it cannot be."""
        ...

    async def aclose(self) -> None:
        """End what has begun and release everything (R7)."""
        ...

    async def resolve(self, user: str, response_id: str) -> ResumePoint | None:
        """Where a turn that continues this response starts (R8)."""
        ...

    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        """The commit back to a complete one, newest first (R9)."""
        ...

    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The verified bodies of the blobs that are stored (R10)."""
        ...

    async def finish(self, user: str, record: ResponseRecord, commits: Sequence[Commit]) -> None:
        """Store the end of a turn, whole or not at all (R13-R16). Not idempotent: a repetition is a conflict."""
        ...

    async def read_response(self, user: str, response_id: str) -> ResponseRecord | None:
        """A stored response (R11)."""
        ...

    async def holds_root(self, commit_id: str) -> bool:
        """Whether this root commit is stored (R12)."""
        ...

    async def save_points(self, since: float) -> list[SavePoint]:
        """What somebody may continue, of responses those since a time in seconds since the epoch (R17).

        For the operator, who may see every user; no verb that serves a user calls it.
        """
        ...

    def commit_log(self, user: str = "") -> CommitLog:
        """The engine's face of this store, for one user (R20-R32)."""
        ...
