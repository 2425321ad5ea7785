"""Locks between processes, and between the threads of one: the operating system's, on files that hold nothing.

They end with the process that holds them, however it ends. Taking one blocks, so it belongs into a worker thread.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, shared: bool) -> None:
        # Windows knows no shared lock here: whoever would share waits for the others.
        while True:
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                time.sleep(0.005)
            else:
                return

else:
    import fcntl

    def _take(descriptor: int, shared: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)


@contextlib.contextmanager
def locked(path: str, *, shared: bool = False) -> Iterator[None]:
    """Hold the lock of this file, alone or together with others that share it; the file is made if there is none."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _take(descriptor, shared)
        yield
    finally:
        os.close(descriptor)


def flush_directory(path: str) -> None:
    """Make the names in a directory outlive a loss of power; Windows does so by itself."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: str) -> None:
    """Make a directory that outlives a loss of power, with those above it; one that is there is left alone."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path) or "."
    make_directory(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    flush_directory(above)
