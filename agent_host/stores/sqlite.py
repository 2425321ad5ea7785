"""SQLite as a `Database`: one thread writes for everybody, two read.

Rule 1: one connection writes. Everything that waits when it is free becomes one transaction with one flush to the
disk; each command in it stands or falls alone.
Rule 2: nobody is answered before the COMMIT.
Rule 3: the write-ahead log is emptied when nobody writes, or between two transactions when it has grown too long.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, TypeVar

from agent_host.errors import StoreClosedError, StoreError
from agent_host.stores import sqlite_file
from agent_host.stores.commands import Command, CommandQueue, run_to_end
from agent_host.stores.database import Connection
from agent_host.stores.migrate import migrate, migrations, show_as_newest

T = TypeVar("T")

_READERS = 2
_LARGEST_WRITE_BATCH = 256
_LARGEST_READ_BATCH = 8
_LONGEST_LOG = 64 * 1024 * 1024


class SqliteDatabase:
    """A database in a file, or in memory if `path` is None. What is in memory ends with `aclose`.

    `read_only` reads a file that another process may be serving, and does not keep it from writing.
    """

    def __init__(
        self,
        path: str | None,
        *,
        read_only: bool = False,
        idle_seconds: float = 1.0,
        longest_log: int = _LONGEST_LOG,
    ) -> None:
        self._path = os.path.abspath(path) if path is not None else None
        self._read_only = read_only
        self._name = self._path or "The database in memory"
        self._idle_seconds = idle_seconds
        self._longest_log = longest_log
        self._log_limit = longest_log
        self._log_is_empty = True
        self._writes = CommandQueue("agent-host-writer", largest_batch=_LARGEST_WRITE_BATCH)
        # In memory there is one connection, so reads go through its queue.
        self._reads = CommandQueue("agent-host-reader", largest_batch=_LARGEST_READ_BATCH) if path else self._writes
        self._connections: list[sqlite3.Connection] = []
        self._lock: IO[str] | None = None
        self._file: sqlite_file.FileIdentity | None = None
        # A second `aclose` that overtakes the first must not close connections that still have work.
        self._disconnecting = threading.Lock()
        self._state = "new"
        self.transactions = 0
        self.commands = 0

    def __repr__(self) -> str:
        return (
            f"<SqliteDatabase {self._name} {self._state}, {self.commands} commands in {self.transactions} transactions>"
        )

    @property
    def is_exclusive(self) -> bool:
        """Whether this process alone writes the file, which its lock sees to; not if it is only read."""
        return not self._read_only

    async def open(self) -> None:
        """Connect, and create or migrate the tables; `StoreError` with the remedy if that is not possible."""
        if self._state == "closed":
            raise StoreClosedError(f"{self._name} was closed; make a new store to open it again.")
        if self._state == "new":
            self._state = "open"
            try:
                await _in_thread(self._connect)
            except BaseException:
                self._state = "new"
                await _in_thread(self._disconnect)
                raise

    async def aclose(self) -> None:
        """Run what is waiting, then disconnect."""
        self._state = "closed"
        await _in_thread(self._disconnect)

    def check_writable(self) -> None:
        """Raise `StoreError` if the file is only read, `StoreClosedError` if it is not open."""
        if self._read_only:
            raise StoreError(f"{self._name} was opened to be read only. Open it without read_only to change it.")
        self._writes.check_open()

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        """Run `fn` in a transaction shared with whoever else waits; its failure is its own."""
        self.check_writable()
        return await self._writes.run(fn, then)

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on one consistent state of the database."""
        return await self._reads.run(fn)

    def _connect(self) -> None:
        with sqlite_file.translated(self._name):
            if self._path is None:
                writer = self._connection(":memory:")
                migrate(writer, migrations())
            elif self._read_only:
                self._connect_reader(self._path)
                return
            else:
                self._lock = sqlite_file.lock(self._path)
                writer = self._open_file(self._path)
                self._file = sqlite_file.identity(self._path)
                readers = [self._connection(self._path) for _ in range(_READERS)]
                for reader in readers:
                    reader.execute("PRAGMA query_only = ON")
                self._reads.start([partial(self._run_reads, reader) for reader in readers])
        self._writes.start([partial(self._run_writes, writer)], self._idle_after)

    def _connect_reader(self, path: str) -> None:
        reader = sqlite_file.connect_read_only(path)
        self._connections.append(reader)
        sqlite_file.check_readable(reader, path, migrations())
        show_as_newest(reader, migrations())
        self._reads.start([partial(self._run_reads, reader)])

    def _connection(self, path: str) -> sqlite3.Connection:
        connection = sqlite_file.connect(path)
        self._connections.append(connection)
        return connection

    def _open_file(self, path: str) -> sqlite3.Connection:
        connection = self._connection(path)
        steps = migrations()
        sqlite_file.check_format(connection, path, steps)
        sqlite_file.prepare_writer(connection, path)
        migrate(connection, steps)
        return connection

    def _disconnect(self) -> None:
        with self._disconnecting:
            self._reads.stop()
            self._writes.stop()
            # The last connection to close copies the write-ahead log into the database: let it be the writer.
            while self._connections:
                self._connections.pop().close()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    # --- In the reader threads -------------------------------------------------------------------------------

    def _run_reads(self, connection: sqlite3.Connection, batch: list[Command]) -> None:
        with sqlite_file.translated(self._name):
            connection.execute("BEGIN")
            try:
                for command in batch:
                    self._run(connection, command)
            finally:
                _roll_back(connection)

    # --- In the writer thread --------------------------------------------------------------------------------

    def _run_writes(self, connection: sqlite3.Connection, batch: list[Command]) -> None:
        if not batch:
            self._tidy(connection)
        elif len(batch) == 1:
            self._run_alone(connection, batch[0])
        elif not any(self._run_batch(connection, batch, apart=apart) for apart in (False, True)):
            # The transaction was lost as a whole (a full disk, say). Alone, each command learns its own fate.
            for command in batch:
                self._run_alone(connection, command)
        self.commands += len(batch)
        if batch and self._path is not None:
            self._log_is_empty = False
            self._shorten_log(connection)

    def _run_batch(self, connection: sqlite3.Connection, batch: list[Command], *, apart: bool) -> bool:
        """Run a batch in one transaction. False, and nothing has happened, if the transaction is lost.

        `apart`: each command succeeds or fails for itself, at the price of a savepoint. Else one that fails, which is
        rare, loses them all.
        """
        try:
            self._begin(connection)
            for command in batch:
                if apart:
                    connection.execute("SAVEPOINT command")
                done = self._run(connection, command)
                if not (done or apart):
                    _roll_back(connection)
                    return False
                if not done:
                    connection.execute("ROLLBACK TO command")
                if apart:
                    connection.execute("RELEASE command")
            connection.execute("COMMIT")
        except (sqlite3.Error, StoreError):
            _roll_back(connection)
            return False
        self.transactions += 1
        return True

    def _begin(self, connection: sqlite3.Connection) -> None:
        if self._path is not None:
            sqlite_file.check_in_place(self._path, self._file)
        connection.execute("BEGIN IMMEDIATE")

    def _run_alone(self, connection: sqlite3.Connection, command: Command) -> None:
        try:
            self._begin(connection)
            if self._run(connection, command):
                connection.execute("COMMIT")
                self.transactions += 1
        except sqlite3.Error as error:
            command.error = sqlite_file.fault(error, self._name)
        except StoreError as error:
            command.error = error
        _roll_back(connection)

    def _run(self, connection: sqlite3.Connection, command: Command) -> bool:
        command.result = command.error = None
        try:
            command.result = command.fn(connection)
        except sqlite3.Error as error:
            command.error = sqlite_file.fault(error, self._name)
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who gave the command, not to this thread
            command.error = error
        return command.error is None

    def _idle_after(self) -> float | None:
        return None if self._log_is_empty else self._idle_seconds

    def _tidy(self, connection: sqlite3.Connection) -> None:
        # If readers are in the way it is tried again after the next idle time.
        with suppress(sqlite3.Error):
            self._log_is_empty = sqlite_file.truncate_log(connection, patience_ms=100)
            self._log_limit = self._longest_log

    def _shorten_log(self, connection: sqlite3.Connection) -> None:
        length = sqlite_file.size_of(f"{self._path}-wal")
        if length < self._log_limit:
            return
        with suppress(sqlite3.Error):
            emptied = sqlite_file.truncate_log(connection, patience_ms=20)
            # A long read keeps the log; trying again after every transaction would make all of them wait for it.
            self._log_limit = self._longest_log if emptied else length + self._longest_log


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


async def _in_thread(fn: Callable[[], None]) -> None:
    await run_to_end(asyncio.get_running_loop().run_in_executor(None, fn))
