"""Bring the tables of a SQLite file up to date, one numbered step at a time.

Rule 1: a step and the record that it was taken are one transaction, so a crash leaves whole steps only.
Rule 2: a step that was released never changes; `sql/sqlite/schema.sql` shows what all of them make together.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from agent_host.crash_points import CrashPoint, reached

APPLICATION_ID = 0x41675368
"""Marks a SQLite file as a store of this program ("AgSh")."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step: the version it leads to, and its statements."""

    version: int
    script: str


@cache
def migrations() -> tuple[Migration, ...]:
    """The steps that this version knows, in order; their files are called `<version>_<what>.sql`. Read once."""
    folder = files("agent_host.stores") / "sql" / "sqlite"
    steps = [
        Migration(int(file.name.partition("_")[0]), file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name[0].isdigit()
    ]
    return tuple(sorted(steps, key=lambda step: step.version))


def version_of(connection: sqlite3.Connection) -> int:
    """The last step that the file has seen; 0 for an empty file."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def migrate(connection: sqlite3.Connection, steps: Sequence[Migration]) -> None:
    """Take the steps that the file has not seen. May be repeated; a step that fails leaves no trace."""
    for step in steps:
        if step.version <= version_of(connection):
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE; {step.script}; PRAGMA application_id = {APPLICATION_ID};"
                f"PRAGMA user_version = {step.version};"
            )
            reached(CrashPoint.OPENING)
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def show_as_newest(connection: sqlite3.Connection, steps: Sequence[Migration]) -> None:
    """Let a connection that only reads an older file see it as if it had seen all steps; the file does not change.

    What the file lacks is seen empty, new columns with their defaults. That is enough as long as no step moves rows.
    """
    if version_of(connection) == steps[-1].version:
        return
    newest = sqlite3.connect(":memory:", isolation_level=None)
    migrate(newest, steps)
    for (table,) in newest.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        known = {row[0] for row in connection.execute(f"SELECT name FROM pragma_table_info('{table}')")}
        columns = newest.execute(f"SELECT name, COALESCE(dflt_value, 'NULL') FROM pragma_table_info('{table}')")
        shown = ", ".join(name if name in known else f"{default} AS {name}" for name, default in columns)
        source = f"FROM main.{table}" if known else "WHERE FALSE"
        connection.execute(f"CREATE TEMP VIEW {table} AS SELECT {shown} {source}")
    newest.close()
