"""Copies of a SQLite file that may be in use, and a file without its empty room."""

import contextlib
import os
import secrets
import sqlite3

from agent_host.errors import StoreError, StoreFormatError
from agent_host.stores import sqlite_file
from agent_host.stores.migrate import migrations


def back_up(path: str, to: str, *, replace: bool = False) -> int:
    """Copy a store to another file as it is at one moment, while a server may write it; returns the copy's bytes.

    The copy is checked and flushed to the disk before it gets its name, and only this user may read it. Raises
    `StoreError` if there is such a file already, unless it is to be replaced, and if the copy cannot be made.
    """
    if os.path.exists(to) and (not replace or os.path.samefile(path, to)):
        raise StoreError(f"{to} is there already. Name another file, or replace an older copy with --force.")
    part = f"{to}.{secrets.token_hex(4)}.part"
    with sqlite_file.translated(to):
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            _copy(path, part)
            _check(part)
            size = os.stat(part).st_size
            _flush(part)
            os.replace(part, to)
        except BaseException:
            os.unlink(part)
            raise
        _flush(os.path.dirname(os.path.abspath(to)))
    return size


def _copy(path: str, part: str) -> None:
    with contextlib.closing(sqlite_file.connect_read_only(path)) as connection, sqlite_file.translated(path):
        sqlite_file.check_readable(connection, path, migrations())
        connection.execute("VACUUM INTO ?", (part,))


def _check(part: str) -> None:
    with contextlib.closing(sqlite3.connect(part)) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if found != "ok":
        raise StoreFormatError(f"The copy was damaged ({found}) and is removed. The store may be: restore a backup.")


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
