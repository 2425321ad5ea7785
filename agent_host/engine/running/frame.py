"""One graph's part of a lane: its clones, what is queued, what joins and requests wait for.

A lane has one frame for the workflow itself and one for each instance of a nested workflow. All of them advance in
the same supersteps and are committed together; a frame's cells stand behind the prefix of its instance.
"""

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import structs

from agent_host.engine import annotations, cells
from agent_host.engine.definition import Definition
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.handlers import HandlerTable
from agent_host.engine.executors.template import Clone, restore, save, stored_fields
from agent_host.engine.reducers import MISSING, Reducer
from agent_host.engine.running.draft import Draft
from agent_host.engine.running.effects import Asked
from agent_host.engine.running.payloads import UNSET, LivePayload, Payload, StoredPayload
from agent_host.engine.running.routing import JoinKey, MessageKind, Queued
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import UnsupportedValueError, WorkflowCheckpointException


class OpenRequest(msgspec.Struct, frozen=True):
    """A question that waits for its answer.

    `expires_at` is in seconds since the epoch; `default` holds the answer that is taken then, if there is one.
    `number` orders the requests of a lane as they were asked.
    """

    request_id: str
    executor: str
    data: Any
    response_name: str
    expires_at: float | None = None
    default: tuple[Any, ...] = ()
    number: int = 0


class Waiting(msgspec.Struct, frozen=True):
    """What a frame has not finished: queued messages, half-filled joins, open requests."""

    queue: tuple[Queued, ...] = ()
    joins: Mapping[JoinKey, tuple[Payload, ...]] = msgspec.field(default_factory=dict)
    requests: Mapping[str, OpenRequest] = msgspec.field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.queue or self.joins or self.requests)


class Frame:
    """The workflow itself (`path` empty), or one instance of a nested one.

    `outward`: whether its requests are for the outside, or for an executor of the workflow around it.
    """

    def __init__(
        self, draft: Draft, definition: Definition, path: cells.Path, stored: Mapping[str, bytes], *, outward: bool
    ) -> None:
        self.draft = draft
        self.definition = definition
        self.path = path
        self.prefix = cells.prefix_of(path)
        self.outward = outward
        self.clones: dict[str, Clone] = {}
        self.waiting = Waiting()
        self.steps = 0  # supersteps of this run, since the input
        self._stored = stored
        self._called: set[str] = set()
        self._waiting_keys = {key for key in stored if key.startswith((cells.QUEUE, cells.JOIN, cells.REQUEST))}
        self._journals = _journals(stored)

    def __repr__(self) -> str:
        waiting = self.waiting
        return f"<Frame {self.prefix or 'of the workflow'}, {len(waiting.queue)} queued, {len(waiting.requests)} asked>"

    @property
    def codec(self) -> Codec:
        return self.draft.codec

    @property
    def reducers(self) -> Mapping[str, Reducer]:
        return self.definition.reducers

    def name(self, executor: str) -> str:
        """An executor's name from outside: the ids on the way to it, joined by `/`."""
        return "/".join([*(owner for owner, _ in self.path), executor]) if self.path else executor

    def executor(self, executor_id: str) -> Executor:
        """The clone that serves this lane, marked as called."""
        self._called.add(executor_id)
        return self.clones[executor_id].executor

    # --- Materialise ---

    async def materialise(self) -> None:
        """Clone every executor and give the clones the stored state. If a hook fails, nothing has changed."""
        fields = stored_fields(self._stored)
        clones: dict[str, Clone] = {}
        for name, template in self.definition.templates.items():
            clones[name] = template.clone(fields.get(name, {}), self.codec, self.draft.bodies)
            if template.hooked:
                await restore(clones[name], self._saved(name))
        self.clones = clones

    def read_waiting(self) -> None:
        """Take up the queue, joins and requests that are stored."""
        if self._waiting_keys:
            self.waiting = self._read_waiting()

    def _saved(self, executor_id: str) -> dict[str, Any]:
        key = cells.hook_key(executor_id)
        reference = self._current(key)
        if reference is not None:
            saved: dict[str, Any] = self.codec.decode(reference, self.draft.bodies)
            return saved
        root = self.definition.root
        return self.codec.decode(root.delta[key] or b"", root.blobs)  # type: ignore[no-any-return]  # hooks return dicts

    def _read_waiting(self) -> Waiting:
        queue: list[Queued] = []
        joins: dict[JoinKey, tuple[Payload, ...]] = {}
        decode, bodies = self.codec.decode, self.draft.bodies
        for _, reference in cells.under(cells.QUEUE, self._stored):
            source, target, kind, request_id, response_name, _ = decode(reference, bodies)
            payload = StoredPayload(Encoded(reference), self.codec, bodies)
            queue.append(Queued(source, target, kind, payload, request_id, response_name))
        for key, reference in cells.under(cells.JOIN, self._stored):
            where = cells.split_join_key(key)
            joins[where] = (*joins.get(where, ()), StoredPayload(Encoded(reference), self.codec, bodies))
        found = [OpenRequest(*decode(reference, bodies)) for _, reference in cells.under(cells.REQUEST, self._stored)]
        requests = {request.request_id: request for request in sorted(found, key=lambda one: one.number)}
        waiting = Waiting(tuple(queue), joins, requests)
        self._refuse_homeless(waiting)
        return waiting

    def refuse_strangers(self) -> None:
        """Refuse stored state of executors that the graph does not have."""
        known = self.definition.graph.executors
        for key in self._stored:
            if key.startswith(cells.EXECUTOR) and cells.split_executor_key(key)[0] not in known:
                raise WorkflowCheckpointException(
                    f"The checkpoint {self.draft.view.commit_id!r} holds state of the executor "
                    f"{self.name(cells.split_executor_key(key)[0])!r}, which the workflow no longer has."
                )

    def _refuse_homeless(self, waiting: Waiting) -> None:
        """Refuse what waits for a part of the graph that is no longer there."""
        graph, checkpoint = self.definition.graph, self.draft.view.commit_id
        needed = [(message.target or message.source, "a message for") for message in waiting.queue]
        needed += [(request.executor, "an open request of") for request in waiting.requests.values()]
        for executor, what in needed:
            if executor not in graph.executors:
                raise WorkflowCheckpointException(
                    f"The checkpoint {checkpoint!r} has {what} the executor {self.name(executor)!r}, which the "
                    "workflow no longer has."
                )
        groups = {group.id for group in graph.groups}
        for group, source in waiting.joins:
            if group not in groups:
                raise WorkflowCheckpointException(
                    f"The checkpoint {checkpoint!r} has a message of {self.name(source)!r} waiting in the join "
                    f"{group!r}, which the workflow no longer has."
                )

    # --- Shared state ---

    def read_state(self, key: str) -> Any:
        """A fresh copy of a shared state value as of the last boundary; `MISSING` if it is not set."""
        reference = self._current(cells.state_key(key))
        return MISSING if reference is None else self.codec.decode(reference, self.draft.bodies)

    def encode_state(self, key: str, value: Any) -> Encoded:
        """A new value of shared state, as it will be stored."""
        known = self.draft.known(self._current(cells.state_key(key)))
        return self.codec.encode(value, known=known, split=self.draft.stored)

    def decode_state(self, encoded: Encoded) -> Any:
        """A fresh copy of a value that this superstep has written."""
        return self.codec.decode(encoded.reference, ChainMap(dict(encoded.blobs), self.draft.bodies))

    def write_state(self, writes: Mapping[str, Encoded | None]) -> None:
        """Take up the merged writes of a superstep."""
        for key, encoded in writes.items():
            self._set(cells.state_key(key), encoded)

    # --- Messages and requests ---

    def enqueue(
        self, source: str, target: str | None, kind: MessageKind, value: Any,
        request_id: str | None = None, response_name: str | None = None,
    ) -> Queued:  # fmt: skip
        """Make a message of a value.

        It passes by reference where nothing is ever stored, and, between the commits of a turn, if it cannot change:
        a receiver never sees, nor makes, a change in what the sender keeps.
        """
        payload: Payload
        immutable = self.draft.stored and self.codec.is_immutable(value)
        if self.draft.stored and not (self.draft.by_reference and immutable):
            try:
                encoded = self.codec.encode([source, target, kind, request_id, response_name, value])
            except UnsupportedValueError as error:
                raise UnsupportedValueError(
                    f"A message sent by {self.name(source)!r} cannot be stored: {error}"
                ) from None
            payload = StoredPayload(encoded, self.codec, self.draft.bodies, value if immutable else UNSET)
        else:
            payload = LivePayload(value, self.codec)
        return Queued(source, target, kind, payload, request_id, response_name)

    def ask(self, executor_id: str, asked: Asked, *, number: int) -> OpenRequest:
        """The request as it will stand in the lane."""
        table = self.clones[executor_id].executor.handler_table
        name = annotations.name(asked.response_type)
        if response_type(name, table, self.codec) is None:
            # It could not be found again: what the handler takes instead.
            responder = table.responder(asked.data, asked.response_type)
            name = annotations.name(responder.response) if responder is not None else name
        return OpenRequest(asked.request_id, executor_id, asked.data, name, asked.expires_at, asked.default, number)

    def journal(self, executor_id: str) -> dict[int, Encoded]:
        """The results of steps that a function which waits for an answer has kept, by position."""
        return {position: Encoded(reference) for position, reference in self._journals.get(executor_id, {}).items()}

    def keep_journal(self, executor_id: str, entries: Mapping[int, Encoded]) -> None:
        """Make these the kept results of an executor's steps."""
        kept = self._journals.pop(executor_id, {})
        for position in kept.keys() - entries.keys():
            self._set(cells.journal_key(executor_id, position), None)
        for position, encoded in entries.items():
            if kept.get(position) != encoded.reference:
                self._set(cells.journal_key(executor_id, position), encoded)
        if entries:
            self._journals[executor_id] = {position: encoded.reference for position, encoded in entries.items()}

    # --- Settle ---

    async def snapshot(self, executor_id: str) -> dict[str, Encoded | None]:
        """The cells of an executor that differ from those of the last boundary."""
        if self.definition.templates[executor_id].hooked:
            return await self._saved_by_hook(executor_id)
        return self._changed_attributes(executor_id)

    def _changed_attributes(self, executor_id: str) -> dict[str, Encoded | None]:
        template, clone, draft = self.definition.templates[executor_id], self.clones[executor_id], self.draft
        changed = template.changed(clone, draft.codec, draft.known, split=draft.stored)
        return {cells.field_key(executor_id, attribute): encoded for attribute, encoded in changed}

    async def _saved_by_hook(self, executor_id: str) -> dict[str, Encoded | None]:
        key = cells.hook_key(executor_id)
        saved = await save(self.clones[executor_id].executor)
        current = self._current(key)
        try:
            encoded = self.codec.encode(saved, known=self.draft.known(current), split=self.draft.stored)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"What on_checkpoint_save of {self.name(executor_id)!r} returned: {error}"
            ) from None
        return {} if encoded.reference == current else {key: encoded}

    async def adopt(self, executor_id: str, changed: Mapping[str, Encoded | None]) -> None:
        """Give an executor a fresh clone with the state of the last boundary and these changes of it."""
        template = self.definition.templates[executor_id]
        fields = {attribute: reference for attribute, (_, reference) in self.clones[executor_id].taken.items()}
        for key, encoded in changed.items():
            self._set(key, encoded)
            attribute = cells.split_executor_key(key)[1]
            if attribute is None:
                continue
            if encoded is None:
                fields.pop(attribute, None)
            else:
                fields[attribute] = encoded.reference
        clone = template.clone(fields, self.codec, self.draft.bodies)
        if template.hooked:
            await restore(clone, self._saved(executor_id))
        self.clones[executor_id] = clone

    async def settle_executors(self) -> None:
        """Encode the state of every executor that was called since the last time, and keep what differs."""
        for name in sorted(self._called):
            clone = self.clones[name]
            hooked = self.definition.templates[name].hooked
            found = await self._saved_by_hook(name) if hooked else self._changed_attributes(name)
            for key, changed in found.items():
                self._set(key, changed)
                if hooked:
                    continue
                attribute = cells.split_executor_key(key)[1] or ""
                if changed is None:
                    clone.taken.pop(attribute, None)
                else:
                    clone.taken[attribute] = (vars(clone.executor)[attribute], changed.reference)
        self._called.clear()

    def settle_waiting(self) -> None:
        """Bring the cells of queue, joins and requests in line with what is waiting now."""
        wanted: dict[str, Encoded] = {}
        for position, message in enumerate(self.waiting.queue):
            wanted[cells.queue_key(position)] = self._stored_form(
                message.payload, message.source, message.target, message.kind, message.request_id,
                message.response_name,
            )  # fmt: skip
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

    def _stored_form(self, payload: Payload, *head: str | None) -> Encoded:
        if isinstance(payload, StoredPayload):
            return payload.encoded
        return self.codec.encode([*(head or (None, None, "message", None, None)), payload.peek()])

    def _encode_request(self, request: OpenRequest) -> Encoded:
        try:
            return self.codec.encode(list(structs.astuple(request)))
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"A request of {self.name(request.executor)!r} cannot be stored: {error}"
            ) from None

    def _set(self, key: str, encoded: Encoded | None) -> None:
        self.draft.put(self.prefix + key, encoded)

    def _current(self, key: str) -> bytes | None:
        return self.draft.current(self.prefix + key)


def _journals(stored: Mapping[str, bytes]) -> dict[str, dict[int, bytes]]:
    found: dict[str, dict[int, bytes]] = {}
    for key, reference in stored.items():
        if key.startswith(cells.JOURNAL):
            executor, _, position = key[len(cells.JOURNAL) :].rpartition("/")
            found.setdefault(executor, {})[int(position)] = reference
    return found


def response_type(name: str, table: HandlerTable, codec: Codec) -> Any:
    """The annotation that an open request was stored with; None if this program has no such type."""
    for responder in table.responders:
        for hint in (responder.response, *annotations.members(responder.response)):
            if annotations.name(hint) == name:
                return hint
    return codec.annotation_named(name)
