"""Where the sessions of a workflow stand: in a checkpoint storage, or, without one, in this process.

Both kinds have the same face, so that a workflow need not know where a session lives. Whoever calls it holds the claim
on the session.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent_host.engine.cells import QUEUE, split_nested
from agent_host.engine.checkpoint import Commit
from agent_host.engine.claims import Key
from agent_host.engine.definition import Definition
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.history import CheckpointInfo, ancestors
from agent_host.engine.ports import CommitLog
from agent_host.engine.running.lane import Lane, Unfinished
from agent_host.engine.running.notes import Notes
from agent_host.engine.running.runner import Run, RunOptions, new_commit_id
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.head_publisher import HeadPublisher, blobs_with_root, head_view, root_view
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.view import View, read_view
from agent_host.errors import CheckpointNotFoundError, WorkflowCheckpointException, WorkflowConflictError


@dataclass(frozen=True, slots=True)
class Opened:
    """A session as a run finds it.

    There is no publisher where nothing outlives the process. `branch`: the lane stands elsewhere than the session.
    `notes`: what is known of the superstep that runs next, where no storage knows it.
    """

    lane: Lane
    publisher: HeadPublisher | None = None
    branch: bool = False
    notes: Notes | None = None

    def run(self, options: RunOptions, hear: Callable[[WorkflowEvent], None]) -> Run:
        """A run from here."""
        run = Run(self.lane, self.publisher, hear, replace(options, branch=True) if self.branch else options)
        if self.notes is not None:
            run.calls.notes = self.notes
        return run


class StoredSessions:
    """Sessions in a checkpoint storage: each stands at its head commit."""

    def __init__(self, storage: CheckpointStorage) -> None:
        self._storage = storage
        self._log = storage.log

    def key(self, session_id: str) -> Key:
        """What a claim on the session is taken by."""
        return id(self._storage), session_id

    async def open(self, definition: Definition, session_id: str, checkpoint_id: str | None = None) -> Opened:
        """Materialise a session where it stands, or at another checkpoint."""
        self._storage.bind(definition.codec)
        root = definition.root
        head, view = await head_view(self._log, definition.name, session_id, root)
        if checkpoint_id:
            view = await _view_at(self._log, definition, checkpoint_id)
        lane = await Lane.open(session_id, definition, view, blobs_with_root(root, self._log.blobs))
        publisher = HeadPublisher(self._log, session_id, head, root)
        return Opened(lane, publisher, branch=bool(checkpoint_id) and view.commit_id != head)

    def leave(self, session_id: str, run: Run) -> None:
        """Note where a run has left the session: what it has reached is stored already."""

    async def head(self, workflow: str, session_id: str) -> str | None:
        """The checkpoint that a session stands at, if it is stored."""
        return await self._log.head(workflow, session_id)

    async def history(self, workflow: str, session_id: str) -> list[CheckpointInfo]:
        """The checkpoints that led to where a session stands, newest first."""
        head = await self._log.head(workflow, session_id)
        return [info async for info in ancestors(self._log, head)] if head is not None else []

    async def pin(self, definition: Definition, session_id: str) -> str:
        """Keep what a session holds under an id; raises `WorkflowCheckpointException` if messages are queued."""
        self._storage.bind(definition.codec)
        head, view = await head_view(self._log, definition.name, session_id, definition.root)
        if any(split_nested(key)[1].startswith(QUEUE) for key in view.cells):
            raise _queued(session_id)
        await HeadPublisher(self._log, session_id, head, definition.root).stand_at(view.commit_id)
        return view.commit_id

    async def begin(self, definition: Definition, session_id: str, checkpoint_id: str) -> None:
        """Begin a session at a checkpoint. Raises `WorkflowConflictError` if there is one of this id."""
        exists = await self._log.head(definition.name, session_id) is not None
        view = await _view_at(self._log, definition, checkpoint_id)
        if exists:
            raise _existing(session_id, checkpoint_id)
        await HeadPublisher(self._log, session_id, None, definition.root).stand_at(view.commit_id)

    async def reset(self, definition: Definition, session_id: str) -> Lane:
        """Put a session back to the initial state, which is returned."""
        root = definition.root
        read = blobs_with_root(root, self._log.blobs)
        lane = await Lane.open(session_id, definition, root_view(root), read)  # all that can fail comes first
        head = await self._log.head(definition.name, session_id)
        if head is not None:
            await HeadPublisher(self._log, session_id, head, root).stand_at(root.id)
        return lane


@dataclass(slots=True)
class _Standing:
    """Where a session in this process stands, what it has not finished, and how far that is.

    `unfinished` is None where it stands in the cells of the view.
    """

    view: View
    unfinished: Unfinished | None
    notes: Notes | None = None


class LiveSessions:
    """Sessions in this process. They have no past, but for what `pin` has kept of them."""

    def __init__(self) -> None:
        self._standing: dict[str, _Standing] = {}
        self._pinned = MemoryLog()

    def key(self, session_id: str) -> Key:
        """What a claim on the session is taken by."""
        return id(self), session_id

    async def open(self, definition: Definition, session_id: str, checkpoint_id: str | None = None) -> Opened:
        """Materialise a session where it stands, or at what was pinned under an id."""
        session = self._standing.get(session_id)
        if checkpoint_id:
            session = _Standing(await self._view_at(definition, checkpoint_id), None)
        elif session is None:
            session = _Standing(root_view(definition.root), None)
        read = blobs_with_root(definition.root, self._pinned.blobs)
        lane = await Lane.open(session_id, definition, session.view, read, stored=False, live=session.unfinished)
        return Opened(lane, notes=session.notes)

    def leave(self, session_id: str, run: Run) -> None:
        """Note where a run has left the session."""
        if run.moved:
            self._standing[session_id] = _Standing(run.lane.view, run.settled, run.calls.notes)
        elif session_id in self._standing:
            self._standing[session_id].notes = run.calls.notes

    async def head(self, workflow: str, session_id: str) -> str | None:
        """None: no checkpoint is made of what a session here goes through."""
        return None

    async def history(self, workflow: str, session_id: str) -> list[CheckpointInfo]:
        """Raises `WorkflowCheckpointException`."""
        raise WorkflowCheckpointException(
            f"The workflow {workflow!r} has no checkpoint storage, so its sessions have no history. "
            "Pass checkpoint_storage=InMemoryCheckpointStorage() to the builder."
        )

    async def pin(self, definition: Definition, session_id: str) -> str:
        """Keep what a session holds under an id; raises `WorkflowCheckpointException` if messages are queued."""
        session = self._standing.get(session_id)
        if session is None:
            return definition.root.id
        read = blobs_with_root(definition.root, self._pinned.blobs)
        lane = await Lane.open(session_id, definition, session.view, read, live=session.unfinished)
        if lane.queued:
            raise _queued(session_id)
        await lane.settle()
        made = lane.commit("manual", new_commit_id, lambda: 0.0, steps=0)
        if made is not None:
            lane.accept(made)
            session.view = lane.view
        view = session.view
        if view.commit_id != definition.root.id and not await self._pinned.chain(view.commit_id):
            whole = _whole_commit(definition, session_id, view, made)
            await self._pinned.commit([whole], await self._pinned.head(definition.name, session_id))
        return view.commit_id

    async def begin(self, definition: Definition, session_id: str, checkpoint_id: str) -> None:
        """Begin a session at what was pinned. Raises `WorkflowConflictError` if there is one of this id."""
        view = await self._view_at(definition, checkpoint_id)
        if session_id in self._standing:
            raise _existing(session_id, checkpoint_id)
        self._standing[session_id] = _Standing(view, None)

    async def reset(self, definition: Definition, session_id: str) -> Lane:
        """Put a session back to the initial state, which is returned."""
        root = definition.root
        lane = await Lane.open(session_id, definition, root_view(root), blobs_with_root(root, None))
        self._standing.pop(session_id, None)
        return lane

    async def _view_at(self, definition: Definition, checkpoint_id: str) -> View:
        try:
            return await _view_at(self._pinned, definition, checkpoint_id)
        except CheckpointNotFoundError:
            raise CheckpointNotFoundError(
                f"There is no checkpoint {checkpoint_id!r} in this process; pass the checkpoint_storage that holds it."
            ) from None


Sessions = StoredSessions | LiveSessions


async def _view_at(log: CommitLog, definition: Definition, checkpoint_id: str) -> View:
    if checkpoint_id == definition.root.id:
        return root_view(definition.root)
    commit, view = await read_view(log.chain, checkpoint_id)
    if commit.workflow != definition.name:
        raise WorkflowCheckpointException(
            f"The checkpoint {checkpoint_id!r} belongs to the workflow {commit.workflow!r}, not to {definition.name!r}."
        )
    return view


def _whole_commit(definition: Definition, session_id: str, view: View, made: Commit | None) -> Commit:
    return Commit(
        id=view.commit_id, parent=None, workflow=definition.name, session_id=session_id, kind="manual", seq=view.seq,
        step=view.step, created_at=0.0, signature=definition.signature, delta=dict(view.cells), complete=True,
        distance=0, blobs=made.blobs if made else {},
    )  # fmt: skip


def _queued(session_id: str) -> WorkflowCheckpointException:
    return WorkflowCheckpointException(
        f"Session {session_id!r} has queued messages of a run that did not finish. Continue it with run(), "
        "or drop it with reset(), then make the checkpoint."
    )


def _existing(session_id: str, checkpoint_id: str) -> WorkflowConflictError:
    return WorkflowConflictError(
        f"The session {session_id!r} exists already; fork into a new one, or run it with "
        f"checkpoint_id={checkpoint_id!r}."
    )
