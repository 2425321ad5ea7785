"""One cache per process for what is immutable: blob bodies, and the values decoded from them.

Content addressing makes this safe: a hash means the same bytes everywhere. Values are kept only if they are
immutable all the way down, so every lane may hold the very same objects; the encoder then recognises them by
identity and takes the known hash instead of encoding them again. Without it a conversation of a thousand
turns would pay for a thousand turns at each one.

The same bytes may mean another class to another workflow, so a stretch names the stored types in it, and is given only
to a codec that has all of them.
"""

import operator
import threading
from collections import OrderedDict
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

DEFAULT_BYTES = 64 * 1024 * 1024
_OVERHEAD = 200  # bytes an entry takes besides its content, roughly
_STRETCHES_PER_OBJECT = 8  # stretches remembered that begin with one and the same object


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of immutable list items that is stored under one hash: a chunk (level 0) or sealed chunks.

    `size` is what the packed items take in bytes, `types` are the stored types among and inside them.
    """

    hash: bytes
    level: int
    items: tuple[Any, ...]
    size: int
    types: frozenset[Any]


class SharedValues:
    """Least recently used first out, bounded by bytes. Safe to call from any thread.

    The items of a sealed stretch are counted again with it, since it keeps them alive when its chunks have gone.
    """

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[tuple[type, bytes], tuple[Any, int]] = OrderedDict()
        self._by_first: dict[int, tuple[Stretch, ...]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SharedValues {len(self._entries)} entries, {self._size} of {self._limit} bytes>"

    def body(self, blob: bytes) -> bytes | None:
        """The body of a blob, if it is at hand."""
        found: bytes | None = self._get(bytes, blob)
        return found

    def add_body(self, blob: bytes, body: bytes) -> None:
        with self._lock:
            self._add((bytes, blob), body, len(body) + _OVERHEAD)

    def stretch(self, blob: bytes, types: AbstractSet[Any]) -> Stretch | None:
        """The decoded items stored under this hash, if they are at hand, immutable, and of these types only."""
        found: Stretch | None = self._get(Stretch, blob)
        return found if found is not None and found.types <= types else None

    def add_stretch(self, stretch: Stretch) -> None:
        """Keep the items of a stretch."""
        if not stretch.items:
            return
        with self._lock:
            if self._add((Stretch, stretch.hash), stretch, stretch.size + 8 * len(stretch.items) + _OVERHEAD):
                first = id(stretch.items[0])
                known = sorted((stretch, *self._by_first.get(first, ())), key=lambda one: -one.level)
                self._by_first[first] = tuple(known[:_STRETCHES_PER_OBJECT])

    def stretch_at(self, items: Sequence[Any], start: int, aligned: int, types: AbstractSet[Any]) -> Stretch | None:
        """The largest known stretch of a level up to `aligned` whose items are the very objects at `start`."""
        for stretch in self._by_first.get(id(items[start]), ()):
            end = start + len(stretch.items)
            if stretch.level > aligned or end > len(items):
                continue
            if all(map(operator.is_, stretch.items, items[start:end])) and stretch.types <= types:
                return stretch
        return None

    def _get(self, kind: type, blob: bytes) -> Any:
        with self._lock:
            found = self._entries.get((kind, blob))
            if found is None:
                return None
            self._entries.move_to_end((kind, blob))
            return found[0]

    def _add(self, key: tuple[type, bytes], value: Any, cost: int) -> bool:
        if key in self._entries or cost > self._limit // 4:
            return False
        self._entries[key] = (value, cost)
        self._size += cost
        while self._size > self._limit:
            _, (gone, freed) = self._entries.popitem(last=False)
            self._size -= freed
            if isinstance(gone, Stretch):
                self._forget(gone)
        return True

    def _forget(self, stretch: Stretch) -> None:
        first = id(stretch.items[0])
        left = tuple(other for other in self._by_first.get(first, ()) if other is not stretch)
        if left:
            self._by_first[first] = left
        else:
            self._by_first.pop(first, None)


PROCESS_WIDE = SharedValues()
