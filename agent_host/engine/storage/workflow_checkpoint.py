"""A commit as a user looks at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit, CommitKind
from agent_host.engine.serialization.codec import Codec
from agent_host.errors import WorkflowCheckpointException


@dataclass(frozen=True, slots=True)
class WorkflowCheckpoint:
    """One commit as a user looks at it. Values are decoded on access, freshly each time: nothing can be damaged.

    `iteration_count` is the number of supersteps since the last input. `path` is empty but for the view of a nested
    workflow's instance, which has the place of the whole and state, messages and requests of its own.
    """

    commit: Commit
    iteration_count: int
    _cells: Mapping[str, bytes] = field(repr=False)
    _bodies: Mapping[bytes, bytes] = field(repr=False)
    _codec: Codec | None = field(repr=False)
    path: cells.Path = ()

    @property
    def checkpoint_id(self) -> str:
        return self.commit.id

    @property
    def workflow_name(self) -> str:
        return self.commit.workflow

    @property
    def session_id(self) -> str:
        return self.commit.session_id

    @property
    def previous_checkpoint_id(self) -> str | None:
        return self.commit.parent

    @property
    def kind(self) -> CommitKind:
        return self.commit.kind

    @property
    def seq(self) -> int:
        """The position along the parent chain, across sessions; the root has 0."""
        return self.commit.seq

    @property
    def step(self) -> int:
        """How many supersteps were completed up to here; input commits repeat the number before them."""
        return self.commit.step

    @property
    def graph_signature_hash(self) -> str:
        return self.commit.signature

    @property
    def timestamp(self) -> str:
        """When it was made, as ISO 8601 in UTC."""
        return datetime.fromtimestamp(self.commit.created_at, UTC).isoformat()

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of it without decoding, besides ids: its kind, place, and the bytes of all it refers to."""
        size = sum(map(len, self._cells.values())) + sum(map(len, self._bodies.values()))
        return {
            "kind": self.kind,
            "session_id": self.session_id,
            "seq": self.seq,
            "step": self.step,
            "iteration_count": self.iteration_count,
            "bytes": size,
        }

    @property
    def state(self) -> dict[str, Any]:
        """Shared state by key."""
        return {key[len(cells.STATE) :]: self._decode(ref) for key, ref in cells.under(cells.STATE, self._cells)}

    @property
    def executor_states(self) -> dict[str, dict[str, Any]]:
        """What each executor has stored: its hook's dict, or its changed attributes."""
        found: dict[str, dict[str, Any]] = {}
        for key, reference in cells.under(cells.EXECUTOR, self._cells):
            executor, attribute = cells.split_executor_key(key)
            if attribute is None:
                found.setdefault(executor, {}).update(self._decode(reference))
            else:
                found.setdefault(executor, {})[attribute] = self._decode(reference)
        return found

    @property
    def messages(self) -> dict[str, list[Any]]:
        """Queued messages by the executor that sent them."""
        found: dict[str, list[Any]] = {}
        for _, reference in cells.under(cells.QUEUE, self._cells):
            source, *_, value = self._decode(reference)
            found.setdefault(source, []).append(value)
        return found

    @property
    def waiting_in_joins(self) -> dict[tuple[str, str], list[Any]]:
        """Messages that wait in a fan-in, by (edge group, source)."""
        found: dict[tuple[str, str], list[Any]] = {}
        for key, reference in cells.under(cells.JOIN, self._cells):
            found.setdefault(cells.split_join_key(key), []).append(self._decode(reference)[-1])
        return found

    @property
    def pending_request_info_events(self) -> dict[str, Any]:
        """The data of every open request, by its id."""
        requests = (self._decode(reference) for _, reference in cells.under(cells.REQUEST, self._cells))
        return {request[0]: request[2] for request in requests}

    @property
    def nested(self) -> dict[cells.Path, "WorkflowCheckpoint"]:
        """The instances of nested workflows, at any depth, by the executors and instance numbers that lead there."""
        return {
            cells.path_of(prefix): replace(self, _cells=own, path=cells.path_of(prefix))
            for prefix, own in cells.by_instance(self._cells).items()
            if prefix
        }

    def _decode(self, reference: bytes) -> Any:
        if self._codec is None:
            raise WorkflowCheckpointException(
                "This storage does not know the workflow's types yet. Build or run the workflow with it, "
                "or pass codec= to the storage."
            )
        return self._codec.decode(reference, self._bodies)
