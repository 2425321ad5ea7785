"""The rows of one family in memory. A transaction is rehearsed there, and happens when what it changes is decided.

Rule 1: a rehearsal leaves no trace; what it has changed is told, so that it can be published and then applied.
Rule 2: everything here runs in the one thread of `REPLICAS`.
"""

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agent_host.stores import sqlite_file
from agent_host.stores.database import Connection
from agent_host.stores.foundry.changes import Capture, Changes
from agent_host.stores.migrate import migrate, migrations

REPLICAS = ThreadPoolExecutor(1, "agent-host-replicas")
_NAME = "The copy in memory"


@dataclass(slots=True)
class Outcome:
    """How a function went: its result, or what it raised."""

    result: Any = None
    error: BaseException | None = None


class Replica:
    """A copy of a family's rows, empty at first, in the tables of a version of the schema; None is the newest one."""

    def __init__(self, schema: int | None = None) -> None:
        with sqlite_file.translated(_NAME):
            self._connection = sqlite_file.connect(":memory:")
            migrate(self._connection, [step for step in migrations() if schema is None or step.version <= schema])
            self._capture = Capture(self._connection)

    def upgrade(self) -> Changes:
        """Bring the tables up to date; all rows as they are then."""
        with sqlite_file.translated(_NAME):
            self._capture.end()
            migrate(self._connection, migrations())
            self._capture = Capture(self._connection)
            return self._capture.everything()

    def read(self, fn: Callable[[Connection], Any]) -> Any:
        """Run a function that changes nothing."""
        with sqlite_file.translated(_NAME):
            return fn(self._connection)

    def rehearse(self, functions: Sequence[Callable[[Connection], Any]]) -> tuple[list[Outcome], Changes]:
        """Run functions one after the other, each whole or not at all: how they went, and what they would change."""
        self._capture.clear()
        with sqlite_file.translated(_NAME):
            self._connection.execute("BEGIN")
            try:
                outcomes = [self._run(function) for function in functions]
                return outcomes, self._capture.changes()
            finally:
                self._connection.execute("ROLLBACK")

    def _run(self, function: Callable[[Connection], Any]) -> Outcome:
        outcome = Outcome()
        self._connection.execute("SAVEPOINT command")
        try:
            outcome.result = function(self._connection)
        except sqlite3.Error as error:
            outcome.error = sqlite_file.fault(error, _NAME)
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who gave the function, not to this thread
            outcome.error = error
        if outcome.error is not None:
            self._connection.execute("ROLLBACK TO command")
        self._connection.execute("RELEASE command")
        return outcome

    def apply(self, changes: Changes) -> None:
        """Let what was decided happen."""
        with sqlite_file.translated(_NAME):
            self._connection.execute("BEGIN")
            try:
                self._capture.apply(changes)
                self._connection.execute("COMMIT")
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Give the memory back."""
        self._connection.close()
