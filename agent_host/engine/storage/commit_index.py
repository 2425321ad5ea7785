"""Which session's file holds a commit, for whoever knows only the commit's id.

256 files of entries that are only appended to: 16 bytes for the id, 16 for the file, and a checksum. An entry is found
by its bytes, so one that was cut off harms none after it, and one that is missing can be written at any time.
"""

import os
import zlib
from collections.abc import Iterable
from hashlib import blake2b

from agent_host.engine.storage.file_locks import make_directory

_KEY = 16
_ENTRY = 2 * _KEY + 4


class CommitIndex:
    """The index in one directory. It may lack commits, and name a file that no longer holds one."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find(self, commit_id: str) -> bytes | None:
        """The key of the file that the commit was written to last."""
        key = _key(commit_id)
        data = self._read(key[:1])
        at = data.rfind(key)
        while at >= 0:
            entry = data[at : at + _ENTRY]
            if entry == _entry(key, entry[_KEY : 2 * _KEY]):
                return entry[_KEY : 2 * _KEY]
            at = data.rfind(key, 0, at + _KEY - 1)
        return None

    def add(self, commit_ids: Iterable[str], file: bytes) -> None:
        """Note, without waiting for the disk, which file holds these commits."""
        by_shard: dict[bytes, list[bytes]] = {}
        for commit_id in commit_ids:
            key = _key(commit_id)
            by_shard.setdefault(key[:1], []).append(_entry(key, file))
        if by_shard:
            make_directory(self._directory)
        for shard, entries in by_shard.items():
            with open(self._path(shard), "ab", buffering=0) as index:
                index.write(b"".join(entries))

    def add_missing(self, commit_ids: Iterable[str], file: bytes) -> None:
        """Note which file holds those of these commits of which the index does not know it."""
        shards: dict[bytes, bytes] = {}
        missing = []
        for commit_id in commit_ids:
            key = _key(commit_id)
            if key[:1] not in shards:
                shards[key[:1]] = self._read(key[:1])
            if _entry(key, file) not in shards[key[:1]]:
                missing.append(commit_id)
        self.add(missing, file)

    def _read(self, shard: bytes) -> bytes:
        try:
            with open(self._path(shard), "rb", buffering=0) as index:
                return index.read()
        except FileNotFoundError:
            return b""

    def _path(self, shard: bytes) -> str:
        return os.path.join(self._directory, shard.hex())


def _key(commit_id: str) -> bytes:
    return blake2b(commit_id.encode("utf-8", "surrogatepass"), digest_size=_KEY).digest()


def _entry(key: bytes, file: bytes) -> bytes:
    return key + file + zlib.crc32(key + file).to_bytes(4, "big")
