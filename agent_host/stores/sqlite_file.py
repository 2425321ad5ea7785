"""Open a SQLite file so that it is ours alone, is a store, and says clearly what is wrong if it is not.

Rule 1: a file that is not a store of this program is not written to.
Rule 2: no error of sqlite3 or of the operating system leaves this package: `translated` makes each a `StoreError`
that names the file and the remedy.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from agent_host.errors import StoreError, StoreFormatError, StoreLimitError, StoreLockedError
from agent_host.stores.migrate import APPLICATION_ID, Migration, version_of

try:
    import fcntl
except ImportError:  # not on Windows: there the second process is not noticed
    fcntl = None  # type: ignore[assignment]  # a module or its absence

_FAULTS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_NOTADB: (StoreFormatError, "{path} is not a SQLite database. Name another file, or move it away."),
    sqlite3.SQLITE_CORRUPT: (StoreFormatError, "{path} is damaged ({cause}). Restore it from a backup."),
    sqlite3.SQLITE_FULL: (
        StoreError,
        "No space is left to write {path}; nothing was changed. Free some and try again.",
    ),
    sqlite3.SQLITE_TOOBIG: (StoreLimitError, "{path} cannot hold something as large ({cause}). Make it smaller."),
    sqlite3.SQLITE_READONLY: (StoreError, "{path} is read-only. Allow this user to write it and its directory."),
    sqlite3.SQLITE_PERM: (StoreError, "{path} may not be used ({cause}). Allow this user to read and write it."),
    sqlite3.SQLITE_CANTOPEN: (StoreError, "{path} cannot be opened ({cause}). Allow this user to read and write it."),
    sqlite3.SQLITE_BUSY: (StoreLockedError, "{path} is kept locked by another program. End it, then try again."),
    sqlite3.SQLITE_IOERR: (StoreError, "Reading or writing {path} failed ({cause}). Check its disk."),
}
_BUSY_TIMEOUT_MS = 10_000
BESIDE = ("-wal", "-shm", "-journal", ".lock")
"""How the names end of what lies beside the file of a store."""
_BEGINNING = b"SQLite format 3\0"


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of sqlite3 and of the operating system into store errors about this file."""
    try:
        yield
    except sqlite3.Error as error:
        raise fault(error, path) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path) from error
        raise StoreError(
            f"{path} cannot be used: {error.strerror} ({error.filename}). Allow this user to write there, "
            "or name another file."
        ) from error


def fault(error: sqlite3.Error, path: str) -> StoreError:
    """The store error that tells what sqlite3 found wrong with the file."""
    primary_code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind, text = _FAULTS.get(primary_code, (StoreError, "{path}: {cause}. This is an error of the program."))
    return kind(text.format(path=path, cause=error))


def _full(path: str) -> StoreError:
    return StoreError(_FAULTS[sqlite3.SQLITE_FULL][1].format(path=path))


FileIdentity = tuple[int, int]
"""The device and the number by which the operating system knows a file, whatever its name is."""


def identity(path: str) -> FileIdentity | None:
    """Which file has this name now; None if there is none."""
    with suppress(OSError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return None


def check_in_place(path: str, opened: FileIdentity | None) -> None:
    """Raise `StoreError` if the file that was opened has no longer its name: what is written to it would be lost."""
    if identity(path) != opened:
        raise StoreError(
            f"{path} was removed or replaced while it was served; nothing was changed. Put it back, or restart the "
            "host to go on with what is there."
        )


def lock(path: str) -> IO[str] | None:
    """Take the file for this process until the returned handle is closed; `StoreLockedError` if it is taken.

    The lock lies on a file beside it, which stays: removing it would let two processes lock two files of one name.
    The operating system releases the lock when the process ends, however it ends.
    """
    if os.path.isdir(path):
        raise StoreError(
            f"{path} is a directory. Name a file in it, for example {os.path.join(path, 'agent_host.db')}."
        )
    _refuse_other_files(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    handle = hold(path)
    if handle is None:
        return None
    try:
        # An empty file is a new database. What SQLite puts beside it has its permissions.
        os.close(_private(path, os.O_CREAT | os.O_RDONLY))
    except OSError:
        with suppress(OSError):  # it would try to write once more
            handle.close()
        raise
    return handle


def hold(path: str) -> IO[str] | None:
    """Take the lock of a file, whatever that holds and whether or not it is there; else as `lock`."""
    if fcntl is None:
        return None
    handle = open(f"{path}.lock", "a+", encoding="ascii", opener=_private)  # noqa: SIM115 - open as long as the store
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.seek(0)
        owner = handle.read().strip()
        handle.close()
        raise StoreLockedError(
            f"{path} is in use by process {owner or '(unknown)'}. One process serves a SQLite file: end that one, or "
            "name another file."
        ) from error
    try:
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
    except OSError:
        with suppress(OSError):  # it would try to write once more
            handle.close()
        raise
    return handle


def _private(path: str, flags: int) -> int:
    """Open a file; if that makes it, nobody but this user may read what was said in the conversations."""
    return os.open(path, flags, 0o600)


def _refuse_other_files(path: str) -> None:
    """Nothing is put beside a file that is not ours either."""
    with suppress(FileNotFoundError), open(path, "rb") as file:
        beginning = file.read(len(_BEGINNING))
        if beginning and beginning != _BEGINNING:
            raise StoreFormatError(_FAULTS[sqlite3.SQLITE_NOTADB][1].format(path=path))


def connect(path: str) -> sqlite3.Connection:
    """A connection in which transactions are begun and ended by hand. Its thread may differ from its maker's."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def connect_read_only(path: str) -> sqlite3.Connection:
    """A connection that cannot write, to a file that is there; another process may hold it and write meanwhile.

    SQLite keeps two small files beside a database in use, so a directory that may not be written can be read only
    while the database is served.
    """
    if not os.path.isfile(path):
        raise StoreError(f"There is no store at {path}. Name the file of one that a server has written.")
    _refuse_other_files(path)
    connection = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    return connection


def check_readable(connection: sqlite3.Connection, path: str, steps: Sequence[Migration]) -> None:
    """Raise `StoreFormatError` unless the file is a store that this version can read without changing it.

    All formats until now have only added to the one before.
    """
    check_format(connection, path, steps)
    if version_of(connection) < steps[0].version:
        raise StoreFormatError(f"{path} is empty. Start the server on it once, which makes a store of it.")


def check_format(connection: sqlite3.Connection, path: str, steps: Sequence[Migration]) -> None:
    """Raise `StoreFormatError` unless the file is empty or a store that this version understands."""
    application: int = connection.execute("PRAGMA application_id").fetchone()[0]
    holds_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
    if application != APPLICATION_ID and (application or holds_tables):
        raise StoreFormatError(f"{path} is a SQLite database of another program. Name another file.")
    stored, known = version_of(connection), steps[-1].version
    if stored > known:
        raise StoreFormatError(
            f"{path} was written in format {stored}; this version reads formats up to {known}. "
            "Upgrade workflow-agent-host, or restore the file from a backup made before the upgrade."
        )


def prepare_writer(connection: sqlite3.Connection, path: str) -> None:
    """Make the connection the one that writes: a write-ahead log, flushed to the disk at every commit."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"{path} lies on a file system without write-ahead logs. Use a local disk.")
    connection.execute("PRAGMA synchronous = FULL")
    # Copying the log back into the database inside a COMMIT would make that one caller wait for it.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA cache_size = -16000")
    # A file that cannot be written is noticed now and not by the first turn. It takes a write: on a read-only
    # file BEGIN IMMEDIATE alone succeeds as a read transaction.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute("ROLLBACK")


def truncate_log(connection: sqlite3.Connection, *, patience_ms: int) -> bool:
    """Copy the write-ahead log into the database and empty it; False if readers were in the way for so long."""
    connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
    try:
        blocked = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not blocked
    finally:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")


def size_of(path: str) -> int:
    """The size of a file; 0 if there is none or it cannot be asked."""
    with suppress(OSError):
        return os.stat(path).st_size
    return 0
