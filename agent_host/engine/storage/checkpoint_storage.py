"""Checkpoints for whoever uses the engine alone: the storage users know, over any commit log.

A storage decodes with the types of the workflows that were built or run with it; before that, ids, kinds and
sizes can be read, and looking at values raises.
"""

from agent_host.engine.lane import gather, read_view
from agent_host.engine.ports import CommitLog
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.workflow_checkpoint import WorkflowCheckpoint


class CheckpointStorage:
    """Checkpoints of one or more workflows, by workflow name and session."""

    def __init__(self, log: CommitLog, codec: Codec | None = None) -> None:
        self.log = log
        self._codec = codec

    def bind(self, codec: Codec) -> None:
        """Allow the types of one more workflow when decoding."""
        if self._codec is None:
            self._codec = codec
        elif not codec.types <= self._codec.types:
            self._codec = self._codec.union(codec)

    async def load(self, checkpoint_id: str) -> WorkflowCheckpoint:
        """The checkpoint with this id. Raises `CheckpointNotFoundError`."""
        commit, view = await read_view(self.log.chain, checkpoint_id)
        whole = view.cells
        bodies = await gather(list(whole.values()), self._codec or Codec(), self.log.blobs)
        return WorkflowCheckpoint(commit, whole, bodies, self._codec)

    async def list_checkpoints(self, *, workflow_name: str, session_id: str | None = None) -> list[WorkflowCheckpoint]:
        """The checkpoints of a workflow, oldest first."""
        return [await self.load(c.id) for c in await self.log.commits(workflow_name, session_id)]

    async def list_checkpoint_ids(self, *, workflow_name: str, session_id: str | None = None) -> list[str]:
        """Their ids, oldest first."""
        return [commit.id for commit in await self.log.commits(workflow_name, session_id)]

    async def get_latest(self, *, workflow_name: str, session_id: str = "default") -> WorkflowCheckpoint | None:
        """The head of a session: its newest checkpoint, never another session's."""
        head = await self.log.head(workflow_name, session_id)
        return await self.load(head) if head else None

    async def delete(self, checkpoint_id: str) -> bool:
        """Remove a checkpoint that is no head; those after it stay whole. False if there is none."""
        return await self.log.delete(checkpoint_id)


class InMemoryCheckpointStorage(CheckpointStorage):
    """Checkpoints as bytes in the memory of this process."""

    def __init__(self, codec: Codec | None = None) -> None:
        super().__init__(MemoryLog(), codec)
