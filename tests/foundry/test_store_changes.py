"""What a transaction has changed is the same to every copy of the rows, in whatever pieces it arrives."""

import sqlite3
import zlib
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host.stores.foundry.changes import Capture, Changes, merged

SCHEMA = """
CREATE TABLE plain (name TEXT, value, UNIQUE (name));
CREATE TABLE numbered (id INTEGER PRIMARY KEY, name TEXT UNIQUE, value BLOB);
CREATE TABLE keyed (user TEXT, hash BLOB, value REAL UNIQUE, PRIMARY KEY (user, hash)) WITHOUT ROWID;
CREATE INDEX by_value ON plain (value);
"""
DUMPS = (
    "SELECT rowid, * FROM plain ORDER BY 1",
    "SELECT * FROM numbered ORDER BY 1",
    "SELECT * FROM keyed ORDER BY 1, 2",
)

few = st.integers(0, 4)
names = few.map("n{}".format)
values = st.one_of(st.none(), few, st.floats(0, 4), names, st.binary(max_size=3))
hashes = few.map(lambda number: bytes([number]))
keys = st.tuples(few.map("u{}".format), hashes)

statements = st.one_of(
    *(
        st.tuples(st.just(sql.replace("INSERT", verb)), arguments)
        for verb in ("INSERT", "REPLACE")
        for sql, arguments in (
            ("INSERT INTO plain VALUES (?, ?)", st.tuples(names, values)),
            ("INSERT INTO plain (rowid, name, value) VALUES (?, ?, ?)", st.tuples(few, names, values)),
            ("INSERT INTO numbered VALUES (?, ?, ?)", st.tuples(st.none() | few, names, values)),
            ("INSERT INTO keyed VALUES (?, ?, ?)", st.tuples(few.map("u{}".format), hashes, few.map(float))),
        )
    ),
    st.tuples(
        st.just("INSERT INTO keyed VALUES (?, ?, ?) ON CONFLICT (user, hash) DO UPDATE SET value = excluded.value"),
        st.tuples(few.map("u{}".format), hashes, few.map(float)),
    ),
    st.tuples(st.just("UPDATE OR REPLACE plain SET name = ? WHERE name = ?"), st.tuples(names, names)),
    st.tuples(st.just("UPDATE plain SET rowid = ? WHERE name = ?"), st.tuples(few, names)),
    st.tuples(st.just("UPDATE OR REPLACE numbered SET id = ?, name = ? WHERE id = ?"), st.tuples(few, names, few)),
    st.tuples(st.just("UPDATE OR REPLACE keyed SET user = ?, hash = ? WHERE value = ?"), keys.flatmap(
        lambda key: few.map(lambda value: (*key, float(value)))
    )),
    st.tuples(st.just("UPDATE keyed SET value = value + 5"), st.just(())),
    st.tuples(st.just("DELETE FROM plain WHERE name = ?"), st.tuples(names)),
    st.tuples(st.just("DELETE FROM numbered WHERE id > ?"), st.tuples(few)),
    st.tuples(st.just("DELETE FROM keyed WHERE user = ?"), st.tuples(few.map("u{}".format))),
    st.tuples(st.just("DELETE FROM keyed"), st.just(())),
)  # fmt: skip


class Rows:
    """A database with both kinds of tables, whose changes are captured."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.executescript(SCHEMA)
        self.capture = Capture(self.connection)

    def run(self, transaction: list[tuple[str, tuple[Any, ...]]]) -> Changes:
        """What a transaction changes, as another process reads it."""
        self.capture.clear()
        self.connection.execute("BEGIN")
        for sql, arguments in transaction:
            with suppress(sqlite3.IntegrityError):
                self.connection.execute(sql, arguments)
        self.connection.execute("COMMIT")
        return Changes.from_bytes(self.capture.changes().to_bytes())

    def dump(self) -> list[list[Any]]:
        """All rows, with their rowids and types."""
        return [[tuple(map(repr, row)) for row in self.connection.execute(sql)] for sql in DUMPS]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(statements, max_size=6), max_size=8))
def test_captured_changes_make_every_copy_the_same(transactions: list[list[tuple[str, tuple[Any, ...]]]]) -> None:
    """One after the other, once more, all at once, and without what is gone: the rows and their rowids are equal."""
    origin, follower, late, last = Rows(), Rows(), Rows(), Rows()
    changes = []
    for transaction in transactions:
        changes.append(origin.run(transaction))
        follower.capture.apply(changes[-1])
        assert follower.dump() == origin.dump()
        follower.capture.apply(changes[-1])
        assert follower.dump() == origin.dump()
    late.capture.apply(merged(changes))
    last.capture.apply(Changes.from_bytes(merged(changes).without_gone().to_bytes()))
    assert late.dump() == last.dump() == origin.dump()
    half = len(changes) // 2
    assert merged([merged(changes[:half]), merged(changes[half:])]) == merged(changes)
    # From any point on, the rest leads to the same, also what was seen already.
    for rows in (late, last):
        rows.capture.apply(merged(changes[half:]))
        assert rows.dump() == origin.dump()


def test_a_transaction_that_changes_nothing_has_no_changes() -> None:
    """Reading, and changes that were undone, are nothing to publish; a row that came and went is noted as gone."""
    rows = Rows()
    assert not rows.run([("SELECT * FROM plain", ())])
    rows.connection.execute("BEGIN")
    rows.connection.execute("INSERT INTO plain VALUES ('a', 1)")
    rows.connection.execute("ROLLBACK")
    assert not rows.capture.changes()
    gone = rows.run([("INSERT INTO plain VALUES ('a', 1)", ()), ("DELETE FROM plain", ())])
    assert gone.rows == {("plain", (1,)): None}
    assert not gone.without_gone()


def test_the_same_changes_are_the_same_bytes() -> None:
    """Two processes that publish the same give it the same name."""
    one, two = Rows(), Rows()
    transaction: Any = [("INSERT INTO plain VALUES ('a', 1.5)", ()), ("INSERT INTO keyed VALUES ('u', x'00', 2)", ())]
    assert one.run(transaction).to_bytes() == two.run(transaction).to_bytes()


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | anything.map(lambda value: zlib.compress(msgspec.msgpack.encode(value))))
def test_bytes_that_are_no_changes_are_refused(data: bytes) -> None:
    """Whatever is read is changes or a `ValueError`."""
    try:
        changes = Changes.from_bytes(data)
    except ValueError as error:
        assert "no changes" in str(error)
    else:
        assert all(isinstance(table, str) for table, _ in changes.rows)


@pytest.mark.parametrize("row", [[["plain", [[1]], None]], [["plain", [{}], []]], [[1, [1], []]]])
def test_a_key_that_no_row_has_is_refused(row: Any) -> None:
    """What cannot be known by such a key is a `ValueError` before any row is touched."""
    with pytest.raises(ValueError, match="no changes"):
        Changes.from_bytes(zlib.compress(msgspec.msgpack.encode(row)))


@given(st.data())
def test_damaged_changes_are_refused_or_equal(data: st.DataObject) -> None:
    """A flipped bit or a missing end never becomes other changes."""
    whole = Changes({("plain", (1,)): (b"body" * 20, 1.5), ("keyed", ("u", b"\x00")): None})
    written = bytearray(whole.to_bytes())
    if data.draw(st.booleans()):
        written[data.draw(st.integers(0, len(written) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del written[data.draw(st.integers(0, len(written) - 1)) :]
    with suppress(ValueError):
        assert Changes.from_bytes(bytes(written)) == whole
