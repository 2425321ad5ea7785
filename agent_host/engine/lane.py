"""One conversation while it runs: its cells, its clones, what is queued, and the commits it makes.

Rule 1: a lane starts from a view and never changes it; a run that fails leaves the view as it was.
Rule 2: new conversation, resume, branch, reset, retry and restart are one operation: `Lane.open`.
Rule 3: only executors that were called are asked for their state.
"""

from collections import ChainMap
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.engine import annotations, cells
from agent_host.engine.checkpoint import (
    BLOB,
    MANIFEST_EVERY,
    Commit,
    CommitKind,
    blob_hash,
    body_references,
    cell_references,
    cells_of,
)
from agent_host.engine.context import MISSING, Asked
from agent_host.engine.definition import Definition
from agent_host.engine.executor import Executor
from agent_host.engine.handlers import HandlerTable
from agent_host.engine.payloads import LivePayload, Payload, StoredPayload
from agent_host.engine.routing import JoinKey, MessageKind, Queued
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.engine.template import Clone, restore, save, stored_fields
from agent_host.errors import (
    CheckpointDecodeError,
    CheckpointNotFoundError,
    UnsupportedValueError,
    WorkflowCheckpointException,
)

ReadBlobs = Callable[[Collection[bytes]], Awaitable[dict[bytes, bytes]]]
ReadChain = Callable[[str], Awaitable[list[Commit]]]


@dataclass(frozen=True, slots=True)
class View:
    """The state at one commit: its place in the chain and all cells."""

    commit_id: str
    seq: int
    step: int
    distance: int
    cells: Mapping[str, bytes]
    signature: str

    @classmethod
    def of(cls, commit: Commit, cell_map: Mapping[str, bytes]) -> "View":
        return cls(commit.id, commit.seq, commit.step, commit.distance, cell_map, commit.signature)


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A question that waits for its answer."""

    request_id: str
    executor: str
    data: Any
    response_name: str


class Waiting(msgspec.Struct, frozen=True):
    """What a lane has not finished: queued messages, half-filled joins, open requests."""

    queue: tuple[Queued, ...] = ()
    joins: Mapping[JoinKey, tuple[Payload, ...]] = msgspec.field(default_factory=dict)
    requests: Mapping[str, OpenRequest] = msgspec.field(default_factory=dict)


async def read_view(read_chain: ReadChain, commit_id: str) -> tuple[Commit, View]:
    """Read a commit and the state it stands for. Raises `CheckpointNotFoundError`."""
    chain = await read_chain(commit_id)
    if not chain or chain[0].id != commit_id:
        raise CheckpointNotFoundError(f"There is no checkpoint {commit_id!r}.")
    if not chain[-1].complete:
        raise CheckpointDecodeError(f"The checkpoint {commit_id!r} depends on {chain[-1].parent!r}, which is missing.")
    return chain[0], View.of(chain[0], cells_of(chain))


async def gather(references: Collection[bytes], codec: Codec, read_blobs: ReadBlobs) -> dict[bytes, Any]:
    """Everything that decoding these cells needs, from the process's cache or read in as few batches as possible."""
    shared, found = codec.shared, {}
    whole = {reference[1:] for reference in references if reference[:1] == BLOB}
    wanted = {blob for reference in references for blob in cell_references(reference)}
    while wanted:
        missing = set()
        below: set[bytes] = set()
        for blob in wanted:
            # The body of a cell is needed as bytes, even if a chunk of some list has the same bytes and is decoded.
            at_hand = (None if blob in whole else shared.run(blob, codec.types)) or shared.body(blob)
            if at_hand is None:
                missing.add(blob)
            else:
                found[blob] = at_hand
                if isinstance(at_hand, bytes):
                    below.update(body_references(at_hand))
        if missing:
            for blob, body in (await read_blobs(missing)).items():
                if blob_hash(body) != blob:
                    raise CheckpointDecodeError(
                        f"The blob {blob.hex()} is damaged: its content does not match its hash."
                    )
                found[blob] = body
                shared.add_body(blob, body)
                below.update(body_references(body))
                missing.discard(blob)
            if missing:
                raise CheckpointDecodeError(f"The store lacks the blob {min(missing).hex()}, which a checkpoint needs.")
        wanted = below - found.keys()
    return found


class Lane:
    """The mutable side of one run of one conversation."""

    def __init__(self, session_id: str, definition: Definition, view: View, *, stored: bool) -> None:
        self.session_id = session_id
        self.definition = definition
        self.view = view
        self.stored = stored
        self.by_reference = not stored
        self.clones: dict[str, Clone] = {}
        self.waiting = Waiting()
        self._bodies: dict[bytes, Any] = {}
        self._called: set[str] = set()
        self._waiting_keys = {key for key in view.cells if key.startswith((cells.QUEUE, cells.JOIN, cells.REQUEST))}
        self._delta: dict[str, bytes | None] = {}
        self._proposed: dict[str, bytes] = {}
        self._blobs: dict[bytes, bytes] = {}

    def __repr__(self) -> str:
        waiting = self.waiting
        return (
            f"<Lane {self.session_id!r} at {self.view.commit_id}, {len(waiting.queue)} queued, "
            f"{len(waiting.requests)} open requests>"
        )

    @classmethod
    async def open(
        cls,
        session_id: str,
        definition: Definition,
        view: View,
        read_blobs: ReadBlobs,
        *,
        stored: bool = True,
        live: Waiting | None = None,
    ) -> "Lane":
        """Materialise a view: clone every executor and give the clones the view's state.

        `live` replaces what the view has queued, for state that never leaves the process. If anything fails,
        nothing has changed anywhere.
        """
        lane = cls(session_id, definition, view, stored=stored)
        if view.cells:
            lane._bodies = await gather(list(view.cells.values()), definition.codec, read_blobs)
        lane._refuse_strangers()
        await lane.roll_back()
        lane.waiting = live if live is not None else lane._read_waiting()
        return lane

    @property
    def codec(self) -> Codec:
        return self.definition.codec

    def executor(self, executor_id: str) -> Executor:
        """The clone that serves this lane, marked as called."""
        self._called.add(executor_id)
        return self.clones[executor_id].executor

    def read_state(self, key: str) -> Any:
        """A fresh copy of a shared state value as of the last boundary; `MISSING` if it is not set."""
        reference = self._current(cells.state_key(key))
        return MISSING if reference is None else self.codec.decode(reference, self._bodies)

    def encode_state(self, key: str, value: Any) -> Encoded:
        """A new value of shared state, as it will be stored."""
        known = self._known(self._current(cells.state_key(key)))
        return self.codec.encode(value, known=known, split=self.stored)

    def decode_state(self, encoded: Encoded) -> Any:
        """A fresh copy of a value that this superstep has written."""
        return self.codec.decode(encoded.reference, ChainMap(dict(encoded.blobs), self._bodies))

    # --- Materialise ---

    def _refuse_strangers(self) -> None:
        known = self.definition.graph.executors
        for key in self.view.cells:
            if key.startswith(cells.EXECUTOR) and cells.split_executor_key(key)[0] not in known:
                raise WorkflowCheckpointException(
                    f"The checkpoint {self.view.commit_id!r} holds state of the executor "
                    f"{cells.split_executor_key(key)[0]!r}, which the workflow no longer has."
                )

    async def roll_back(self) -> None:
        """Give the lane fresh clones with the state of its last commit. If a hook fails, nothing has changed."""
        stored = stored_fields(self.view.cells)
        clones: dict[str, Clone] = {}
        for name, template in self.definition.templates.items():
            clones[name] = template.clone(stored.get(name, {}), self.codec, self._bodies)
            if template.hooked:
                await restore(clones[name], self._saved(name))
        self.clones = clones

    def _saved(self, executor_id: str) -> dict[str, Any]:
        key = cells.hook_key(executor_id)
        reference = self.view.cells.get(key)
        if reference is not None:
            saved: dict[str, Any] = self.codec.decode(reference, self._bodies)
            return saved
        root = self.definition.root
        return self.codec.decode(root.delta[key] or b"", root.blobs)  # type: ignore[no-any-return]  # hooks return dicts

    def _read_waiting(self) -> Waiting:
        queue: list[Queued] = []
        joins: dict[JoinKey, tuple[Payload, ...]] = {}
        requests: dict[str, OpenRequest] = {}
        for _, reference in cells.under(cells.QUEUE, self.view.cells):
            source, target, kind, request_id, response_name, _ = self.codec.decode(reference, self._bodies)
            payload = StoredPayload(Encoded(reference), self.codec, self._bodies)
            queue.append(Queued(source, target, kind, payload, request_id, response_name))
        for key, reference in cells.under(cells.JOIN, self.view.cells):
            where = cells.split_join_key(key)
            joins[where] = (*joins.get(where, ()), StoredPayload(Encoded(reference), self.codec, self._bodies))
        for _, reference in cells.under(cells.REQUEST, self.view.cells):
            request = OpenRequest(*self.codec.decode(reference, self._bodies))
            requests[request.request_id] = request
        waiting = Waiting(tuple(queue), joins, requests)
        self._refuse_homeless(waiting)
        return waiting

    def _refuse_homeless(self, waiting: Waiting) -> None:
        """Refuse what waits for a part of the graph that is no longer there."""
        graph = self.definition.graph
        needed = [(message.target or message.source, "a message for") for message in waiting.queue]
        needed += [(request.executor, "an open request of") for request in waiting.requests.values()]
        for executor, what in needed:
            if executor not in graph.executors:
                raise WorkflowCheckpointException(
                    f"The checkpoint {self.view.commit_id!r} has {what} the executor {executor!r}, which the workflow "
                    "no longer has."
                )
        groups = {group.id for group in graph.groups}
        for group, source in waiting.joins:
            if group not in groups:
                raise WorkflowCheckpointException(
                    f"The checkpoint {self.view.commit_id!r} has a message of {source!r} waiting in the join "
                    f"{group!r}, which the workflow no longer has."
                )

    # --- Change ---

    def enqueue(
        self, source: str, target: str | None, kind: MessageKind, value: Any,
        request_id: str | None = None, response_name: str | None = None,
    ) -> Queued:  # fmt: skip
        """Make a message of a value.

        It passes by reference where nothing is ever stored, and, between the commits of a turn, if it cannot change:
        a receiver never sees, nor makes, a change in what the sender keeps.
        """
        payload: Payload
        if self.stored and not (self.by_reference and self.codec.is_immutable(value)):
            try:
                encoded = self.codec.encode([source, target, kind, request_id, response_name, value])
            except UnsupportedValueError as error:
                raise UnsupportedValueError(f"A message sent by {source!r} cannot be stored: {error}") from None
            payload = StoredPayload(encoded, self.codec, self._bodies)
        else:
            payload = LivePayload(value, self.codec)
        return Queued(source, target, kind, payload, request_id, response_name)

    def write_state(self, writes: Mapping[str, Encoded | None]) -> None:
        """Take up the merged writes of a superstep."""
        for key, encoded in writes.items():
            self._set(cells.state_key(key), encoded)

    def ask(self, executor_id: str, asked: Asked) -> OpenRequest:
        """The request as it will stand in the lane."""
        table = self.clones[executor_id].executor.handler_table
        name = annotations.name(asked.response_type)
        if (
            response_type(name, table, self.codec) is None
        ):  # it could not be found again: what the handler takes instead
            responder = table.responder(asked.data, asked.response_type)
            name = annotations.name(responder.response) if responder is not None else name
        return OpenRequest(asked.request_id, executor_id, asked.data, name)

    async def settle_executors(self) -> None:
        """Encode the state of every executor that was called since the last time, and keep what differs."""
        for name in sorted(self._called):
            template, clone = self.definition.templates[name], self.clones[name]
            if template.hooked:
                key = cells.hook_key(name)
                saved = await save(clone.executor)
                current = self._current(key)
                try:
                    encoded = self.codec.encode(saved, known=self._known(current), split=self.stored)
                except UnsupportedValueError as error:
                    raise UnsupportedValueError(f"What on_checkpoint_save of {name!r} returned: {error}") from None
                if encoded.reference != current:
                    self._set(key, encoded)
                continue
            for attribute, changed in list(template.changed(clone, self.codec, self._known, split=self.stored)):
                self._set(cells.field_key(name, attribute), changed)
                if changed is None:
                    clone.taken.pop(attribute, None)
                else:
                    clone.taken[attribute] = (vars(clone.executor)[attribute], changed.reference)
        self._called.clear()

    def settle_waiting(self) -> None:
        """Bring the cells of queue, joins and requests in line with what is waiting now."""
        wanted: dict[str, Encoded] = {}
        for position, message in enumerate(self.waiting.queue):
            wanted[cells.queue_key(position)] = self._stored_form(message.payload)
        for (group, source), payloads in self.waiting.joins.items():
            for position, payload in enumerate(payloads):
                wanted[cells.join_key(group, source, position)] = self._stored_form(payload)
        for request in self.waiting.requests.values():
            key = cells.request_key(request.request_id)
            reference = self._current(key)
            wanted[key] = Encoded(reference) if reference else self._encode_request(request)
        for key in self._waiting_keys - wanted.keys():
            self._set(key, None)
        for key, encoded in wanted.items():
            if self._current(key) != encoded.reference:
                self._set(key, encoded)
        self._waiting_keys = set(wanted)

    def _stored_form(self, payload: Payload) -> Encoded:
        if isinstance(payload, StoredPayload):
            return payload.encoded
        return self.codec.encode([None, None, "message", None, None, payload.peek()])

    def _encode_request(self, request: OpenRequest) -> Encoded:
        try:
            return self.codec.encode([request.request_id, request.executor, request.data, request.response_name])
        except UnsupportedValueError as error:
            raise UnsupportedValueError(f"A request of {request.executor!r} cannot be stored: {error}") from None

    # --- Commit ---

    def commit(self, kind: CommitKind, commit_id: str, now: float, *, steps: int) -> Commit | None:
        """The boundary reached, as a commit on top of the last one; None if nothing has changed since.

        The lane moves to it when it is durable: see `accept`.
        """
        delta = {key: reference for key, reference in self._delta.items() if self.view.cells.get(key) != reference}
        if not delta:
            self._delta, self._blobs = {}, {}
            return None
        self._proposed = dict(self.view.cells)
        for key, reference in delta.items():
            if reference is None:
                del self._proposed[key]
            else:
                self._proposed[key] = reference
        complete = self.view.distance + 1 >= MANIFEST_EVERY
        return Commit(
            id=commit_id, parent=self.view.commit_id, workflow=self.definition.name, session_id=self.session_id,
            kind=kind, seq=self.view.seq + 1, step=self.view.step + steps, created_at=now,
            signature=self.definition.signature, delta=dict(self._proposed) if complete else delta, complete=complete,
            distance=0 if complete else self.view.distance + 1, blobs=self._blobs,
        )  # fmt: skip

    def accept(self, commit: Commit) -> None:
        """Stand at the commit that was made last: it is durable now."""
        self.view = View.of(commit, self._proposed)
        self._delta, self._blobs = {}, {}

    def _set(self, key: str, encoded: Encoded | None) -> None:
        self._delta[key] = None if encoded is None else encoded.reference
        if encoded is not None:
            self._blobs.update(encoded.blobs)
            self._bodies.update(encoded.blobs)

    def _current(self, key: str) -> bytes | None:
        return self._delta[key] if key in self._delta else self.view.cells.get(key)

    def _known(self, reference: bytes | None) -> set[bytes]:
        """The blobs that are stored because the cell's last form needed them."""
        if reference is None:
            return set()
        if reference[:1] != BLOB:
            return set(cell_references(reference))
        body = self._bodies.get(reference[1:]) or self.codec.shared.body(reference[1:])
        return {reference[1:], *(body_references(body) if isinstance(body, bytes) else ())}


_BUILT_IN = {cls.__qualname__: cls for cls in (str, int, float, bool, bytes, list, tuple, dict, set, frozenset)}


def response_type(name: str, table: HandlerTable, codec: Codec) -> Any:
    """The annotation that an open request was stored with; None if this program has no such type."""
    for responder in table.responders:
        for hint in (responder.response, *annotations.members(responder.response)):
            if annotations.name(hint) == name:
                return hint
    return _BUILT_IN.get(name) or codec.class_named(name)
