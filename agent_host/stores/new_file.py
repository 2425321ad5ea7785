"""Write a file that gets its name when it is whole, and never in the place of a part of a store."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from agent_host.errors import StoreError
from agent_host.stores import sqlite_file


def check_name(to: str, store: str, *, replace: bool) -> None:
    """Raise `StoreError` if what is read from a store may not be called so.

    That is if there is such a file already, unless it is to be replaced, if it is the store's own, or if by such a name
    SQLite knows another part of a store.
    """
    if to.endswith(sqlite_file.BESIDE):
        raise StoreError(f"{to} has the name of a part of a store. Name another file.")
    if os.path.exists(to):
        if os.path.samefile(store, to):
            raise StoreError(f"{to} is the store that is read. Name another file.")
        if not replace:
            raise StoreError(f"{to} is there already. Name another file, or replace it with --force.")


@contextmanager
def new_file(to: str) -> Iterator[str]:
    """Give the name of an empty private file beside `to`; what is in it at the end is flushed and called `to`.

    If the block fails, there is nothing new.
    """
    part = f"{to}.{secrets.token_hex(4)}.part"
    with sqlite_file.translated(to):
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            yield part
            _flush(part)
            os.replace(part, to)
        except BaseException:
            os.unlink(part)
            raise
        _flush(os.path.dirname(os.path.abspath(to)))


def _flush(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
