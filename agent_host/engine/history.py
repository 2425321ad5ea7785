"""The past of a session, read without decoding any state, and what would run next at any point of it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from agent_host.engine.checkpoint import Commit, CommitKind
from agent_host.engine.ports import CommitLog
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.routing import route


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """What is known of a checkpoint without looking at its values. `timestamp` is ISO 8601 in UTC."""

    checkpoint_id: str
    previous_checkpoint_id: str | None
    session_id: str
    kind: CommitKind
    seq: int
    step: int
    timestamp: str
    graph_signature_hash: str

    @classmethod
    def of(cls, commit: Commit) -> "CheckpointInfo":
        return cls(
            commit.id, commit.parent, commit.session_id, commit.kind, commit.seq, commit.step,
            datetime.fromtimestamp(commit.created_at, UTC).isoformat(), commit.signature,
        )  # fmt: skip


async def ancestors(log: CommitLog, commit_id: str) -> AsyncIterator[CheckpointInfo]:
    """A commit and those it follows, newest first, also across sessions, as far back as they are stored."""
    wanted: str | None = commit_id
    while wanted is not None:
        chain = await log.chain(wanted)
        for commit in chain:
            yield CheckpointInfo.of(commit)
        wanted = chain[-1].parent if chain else None


async def next_executors(lane: Lane) -> list[str]:
    """The executors that the next superstep would call, in order; those of nested workflows as `outer/inner`.

    Asks the conditions and selections of the graph, and calls no handler.
    """
    found: dict[str, None] = {}
    for frame in lane.in_order():
        waiting = frame.waiting
        plan = await route(frame.definition.graph, waiting.queue, waiting.joins)
        found.update(dict.fromkeys(frame.name(invocation.executor) for invocation in plan.invocations))
    return list(found)
