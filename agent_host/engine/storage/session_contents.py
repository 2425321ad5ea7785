"""What a session's file says: its entries, each the whole of one change, and what they add up to.

An entry is written as the length of its table, the table, and the bodies of its blobs one after the other. What
would be repeated is left out: workflow and session stand once in a file, and a commit that follows the one written
before it names neither parent nor signature.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from agent_host.engine.checkpoint import Commit, CommitKind

PREVIOUS = ""
"""Stands, where an id would, for the commit that was written last; no id is empty."""

Name = tuple[str, str]
"""A workflow and a session of it."""


class CommitRow(msgspec.Struct, frozen=True, array_like=True):
    """A commit in an entry. `PREVIOUS` as parent: the commit written before it; no signature: that one's."""

    id: str
    parent: str | None
    kind: CommitKind
    seq: int
    step: int
    created_at: float
    signature: str | None
    delta: dict[str, bytes | None]
    complete: bool


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One change of a session's file.

    `head`: the session's new head, `PREVIOUS` for the last commit here, None if it stays. `blobs`: hash and length of
    each body that follows. `elsewhere`: the file that holds a commit which is named here and lies in another one.
    `notes` are added to those there are; a new head removes them. `name` stands in a file's first entry, as bytes
    since not every session's name is valid Unicode.
    """

    head: str | None = None
    commits: tuple[CommitRow, ...] = ()
    blobs: tuple[tuple[bytes, int], ...] = ()
    elsewhere: dict[str, bytes] = msgspec.field(default_factory=dict)
    removed: tuple[str, ...] = ()
    notes: dict[str, bytes] = msgspec.field(default_factory=dict)
    name: tuple[bytes, bytes] | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode
_LENGTH = 4


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a blob's body stands in its file."""

    start: int
    length: int


@dataclass(slots=True)
class Contents:
    """What the entries of a file up to `end` add up to. The distances of its commits are not known here."""

    name: Name | None = None
    head: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    blobs: dict[bytes, Extent] = field(default_factory=dict)
    elsewhere: dict[str, bytes] = field(default_factory=dict)
    notes: dict[str, bytes] = field(default_factory=dict)
    has_removed: bool = False
    end: int = 0
    last: Commit | None = None

    def payload(self, entry: Entry, commits: Iterable[Commit], bodies: Mapping[bytes, bytes]) -> bytes:
        """The payload of an entry that is written next, with these commits and bodies."""
        table = _encode(
            msgspec.structs.replace(
                entry, commits=tuple(self._rows(commits)), blobs=tuple((h, len(body)) for h, body in bodies.items())
            )
        )
        return b"".join([len(table).to_bytes(_LENGTH, "big"), table, *bodies.values()])

    def _rows(self, commits: Iterable[Commit]) -> Iterable[CommitRow]:
        last = self.last
        for commit in commits:
            yield CommitRow(
                id=commit.id,
                parent=PREVIOUS if last is not None and commit.parent == last.id else commit.parent,
                kind=commit.kind,
                seq=commit.seq,
                step=commit.step,
                created_at=commit.created_at,
                signature=None if last is not None and commit.signature == last.signature else commit.signature,
                delta=dict(commit.delta),
                complete=commit.complete,
            )
            last = commit

    def apply(self, payload: memoryview, start: int, end: int) -> None:
        """Take up an entry that stands in the file from `start` to `end`.

        Raises `msgspec.DecodeError` or `ValueError` if it is none.
        """
        length = int.from_bytes(payload[:_LENGTH], "big")
        entry = _decode(payload[_LENGTH : _LENGTH + length])
        if entry.name is not None:
            workflow, session = (part.decode("utf-8", "surrogatepass") for part in entry.name)
            self.name = (workflow, session)
        for row in entry.commits:
            self._take(row)
        for commit_id in entry.removed:
            self.commits.pop(commit_id, None)
            self.has_removed = True
        self.elsewhere.update(entry.elsewhere)
        if entry.head is not None:
            self.head = self.last.id if entry.head == PREVIOUS and self.last is not None else entry.head
            self.notes = {}
        self.notes = {**self.notes, **entry.notes}
        at = start + _LENGTH + length
        for hash_, size in entry.blobs:
            self.blobs[hash_] = Extent(at, size)
            at += size
        self.end = end

    def _take(self, row: CommitRow) -> None:
        last = self.last
        parent, signature = row.parent, row.signature
        if last is not None:
            parent = last.id if parent == PREVIOUS else parent
            signature = last.signature if signature is None else signature
        if self.name is None or parent == PREVIOUS or signature is None:
            raise ValueError("it rests on an entry that is missing")
        self.last = self.commits[row.id] = Commit(
            id=row.id,
            parent=parent,
            workflow=self.name[0],
            session_id=self.name[1],
            kind=row.kind,
            seq=row.seq,
            step=row.step,
            created_at=row.created_at,
            signature=signature,
            delta=row.delta,
            complete=row.complete,
            distance=0,
        )


def name_bytes(name: Name) -> tuple[bytes, bytes]:
    """A name as it stands in a file."""
    workflow, session = (part.encode("utf-8", "surrogatepass") for part in name)
    return workflow, session
