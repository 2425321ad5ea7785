"""The directory of a file log: which file a session has, which file holds a commit, and who may change what."""

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from agent_host.engine.storage.commit_index import CommitIndex
from agent_host.engine.storage.file_locks import locked, make_directory
from agent_host.engine.storage.session_contents import Name, name_bytes
from agent_host.engine.storage.session_file import SessionFile
from agent_host.errors import CheckpointDecodeError

_KEY = 16
_SUFFIX = ".log"


@dataclass(frozen=True, slots=True)
class Outline:
    """What must be known of a session's file to tell whether it has to be read: `state` changes whenever it does."""

    state: tuple[int, int, int]
    name: Name | None
    head: str | None
    elsewhere: frozenset[str]


def file_key(name: Name) -> bytes:
    """What stands for a session in paths and in the index: a hash, whatever the names are made of."""
    workflow, session = name_bytes(name)
    return blake2b(len(workflow).to_bytes(8, "big") + workflow + session, digest_size=_KEY).digest()


class SessionDirectory:
    """The files of all sessions, the most recently used of them with what they say. Safe to call from any thread."""

    def __init__(self, path: str, entropy: Callable[[int], bytes], *, remembered: int = 256) -> None:
        self._sessions = os.path.join(path, "sessions")
        self._locks = os.path.join(path, "locks")
        self._entropy = entropy
        self._remembered = remembered
        self._index = CommitIndex(os.path.join(path, "index"))
        self._files: OrderedDict[bytes, SessionFile] = OrderedDict()
        self._outlines: dict[bytes, Outline] = {}
        self._guard = threading.Lock()

    # --- Files ---

    def file_of(self, name: Name) -> SessionFile:
        """The file of a session, whether there is one yet or not."""
        return self._file(file_key(name), name)

    def file(self, key: bytes) -> SessionFile:
        """The file with this key."""
        return self._file(key, None)

    def _file(self, key: bytes, name: Name | None) -> SessionFile:
        with self._guard:
            found = self._files.get(key)
            if found is None or (name is not None and not found.is_named):
                found = self._files[key] = SessionFile(self._path(key), name, self._entropy)
            self._files.move_to_end(key)
            while len(self._files) > self._remembered:
                self._files.popitem(last=False)
            return found

    def _path(self, key: bytes) -> str:
        name = key.hex()
        return os.path.join(self._sessions, name[:2], name[2:] + _SUFFIX)

    def _recent(self) -> list[tuple[bytes, SessionFile]]:
        with self._guard:
            return list(reversed(self._files.items()))

    # --- Where things are ---

    def place(self, commit_id: str) -> bytes | None:
        """The key of the file that holds a commit; None if it is not stored.

        Files that are at hand are asked first, then the index. Only an id that neither knows makes it look at all
        files, which also completes the index.
        """
        for key, file in self._recent():
            with file.last_read() as contents:
                found = key if commit_id in contents.commits else contents.elsewhere.get(commit_id)
            if found is not None and self._holds(found, commit_id):
                return found
        key_in_index = self._index.find(commit_id)
        if key_in_index is None:
            for key in self._keys():
                with contextlib.suppress(CheckpointDecodeError):  # it is of no use to this commit
                    self._outline(key)
            key_in_index = self._index.find(commit_id)
        return key_in_index if key_in_index is not None and self._holds(key_in_index, commit_id) else None

    def _holds(self, key: bytes, commit_id: str) -> bool:
        with self.file(key).read() as contents:
            return commit_id in contents.commits

    def index(self, commit_ids: Collection[str], key: bytes) -> None:
        """Note which file holds these new commits."""
        self._index.add(commit_ids, key)

    def bodies(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of those of these blobs that are stored.

        They are in a file that was read for their commit, or in one that such a file names; any other is looked for
        only if it is in none of these.
        """
        found: dict[bytes, bytes] = {}
        missing = set(hashes)
        asked: set[bytes] = set()
        waiting = [key for key, _ in self._recent()]
        while missing and waiting:
            below: dict[bytes, None] = {}
            for key in waiting:
                asked.add(key)
                found |= self._bodies_in(key, missing)
                missing -= found.keys()
                if not missing:
                    break
                with self.file(key).last_read() as contents:
                    below |= dict.fromkeys(contents.elsewhere.values())
            waiting = [key for key in below if key not in asked]
        for key in self._keys() if missing else ():
            if missing:  # also in those that were asked: another process may have grown them since
                found |= self.file(key).bodies(missing)
                missing -= found.keys()
        return found

    def _bodies_in(self, key: bytes, hashes: set[bytes]) -> dict[bytes, bytes]:
        file = self.file(key)
        with file.last_read() as contents:
            if contents.end > 0 and hashes.isdisjoint(contents.blobs):
                return {}
        return file.bodies(hashes)

    # --- All of them ---

    def survey(self) -> dict[bytes, Outline]:
        """The outline of every session's file, read again where it has changed. Raises for a damaged one."""
        found = {key: self._outline(key) for key in self._keys()}
        self._outlines = dict(found)
        return found

    def _keys(self) -> Iterator[bytes]:
        for folder in _entries(self._sessions):
            for name in _entries(os.path.join(self._sessions, folder)):
                stem, suffix = os.path.splitext(name)
                with contextlib.suppress(ValueError):
                    key = bytes.fromhex(folder + stem)
                    if suffix == _SUFFIX and len(key) == _KEY:
                        yield key

    def _outline(self, key: bytes) -> Outline:
        status = os.stat(self._path(key))
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._outlines.get(key)
        if known is not None and known.state == state:
            return known
        with self.file(key).read() as contents:
            found = Outline(state, contents.name, contents.head, frozenset(contents.elsewhere))
            ids = list(contents.commits)
        self._index.add_missing(ids, key)
        self._outlines[key] = found
        return found

    # --- Locks ---

    @contextmanager
    def changing(self, names: Collection[Name]) -> Iterator[None]:
        """Hold these sessions against every other process and thread that would change them."""
        make_directory(self._locks)
        with ExitStack() as held:
            held.enter_context(locked(os.path.join(self._locks, "all"), shared=True))
            # In one order for everybody, so that nobody waits for somebody who waits.
            for shard in sorted({file_key(name)[:1].hex() for name in names}):
                held.enter_context(locked(os.path.join(self._locks, shard)))
            yield

    @contextmanager
    def changing_all(self) -> Iterator[None]:
        """Hold all sessions."""
        make_directory(self._locks)
        with locked(os.path.join(self._locks, "all")):
            yield


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
