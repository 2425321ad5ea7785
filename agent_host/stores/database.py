"""The seam below the SQL stores: run one function in one transaction.

Rule 1: a function given to `write` or `read` is the whole of its transaction. It does not keep the connection,
does not begin, commit or roll back, and depends on nothing but the connection and its own arguments: it may be
run again after its first run was rolled back.
Rule 2: nothing here knows what is stored.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Cursor(Protocol):
    """The result of one statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        ...

    def fetchone(self) -> Any:
        """The next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """The remaining rows."""
        ...

    def __iter__(self) -> Iterator[Any]:
        """The remaining rows, one after the other."""
        ...


class Connection(Protocol):
    """What a transaction's function may do: run statements with `?` for values."""

    def execute(self, sql: str, parameters: Sequence[Any] = (), /) -> Cursor:
        """Run one statement."""
        ...


class Database(Protocol):
    """Transactions over one database. Its errors are `StoreError`s; those of the functions pass unchanged."""

    @property
    def is_exclusive(self) -> bool:
        """Whether, while it is open, no other process can write to it."""
        ...

    async def open(self) -> None:
        """Connect, and create or migrate the tables. May be called again."""
        ...

    async def aclose(self) -> None:
        """Finish what was begun and disconnect. May be called again."""
        ...

    def check_writable(self) -> None:
        """Raise what `write` would raise of a database that is not open, or is only read."""
        ...

    async def write(self, fn: Callable[[Connection], T], then: Callable[[], object] | None = None) -> T:
        """Run `fn` in a transaction and return its result once that is durable; if it raises, nothing changed.

        Returns or raises only after the transaction has ended, also when the caller is cancelled. `then` is called
        first, and only if the transaction is durable.
        """
        ...

    async def read(self, fn: Callable[[Connection], T]) -> T:
        """Run `fn` on one consistent state that holds every write that has returned."""
        ...
