"""Identifiers: a prefix, a partition key and an entropy part, as hosted agent platforms expect them.

The body of an id has 50 characters: an 18-character partition key (16 hexadecimal digits and `00`) and
32 letters or digits, of which 13 are the time and 19 are random. A response takes the key of the response or
conversation it continues, and its items take the key of the response, so one key finds a whole chain.

Both parts begin with the time. Ids made one after the other are then neighbours in an index, which keeps
an insert from touching a random page.
"""

import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

KEY_AND_ENTROPY = "([0-9a-f]{16}00)[0-9A-Za-z]{32}"
"""The form of an id's body."""
_KEY = re.compile(f"[A-Za-z]+_{KEY_AND_ENTROPY}")
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{1,128}")


class EntropyPool:
    """Random bytes of the operating system, fetched many at a time: each fetch gives way to other threads.

    A forked child starts with an empty pool, so that no two processes mint the same id.
    """

    def __init__(self, size: int = 8192) -> None:
        self._size = size
        self._bytes = b""
        self._at = 0
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Give nothing that was fetched before: a copy of this process may give it too."""
        self._bytes, self._at, self._lock = b"", 0, threading.Lock()

    def __call__(self, count: int) -> bytes:
        with self._lock:
            if self._at + count > len(self._bytes):
                self._bytes, self._at = os.urandom(max(self._size, count)), 0
            start, self._at = self._at, self._at + count
            return self._bytes[start : self._at]


random_bytes = EntropyPool()


@dataclass(frozen=True, slots=True)
class IdSource:
    """Mints ids. Tests give it a clock and bytes of their own and get the same ids every time."""

    clock: Callable[[], float] = time.time
    entropy: Callable[[int], bytes] = random_bytes

    def partition_key(self) -> str:
        """A new key: 11 hexadecimal digits of milliseconds, 5 random ones, and `00`."""
        return f"{int(self.clock() * 1000) & 0xFFFFFFFFFFF:011x}{self.entropy(3).hex()[:5]}00"

    def new(self, prefix: str, key: str | None = None) -> str:
        """An id of the form `<prefix>_<key><entropy>`; without `key` it begins a partition of its own."""
        moment = int(self.clock() * 1_000_000) & 0xFFFFFFFFFFFFF
        return f"{prefix}_{key or self.partition_key()}{moment:013x}{self.entropy(10).hex()[:19]}"


def key_of(identifier: str | None) -> str | None:
    """The partition key inside an id of ours; None if it has none (ids minted elsewhere are accepted too)."""
    match = _KEY.fullmatch(identifier) if identifier else None
    return match.group(1) if match else None


def is_well_formed(identifier: str) -> bool:
    """Whether an id is made of letters, digits, underscores and dashes, at most 128 of them."""
    return _WELL_FORMED.fullmatch(identifier) is not None
