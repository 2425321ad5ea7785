"""The object that a workflow's `migrate` gets: what an older version of the workflow has stored of one conversation.

    def migrate(old: StoredState) -> None:
        if old.version == "1":
            old.rename_executor("triage", "desk")
            old.drop_executor("audit")
            old.write("desk", "limit", 2 * old.read("desk", "limit", 3))

Rule 1: a migration is called for every conversation, so what names something that a conversation has not stored does
        nothing.
Rule 2: a value is decoded at each reading; it counts only once it is written.
Rule 3: nothing outside changes until the migration has ended well.
"""

import dataclasses
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent_host.engine import cells
from agent_host.engine.graph.edges import FanIn
from agent_host.engine.graph.graph import Graph
from agent_host.engine.migration.graph_policy import version_of
from agent_host.engine.migration.salvage import salvage
from agent_host.engine.migration.stored_messages import StoredMessage, StoredRequest
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import UnsupportedValueError, WorkflowCheckpointException


class Nesting(Protocol):
    """What is asked of the present workflow: its graph, and those of the workflows nested in it, by executor."""

    @property
    def graph(self) -> Graph: ...
    @property
    def children(self) -> "Mapping[str, Nesting]": ...


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a migration has made of stored cells.

    `cells` are all of them; `delta` are those that differ from the stored ones (None: removed), which the next commit
    must hold besides its own; `blobs` are the bodies that they need and that are not stored yet.
    """

    cells: Mapping[str, bytes]
    delta: Mapping[str, bytes | None]
    blobs: Mapping[bytes, bytes]


class StoredState:
    """What one conversation has stored, or one instance of a workflow nested in it.

    Executors are named by their ids. What an object holds that cannot be built any more, because its class is gone
    or has other fields, is read as a `StoredObject`, from which the migration can make what takes its place.
    """

    def __init__(
        self, checkpoint_id: str, signature: str, codec: Codec, bodies: Mapping[bytes, Any], path: cells.Path = ()
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.signature = signature
        self._codec = codec
        self._bodies = bodies
        self._path = path
        self._cells: dict[str, Encoded] = {}
        self._nested: dict[tuple[str, int], StoredState] = {}
        self._older_ids: dict[str, str] = {}  # of renamed executors

    @classmethod
    def of(
        cls,
        checkpoint_id: str,
        signature: str,
        stored: Mapping[str, bytes],
        codec: Codec,
        bodies: Mapping[bytes, Any],
    ) -> "StoredState":
        """The state in these cells; `bodies` holds the blobs that they need."""
        outermost = cls(checkpoint_id, signature, codec, bodies)
        for prefix, own in cells.by_instance(stored).items():
            level = outermost
            for owner in cells.path_of(prefix):
                inner = cls(checkpoint_id, signature, codec, bodies, (*level._path, owner))
                level = level._nested.setdefault(owner, inner)
            level._cells.update((key, Encoded(reference)) for key, reference in own.items())
        return outermost

    def __repr__(self) -> str:
        where = f" in {cells.prefix_of(self._path)}" if self._path else ""
        return f"<StoredState of {self.checkpoint_id!r}{where}, {len(self._cells)} cells>"

    @property
    def version(self) -> str | None:
        """The version that the workflow was built with; None if it had none, and `signature` is a hash."""
        return version_of(self.signature)

    # --- Executors ---

    def executors(self) -> list[str]:
        """The ids of all executors that have something stored, or that a message or request names."""
        found = {key.split("/")[1] for key in self._keys(cells.EXECUTOR, cells.JOURNAL)}
        found.update(executor for executor, _ in self._nested)
        found.update(request.executor for request in self.requests())
        found.update(end for message in self.messages() for end in (message.source, message.target) if end)
        found.update(cells.split_join_key(key)[1] for key in self._keys(cells.JOIN))
        return sorted(found)

    def rename_executor(self, executor: str, to: str) -> None:
        """Let another executor take over all that one has stored, its messages, requests and joins included.

        Raises `WorkflowCheckpointException` if the other one has something stored itself.
        """
        known = self.executors()
        if executor == to:
            return
        if executor in known and to in known:
            raise WorkflowCheckpointException(
                f"{executor!r} cannot be renamed to {to!r}, which has stored something itself. "
                f"Drop one of them first: old.drop_executor({to!r})."
            )
        for kind in (cells.EXECUTOR, cells.JOURNAL):
            for key in self._keys(f"{kind}{executor}/"):
                self._cells[f"{kind}{to}/{key.split('/', 2)[2]}"] = self._cells.pop(key)
        self._move(cells.hook_key(executor), cells.hook_key(to))
        for key in self._keys(cells.JOIN):
            group, source = cells.split_join_key(key)
            if source == executor:
                self._cells[cells.join_key(group, to, _position(key))] = self._cells.pop(key)
        for key, message in self._queue():
            if executor in (message.source, message.target):
                source = to if message.source == executor else message.source
                target = to if message.target == executor else message.target
                self._put(key, dataclasses.replace(message, source=source, target=target).content())
        for key, request in self._asked():
            if request.executor == executor:
                self._put(key, dataclasses.replace(request, executor=to).content())
        for name, number in [owner for owner in self._nested if owner[0] == executor]:
            self._nested[to, number] = self._nested.pop((name, number))
        self._older_ids[to] = self._older_ids.pop(executor, executor)

    def drop_executor(self, executor: str) -> None:
        """Forget all that an executor has stored, messages from and to it, its requests, and what it sent to joins."""
        self.drop_state(executor)
        self.drop_messages(source=executor)
        self.drop_messages(target=executor)
        self.drop_requests(executor=executor)
        self._drop(key for key in self._keys(cells.JOIN) if cells.split_join_key(key)[1] == executor)
        for owner in [owner for owner in self._nested if owner[0] == executor]:
            del self._nested[owner]

    def drop_state(self, executor: str) -> None:
        """Let an executor begin with the values that the present program gives it."""
        self._drop([cells.hook_key(executor), *self._keys(f"{cells.EXECUTOR}{executor}/")])
        self.drop_steps(executor)

    def drop_steps(self, executor: str) -> None:
        """Forget the results of steps that a function which waits for an answer has kept; it makes them again."""
        self._drop(self._keys(f"{cells.JOURNAL}{executor}/"))

    # --- Attributes ---

    def attributes(self, executor: str) -> list[str]:
        """The attributes that are stored of an executor: those that a handler has changed, or that are declared."""
        return sorted(key.split("/", 2)[2] for key in self._keys(f"{cells.EXECUTOR}{executor}/"))

    def read(self, executor: str, attribute: str, default: Any = None) -> Any:
        """The value of an attribute; `default` if it is not stored."""
        return self._get(cells.field_key(executor, attribute), default)

    def write(self, executor: str, attribute: str, value: Any) -> None:
        """Set an attribute. Raises `UnsupportedValueError` for a value that the workflow cannot store."""
        self._put(cells.field_key(executor, attribute), value)

    def rename_attribute(self, executor: str, attribute: str, to: str) -> None:
        """Keep an attribute's value under another name; a value that is stored there is replaced."""
        self._move(cells.field_key(executor, attribute), cells.field_key(executor, to))

    def drop_attribute(self, executor: str, attribute: str) -> None:
        """Let an attribute begin with the value that the present program gives it."""
        self._drop([cells.field_key(executor, attribute)])

    def read_saved(self, executor: str) -> dict[str, Any] | None:
        """What the executor's `on_checkpoint_save` returned; None if nothing of the kind is stored."""
        saved: dict[str, Any] | None = self._get(cells.hook_key(executor), None)
        return saved

    def write_saved(self, executor: str, saved: dict[str, Any]) -> None:
        """Set what the executor's `on_checkpoint_restore` will get; attributes that are stored of it are dropped."""
        self._drop(self._keys(f"{cells.EXECUTOR}{executor}/"))
        self._put(cells.hook_key(executor), saved)

    # --- Shared state ---

    def shared(self) -> list[str]:
        """The keys of the shared state."""
        return sorted(key[len(cells.STATE) :] for key in self._keys(cells.STATE))

    def read_shared(self, key: str, default: Any = None) -> Any:
        """A value of the shared state; `default` if it is not set."""
        return self._get(cells.state_key(key), default)

    def write_shared(self, key: str, value: Any) -> None:
        """Set a value of the shared state. Raises `UnsupportedValueError` for one that cannot be stored."""
        self._put(cells.state_key(key), value)

    def rename_shared(self, key: str, to: str) -> None:
        """Keep a value of the shared state under another key; a value that is there is replaced."""
        self._move(cells.state_key(key), cells.state_key(to))

    def drop_shared(self, key: str) -> None:
        """Forget a value of the shared state."""
        self._drop([cells.state_key(key)])

    # --- What waits ---

    def messages(self) -> list[StoredMessage]:
        """The queued messages, in order."""
        return [message for _, message in self._queue()]

    def drop_messages(
        self, *, source: str | None = None, target: str | None = None, type: str | None = None
    ) -> int:  # fmt: skip
        """Forget the queued messages for which all that is given holds; without anything all. Returns their number.

        `type` is the name of the payload's class; of an answer on its way, that of the request it answers.
        """
        if source is target is type is None:
            return self._drop(self._keys(cells.QUEUE))
        return self._drop(
            key
            for key, message in self._queue()
            if source in (None, message.source) and target in (None, message.target) and type in (None, message.type)
        )

    def requests(self) -> list[StoredRequest]:
        """The open requests, by id."""
        return [request for _, request in self._asked()]

    def drop_request(self, request_id: str) -> None:
        """Forget an open request; nobody will be asked any more."""
        self._drop([cells.request_key(request_id)])

    def drop_requests(self, *, executor: str | None = None, type: str | None = None) -> int:
        """Forget the open requests for which all that is given holds; without anything all. Returns their number.

        `type` is the name of the class of what was asked.
        """
        if executor is type is None:
            return self._drop(self._keys(cells.REQUEST))
        return self._drop(
            key
            for key, request in self._asked()
            if executor in (None, request.executor) and type in (None, request.type)
        )

    def joins(self) -> list[str]:
        """The ids of the fan-in edges in which messages wait, such as `(left,right)->join`."""
        return sorted({cells.split_join_key(key)[0] for key in self._keys(cells.JOIN)})

    def rename_join(self, join: str, to: str) -> None:
        """Let what waits in one fan-in wait in another. Joins whose executors were renamed follow by themselves."""
        for key in self._keys(f"{cells.JOIN}{join}/"):
            self._cells[cells.join_key(to, cells.split_join_key(key)[1], _position(key))] = self._cells.pop(key)

    def drop_join(self, join: str) -> int:
        """Forget what waits in a fan-in. Returns the number of messages."""
        return self._drop(self._keys(f"{cells.JOIN}{join}/"))

    # --- Nested workflows ---

    def nested(self, executor: str) -> "list[StoredState]":
        """The instances of the workflow nested under an executor, oldest first; `outer/inner` for one further down."""
        first, _, rest = executor.partition("/")
        found = [state for (name, _), state in sorted(self._nested.items()) if name == first]
        return [inner for state in found for inner in state.nested(rest)] if rest else found

    # --- Cells ---

    def changed_cells(self, workflow: "Nesting | None", prefix: str = "") -> dict[str, Encoded]:
        """All cells as they are now; `workflow` tells what the joins of renamed executors are called."""
        if workflow is not None:
            self._follow_renamed(workflow.graph)
        found = {prefix + key: encoded for key, encoded in self._cells.items()}
        for (executor, number), inner in self._nested.items():
            child = workflow.children.get(executor) if workflow is not None else None
            found.update(inner.changed_cells(child, prefix + cells.prefix_of(((executor, number),))))
        return found

    def _follow_renamed(self, graph: Graph) -> None:
        older = self._older_ids
        for group in graph.groups:
            if isinstance(group, FanIn):
                sources = tuple(older.get(source, source) for source in group.sources)
                before = dataclasses.replace(group, sources=sources, target=older.get(group.target, group.target)).id
                if before != group.id:
                    self.rename_join(before, group.id)

    def _keys(self, *prefixes: str) -> list[str]:
        return sorted(key for key in self._cells if key.startswith(prefixes))

    def _queue(self) -> Iterator[tuple[str, StoredMessage]]:
        for key in self._keys(cells.QUEUE):
            message = StoredMessage.of(self._get(key, None))
            if message is not None:
                yield key, message

    def _asked(self) -> Iterator[tuple[str, StoredRequest]]:
        for key in self._keys(cells.REQUEST):
            request = StoredRequest.of(self._get(key, None))
            if request is not None:
                yield key, request

    def _get(self, key: str, default: Any) -> Any:
        encoded = self._cells.get(key)
        if encoded is None:
            return default
        bodies = ChainMap(dict(encoded.blobs), dict(self._bodies)) if encoded.blobs else self._bodies
        return salvage(self._codec, encoded.reference, bodies).value

    def _put(self, key: str, value: Any) -> None:
        try:
            self._cells[key] = self._codec.encode(value)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(f"The migration cannot store {key!r}: {error}") from None

    def _move(self, key: str, to: str) -> None:
        if key in self._cells:
            self._cells[to] = self._cells.pop(key)

    def _drop(self, keys: "Iterator[str] | list[str]") -> int:
        return sum(self._cells.pop(key, None) is not None for key in list(keys))


def _position(join_key: str) -> int:
    return int(join_key.rpartition("/")[2])
