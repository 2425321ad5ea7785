"""Copies of a SQLite file that may be in use, and a file without its empty room."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator

from agent_host.errors import StoreFormatError
from agent_host.stores import sqlite_file
from agent_host.stores.migrate import migrations
from agent_host.stores.new_file import check_name, new_file


def back_up(path: str, to: str, *, replace: bool = False) -> int:
    """Copy a store to another file as it is at one moment, while a server may write it; returns the copy's bytes.

    The copy is checked and flushed to the disk before it gets its name, and only this user may read it. Raises
    `StoreError` if there is such a file already, unless it is to be replaced and nobody serves it, and if the copy
    cannot be made.
    """
    check_name(to, path, replace=replace)
    with sqlite_file.translated(to), _held(to), new_file(to) as part:
        _copy(path, part)
        _check(part)
        # What a server that was killed has left of the file before would be played back into this one.
        for end in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(to + end)
        return os.stat(part).st_size


@contextlib.contextmanager
def _held(path: str) -> Iterator[None]:
    """Keep servers away from a file that is to be replaced; what was never there nobody serves."""
    held = sqlite_file.hold(path) if any(os.path.exists(path + end) for end in ("", *sqlite_file.BESIDE)) else None
    with held or contextlib.nullcontext():
        yield


def _copy(path: str, part: str) -> None:
    with contextlib.closing(sqlite_file.connect_read_only(path)) as connection, sqlite_file.translated(path):
        sqlite_file.check_readable(connection, path, migrations())
        connection.execute("VACUUM INTO ?", (part,))


def _check(part: str) -> None:
    with contextlib.closing(sqlite3.connect(part)) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreFormatError(f"The copy was damaged ({found}) and is removed. The store may be: restore a backup.")


def shrink(path: str) -> None:
    """Give the empty room in a store's file back to the disk; there must be room for a copy, and nobody may use it."""
    with sqlite_file.translated(path):
        held = sqlite_file.lock(path)
        try:
            with contextlib.closing(sqlite_file.connect(path)) as connection:
                sqlite_file.check_readable(connection, path, migrations())
                connection.execute("VACUUM")
        finally:
            if held is not None:
                held.close()
