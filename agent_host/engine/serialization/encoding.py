"""Values to bytes.

Rule 1: what cannot be restored is refused here, with the place inside the value.
Rule 2: encoding is canonical: equal values of one type give equal bytes in every process.
Rule 3: what MessagePack cannot say itself travels as its extension types, so no user value can look like one.
Rule 4: a long list is a tree of content-addressed chunks. An append writes the last chunk and the open part of
        the index; items that are the very objects of a known chunk are not encoded again.
"""

import enum
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import msgspec

from agent_host.engine.annotations import is_pydantic
from agent_host.engine.annotations import name as type_name
from agent_host.engine.checkpoint import HASH_SIZE, blob_hash, body_references
from agent_host.engine.serialization.annotation_names import is_annotation
from agent_host.engine.serialization.containers import CONTAINERS
from agent_host.engine.serialization.scalars import SCALARS
from agent_host.engine.serialization.stored_types import AllowList, StoredType, fits, validated, where
from agent_host.errors import UnsupportedValueError

SPLIT_ABOVE = 4096  # bytes of a list's encoding from which on it is stored in chunks
CHUNK = 512  # bytes at which a chunk is full
FANOUT = 64  # hashes per sealed index blob
MAX_DEPTH = 100

TUPLE, SET, FROZENSET, MAP, OBJECT, SCALAR, CHUNKS, CONTAINER, ANNOTATION, PICKLE = range(1, 11)
PLAIN = frozenset({str, float, bool, type(None), bytes})
_INT64 = range(-(2**63), 2**64)
_ANY_LEVEL = 2**31

pack = msgspec.msgpack.Encoder().encode
_Ext = msgspec.msgpack.Ext


class Unsupported(Exception):
    """A value that cannot be stored, and the way to it from the inside out."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str] = []


class Body:
    """One body in the making: its tree, and the table of blobs that its payload refers to by position."""

    __slots__ = ("allowed", "blobs", "depth", "known", "references", "split")

    def __init__(self, allowed: AllowList, known: Collection[bytes], split: bool, depth: int = 0) -> None:
        self.allowed = allowed
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
        if kind in PLAIN:
            return value
        if kind is int:
            return value if value in _INT64 else _encode_scalar(self, value)
        encode = ENCODERS.get(kind)
        if encode is None:
            encode = self._declared(kind, value)
        if self.depth >= MAX_DEPTH:
            raise Unsupported(f"The value is nested more than {MAX_DEPTH} levels deep, or contains itself")
        self.depth += 1
        try:
            return encode(self, value)
        finally:
            self.depth -= 1

    def _declared(self, kind: type, value: Any) -> "Callable[[Body, Any], Any]":
        if self.allowed.stored_type(kind) is not None:
            return _encode_enum if issubclass(kind, enum.Enum) else _encode_object
        if is_annotation(value):
            return _encode_annotation
        if kind in self.allowed.pickled_types:
            return _encode_pickle
        raise Unsupported(f"A value of type {where(kind)} cannot be stored")

    def child(self, value: Any, place: str) -> Any:
        try:
            return self.tree(value)
        except Unsupported as error:
            error.path.append(place)
            raise

    def items(self, values: Iterable[Any]) -> list[Any]:
        return [v if type(v) in PLAIN else self.child(v, f"[{i}]") for i, v in enumerate(values)]


def _encode_sequence(body: Body, value: Sequence[Any]) -> Any:
    is_tuple = type(value) is tuple
    may_split = body.split and any(type(item) not in (int, float) for item in value)
    if may_split and _is_known_to_be_long(body.allowed, value):
        return _split(body, value, is_tuple)
    references, blobs = len(body.references), len(body.blobs)
    data = pack(body.items(value))
    if may_split and len(data) > SPLIT_ABOVE:
        del body.references[references:]
        while len(body.blobs) > blobs:
            body.blobs.popitem()
        return _split(body, value, is_tuple)
    return _Ext(TUPLE, data) if is_tuple else msgspec.Raw(data)


def _is_known_to_be_long(allowed: AllowList, items: Sequence[Any]) -> bool:
    """Whether known stretches at the beginning of a list show, without encoding it, that it must be split."""
    size = at = 0
    while at < len(items):
        stretch = allowed.shared.stretch_at(items, at, _ANY_LEVEL, allowed.types)
        if stretch is None:
            return False
        size += stretch.size
        if size > SPLIT_ABOVE:
            return True
        at += len(stretch.items)
    return False


def _split(body: Body, items: Sequence[Any], is_tuple: bool) -> Any:
    tree = _ChunkTree(body)
    tree.extend(items, 0, len(items))
    counts = [len(level) for level in tree.levels]
    first = len(body.references)
    for level in reversed(tree.levels):
        body.references.extend(level)
    if len(body.references) > 0xFFFF:
        raise Unsupported("The value holds too many long lists")
    body.blobs.update(tree.blobs)
    # Of fixed width, so that a list takes the same bytes wherever in a value it stands.
    return _Ext(CHUNKS, pack([is_tuple, first.to_bytes(2, "big"), counts]))


class _ChunkTree:
    """A long list as chunks, and full stretches of 64 of them sealed into index blobs, level upon level."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.levels: list[list[bytes]] = [[]]
        self.starts: list[int] = [0]  # per level: the item at which its open part begins
        self.sizes: list[int] = [0]  # per level: the bytes of the items in its open part
        self.blobs: dict[bytes, bytes] = {}

    def extend(self, items: Sequence[Any], start: int, end: int, *, recognise: bool = True) -> None:
        allowed, known, at = self.body.allowed, self.body.known, start
        while at < end:
            stretch = allowed.shared.stretch_at(items, at, self._aligned(), allowed.types) if recognise else None
            if stretch is None:
                at = self._chunk(items, at, end)
                continue
            stop = at + len(stretch.items)
            if stretch.hash in known:
                self._push(stretch.level, stretch.hash, items, stop, stretch.size)
            else:
                # Known to the process but not to this lane's part of the store: its chunks are written anew.
                self.extend(items, at, stop, recognise=False)
            at = stop

    def _aligned(self) -> int:
        """The highest level at which a sealed stretch may stand here: all levels below it must be closed."""
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
            self.body.allowed.shared.add_body(blob, data)
            self.levels[0].append(blob)
        else:
            self._share(blob, 0, tuple(items[start:stop]), size, data)
            self._push(0, blob, items, stop, size)
        return stop

    def _share(self, blob: bytes, level: int, items: tuple[Any, ...], size: int, data: bytes) -> None:
        allowed = self.body.allowed
        stretch = allowed.stretch_of(blob, level, items, size)
        if stretch is not None:
            allowed.shared.add_stretch(stretch)
        else:
            allowed.shared.add_body(blob, data)

    def _encode_chunk(self, items: Sequence[Any], start: int, end: int) -> tuple[bytes, int, int, dict[bytes, bytes]]:
        part = Body(self.body.allowed, (), True, self.body.depth)
        packed: list[bytes] = []
        size, at = 0, start
        while at < end and size < CHUNK:
            packed.append(pack(part.child(items[at], f"[{at}]")))
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


def payload_size(chunk: bytes) -> int:
    """The bytes of a chunk's items, without the heads before them."""
    start = 2 + HASH_SIZE * int.from_bytes(chunk[:2], "big")
    return len(chunk) - start - {0xDC: 3, 0xDD: 5}.get(chunk[start], 1)


def _encode_dict(body: Body, value: dict[Any, Any]) -> Any:
    if all(type(key) is str for key in value):
        return {key: item if type(item) in PLAIN else body.child(item, f"[{key!r}]") for key, item in value.items()}
    pairs = [[body.child(key, f" key {key!r}"), body.child(item, f"[{key!r}]")] for key, item in value.items()]
    return _Ext(MAP, pack(pairs))


def _encode_set(body: Body, value: "set[Any] | frozenset[Any]") -> Any:
    # Sorted by their bytes: the order of a set differs from process to process.
    # Not split: the positions of their blobs would follow the order in which they were met.
    split, body.split = body.split, False
    try:
        packed = sorted(pack(body.child(item, f" element {item!r:.40}")) for item in value)
    finally:
        body.split = split
    return _Ext(SET if type(value) is set else FROZENSET, _array(packed))


def _encode_object(body: Body, value: Any) -> Any:
    stored = body.allowed.stored_type(type(value))
    assert stored is not None
    if getattr(value, "__pydantic_extra__", None):
        raise Unsupported(f"A {where(stored.cls)} has extra fields, which are not declared")
    values, pydantic = {}, is_pydantic(stored.cls)
    for name, hint in stored.fields.items():
        if name in stored.transient:
            _refuse_without_default(stored, name)
            continue
        if not hasattr(value, name):
            raise Unsupported(f"The field {name!r} of a {where(stored.cls)} has not been set")
        item = getattr(value, name)
        if not (pydantic or fits(hint, item)):
            raise Unsupported(
                f"The field {name!r} of a {where(stored.cls)} is declared as {type_name(hint)} and holds a "
                f"{type(item).__name__}"
            )
        values[name] = body.child(item, f".{name}")
    if pydantic:
        _refuse_invalid(body, stored, value)
    return _Ext(OBJECT, pack([stored.tag, stored.version, values]))


def _refuse_without_default(stored: StoredType, name: str) -> None:
    if name not in stored.defaults:
        raise Unsupported(f"The transient field {name!r} of a {where(stored.cls)} has no default to come back as")


def _refuse_invalid(body: Body, stored: StoredType, model: Any) -> None:
    """Refuse a model that its own validation, which reads it again, would refuse or change."""
    fields = {name: getattr(model, name) for name in stored.fields}
    try:
        read = validated(stored.cls, fields)
    except ValueError as error:
        raise Unsupported(
            f"A {where(stored.cls)} does not pass its own validation: {' '.join(str(error).split())}"
        ) from None
    for name, value in fields.items():
        again = getattr(read, name)
        if again is not value and _bytes_of(body, again) != _bytes_of(body, value):
            raise Unsupported(
                f"The field {name!r} of a {where(stored.cls)} would not come back equal: its validation changes it"
            )


def _bytes_of(body: Body, value: Any) -> bytes:
    return pack(Body(body.allowed, (), False, body.depth).tree(value))


def _encode_annotation(body: Body, value: Any) -> Any:
    name = body.allowed.annotation_name(value)
    if name is None:
        raise Unsupported(
            f"The type {type_name(value)} cannot be stored as a value: no handler or state field of the graph declares "
            "it, or two that differ have this name"
        )
    return _Ext(ANNOTATION, pack(name))


def _encode_enum(body: Body, value: enum.Enum) -> Any:
    stored = body.allowed.stored_type(type(value))
    assert stored is not None
    return _Ext(OBJECT, pack([stored.tag, stored.version, body.child(value.value, ".value")]))


def _encode_scalar(body: Body, value: Any) -> Any:
    scalar = SCALARS[type(value)]
    try:
        plain = scalar.to_plain(value)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return _Ext(SCALAR, pack([scalar.name, plain]))


def _encode_container(body: Body, value: Any) -> Any:
    container = CONTAINERS[type(value)]
    try:
        plain = container.to_plain(value)
    except ValueError as error:
        raise Unsupported(str(error)) from None
    return _Ext(CONTAINER, pack([container.name, body.tree(plain)]))


def _encode_pickle(body: Body, value: Any) -> Any:
    try:
        return _Ext(PICKLE, pack(body.allowed.pickled(value)))
    except UnsupportedValueError as error:
        raise Unsupported(str(error)) from None


ENCODERS: dict[type, Callable[[Body, Any], Any]] = {
    list: _encode_sequence,
    tuple: _encode_sequence,
    dict: _encode_dict,
    set: _encode_set,
    frozenset: _encode_set,
    **dict.fromkeys(SCALARS, _encode_scalar),
    **dict.fromkeys(CONTAINERS, _encode_container),
}
ENCODERS.pop(int)  # only integers beyond 64 bits take that way
