"""The file of one session: read as far as it is whole, appended to, and written anew without what is not needed.

Rule 1: an entry is there when its frame is whole; a frame that was cut off by a crash is cut off the file by the next
        one that is written, and nobody reads it until then.
Rule 2: only who holds the session's lock between processes changes the file; anybody may read it at any time.
Rule 3: a file that was written anew has another stamp, so that nobody looks in it for what stood elsewhere.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import FileIO

import msgspec

from agent_host.engine.checkpoint import Commit, body_references
from agent_host.engine.storage.file_locks import flush_directory, make_directory
from agent_host.engine.storage.framing import DamagedFrameError, Frame, framed, read_frames
from agent_host.engine.storage.session_contents import Contents, Entry, Extent, Name, name_bytes
from agent_host.errors import CheckpointDecodeError

_MAGIC = b"AHlog1\r\n"
_STAMP = 8
_OPENING = len(_MAGIC) + _STAMP
_LARGEST_FRAME = 1 << 20  # bytes of bodies in one frame of a file that is written anew


class SessionFile:
    """A session's file and what this process has read of it. Safe to call from any thread."""

    def __init__(self, path: str, name: Name | None, entropy: Callable[[int], bytes]) -> None:
        self.path = path
        self._name = name
        self._entropy = entropy
        self._contents = Contents()
        self._stamp = b""
        self._lock = threading.RLock()

    def __repr__(self) -> str:
        contents = self._contents
        return f"<SessionFile {contents.name}, {len(contents.commits)} commits, {len(contents.blobs)} blobs>"

    @property
    def is_named(self) -> bool:
        """Whether it is known whose file it is, so that it can be begun."""
        return self._name is not None or self._contents.name is not None

    @contextlib.contextmanager
    def read(self) -> Iterator[Contents]:
        """What the file says now, for as long as the block lasts."""
        with self._lock:
            try:
                with self._opened():
                    pass
            except FileNotFoundError:  # also if it was there before: what it said is gone
                self._contents, self._stamp = Contents(), b""
            yield self._contents

    @contextlib.contextmanager
    def last_read(self) -> Iterator[Contents]:
        """What the file said when it was read last; nothing if it has not been read."""
        with self._lock:
            yield self._contents

    def bodies(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of those of these blobs that are in the file."""
        with self._lock, contextlib.suppress(FileNotFoundError), self._opened() as file:
            known = self._contents.blobs
            return {hash_: _body(file, known[hash_]) for hash_ in hashes if hash_ in known}
        return {}

    def references(self) -> dict[bytes, tuple[bytes, ...]]:
        """Which blobs the body of each blob in the file names."""
        with self._lock, contextlib.suppress(FileNotFoundError), self._opened() as file:
            return {hash_: body_references(_body(file, extent)) for hash_, extent in self._contents.blobs.items()}
        return {}

    def append(self, entry: Entry, commits: Iterable[Commit] = (), bodies: Mapping[bytes, bytes] | None = None) -> None:
        """Write an entry behind the last whole one, and return when it is on the disk.

        If the writing fails, the entry is not there. The caller holds the session's lock.
        """
        with self._lock:
            created = not os.path.exists(self.path)
            make_directory(os.path.dirname(self.path))
            with self._opened("xb+" if created else "rb+") as file:
                contents = self._contents
                opening = b""
                if contents.end == 0:
                    opening = _MAGIC + self._entropy(_STAMP)
                    entry = self._named(entry)
                data = opening + framed(contents.payload(entry, commits, bodies or {}))
                _write(file, contents.end, data)
            if created:
                flush_directory(os.path.dirname(self.path))
            with self._opened():
                pass

    def rewrite(self, kept: Collection[bytes]) -> None:
        """Write the file anew, with these of its blobs and without what was removed, in one step.

        The caller holds the lock of all sessions.
        """
        temporary = f"{self.path}.new"
        with self._lock, self._opened() as old:
            contents = self._contents
            fresh = Contents()
            with open(temporary, "wb") as file:
                file.write(_MAGIC + self._entropy(_STAMP))
                first = self._named(Entry())
                for batch in _batches(contents.blobs, kept):
                    bodies = {hash_: _body(old, extent) for hash_, extent in batch}
                    file.write(framed(fresh.payload(first, (), bodies)))
                    first = Entry()
                last = msgspec.structs.replace(
                    first, head=contents.head, elsewhere=contents.elsewhere, notes=contents.notes
                )
                file.write(framed(fresh.payload(last, contents.commits.values(), {})))
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, self.path)
        flush_directory(os.path.dirname(self.path))

    def _named(self, entry: Entry) -> Entry:
        name = self._contents.name or self._name
        return msgspec.structs.replace(entry, name=name_bytes(name) if name is not None else None)

    @contextlib.contextmanager
    def _opened(self, mode: str = "rb") -> Iterator[FileIO]:
        """The open file, after `_contents` has taken up everything that is whole in it."""
        with FileIO(self.path, mode) as file:
            opening = _read(file, 0, _OPENING)
            if len(opening) < _OPENING or not opening.strip(b"\0"):  # never finished: the first entry begins it again
                self._contents, self._stamp = Contents(), b""
            elif not opening.startswith(_MAGIC):
                raise self._damaged(0)
            else:
                self._take(file, opening[len(_MAGIC) :])
            yield file

    def _take(self, file: FileIO, stamp: bytes) -> None:
        size = os.fstat(file.fileno()).st_size
        if stamp != self._stamp or size < self._contents.end:
            self._contents, self._stamp = Contents(), stamp
        contents = self._contents
        start = contents.end or _OPENING
        if size <= start:
            return
        for frame in self._frames(file, start, size):
            try:
                contents.apply(frame.payload, frame.start, frame.end)
            except (msgspec.MsgspecError, ValueError) as error:
                raise self._damaged(frame.start) from error

    def _frames(self, file: FileIO, start: int, size: int) -> list[Frame]:
        # A reader may meet a writer who is just cutting off what a crash has left; looking again tells it from damage.
        with contextlib.suppress(DamagedFrameError):
            return list(read_frames(_read(file, start, size - start), start))
        try:
            return list(read_frames(_read(file, start, os.fstat(file.fileno()).st_size - start), start))
        except DamagedFrameError as error:
            raise self._damaged(error.offset) from error

    def _damaged(self, offset: int) -> CheckpointDecodeError:
        self._contents, self._stamp = Contents(), b""
        return CheckpointDecodeError(
            f"{self.path} is damaged at byte {offset}: what follows cannot be read. Restore the file from a backup."
        )


def _batches(blobs: Mapping[bytes, Extent], kept: Collection[bytes]) -> Iterator[list[tuple[bytes, Extent]]]:
    batch: list[tuple[bytes, Extent]] = []
    size = 0
    for hash_, extent in blobs.items():
        if hash_ in kept:
            batch.append((hash_, extent))
            size += extent.length
        if size >= _LARGEST_FRAME:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _body(file: FileIO, extent: Extent) -> bytes:
    return _read(file, extent.start, extent.length)


def _read(file: FileIO, start: int, length: int) -> bytes:
    file.seek(start)
    parts: list[bytes] = []
    while length > 0 and (part := file.read(length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _write(file: FileIO, start: int, data: bytes) -> None:
    """Put bytes at the end of what is whole, on the disk, or leave the file as it is."""
    try:
        file.truncate(start)
        file.seek(start)
        left = memoryview(data)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(start)
        raise
