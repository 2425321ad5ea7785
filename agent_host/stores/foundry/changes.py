"""What a transaction has changed, as rows: taken from one database, kept as bytes, applied to another.

Rule 1: changes tell the state of rows, not what was done to them. Of two that are applied one after the other, the
later one counts; so they can be merged, and applied again.
Rule 2: a row is known by its rowid, or in a table without one by its primary key.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

RowKey = tuple[str, tuple[Any, ...]]
"""A table and what a row is known by there."""
Row = tuple[Any, ...]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, tuple[Any, ...], tuple[Any, ...] | None]]).decode


@dataclass(frozen=True, slots=True)
class Changes:
    """Changed rows, with the values of all columns; None for a row that is gone."""

    rows: dict[RowKey, Row | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.rows)

    def to_bytes(self) -> bytes:
        """The changes as compressed bytes, the same for the same changes."""
        return zlib.compress(_encode([(*key, row) for key, row in self.rows.items()]), 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> "Changes":
        """The changes that were written so; raises `ValueError` for anything else."""
        try:
            return cls({(table, key): row for table, key, row in _decode(zlib.decompress(data))})
        except (zlib.error, msgspec.DecodeError, TypeError) as error:
            raise ValueError(f"these are no changes: {error}") from error

    def without_gone(self) -> "Changes":
        """The same without the rows that are gone, for the first of all changes: before it there was nothing."""
        return Changes({key: row for key, row in self.rows.items() if row is not None})


_EVENTS = {"INSERT": ("NEW",), "DELETE": ("OLD",), "UPDATE": ("OLD", "NEW")}
"""What happens to a row, and which rows of a trigger name it."""


def merged(changes: Iterable[Changes]) -> Changes:
    """What these changes amount to, one after the other."""
    rows: dict[RowKey, Row | None] = {}
    for each in changes:
        rows.update(each.rows)
    return Changes(rows)


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]

    @property
    def has_rowid(self) -> bool:
        return self.key == ("rowid",)


class Capture:
    """Notes which rows of a connection's tables change. It must be the only one of its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # A row that another one replaces is noted too.
        connection.execute("PRAGMA recursive_triggers = ON")
        self._tables = [_table(connection, name) for name in _table_names(connection)]
        for table in self._tables:
            for statement in _triggers(table):
                connection.execute(statement)

    def clear(self) -> None:
        """Forget what was noted."""
        for table in self._tables:
            self._connection.execute(f"DELETE FROM temp.changed_{table.name}")

    def everything(self) -> Changes:
        """All rows, as if each had changed."""
        for table in self._tables:
            keys = ", ".join(table.key)
            self._connection.execute(f"INSERT INTO temp.changed_{table.name} SELECT {keys} FROM main.{table.name}")
        return self.changes()

    def end(self) -> None:
        """Note nothing any more, so that the tables themselves may be changed."""
        for table in self._tables:
            for event in _EVENTS:
                self._connection.execute(f"DROP TRIGGER temp.note_{event}_{table.name}")
            self._connection.execute(f"DROP TABLE temp.changed_{table.name}")

    def changes(self) -> Changes:
        """What was noted, as the rows are now."""
        rows: dict[RowKey, Row | None] = {}
        for table in self._tables:
            width = len(table.key)
            for found in self._connection.execute(_changed_rows(table)):
                key, is_there, row = found[:width], found[width], found[width + 1 :]
                rows[table.name, key] = row if is_there else None
        return Changes(rows)

    def apply(self, changes: Changes) -> None:
        """Let the rows be as the changes tell: all are removed first, so that none is in the way of another."""
        by_table: dict[str, list[tuple[tuple[Any, ...], Row | None]]] = {}
        for (name, key), row in changes.rows.items():
            by_table.setdefault(name, []).append((key, row))
        for table in self._tables:
            found = by_table.get(table.name, [])
            where = " AND ".join(f"{column} = ?" for column in table.key)
            self._connection.executemany(f"DELETE FROM {table.name} WHERE {where}", [key for key, _ in found])
            columns = (*(("rowid",) if table.has_rowid else ()), *table.columns)
            self._connection.executemany(
                f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                [(*key, *row) if table.has_rowid else row for key, row in found if row is not None],
            )


def _table_names(connection: sqlite3.Connection) -> Sequence[str]:
    found = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return [name for (name,) in found if not name.startswith("sqlite_")]


def _table(connection: sqlite3.Connection, name: str) -> _Table:
    columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
    (without_rowid,) = connection.execute("SELECT wr FROM pragma_table_list WHERE name = ?", (name,)).fetchone()
    primary = tuple(column for _, column, *_, place in sorted(columns, key=lambda each: each[5]) if place)
    return _Table(name, primary if without_rowid else ("rowid",), tuple(column[1] for column in columns))


def _triggers(table: _Table) -> Iterable[str]:
    names = ", ".join(f"key_{number}" for number in range(len(table.key)))
    yield f"CREATE TEMP TABLE changed_{table.name} ({names})"
    for event, rows in _EVENTS.items():
        notes = " ".join(
            f"INSERT INTO changed_{table.name} VALUES ({', '.join(f'{row}.{key}' for key in table.key)});"
            for row in rows
        )
        yield (f"CREATE TEMP TRIGGER note_{event}_{table.name} AFTER {event} ON main.{table.name} BEGIN {notes} END")


def _changed_rows(table: _Table) -> str:
    on = " AND ".join(f"t.{key} = c.key_{number}" for number, key in enumerate(table.key))
    columns = ", ".join(f"t.{column}" for column in table.columns)
    return (
        f"SELECT c.*, t.{table.key[0]} IS NOT NULL, {columns} "
        f"FROM (SELECT DISTINCT * FROM temp.changed_{table.name}) AS c LEFT JOIN main.{table.name} AS t ON {on}"
    )
