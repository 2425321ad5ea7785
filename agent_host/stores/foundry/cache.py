"""Segments on the disk of a session: they never change, so what was read once need not be read again."""

import contextlib
import os
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from agent_host.stores.foundry.head import digest_of

IN_MEMORY = 32 * 1024 * 1024
"""Bytes that are kept where there is no folder."""


class SegmentCache:
    """Files named by the hashes of their bytes. A disk that fails or is full is a cache that forgets.

    Without a folder those that were used last are kept in memory. May be used by many threads.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._memory: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, digest: str) -> bytes | None:
        """The bytes with this hash; None if they are not here, or not undamaged."""
        if self._folder is None:
            with self._lock:
                if digest in self._memory:
                    self._memory.move_to_end(digest)
                return self._memory.get(digest)
        try:
            data = (self._folder / digest).read_bytes()
        except OSError:
            return None
        return data if digest_of(data) == digest else None

    def write(self, digest: str, data: bytes) -> None:
        """Keep bytes that have this hash. Only this user may read them."""
        if self._folder is None:
            with self._lock:
                self._memory[digest] = data
                while sum(map(len, self._memory.values())) > IN_MEMORY:
                    self._memory.popitem(last=False)
            return
        part = self._folder / f"{secrets.token_hex(8)}.part"
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                    file.write(data)
                os.replace(part, self._folder / digest)
            finally:
                part.unlink(missing_ok=True)

    def forget(self, digest: str) -> None:
        """Remove what is not needed any more."""
        with self._lock:
            self._memory.pop(digest, None)
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / digest).unlink(missing_ok=True)
