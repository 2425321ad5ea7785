"""Values to bytes and back, for the types that a graph declares and no others.

Rule 1: a stored type is a tag, and a tag is looked up in a table made from the graph's own annotations.
        Nothing is imported, called or instantiated by a name that stands in a store.
Rule 2: what cannot be restored is refused when it is saved, with the place inside the value.
Rule 3: encoding is canonical: equal values of one type give equal bytes in every process.
Rule 4: tags travel as MessagePack extension types, so no user value can look like one.
Rule 5: a long list is a tree of content-addressed chunks. An append writes the last chunk and the open part of
        the index; items that are the very objects of a known chunk are not encoded again.
"""

import dataclasses
import enum
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import msgspec

from agent_host.engine import annotations
from agent_host.engine.checkpoint import BLOB, HASH_SIZE, INLINE, blob_hash, body_references
from agent_host.engine.scalars import ATOMS, SCALARS, SCALARS_BY_NAME
from agent_host.engine.shared_values import PROCESS_WIDE, Run, SharedValues
from agent_host.errors import CheckpointDecodeError, UnsupportedValueError, WorkflowValidationError
from agent_host.messages import FilePart, ImagePart, Message, TextPart

SPLIT_ABOVE = 4096  # bytes of a list's encoding from which on it is stored in chunks
CHUNK = 512  # bytes at which a chunk is full
FANOUT = 64  # hashes per sealed index blob
INLINE_LIMIT = 256  # bytes up to which a cell stands in the commit itself
MAX_DEPTH = 100

_TUPLE, _SET, _FROZENSET, _MAP, _OBJECT, _SCALAR, _CHUNKS, _CONTAINER = range(1, 9)
_INT64 = range(-(2**63), 2**64)
_ANY_LEVEL = 2**31
_PLAIN = frozenset({str, float, bool, type(None), bytes})

_encoder = msgspec.msgpack.Encoder()
_pack = _encoder.encode
_Ext = msgspec.msgpack.Ext


@dataclass(frozen=True, slots=True)
class Encoded:
    """A cell's reference and the blobs it needs that were not known to be stored."""

    reference: bytes
    blobs: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class StoredType:
    """A class that may stand in a checkpoint, under its tag. There is one object for each class and tag.

    `frozen`: its values cannot change and are stored whole, so equal ones may be one object.
    """

    cls: type
    tag: str
    version: int
    fields: Mapping[str, Any]
    transient: frozenset[str]
    frozen: bool
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None


class _Unsupported(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


_registered: dict[type, StoredType] = {}


def register_checkpoint_type(
    cls: type,
    name: str | None = None,
    version: int = 1,
    migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None,
) -> type:
    """Allow a class in checkpoints that no annotation of the graph mentions, or give it another stored name.

    `migrate(fields, version)` receives the fields as an older version stored them and returns today's fields.
    """
    _registered[cls] = _stored_type(cls, name or cls.__qualname__, version, migrate)
    return cls


@lru_cache(maxsize=4096)
def _stored_type(
    cls: type, tag: str, version: int = 1, migrate: Callable[[dict[str, Any], int], dict[str, Any]] | None = None
) -> StoredType:
    fields = annotations.field_types(cls)
    transient = frozenset(
        f.name
        for f in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if f.metadata.get("transient")
    )
    parameters = getattr(cls, "__dataclass_params__", None)
    frozen = issubclass(cls, enum.Enum) or (parameters is not None and parameters.frozen and not transient)
    return StoredType(cls, tag, version, fields, transient, frozen, migrate)


def is_storable_class(cls: type) -> bool:
    """Whether values of this class can be taken apart and put together again without running its code."""
    return (
        dataclasses.is_dataclass(cls)
        or annotations.is_pydantic(cls)
        or annotations.is_named_tuple(cls)
        or issubclass(cls, enum.Enum)
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


class Codec:
    """Encodes and decodes the values of one allow-list.

    Two classes that would share a tag are refused here, at build time: a stored value must have one meaning.
    """

    def __init__(self, hints: Iterable[Any] = (), shared: SharedValues = PROCESS_WIDE) -> None:
        self.shared = shared
        self.types: set[StoredType] = set()
        self._by_tag: dict[str, StoredType] = {}
        self._by_class: dict[type, StoredType] = {}
        self._encoders: dict[type, Callable[[_Body, Any], Any]] = dict(_ENCODERS)
        for cls in (Message, TextPart, ImagePart, FilePart):
            self._allow(_stored_type(cls, cls.__qualname__))
        for stored in _registered.values():
            self._allow(stored)
        self.allow(hints)

    def allow(self, hints: Iterable[Any]) -> None:
        """Add the classes that these annotations name, with their fields."""
        for cls in storable_classes(hints):
            if cls not in self._encoders:
                self._allow(_registered.get(cls) or _stored_type(cls, cls.__qualname__))

    def _allow(self, stored: StoredType) -> None:
        other = self._by_tag.get(stored.tag)
        if other is not None and other.cls is not stored.cls:
            raise WorkflowValidationError(
                f"Two classes would be stored under the name {stored.tag!r}: {_where(other.cls)} and "
                f"{_where(stored.cls)}. Give one of them another: register_checkpoint_type(cls, name=...)."
            )
        self._by_tag[stored.tag] = stored
        self._by_class[stored.cls] = stored
        self.types.add(stored)
        self._encoders[stored.cls] = _encode_enum if issubclass(stored.cls, enum.Enum) else _encode_object

    def stored_type(self, cls: type) -> StoredType:
        """How values of an allowed class are stored."""
        return self._by_class[cls]

    def class_named(self, tag: str) -> type | None:
        """The allowed class that is stored under a tag."""
        stored = self._by_tag.get(tag)
        return stored.cls if stored is not None else None

    def union(self, other: "Codec") -> "Codec":
        """A codec that allows what either allows."""
        merged = Codec(shared=self.shared)
        for stored in (*self._by_tag.values(), *other._by_tag.values()):
            merged._allow(stored)
        return merged

    def allows(self, cls: type) -> bool:
        """Whether values of exactly this class can be stored (what they contain is another question)."""
        return cls in _PLAIN or cls is int or cls in self._encoders

    def encode(self, value: Any, *, known: Collection[bytes] = (), split: bool = True) -> Encoded:
        """Encode one cell. Blobs whose hashes are in `known` are stored already and left out.

        `split=False` keeps everything in one body, for state that never leaves the process. Raises
        `UnsupportedValueError` naming the place inside the value and its type.
        """
        body = _Body(self, known, split)
        try:
            data = body.finish(_pack(body.tree(value)))
        except _Unsupported as error:
            place = "".join(reversed(error.path[-8:])) or "the value itself"
            raise UnsupportedValueError(f"{error.reason} (at {place})") from None
        except (OverflowError, UnicodeEncodeError) as error:
            raise UnsupportedValueError(f"{error}") from None
        if not split or len(data) <= INLINE_LIMIT:
            return Encoded(INLINE + data, body.blobs)
        blob = blob_hash(data)
        self.shared.add_body(blob, data)
        if blob not in known:
            body.blobs[blob] = data
        return Encoded(BLOB + blob, body.blobs)

    def decode(self, reference: bytes, bodies: Mapping[bytes, bytes | Run] | None = None) -> Any:
        """A fresh value from a cell's reference; immutable parts may be shared with other lanes.

        `bodies` holds the blobs and runs that a loader gathered; what is missing is looked up in the process's cache.
        """
        source = _Bodies(self, bodies or {})
        data = source.body(reference[1:]) if reference[:1] == BLOB else reference[1:]
        return source.value(data)

    def is_immutable(self, value: Any) -> bool:
        """Whether a value, and all it holds, can never change."""
        return self._is_immutable(value, set())

    def run_of(self, blob: bytes, level: int, items: tuple[Any, ...], size: int) -> Run | None:
        """Items as a run to share, if none of them can ever change."""
        types: set[StoredType] = set()
        if not all(self._is_immutable(item, types) for item in items):
            return None
        return Run(blob, level, items, size, frozenset(types))

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
        if len(getattr(value, "__dict__", ())) > len(stored.fields):
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
            return stored.cls.model_validate(fields, by_alias=False, by_name=True)  # type: ignore[attr-defined]
        return _assemble(stored, fields)


def _where(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _assemble(stored: StoredType, fields: dict[str, Any]) -> Any:
    unknown = fields.keys() - stored.fields.keys()
    if unknown:
        raise CheckpointDecodeError(
            f"A stored {stored.tag!r} has the field {min(unknown)!r}, which the class no longer has. "
            "Give register_checkpoint_type a `migrate` function that removes it."
        )
    for name, value in fields.items():
        if not annotations.matcher(stored.fields[name])(value) and not _is_loose(stored.fields[name]):
            raise CheckpointDecodeError(
                f"A stored {stored.tag!r} has a {type(value).__name__} in the field {name!r}, "
                f"declared as {annotations.name(stored.fields[name])}."
            )
    if annotations.is_named_tuple(stored.cls):
        return stored.cls(**fields)
    made: Any = object.__new__(stored.cls)
    for spec in dataclasses.fields(stored.cls):
        object.__setattr__(made, spec.name, fields[spec.name] if spec.name in fields else _default(stored, spec))
    return made


def _is_loose(hint: Any) -> bool:
    # Python lets an int stand where a float is declared, and leaves type variables and callables unchecked.
    return any(member is float or annotations.is_unresolved(member) for member in annotations.members(hint))


def _default(stored: StoredType, spec: "dataclasses.Field[Any]") -> Any:
    if spec.default is not dataclasses.MISSING:
        return spec.default
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    raise CheckpointDecodeError(
        f"A stored {stored.tag!r} lacks the field {spec.name!r}, which has no default. "
        "Give it a default, or give register_checkpoint_type a `migrate` function."
    )


# --- Encoding --------------------------------------------------------------------------------------------------


class _Body:
    """One body in the making: its tree, and the table of blobs that its payload refers to by position."""

    __slots__ = ("blobs", "codec", "depth", "known", "references", "split")

    def __init__(self, codec: Codec, known: Collection[bytes], split: bool, depth: int = 0) -> None:
        self.codec = codec
        self.known = known
        self.split = split
        self.depth = depth
        self.references: list[bytes] = []
        self.blobs: dict[bytes, bytes] = {}

    def finish(self, payload: bytes) -> bytes:
        if not self.references:
            return b"\x00\x00" + payload
        return len(self.references).to_bytes(2, "big") + b"".join(self.references) + payload

    def tree(self, value: Any) -> Any:
        """What the packer can write directly: plain values, maps with text keys, extension types."""
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is int:
            return value if value in _INT64 else _encode_scalar(self, value)
        encode = self.codec._encoders.get(kind)
        if encode is None:
            raise _Unsupported(f"A value of type {_where(kind)} cannot be stored")
        if self.depth >= MAX_DEPTH:
            raise _Unsupported(f"The value is nested more than {MAX_DEPTH} levels deep, or contains itself")
        self.depth += 1
        try:
            return encode(self, value)
        finally:
            self.depth -= 1

    def child(self, value: Any, place: str) -> Any:
        try:
            return self.tree(value)
        except _Unsupported as error:
            error.path.append(place)
            raise

    def items(self, values: Iterable[Any]) -> list[Any]:
        return [v if type(v) in _PLAIN else self.child(v, f"[{i}]") for i, v in enumerate(values)]


def _encode_sequence(body: _Body, value: Sequence[Any]) -> Any:
    is_tuple = type(value) is tuple
    may_split = body.split and any(type(item) not in (int, float) for item in value)
    if may_split and _is_known_to_be_long(body.codec, value):
        return _split(body, value, is_tuple)
    references, blobs = len(body.references), len(body.blobs)
    data = _pack(body.items(value))
    if may_split and len(data) > SPLIT_ABOVE:
        del body.references[references:]
        while len(body.blobs) > blobs:
            body.blobs.popitem()
        return _split(body, value, is_tuple)
    return _Ext(_TUPLE, data) if is_tuple else msgspec.Raw(data)


def _is_known_to_be_long(codec: Codec, items: Sequence[Any]) -> bool:
    """Whether known runs at the beginning of a list show, without encoding it, that it must be split."""
    size = at = 0
    while at < len(items):
        run = codec.shared.run_at(items, at, _ANY_LEVEL, codec.types)
        if run is None:
            return False
        size += run.size
        if size > SPLIT_ABOVE:
            return True
        at += len(run.items)
    return False


def _split(body: _Body, items: Sequence[Any], is_tuple: bool) -> Any:
    tree = _ChunkTree(body)
    tree.extend(items, 0, len(items))
    counts = [len(level) for level in tree.levels]
    first = len(body.references)
    for level in reversed(tree.levels):
        body.references.extend(level)
    if len(body.references) > 0xFFFF:
        raise _Unsupported("The value holds too many long lists")
    body.blobs.update(tree.blobs)
    # Of fixed width, so that a list takes the same bytes wherever in a value it stands.
    return _Ext(_CHUNKS, _pack([is_tuple, first.to_bytes(2, "big"), counts]))


class _ChunkTree:
    """A long list as chunks, and full runs of 64 of them sealed into index blobs, level upon level."""

    def __init__(self, body: _Body) -> None:
        self.body = body
        self.levels: list[list[bytes]] = [[]]
        self.starts: list[int] = [0]  # per level: the item at which its open part begins
        self.sizes: list[int] = [0]  # per level: the bytes of the items in its open part
        self.blobs: dict[bytes, bytes] = {}

    def extend(self, items: Sequence[Any], start: int, end: int, *, recognise: bool = True) -> None:
        codec, known, at = self.body.codec, self.body.known, start
        while at < end:
            run = codec.shared.run_at(items, at, self._aligned(), codec.types) if recognise else None
            if run is None:
                at = self._chunk(items, at, end)
                continue
            stop = at + len(run.items)
            if run.hash in known:
                self._push(run.level, run.hash, items, stop, run.size)
            else:
                # Known to the process but not to this lane's part of the store: its chunks are written anew.
                self.extend(items, at, stop, recognise=False)
            at = stop

    def _aligned(self) -> int:
        """The highest level at which a sealed run may stand here: all levels below it must be closed."""
        level = 0
        while level < len(self.levels) and not self.levels[level]:
            level += 1
        return level if level < len(self.levels) else _ANY_LEVEL

    def _chunk(self, items: Sequence[Any], start: int, end: int) -> int:
        data, stop, size, inner = self._encode_chunk(items, start, end)
        blob = blob_hash(data)
        if blob not in self.body.known:
            self.blobs[blob] = data
            self.blobs.update(inner)
        # A chunk that is not full will be packed anew when the list grows: it is neither recognised nor sealed.
        if size < CHUNK:
            self.body.codec.shared.add_body(blob, data)
            self.levels[0].append(blob)
        else:
            self._share(blob, 0, tuple(items[start:stop]), size, data)
            self._push(0, blob, items, stop, size)
        return stop

    def _share(self, blob: bytes, level: int, items: tuple[Any, ...], size: int, data: bytes) -> None:
        codec = self.body.codec
        run = codec.run_of(blob, level, items, size)
        if run is not None:
            codec.shared.add_run(run)
        else:
            codec.shared.add_body(blob, data)

    def _encode_chunk(self, items: Sequence[Any], start: int, end: int) -> tuple[bytes, int, int, dict[bytes, bytes]]:
        part = _Body(self.body.codec, (), True, self.body.depth)
        packed: list[bytes] = []
        size, at = 0, start
        while at < end and size < CHUNK:
            packed.append(_pack(part.child(items[at], f"[{at}]")))
            size += len(packed[-1])
            at += 1
        return part.finish(_array(packed)), at, size, part.blobs

    def _forget(self, blob: bytes) -> None:
        """Leave out what the store has below a known index blob."""
        body = self.blobs.pop(blob, None)
        for child in body_references(body) if body else ():
            self._forget(child)

    def _push(self, level: int, blob: bytes, items: Sequence[Any], stop: int, size: int) -> None:
        while level >= len(self.levels):
            self.levels.append([])
            self.starts.append(0)
            self.sizes.append(0)
        self.levels[level].append(blob)
        self.sizes[level] += size
        for lower in range(level):
            self.starts[lower] = stop
        if len(self.levels[level]) == FANOUT:
            self._seal(level, items, stop)

    def _seal(self, level: int, items: Sequence[Any], stop: int) -> None:
        """Close a full level: one index blob stands for it in the level above."""
        sealed = FANOUT.to_bytes(2, "big") + b"".join(self.levels[level])
        parent, size = blob_hash(sealed), self.sizes[level]
        if parent in self.body.known:
            for child in self.levels[level]:
                self._forget(child)
        else:
            self.blobs[parent] = sealed
        self._share(parent, level + 1, tuple(items[self.starts[level] : stop]), size, sealed)
        self.levels[level] = []
        self.sizes[level] = 0
        for lower in range(level + 1):
            self.starts[lower] = stop
        self._push(level + 1, parent, items, stop, size)


def _array(packed: list[bytes]) -> bytes:
    """A MessagePack array of items that are packed already."""
    count = len(packed)
    if count < 16:
        head = bytes((0x90 | count,))
    elif count < 2**16:
        head = b"\xdc" + count.to_bytes(2, "big")
    else:
        head = b"\xdd" + count.to_bytes(4, "big")
    return head + b"".join(packed)


def _payload_size(chunk: bytes) -> int:
    """The bytes of a chunk's items, without the heads before them."""
    start = 2 + HASH_SIZE * int.from_bytes(chunk[:2], "big")
    return len(chunk) - start - {0xDC: 3, 0xDD: 5}.get(chunk[start], 1)


def _encode_dict(body: _Body, value: dict[Any, Any]) -> Any:
    if all(type(key) is str for key in value):
        return {key: item if type(item) in _PLAIN else body.child(item, f"[{key!r}]") for key, item in value.items()}
    pairs = [[body.child(key, f" key {key!r}"), body.child(item, f"[{key!r}]")] for key, item in value.items()]
    return _Ext(_MAP, _pack(pairs))


def _encode_set(body: _Body, value: "set[Any] | frozenset[Any]") -> Any:
    # Sorted by their bytes: the order of a set differs from process to process.
    # Not split: the positions of their blobs would follow the order in which they were met.
    split, body.split = body.split, False
    try:
        packed = sorted(_pack(body.child(item, f" element {item!r:.40}")) for item in value)
    finally:
        body.split = split
    return _Ext(_SET if type(value) is set else _FROZENSET, _array(packed))


def _encode_object(body: _Body, value: Any) -> Any:
    stored = body.codec.stored_type(type(value))
    if getattr(value, "__pydantic_extra__", None):
        raise _Unsupported(f"A {_where(stored.cls)} has extra fields, which are not declared")
    values = {
        name: body.child(getattr(value, name), f".{name}")
        for name in stored.fields
        if name not in stored.transient and hasattr(value, name)
    }
    return _Ext(_OBJECT, _pack([stored.tag, stored.version, values]))


def _encode_enum(body: _Body, value: enum.Enum) -> Any:
    stored = body.codec.stored_type(type(value))
    return _Ext(_OBJECT, _pack([stored.tag, stored.version, body.child(value.value, ".value")]))


def _encode_scalar(body: _Body, value: Any) -> Any:
    scalar = SCALARS[type(value)]
    return _Ext(_SCALAR, _pack([scalar.name, scalar.to_plain(value)]))


def _encode_container(body: _Body, value: Any) -> Any:
    container = _CONTAINERS[type(value)]
    return _Ext(_CONTAINER, _pack([container.name, body.tree(container.to_plain(value))]))


@dataclass(frozen=True, slots=True)
class _Container:
    name: str
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def _plain_factory(value: Any) -> list[Any]:
    for name, factory in _FACTORIES.items():
        if factory is value.default_factory:
            return [name, dict(value)]
    raise _Unsupported("A defaultdict can be stored only if its factory is a built-in type such as list or int")


_FACTORIES: dict[str, Any] = {
    "list": list, "dict": dict, "set": set, "int": int, "float": float, "str": str, "none": None,
}  # fmt: skip

_CONTAINERS: dict[type, _Container] = {
    deque: _Container("deque", lambda v: [v.maxlen, list(v)], lambda p: deque(p[1], p[0])),
    OrderedDict: _Container("OrderedDict", dict, OrderedDict),
    Counter: _Container("Counter", dict, Counter),
    defaultdict: _Container("defaultdict", _plain_factory, lambda p: defaultdict(_FACTORIES[p[0]], p[1])),
}
_CONTAINERS_BY_NAME = {container.name: container for container in _CONTAINERS.values()}

_ENCODERS: dict[type, Callable[[_Body, Any], Any]] = {
    list: _encode_sequence,
    tuple: _encode_sequence,
    dict: _encode_dict,
    set: _encode_set,
    frozenset: _encode_set,
    **dict.fromkeys(SCALARS, _encode_scalar),
    **dict.fromkeys(_CONTAINERS, _encode_container),
}
_ENCODERS.pop(int)  # only integers beyond 64 bits take that way


# --- Decoding --------------------------------------------------------------------------------------------------


_UNREADABLE = (
    msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


class _Bodies:
    """Where a decode finds its blobs: those loaded for it, then the process's cache."""

    __slots__ = ("codec", "loaded")

    def __init__(self, codec: Codec, loaded: Mapping[bytes, "bytes | Run"]) -> None:
        self.codec = codec
        self.loaded = loaded

    def body(self, blob: bytes) -> bytes:
        body = self.loaded.get(blob) or self.codec.shared.body(blob)
        if not isinstance(body, bytes):
            raise CheckpointDecodeError(f"The store lacks the blob {blob.hex()}, which a checkpoint needs.")
        return body

    def value(self, data: bytes) -> Any:
        references = body_references(data)
        payload = memoryview(data)[2 + HASH_SIZE * len(references) :]
        try:
            return msgspec.msgpack.decode(payload, ext_hook=_Hook(self, references))
        except _UNREADABLE as error:
            raise CheckpointDecodeError(f"A stored value cannot be read: {error}") from error

    def items(self, blob: bytes, level: int) -> tuple[Sequence[Any], int]:
        """The items below a node of a chunk tree and their size in bytes, from the cache if they are immutable."""
        codec = self.codec
        loaded = self.loaded.get(blob)
        known = loaded if isinstance(loaded, Run) else codec.shared.run(blob, codec.types)
        if known is not None:
            return known.items, known.size
        data = self.body(blob)
        items, size = self._joined(data, level) if level else self._chunk(data)
        if level or size >= CHUNK:
            run = codec.run_of(blob, level, tuple(items), size)
            if run is not None:
                codec.shared.add_run(run)
        return items, size

    def _chunk(self, data: bytes) -> tuple[list[Any], int]:
        items = self.value(data)
        if not isinstance(items, list):
            raise CheckpointDecodeError("A stored list has a chunk that is no list.")
        return items, _payload_size(data)

    def _joined(self, data: bytes, level: int) -> tuple[list[Any], int]:
        items: list[Any] = []
        total = 0
        for child in body_references(data):
            part, size = self.items(child, level - 1)
            items.extend(part)
            total += size
        return items, total


@dataclass(frozen=True, slots=True)
class _Hook:
    """Turns extension types back into values; `references` is the blob table of the body being read."""

    source: _Bodies
    references: tuple[bytes, ...]

    def __call__(self, code: int, data: memoryview) -> Any:
        read = _READERS.get(code)
        if read is None:
            raise CheckpointDecodeError(f"A stored value has the unknown type code {code}.")
        return read(self, data if code == _CHUNKS else msgspec.msgpack.decode(data, ext_hook=self))

    def chunks(self, data: memoryview) -> Any:
        is_tuple, place, counts = msgspec.msgpack.decode(data)
        first = int.from_bytes(place, "big")
        items: list[Any] = []
        for level in range(len(counts) - 1, -1, -1):
            for blob in self.references[first : first + counts[level]]:
                items.extend(self.source.items(blob, level)[0])
            first += counts[level]
        return tuple(items) if is_tuple else items

    def named(self, table: Mapping[str, Any], plain: list[Any]) -> Any:
        entry = table.get(plain[0])
        if entry is None:
            raise CheckpointDecodeError(f"A stored value has the unknown type {plain[0]!r}.")
        return entry.from_plain(plain[1])


_READERS: dict[int, Callable[[_Hook, Any], Any]] = {
    _TUPLE: lambda hook, plain: tuple(plain),
    _SET: lambda hook, plain: set(plain),
    _FROZENSET: lambda hook, plain: frozenset(plain),
    _MAP: lambda hook, plain: dict(plain),
    _OBJECT: lambda hook, plain: hook.source.codec.build(*plain),
    _SCALAR: lambda hook, plain: hook.named(SCALARS_BY_NAME, plain),
    _CONTAINER: lambda hook, plain: hook.named(_CONTAINERS_BY_NAME, plain),
    _CHUNKS: _Hook.chunks,
}
