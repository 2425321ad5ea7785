"""What of an executor is state, what is configuration, and how a clone is made from the one and the other.

Rule 1: every attribute that can be encoded is state, unless it is taken out with `config()`.
Rule 2: only what a handler has changed is stored. An attribute no handler has touched comes from the running
        program, so secrets set in `__init__` never reach a store, and a new limit holds for old conversations. What
        `state()` declares is part of the initial state, so a conversation keeps the default that it began with.
Rule 3: what cannot be encoded is shared by all lanes as it is, and must be a foreign object: a client, a lock.
Rule 4: an executor with hooks stores what its hook returns and nothing else.
Rule 5: in asyncio's debug mode, which `python -X dev` switches on, a handler that changes a foreign object in place is
        reported, once for each attribute. Executors with hooks are not looked at.
"""

import asyncio
import logging
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_host.engine import annotations, cells
from agent_host.engine.executors.executor import Executor, Field, declared_fields, has_hooks
from agent_host.engine.executors.fingerprint import Fingerprint
from agent_host.engine.executors.foreign import (
    CHANGING,
    FUNCTIONS,
    leaves,
    own_objects,
    refuse_kept_objects,
    refuse_own_methods,
    refuse_own_object,
    same_skeleton,
    skeleton,
    warn_of_common_parts,
)
from agent_host.engine.executors.mentions import storable_mentioned
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.engine.serialization.stored_types import is_storable_class
from agent_host.errors import ExecutorStateError, UnsupportedValueError, WorkflowCheckpointException

_ENGINE_OWN = "_agent_host_"
log = logging.getLogger("agent_host.engine")


@dataclass(frozen=True, slots=True)
class PristineField:
    """An attribute's value as the program set it. Its forms are kept in memory; only declared ones are ever stored.

    `encoded` is the form that goes to a store, `whole` the reference of a state that stays in the process.
    """

    value: Any
    encoded: Encoded
    whole: bytes
    immutable: bool
    declared: bool


@dataclass(slots=True)
class Clone:
    """An executor serving one lane; of every stored attribute, the value last seen and its reference.

    `own` holds what its restore hook has to replace, by attribute. `foreign` holds fingerprints of what it shares with
    other lanes; it is empty outside debug mode.
    """

    executor: Executor
    taken: dict[str, tuple[Any, bytes]]
    own: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    foreign: Mapping[str, Fingerprint] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Template:
    """An executor as the program built it.

    `own` holds the objects of the program's own, by attribute, that only an executor with hooks may have.
    `reported` notes the foreign attributes that a warning has named. With a `factory` each clone is made by it, and
    `fresh` are the attributes of which each clone has one of its own that is never stored.
    """

    executor_id: str
    cls: type[Executor]
    attributes: Mapping[str, Any]
    fields: Mapping[str, PristineField]
    shared: frozenset[str]
    rebound: Mapping[str, Callable[..., Any]]
    foreign: tuple[str, ...]
    hooked: bool
    own: Mapping[str, Sequence[Any]]
    factory: Callable[[], Executor] | None = None
    fresh: frozenset[str] = frozenset()
    reported: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, executor: Executor, codec: Codec) -> "Template":
        """Sort an executor's attributes. Raises `ExecutorStateError` for what is neither state nor foreign."""
        declared = declared_fields(type(executor))
        fields: dict[str, PristineField] = {}
        shared = {name for name, declaration in declared.items() if not declaration.per_lane}
        rebound: dict[str, Callable[..., Any]] = {}
        foreign: list[str] = []
        own: dict[str, Sequence[Any]] = {}
        fresh: set[str] = set()
        factory = executor._agent_host_factory
        hooked = has_hooks(executor)
        codec.allow(_class_annotations(type(executor)).values())
        codec.allow_free(storable_mentioned(executor))
        attributes = dict(vars(executor))
        for name, value in {**_class_defaults(executor, codec), **attributes}.items():
            if name == "id" or name.startswith(_ENGINE_OWN):
                continue
            if name in shared or type(executor)._agent_host_shared:
                shared.add(name)
            elif isinstance(value, types.MethodType) and value.__self__ is executor:
                rebound[name] = value.__func__
            else:
                pristine = _pristine(executor, name, value, codec, declared=name in declared)
                if pristine is not None:
                    fields[name] = pristine
                    attributes[name] = value
                    continue
                if factory is not None and name in attributes:
                    fresh.add(name)
                    continue
                refuse_own_methods(executor, name, value)
                found = own_objects(executor, value, codec)
                if found and not hooked:
                    refuse_own_object(executor, name, found[0])
                if found:
                    own[name] = found
                    attributes[name] = value
                elif name in attributes or type(value) in CHANGING:
                    foreign.append(name)  # anything else on the class, a logger or a pattern, is a constant
                    attributes[name] = value
        warn_of_common_parts(executor.id, {name: pristine.value for name, pristine in fields.items()})
        return cls(
            executor.id, type(executor), attributes, fields, frozenset(shared), rebound, tuple(foreign),
            hooked, own, factory, frozenset(fresh),
        )  # fmt: skip

    def clone(self, stored: Mapping[str, bytes], codec: Codec, bodies: Mapping[bytes, Any]) -> Clone:
        """A copy with the lane's attributes: stored ones from `stored` (attribute to reference), others pristine."""
        if self.factory is not None:
            return self._made_by(self.factory, stored, codec, bodies)
        made = object.__new__(self.cls)
        taken: dict[str, tuple[Any, bytes]] = {}
        attributes = dict(self.attributes)
        for name, pristine in self.fields.items():
            if name not in stored and not pristine.immutable:
                attributes[name] = codec.decode(pristine.encoded.reference, pristine.encoded.blobs)
        for name, reference in stored.items():
            if name in self.shared or name in self.foreign or name in self.rebound:
                continue  # an older program kept it per conversation; this one shares it
            value = codec.decode(reference, bodies)
            attributes[name] = value
            taken[name] = (value, reference)
        for name in (*self.foreign, *self.own):
            attributes[name] = skeleton(attributes[name])
        for name, function in self.rebound.items():
            attributes[name] = types.MethodType(function, made)
        made.__dict__ = attributes
        watched = self.foreign and not self.hooked and _in_debug_mode()
        return Clone(made, taken, self.own, self._fingerprints(made) if watched else {})

    def _made_by(
        self, factory: Callable[[], Executor], stored: Mapping[str, bytes], codec: Codec, bodies: Mapping[bytes, Any]
    ) -> Clone:
        made = factory()
        if type(made) is not self.cls or made.id != self.executor_id:
            raise ExecutorStateError(
                f"The factory of executor {self.executor_id!r} made {made!r}; it must make a {self.cls.__name__} with "
                "the same id."
            )
        attributes = vars(made)
        attributes.update({name: self.attributes[name] for name in self.shared if name in self.attributes})
        for name in self.fields.keys() - attributes.keys():  # such as a list that stands on the class
            attributes[name] = codec.decode(self.fields[name].encoded.reference, self.fields[name].encoded.blobs)
        taken: dict[str, tuple[Any, bytes]] = {}
        for name, reference in stored.items():
            if name in self.shared or name in self.fresh or name in self.rebound:
                continue  # an older program kept it; this one makes or shares it
            attributes[name] = codec.decode(reference, bodies)
            taken[name] = (attributes[name], reference)
        return Clone(made, taken, self.own)

    def _fingerprints(self, clone: Executor) -> dict[str, Fingerprint]:
        return {name: Fingerprint.of(vars(clone).get(name), name) for name in self.foreign if name not in self.reported}

    def _report_changes(self, clone: Clone) -> None:
        for name, before in clone.foreign.items():
            place = before.changed_in(Fingerprint.of(vars(clone.executor).get(name), name))
            if place is not None and name not in self.reported:
                self.reported.add(name)
                log.warning(
                    "A handler of executor %r changed %s in place. It cannot be stored, so no checkpoint has the "
                    "change and all conversations share it. Keep what belongs to a conversation in an attribute of its "
                    "own (a dataclass, a list), write checkpoint hooks, or declare `%s = config()` if it is meant.",
                    self.executor_id, place, name,
                )  # fmt: skip

    def changed(
        self, clone: Clone, codec: Codec, known: Callable[[bytes], set[bytes]], *, split: bool
    ) -> Iterator[tuple[str, Encoded | None]]:
        """The attributes whose form differs from the stored one, as (attribute, new form or None if gone)."""
        if self.cls._agent_host_shared:
            return
        attributes = vars(clone.executor)
        for name, value in attributes.items():
            if name == "id" or name in self.shared or name in self.fresh or name.startswith(_ENGINE_OWN):
                continue
            if name in self.foreign or name in self.rebound:
                self._refuse_rebinding(name, value)
                continue
            taken = clone.taken.get(name)
            if taken is None:
                changed = self._unlike_pristine(name, value, codec, split=split)
            elif taken[0] is value and codec.is_immutable(value):
                changed = None
            else:
                encoded = self._encode(name, value, codec, known(taken[1]), split=split)
                changed = encoded if encoded.reference != taken[1] else None
            if changed is not None:
                yield name, changed
        for name in (*self.fields, *self.foreign, *self.rebound, *clone.taken):
            if name not in attributes:
                self._refuse_deletion(name)
                yield name, None
        self._report_changes(clone)

    def _unlike_pristine(self, name: str, value: Any, codec: Codec, *, split: bool) -> Encoded | None:
        """The form of an attribute of which nothing is stored; None if it is as the program set it."""
        pristine = self.fields.get(name)
        if pristine is None:
            return self._encode(name, value, codec, (), split=split)
        if pristine.immutable and value is pristine.value:
            return None
        # As if the pristine blobs were stored, since nearly always nothing has changed; if something has, again.
        encoded = self._encode(name, value, codec, pristine.encoded.blobs, split=split)
        if encoded.reference == (pristine.encoded.reference if split else pristine.whole):
            return None
        return self._encode(name, value, codec, (), split=True) if split and pristine.encoded.blobs else encoded

    def _encode(self, name: str, value: Any, codec: Codec, known: Any, *, split: bool) -> Encoded:
        try:
            return codec.encode(value, known=known, split=split)
        except UnsupportedValueError as error:
            raise UnsupportedValueError(
                f"Executor {self.executor_id!r} cannot keep its attribute {name!r}: {error}. Use a dataclass that an "
                f"annotation of the executor names, or declare `{name} = config()` if it is not part of a conversation."
            ) from None

    def _refuse_rebinding(self, name: str, value: Any) -> None:
        kept = self.attributes.get(name)
        same = same_skeleton(value, kept) or (
            name in self.rebound and getattr(value, "__func__", None) is self.rebound[name]
        )
        if not same:
            raise ExecutorStateError(
                f"A handler of executor {self.executor_id!r} changed the attribute {name!r}, which all conversations "
                f"share because it cannot be stored. Declare `{name} = config()` if the replacement is not part of a "
                "conversation, or keep the changing part in an attribute of its own."
            )

    def _refuse_deletion(self, name: str) -> None:
        if name in self.attributes:
            raise ExecutorStateError(
                f"A handler of executor {self.executor_id!r} deleted the attribute {name!r}; set it to None instead."
            )


async def restore(clone: Clone, saved: dict[str, Any]) -> None:
    """Run the restore hook of a clone. Raises `ExecutorStateError` if it leaves an object that others have too."""
    await clone.executor.on_checkpoint_restore(saved)
    for name, originals in clone.own.items():
        refuse_kept_objects(clone.executor, name, originals)


async def save(executor: Executor) -> dict[str, Any]:
    """Run the save hook. Raises `WorkflowCheckpointException` for a result that could not be restored."""
    saved = await executor.on_checkpoint_save()
    if type(saved) is not dict or not all(type(key) is str for key in saved):
        raise WorkflowCheckpointException(
            f"on_checkpoint_save of executor {executor.id!r} returned a {type(saved).__name__}; "
            "it must return a dict with text keys."
        )
    return saved


def _in_debug_mode() -> bool:
    try:
        return asyncio.get_running_loop().get_debug()
    except RuntimeError:
        return False


def _pristine(executor: Executor, name: str, value: Any, codec: Codec, *, declared: bool) -> PristineField | None:
    codec.allow(_classes_of(value))
    try:
        encoded = codec.encode(value)
    except UnsupportedValueError as error:
        if declared:
            raise ExecutorStateError(
                f"The state {name!r} of executor {executor.id!r} cannot be stored: {error}. "
                "Use a dataclass or a type of the standard library."
            ) from None
        return None
    whole = codec.encode(value, split=False).reference
    return PristineField(value, encoded, whole, codec.is_immutable(value), declared)


def _class_defaults(executor: Executor, codec: Codec) -> dict[str, Any]:
    """Values that stand on the class and can change, such as `history = []`: each conversation gets its own."""
    found: dict[str, Any] = {}
    for cls in reversed(type(executor).__mro__):
        if cls is object or cls is Executor or cls.__module__ == "typing":
            continue
        for name, value in vars(cls).items():
            if name.startswith(("__", "_abc_", _ENGINE_OWN)) or isinstance(value, (Field, *FUNCTIONS)):
                continue
            if not hasattr(type(value), "__get__") and not codec.is_immutable(value):
                found[name] = value
    return found


def _class_annotations(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}


def _classes_of(value: Any) -> list[type]:
    found: dict[type, None] = {}
    for leaf in leaves(value):
        cls = type(leaf)
        if cls in found or not is_storable_class(cls):
            continue
        found[cls] = None
        for name in annotations.field_types(cls):
            for inner in _classes_of(getattr(leaf, name, None)):
                found[inner] = None
    return list(found)


def stored_fields(lane_cells: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """The stored attributes of every executor: id to attribute to reference."""
    found: dict[str, dict[str, bytes]] = {}
    for key, reference in lane_cells.items():
        if key.startswith(cells.EXECUTOR):
            executor, attribute = cells.split_executor_key(key)
            if attribute is not None:
                found.setdefault(executor, {})[attribute] = reference
    return found
