"""The head of a family after any number of writes: a few segments, bytes that are seldom written again, no row lost."""

import base64
import math
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
import pytest

from agent_host.stores.foundry.changes import Changes, Row, RowKey, merged
from agent_host.stores.foundry.head import GROWTH, PART, TAIL, Entry, Head, Segment, added, digest_of, missing

Rows = dict[RowKey, Row]


class Log:
    """A family as its head and its segments tell it, beside the rows that it should be."""

    def __init__(self, origin: str = "origin") -> None:
        self.head = Head(origin, 1)
        self.bodies: dict[str, bytes] = {}
        self.rows: Rows = {}
        self.written = self.given = 0

    def write(self, changes: Changes, *, forgets: bool = False) -> None:
        """One more write; one that `forgets` has no segment at hand."""
        self.head, new = added(self.head, changes, (lambda _: None) if forgets else self.read, float(self.head.number))
        assert all(digest_of(body) == digest for digest, body in new.items())
        self.bodies |= new
        self.written += sum(map(len, new.values()))
        self.given += len(changes.to_bytes())
        self.rows = after(self.rows, changes)

    def read(self, segment: Segment) -> bytes:
        """The bytes of a segment."""
        return self.bodies[segment.digest]

    def led_to(self, seen: Head | None, rows: Rows) -> Rows | None:
        """The rows of a copy that stood at an earlier head, once it has taken over what is missing."""
        needed = missing(self.head, seen)
        if needed is None:
            return None
        segments, entries = needed
        told = merged([*(Changes.from_bytes(self.read(each)) for each in segments), *(each.read() for each in entries)])
        return after(rows, told)


def after(rows: Rows, changes: Changes) -> Rows:
    """The rows once these changes have happened."""
    both = {**rows, **changes.rows}
    return {key: row for key, row in both.items() if row is not None}


def some(random: Random, size: int, of: int = 400) -> Changes:
    """A write of a few rows, of which every fourth is gone."""
    return Changes(
        {
            ("plain", (random.randrange(of),)): None if random.random() < 0.25 else (random.randbytes(size),)
            for _ in range(random.randrange(1, 4))
        }
    )


@pytest.mark.parametrize("forgetting", [0.0, 0.3])
def test_thousands_of_writes_are_held_by_a_few_segments(forgetting: float) -> None:
    """Each segment is much larger than the next, the tail stays small, and together they lead to all rows."""
    log, random = Log(), Random(1)
    for number in range(1, 4001):
        log.write(some(random, 1500, of=4000), forgets=random.random() < forgetting)
        assert log.head.number == number
        assert sum(len(entry.changes) for entry in log.head.tail) <= TAIL
        sizes = [segment.size for segment in log.head.segments]
        # Where a segment was not at hand, it is merged by a later write.
        if not forgetting:
            assert all(larger > GROWTH * smaller for larger, smaller in pairwise(sizes))
            assert len(sizes) <= 2 + math.log(max(1.0, sum(sizes) / TAIL), GROWTH)
        assert len(sizes) <= 12
    assert log.led_to(None, {}) == log.rows
    firsts = [segment.first for segment in log.head.segments]
    assert firsts == [1, *(segment.last + 1 for segment in log.head.segments[:-1])]


def test_a_byte_is_written_again_a_few_times_only() -> None:
    """All segments together take, for each byte that was given, as many bytes as there are sizes of segments."""
    log, random = Log(), Random(2)
    for number in range(3000):
        log.write(Changes({("plain", (number,)): (random.randbytes(2000),)}))
    levels = 1 + math.log(log.given / TAIL, GROWTH)
    assert log.written <= 1.5 * GROWTH * levels * log.given
    assert log.written >= log.given - 2 * TAIL


@pytest.mark.parametrize("size", [10, 1500, 30_000])
def test_every_earlier_copy_is_led_to_the_same_rows(size: int) -> None:
    """From whatever head a copy stands at, what is missing brings it up to date, or it is told to begin anew."""
    log, random = Log(), Random(3)
    seen: list[tuple[Head | None, Rows]] = [(None, {})]
    anew = 0
    for number in range(240):
        log.write(some(random, size, of=60), forgets=random.random() < 0.1)
        if number % 4 == 0:
            for head, rows in seen:
                found = log.led_to(head, rows)
                assert found is None or found == log.rows
                anew += found is None
            assert log.led_to(None, {}) == log.rows
        seen.append((log.head, log.rows))
    assert log.led_to(log.head, log.rows) == log.rows
    assert missing(log.head, log.head) == ([], [])
    if size > 1000:
        assert anew


def test_a_copy_of_another_family_begins_anew() -> None:
    """A head that has another origin, or stands behind the copy, does not go on from it."""
    one, two = Log(), Log("other")
    random = Random(4)
    for _ in range(5):
        one.write(some(random, 50))
        two.write(some(random, 50))
    assert missing(two.head, one.head) is None
    before = one.head
    one.write(some(random, 50))
    assert missing(before, one.head) is None


def test_a_write_without_changes_adds_nothing_but_its_number() -> None:
    """It is seen as a newer head, from which nothing is missing."""
    log = Log()
    log.write(some(Random(5), 50))
    before = log.head
    log.write(Changes())
    assert (log.head.number, log.head.tail) == (2, before.tail)
    assert missing(log.head, before) == ([], [])


def test_a_head_comes_back_from_its_value_as_it_was() -> None:
    """What the platform keeps is JSON, and a large segment is told in as many parts as it needs."""
    log = Log()
    log.write(Changes({("plain", (1,)): (Random(6).randbytes(3 * PART),)}))
    log.write(Changes({("plain", (2,)): (b"small", None, 1.5)}))
    head = msgspec.structs.replace(log.head, writers=("a", "b"), elsewhere=("key",), unshown=("resp_1",))
    value: Any = msgspec.json.decode(msgspec.json.encode(head.to_value()))
    assert Head.from_value(value, "name", 1) == head
    assert head.segments[0].parts == 4
    assert isinstance(head.tail[0], Entry)
    assert base64.b64decode(head.tail[0].changes)
