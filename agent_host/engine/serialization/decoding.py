"""Bytes to values, for the types of one allow-list; what is read may be damaged or crafted, and then raises."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.engine.checkpoint import HASH_SIZE, body_references
from agent_host.engine.serialization.containers import CONTAINERS_BY_NAME
from agent_host.engine.serialization.encoding import (
    ANNOTATION,
    CHUNK,
    CHUNKS,
    CONTAINER,
    FROZENSET,
    MAP,
    OBJECT,
    PICKLE,
    SCALAR,
    SET,
    TUPLE,
    payload_size,
)  # fmt: skip
from agent_host.engine.serialization.scalars import SCALARS_BY_NAME
from agent_host.engine.serialization.shared_values import Stretch
from agent_host.engine.serialization.stored_types import AllowList
from agent_host.errors import CheckpointDecodeError

_UNREADABLE = (
    msgspec.MsgspecError, ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError,
    ValueError,
)  # fmt: skip


class Bodies:
    """Where a decode finds its blobs: those loaded for it, then the process's cache."""

    __slots__ = ("allowed", "loaded")

    def __init__(self, allowed: AllowList, loaded: Mapping[bytes, "bytes | Stretch"]) -> None:
        self.allowed = allowed
        self.loaded = loaded

    def body(self, blob: bytes) -> bytes:
        body = self.loaded.get(blob) or self.allowed.shared.body(blob)
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
        allowed = self.allowed
        loaded = self.loaded.get(blob)
        known = loaded if isinstance(loaded, Stretch) else allowed.shared.stretch(blob, allowed.types)
        if known is not None:
            return known.items, known.size
        data = self.body(blob)
        items, size = self._joined(data, level) if level else self._chunk(data)
        if level or size >= CHUNK:
            stretch = allowed.stretch_of(blob, level, tuple(items), size)
            if stretch is not None:
                allowed.shared.add_stretch(stretch)
        return items, size

    def _chunk(self, data: bytes) -> tuple[list[Any], int]:
        items = self.value(data)
        if not isinstance(items, list):
            raise CheckpointDecodeError("A stored list has a chunk that is no list.")
        return items, payload_size(data)

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

    source: Bodies
    references: tuple[bytes, ...]

    def __call__(self, code: int, data: memoryview) -> Any:
        read = _READERS.get(code)
        if read is None:
            raise CheckpointDecodeError(f"A stored value has the unknown type code {code}.")
        return read(self, data if code == CHUNKS else msgspec.msgpack.decode(data, ext_hook=self))

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

    def annotation(self, name: str) -> Any:
        found = self.source.allowed.annotation_named(name)
        if found is None:
            raise CheckpointDecodeError(
                f"The checkpoint holds the annotation {name!r} as a value, which this workflow does not declare. "
                "Use it in a handler or a state field."
            )
        return found


_READERS: dict[int, Callable[[_Hook, Any], Any]] = {
    TUPLE: lambda hook, plain: tuple(plain),
    SET: lambda hook, plain: set(plain),
    FROZENSET: lambda hook, plain: frozenset(plain),
    MAP: lambda hook, plain: dict(plain),
    OBJECT: lambda hook, plain: hook.source.allowed.build(*plain),
    SCALAR: lambda hook, plain: hook.named(SCALARS_BY_NAME, plain),
    CONTAINER: lambda hook, plain: hook.named(CONTAINERS_BY_NAME, plain),
    CHUNKS: _Hook.chunks,
    ANNOTATION: _Hook.annotation,
    PICKLE: lambda hook, plain: hook.source.allowed.unpickled(plain),
}
