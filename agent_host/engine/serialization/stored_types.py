"""The classes that may stand in a checkpoint, and how their objects are taken apart and put together.

Rule 1: a stored class is a tag, looked up in a table that is made from the graph's own annotations. Nothing is
        imported, called or instantiated by a name that stands in a store.
Rule 2: one tag means one class; two classes that would share one are refused when the workflow is built.
"""

import dataclasses
import enum
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import msgspec

from agent_host.engine import annotations
from agent_host.engine.serialization import structs
from agent_host.engine.serialization.annotation_names import AnnotationNames
from agent_host.engine.serialization.scalars import ATOMS
from agent_host.engine.serialization.shared_values import PROCESS_WIDE, SharedValues, Stretch
from agent_host.errors import CheckpointDecodeError, UnsupportedValueError, WorkflowValidationError
from agent_host.messages import FilePart, ImagePart, Message, TextPart


@dataclass(frozen=True, slots=True, eq=False)
class StoredType:
    """A class that may stand in a checkpoint, under its tag. There is one object for each class and tag.

    `transient` fields are not stored and come back as their default. `defaults` makes the values of fields that a
    store lacks. `frozen`: its values cannot change and are stored whole, so equal ones may be one object.
    """

    cls: type
    tag: str
    version: int
    fields: Mapping[str, Any]
    defaults: Mapping[str, Callable[[], Any]]
    transient: frozenset[str]
    frozen: bool
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None


_registered: dict[type, StoredType] = {}


def register_checkpoint_type(
    cls: type,
    name: str | None = None,
    version: int = 1,
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
) -> type:
    """Allow a class in checkpoints that no annotation of the graph mentions, or give it another stored name.

    It is a dataclass, a Struct of msgspec, a pydantic model, a named tuple or an enum. `migrate(fields, version)`
    receives the fields as an older version stored them and returns today's fields.

    A transient field is not stored and comes back as its default: `field(default=None, metadata={"transient": True})`
    in a dataclass, `raw: Annotated[Any, msgspec.Meta(extra={"transient": True})] = None` in a Struct.
    """
    _registered[cls] = _stored_type(cls, name or cls.__qualname__, version, migrate)
    return cls


@lru_cache(maxsize=4096)
def _stored_type(
    cls: type, tag: str, version: int = 1, migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
) -> StoredType:
    transient = _transient_fields(cls)
    frozen = issubclass(cls, enum.Enum) or (_is_frozen(cls) and not transient)
    return StoredType(cls, tag, version, annotations.field_types(cls), _defaults(cls), transient, frozen, migrate)


def _transient_fields(cls: type) -> frozenset[str]:
    if dataclasses.is_dataclass(cls):
        return frozenset(field.name for field in dataclasses.fields(cls) if field.metadata.get("transient"))
    return structs.transient_fields(cls) if annotations.is_struct(cls) else frozenset()


def _is_frozen(cls: type) -> bool:
    parameters = getattr(cls, "__dataclass_params__", None) or getattr(cls, "__struct_config__", None)
    return parameters is not None and bool(parameters.frozen)


def _defaults(cls: type) -> dict[str, Callable[[], Any]]:
    if annotations.is_named_tuple(cls):
        return {name: partial(_same, value) for name, value in cls._field_defaults.items()}  # type: ignore[attr-defined]  # by its shape
    found: dict[str, Callable[[], Any]] = {}
    specs: Iterable[Any] = ()
    if dataclasses.is_dataclass(cls):
        specs = dataclasses.fields(cls)
    elif annotations.is_struct(cls):
        specs = msgspec.structs.fields(cls)
    for spec in specs:
        if _is_given(spec.default):
            found[spec.name] = partial(_same, spec.default)
        elif _is_given(spec.default_factory):
            found[spec.name] = spec.default_factory
    return found


def _is_given(default: Any) -> bool:
    return default is not dataclasses.MISSING and default is not msgspec.NODEFAULT


def _same(value: Any) -> Any:
    return value


# Of these a class inherits content beside its fields, which would be lost.
_WITH_CONTENT = (BaseException, bytearray, bytes, dict, float, frozenset, int, list, set, str, tuple)


def is_storable_class(cls: type) -> bool:
    """Whether values of this class can be taken apart and put together again without running its code."""
    if annotations.is_named_tuple(cls) or issubclass(cls, enum.Enum):
        return True
    return not issubclass(cls, _WITH_CONTENT) and (
        dataclasses.is_dataclass(cls) or annotations.is_pydantic(cls) or annotations.is_struct(cls)
    )


def storable_classes(hints: Iterable[Any]) -> list[type]:
    """The classes to allow for these annotations: those they name, and those their fields name, and so on."""
    found: dict[type, None] = {}
    waiting = [cls for hint in hints for cls in annotations.classes_in(hint)]
    while waiting:
        cls = waiting.pop()
        if cls in found or not (is_storable_class(cls) or annotations.is_typed_dict(cls)):
            continue
        found[cls] = None
        for hint in annotations.field_types(cls).values():
            waiting.extend(annotations.classes_in(hint))
    return [cls for cls in found if not annotations.is_typed_dict(cls)]


class AllowList:
    """The classes of one workflow, by class and by tag; `shared` is the cache that their values are kept in."""

    def __init__(self, hints: Iterable[Any] = (), shared: SharedValues = PROCESS_WIDE) -> None:
        self.shared = shared
        self.types: set[StoredType] = set()
        self._by_tag: dict[str, StoredType] = {}
        self._by_class: dict[type, StoredType] = {}
        self._annotations = AnnotationNames()
        for cls in (Message, TextPart, ImagePart, FilePart):
            self._allow(_stored_type(cls, cls.__qualname__))
        for stored in _registered.values():
            self._allow(stored)
        self.allow(hints)

    def allow(self, hints: Iterable[Any]) -> None:
        """Add these annotations, and the classes that they name, with their fields."""
        hints = list(hints)
        self._annotations.add(hints)
        for cls in storable_classes(hints):
            if cls not in self._by_class:
                self._allow(_registered.get(cls) or _stored_type(cls, cls.__qualname__))

    def allow_free(self, classes: Iterable[type]) -> None:
        """Add classes that are only guessed to be needed: those whose names are free, as are those of their fields."""
        for cls in classes:
            needed = [one for one in storable_classes([cls]) if one not in self._by_class]
            tags = [_registered[one].tag if one in _registered else one.__qualname__ for one in needed]
            if self._by_tag.keys().isdisjoint(tags) and len(set(tags)) == len(tags):
                self.allow([cls])

    def _allow(self, stored: StoredType) -> None:
        other = self._by_tag.get(stored.tag)
        if other is not None and other.cls is not stored.cls:
            raise WorkflowValidationError(
                f"Two classes would be stored under the name {stored.tag!r}: {where(other.cls)} and "
                f"{where(stored.cls)}. Give one of them another: register_checkpoint_type(cls, name=...)."
            )
        self._by_tag[stored.tag] = stored
        self._by_class[stored.cls] = stored
        self.types.add(stored)

    def stored_type(self, cls: type) -> StoredType | None:
        """How values of a class are stored; None if the class is not allowed."""
        return self._by_class.get(cls)

    def class_named(self, tag: str) -> type | None:
        """The allowed class that is stored under a tag."""
        stored = self._by_tag.get(tag)
        return stored.cls if stored is not None else None

    def annotation_named(self, name: str) -> Any | None:
        """The annotation that `annotation_name` gave this name: an allowed class, another annotation of the graph, or a
        simple type of Python. None if there is none.
        """
        return self.class_named(name) or self._annotations.named(name)

    def annotation_name(self, hint: Any) -> str | None:
        """The name by which an annotation is stored; None if it could not be found again."""
        stored = self._by_class.get(hint) if isinstance(hint, type) else None
        if stored is not None:
            return stored.tag
        name = self._annotations.name_of(hint)
        return None if name in self._by_tag else name

    pickled_types: frozenset[type] = frozenset()
    """The classes of which instances are pickled: none, but in a `PickleCodec`."""

    def pickled(self, value: Any) -> bytes:
        """The stored form of an instance of one of `pickled_types`; `UnsupportedValueError` if it cannot be read."""
        raise UnsupportedValueError(f"A value of type {where(type(value))} is pickled by a PickleCodec only")

    def unpickled(self, data: Any) -> Any:
        """A fresh value from its stored form."""
        raise CheckpointDecodeError(
            "The checkpoint holds a pickled value, which this codec does not read. Give the workflow, or the storage, "
            "codec=PickleCodec(allowed_types=[...]) with the classes that it was written with."
        )

    def is_immutable(self, value: Any) -> bool:
        """Whether a value, and all it holds, can never change."""
        return self._is_immutable(value, set())

    def stretch_of(self, blob: bytes, level: int, items: tuple[Any, ...], size: int) -> Stretch | None:
        """Items as a stretch to share, if none of them can ever change."""
        types: set[StoredType] = set()
        if not all(self._is_immutable(item, types) for item in items):
            return None
        return Stretch(blob, level, items, size, frozenset(types))

    def _is_immutable(self, value: Any, types: set[StoredType]) -> bool:
        kind = type(value)
        if kind in ATOMS:
            return True
        if kind is tuple or kind is frozenset:
            return all(self._is_immutable(item, types) for item in value)
        stored = self._by_class.get(kind)
        if stored is None or not stored.frozen:
            return False
        types.add(stored)
        if issubclass(kind, enum.Enum):
            return True
        attributes = getattr(value, "__dict__", None)
        if attributes and not attributes.keys() <= stored.fields.keys():
            return False  # it carries something that is not stored, which must not reach others
        return all(self._is_immutable(getattr(value, name, None), types) for name in stored.fields)

    def build(self, tag: str, version: int, fields: Any) -> Any:
        """Put an object of an allowed class together again, without running its code."""
        stored = self._by_tag.get(tag)
        if stored is None:
            raise CheckpointDecodeError(
                f"The checkpoint holds a value of type {tag!r}, which this workflow does not declare. Annotate it in a "
                "handler or a state field, or call register_checkpoint_type(cls, name=...)."
            )
        if issubclass(stored.cls, enum.Enum):
            return stored.cls(fields)
        if version != stored.version:
            if stored.migrate is None:
                raise CheckpointDecodeError(
                    f"A stored {tag!r} is of version {version}; this program reads {stored.version}. "
                    "Give register_checkpoint_type a `migrate` function."
                )
            fields = stored.migrate(fields, version)
        if annotations.is_pydantic(stored.cls):
            return validated(stored.cls, fields)
        return _assemble(stored, fields)


def where(cls: type) -> str:
    """A class as an error message names it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def _assemble(stored: StoredType, fields: dict[str, Any]) -> Any:
    unknown = fields.keys() - stored.fields.keys()
    if unknown:
        raise CheckpointDecodeError(
            f"A stored {stored.tag!r} has the field {min(unknown)!r}, which the class no longer has. "
            "Give register_checkpoint_type a `migrate` function that removes it."
        )
    for name, value in fields.items():
        if not fits(stored.fields[name], value):
            raise CheckpointDecodeError(
                f"A stored {stored.tag!r} has a {type(value).__name__} in the field {name!r}, "
                f"declared as {annotations.name(stored.fields[name])}."
            )
    values = {name: fields[name] if name in fields else _default(stored, name) for name in stored.fields}
    if annotations.is_named_tuple(stored.cls):
        return tuple.__new__(stored.cls, values.values())
    if annotations.is_struct(stored.cls):
        return structs.make(stored.cls, values)
    made: Any = object.__new__(stored.cls)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def validated(cls: Any, fields: Mapping[str, Any]) -> Any:
    """A pydantic model of these fields, by their own names; whatever its validation raises."""
    whole = fields["root"] if getattr(cls, "__pydantic_root_model__", False) else fields
    return cls.model_validate(whole, by_alias=False, by_name=True)


def _default(stored: StoredType, name: str) -> Any:
    make = stored.defaults.get(name)
    if make is None:
        raise CheckpointDecodeError(
            f"A stored {stored.tag!r} lacks the field {name!r}, which has no default. "
            "Give it a default, or give register_checkpoint_type a `migrate` function."
        )
    return make()


def fits(hint: Any, value: Any) -> bool:
    """Whether a field may hold a value. Asked when it is stored and when it is read, so that both agree.

    Only the outermost type counts: Python checks none, and lets an int stand where a float is declared.
    """
    return any(_fits(member, value) for member in annotations.members(hint))


def _fits(member: Any, value: Any) -> bool:
    origin = typing.get_origin(member)
    if origin is typing.Literal:
        return annotations.matcher(member)(value)
    if annotations.is_typed_dict(member):
        return isinstance(value, dict)
    cls = origin or member
    if annotations.is_top(member) or not isinstance(cls, type) or getattr(cls, "_is_protocol", False):
        return True
    return isinstance(value, (int, float) if cls is float else cls)
