"""One cache per process for what is immutable: blob bodies, and the values decoded from them.

Content addressing makes this safe: a hash means the same bytes everywhere. Values are kept only if they are
immutable all the way down, so every lane may hold the very same objects; the encoder then recognises them by
identity and takes the known hash instead of encoding them again. Without it a conversation of a thousand
turns would pay for a thousand turns at each one.
"""

import operator
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

DEFAULT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of immutable list items that is stored under one hash: a chunk (level 0) or sealed chunks."""

    hash: bytes
    level: int
    items: tuple[Any, ...]


class SharedValues:
    """Least recently used first out, bounded by the bytes of the bodies. Safe to call from any thread."""

    def __init__(self, limit: int = DEFAULT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._bodies: OrderedDict[bytes, bytes] = OrderedDict()
        self._runs: OrderedDict[bytes, tuple[Run, int]] = OrderedDict()
        self._by_first: dict[int, tuple[Run, ...]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<SharedValues {len(self._bodies)} bodies, {len(self._runs)} runs, {self._size} bytes>"

    def body(self, blob: bytes) -> bytes | None:
        """The body of a blob, if it is at hand."""
        with self._lock:
            body = self._bodies.get(blob)
            if body is not None:
                self._bodies.move_to_end(blob)
            return body

    def add_body(self, blob: bytes, body: bytes) -> None:
        with self._lock:
            if blob not in self._bodies:
                self._bodies[blob] = body
                self._size += len(body) + 64
                self._shrink()

    def run(self, blob: bytes) -> Run | None:
        """The decoded items stored under this hash, if all of them are immutable and at hand."""
        with self._lock:
            found = self._runs.get(blob)
            if found is None:
                return None
            self._runs.move_to_end(blob)
            return found[0]

    def add_run(self, run: Run, size: int) -> None:
        """Keep the items of a run; `size` is what they take in bytes (0 for sealed runs of known chunks)."""
        cost = size + 8 * len(run.items) + 200
        with self._lock:
            if run.hash in self._runs or not run.items or cost > self._limit // 4:
                return
            self._runs[run.hash] = (run, cost)
            self._size += cost
            first = id(run.items[0])
            others = self._by_first.get(first, ())
            self._by_first[first] = tuple(sorted((*others, run), key=lambda r: -r.level))[:8]
            self._shrink()

    def run_at(self, items: Sequence[Any], start: int, aligned: int) -> Run | None:
        """The largest known run of a level up to `aligned` whose items are the very objects at `start`."""
        for run in self._by_first.get(id(items[start]), ()):
            end = start + len(run.items)
            if run.level > aligned or end > len(items):
                continue
            if all(map(operator.is_, run.items, items[start:end])):
                return run
        return None

    def _shrink(self) -> None:
        while self._size > self._limit and (self._bodies or self._runs):
            if self._runs and len(self._runs) >= len(self._bodies):
                _, (run, cost) = self._runs.popitem(last=False)
                self._size -= cost
                first = id(run.items[0])
                left = tuple(other for other in self._by_first.get(first, ()) if other.hash != run.hash)
                if left:
                    self._by_first[first] = left
                else:
                    self._by_first.pop(first, None)
            else:
                _, body = self._bodies.popitem(last=False)
                self._size -= len(body) + 64


PROCESS_WIDE = SharedValues()
