"""The head of a family: what says which changes make it up. Pure data, and what a write does to it.

The changes are in two places. The newest ones stand in the head itself, its *tail*. What does not fit there is moved
into *segments*, immutable values beside it, of which each is much larger than the next one: as in a log-structured
merge tree, a small number of segments holds any number of changes, and a byte is written again a few times only.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent_host.errors import StoreFormatError
from agent_host.stores.foundry.changes import Changes, merged

TAIL = 96 * 1024
"""Bytes of changes that a head holds."""
PART = 700 * 1024
"""Bytes of a segment in one value of the platform, which takes 1 MB of JSON."""
GROWTH = 4
"""How many times larger than the next a segment is at least."""
FORMAT = 1


class Entry(msgspec.Struct, frozen=True):
    """One write's changes, and its number in the family."""

    number: int
    changes: str

    def read(self) -> Changes:
        """The changes."""
        return Changes.from_bytes(base64.b64decode(self.changes))


class Segment(msgspec.Struct, frozen=True):
    """The changes of many writes, in values beside the head. `written_at` is when the platform last got them.

    `first` and `last` are the numbers of the writes; the segment that begins with the first of all tells no rows that
    are gone. `digest` is the hash of its bytes, and names it.
    """

    digest: str
    size: int
    first: int
    last: int
    written_at: float

    @property
    def parts(self) -> int:
        """How many values hold it."""
        return -(-self.size // PART)


class Head(msgspec.Struct, frozen=True):
    """What a family is made of, and by whom it was last written.

    `origin` names the first write of all and `writers` the last ones, the newest last. `schema` is the version of the
    tables. `elsewhere` are the keys of families in which some ids are found that belong here by their key. `unshown`
    are responses that the platform does not show yet.
    """

    origin: str
    schema: int
    writers: tuple[str, ...] = ()
    number: int = 0
    written_at: float = 0.0
    tail: tuple[Entry, ...] = ()
    segments: tuple[Segment, ...] = ()
    elsewhere: tuple[str, ...] = ()
    unshown: tuple[str, ...] = ()
    format: int = FORMAT

    def to_value(self) -> dict[str, Any]:
        """The head as a value of the platform."""
        value: dict[str, Any] = msgspec.to_builtins(self)
        return value

    @classmethod
    def from_value(cls, value: dict[str, Any], name: str, schema: int) -> "Head":
        """The head that was written so; raises `StoreFormatError` if this version cannot go on with it."""
        try:
            head = msgspec.convert(value, cls)
        except msgspec.ValidationError as error:
            raise StoreFormatError(
                f"The head of {name} is damaged or was written by something else ({error}). Begin a new conversation."
            ) from error
        if head.format != FORMAT or head.schema > schema:
            raise StoreFormatError(
                f"The head of {name} has the format {head.format}.{head.schema}, and this version of agent_host reads "
                f"{FORMAT}.{schema}. Deploy the version that has written it, or a newer one."
            )
        return head


def added(
    head: Head, changes: Changes, read: Callable[[Segment], bytes | None], now: float
) -> tuple[Head, dict[str, bytes]]:
    """The head after one more write, and the new segments by their digests.

    `read` gives the bytes of a segment, None if they are not at hand: then it stays as it is.
    """
    number = head.number + 1
    data = changes.to_bytes()
    tail = (*head.tail, Entry(number, base64.b64encode(data).decode())) if changes else head.tail
    if sum(len(entry.changes) for entry in tail) <= TAIL:
        return msgspec.structs.replace(head, number=number, tail=tail), {}
    moved = merged(entry.read() for entry in tail)
    segments, bodies = _stacked(head.segments, moved, number, read, now)
    return msgspec.structs.replace(head, number=number, tail=(), segments=segments), bodies


def _stacked(
    below: Sequence[Segment], moved: Changes, last: int, read: Callable[[Segment], bytes | None], now: float
) -> tuple[tuple[Segment, ...], dict[str, bytes]]:
    """Segments with changes put on top, those merged with them that are not much larger."""
    segments = list(below)
    data = (moved if segments else moved.without_gone()).to_bytes()
    while segments and segments[-1].size <= GROWTH * len(data):
        lower = read(segments[-1])
        if lower is None:
            break
        segments.pop()
        moved = merged((Changes.from_bytes(lower), moved))
        data = (moved if segments else moved.without_gone()).to_bytes()
    top = Segment(digest_of(data), len(data), segments[-1].last + 1 if segments else 1, last, now)
    return (*segments, top), {top.digest: data}


def digest_of(data: bytes) -> str:
    """What a segment with these bytes is called."""
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def missing(head: Head, seen: Head | None) -> tuple[Sequence[Segment], Sequence[Entry]] | None:
    """What leads a copy that stands at another head, or is empty, to this one; None if it must begin anew."""
    number = 0 if seen is None else seen.number
    if seen is not None and (seen.origin != head.origin or number > head.number):
        return None
    segments = [segment for segment in head.segments if segment.last > number]
    # The first segment does not tell which rows are gone.
    if number and any(segment.first == 1 for segment in segments):
        return None
    return segments, [entry for entry in head.tail if entry.number > number]
