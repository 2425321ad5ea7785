"""One family of records: what is published is decided once, whoever writes beside it and whatever goes wrong."""

import asyncio
import base64
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from agent_host.errors import StoreClosedError, StoreError, StoreFormatError
from agent_host.foundry.calls import on_behalf_of
from agent_host.stores import migrate as migrate_module
from agent_host.stores.database import Connection
from agent_host.stores.foundry import family as family_module
from agent_host.stores.foundry import replica as replica_module
from agent_host.stores.foundry.head import added
from agent_host.stores.foundry.replica import Replica
from tests.foundry.platform_records import LARGEST_VALUE
from tests.foundry.platform_store import HEAD, LARGE, NAME, family, noise, note, notes, on_head
from tests.foundry.stand_in import Project, Recorded


def refused(connection: Connection) -> None:
    """A write that changes something and then raises."""
    note("refused")(connection)
    raise LookupError("it is refused")


def head_of(project: Project) -> dict[str, Any]:
    """The head as it is stored."""
    found: dict[str, Any] = project.items("agent_host")[HEAD]
    return found


def replace_head(project: Project, **changes: Any) -> None:
    """Store another head, as somebody else would."""
    store = project.records.stores["agent_host"]
    item = store.items["", HEAD]
    value = msgspec.json.encode(head_of(project) | changes)
    store.items["", HEAD] = type(item)(item.id, item.key, value, item.tags, "changed", item.created_at, item.written_at)


async def known_elsewhere(project: Project) -> list[str]:
    """What another process finds."""
    async with family(project) as other:
        return await other.read(notes)


# --- Rehearsals --------------------------------------------------------------------------------------------------


def test_a_rehearsal_leaves_no_trace() -> None:
    """What was rehearsed can be told, and the rows are as before, also where one of the functions has raised."""
    replica = Replica()
    _, first = replica.rehearse([note("a")])
    replica.apply(first)
    (one, two, three), changes = replica.rehearse([note("b"), refused, note("c")])
    assert (one.result, type(two.error), three.result) == (2, LookupError, 3)
    assert replica.read(notes) == ["a"]
    replica.apply(changes)
    assert replica.read(notes) == ["a", "b", "c"]
    assert not replica.rehearse([notes])[1]
    replica.close()


# --- Many writers ------------------------------------------------------------------------------------------------


async def test_two_processes_write_one_family_and_nothing_is_lost(platform: Project) -> None:
    """Fifty writes of each are stored once, in one order, and each is told the number that it has there."""
    async with family(platform) as one, family(platform) as two:
        told: dict[str, int] = {}

        async def write(each: Any, name: str) -> None:
            for number in range(50):
                told[f"{name}{number}"] = await each.write(note(f"{name}{number}", noise(number, 1500)))

        await asyncio.gather(write(one, "a"), write(two, "b"))
        found = await known_elsewhere(platform)
        for each in (one, two):
            await each.sync()
            assert await each.read(notes) == found
    assert len(found) == 100
    assert told == {name: number for number, name in enumerate(found, start=1)}
    for name in "ab":
        assert [each for each in found if each[0] == name] == [f"{name}{number}" for number in range(50)]


async def test_writes_that_begin_together_are_published_together(platform: Project) -> None:
    """Those that wait go in one write of the head, and one that raises has changed nothing and hears of it alone."""
    async with family(platform) as one:
        await one.write(note("first"))
        platform.clear()
        written = await asyncio.gather(
            *(one.write(note(f"{number}")) for number in range(10)), one.write(refused), return_exceptions=True
        )
    assert written[:-1] == list(range(2, 12))
    assert isinstance(written[-1], LookupError)
    assert len([each for each in platform.requests if on_head(each)]) == 1
    assert await known_elsewhere(platform) == ["first", *map(str, range(10))]


async def test_a_write_that_finds_nothing_to_do_has_looked_at_what_others_wrote(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that changes nothing, or raises, because the copy is old, is run again on what is stored now."""
    monkeypatch.setattr(family_module, "FRESH", 0.0)

    def replace_first(connection: Connection) -> bool:
        if "theirs" not in notes(connection):
            raise LookupError("there is no such thing")
        return connection.execute("UPDATE turn_requests SET body = x'01'").rowcount == 1

    async with family(platform) as one, family(platform) as two:
        assert await one.read(notes) == []
        await two.write(note("theirs"))
        assert await one.write(replace_first)


async def test_each_of_two_requests_writes_under_its_own_call_id(platform: Project) -> None:
    """A batch carries one call id: that of the request it is for, also in what it reads when it was overtaken."""
    platform.needs_call_id = True
    with on_behalf_of("c0"):
        opened = family(platform)
        one = await opened.__aenter__()
        await one.write(note("first"))

    async def write(number: int) -> None:
        with on_behalf_of(f"c{1 + number % 2}"):
            await one.write(note(f"{number}"))

    platform.clear()
    await asyncio.gather(*(write(number) for number in range(6)))
    written = [each.call_id for each in platform.requests if on_head(each)]
    assert written == ["c1", "c2", "c1", "c2", "c1", "c2"]
    platform.clear()
    await asyncio.gather(*(write(number) for number in (11, 13, 12, 14)))
    assert [each.call_id for each in platform.requests if on_head(each)] == ["c2", "c1"]
    with on_behalf_of("c9"):
        await opened.__aexit__(None, None, None)


async def test_what_was_deferred_is_published_with_the_next_write_and_once(platform: Project) -> None:
    """It is seen here at once, survives being overtaken, and is not stored where nothing is written."""

    def once(connection: Connection) -> None:
        if "deferred" not in notes(connection):
            note("deferred", noise(1, 20_000))(connection)

    async with family(platform) as idle:
        await idle.begin()
        await idle.defer("it", once)
        assert await idle.read(notes) == ["deferred"]
    assert await known_elsewhere(platform) == []
    async with family(platform) as one, family(platform) as two:
        await one.begin()
        await one.defer("it", once)
        await two.write(note("theirs"))
        assert await one.write(note("ours")) == 3
        assert await one.read(notes) == await known_elsewhere(platform) == ["theirs", "deferred", "ours"]
        assert await one.write(note("last")) == 4
    assert [len(entry["changes"]) > 20_000 for entry in head_of(platform)["tail"]] == [False, True, False]


# --- Answers that are lost ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_first", [True, False])
async def test_a_write_whose_answer_is_lost_is_a_success_and_stored_once(platform: Project, is_first: bool) -> None:
    """The head is asked: it names the write, and so does the result."""
    async with family(platform) as one:
        if not is_first:
            await one.write(note("before"))
        platform.cut(when=on_head)
        assert await one.write(note("a")) == (1 if is_first else 2)
        assert await one.write(note("b")) == (2 if is_first else 3)
    assert await known_elsewhere(platform) == [*([] if is_first else ["before"]), "a", "b"]


async def test_a_write_whose_answer_is_lost_is_known_though_others_have_written_behind_it(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks the head finds the own write among the last ones, and does not run the function again."""
    async with family(platform) as one, family(platform) as two:
        await one.write(note("first"))
        replace = one.storage.replace

        async def lost(*arguments: Any) -> str:
            monkeypatch.undo()
            await replace(*arguments)
            await two.write(note("theirs"))
            raise StoreError("the answer was lost")

        monkeypatch.setattr(one.storage, "replace", lost)
        assert await one.write(note("ours")) == 2
        await one.sync()
        assert await one.read(notes) == ["first", "ours", "theirs"]
        assert await one.write(note("last")) == 4
    assert await known_elsewhere(platform) == ["first", "ours", "theirs", "last"]


@pytest.mark.parametrize("times", [1, 100])
async def test_a_write_that_was_not_carried_out_is_repeated_or_an_error(platform: Project, times: int) -> None:
    """A connection that breaks once is nothing; one that always breaks is an error, and then nothing is stored."""
    async with family(platform) as one:
        await one.write(note("first"))
        platform.cut(times, on_head, carried_out=False)
        if times == 1:
            assert await one.write(note("a")) == 2
        else:
            with pytest.raises(StoreError, match="cannot be used"):
                await one.write(note("a"))
        platform.faults.clear()
        expected = ["first", "a"] if times == 1 else ["first"]
        assert await one.read(notes) == await known_elsewhere(platform) == expected
        assert await one.write(note("b")) == len(expected) + 1


async def test_a_cancelled_caller_waits_for_the_end_of_its_write(platform: Project) -> None:
    """R4: when the cancellation arrives, what was begun is stored, however often it was asked for."""
    platform.latency = 0.1
    async with family(platform) as one:
        await one.write(note("first"))
        writing = asyncio.create_task(one.write(note("a")))
        for _ in range(3):
            await asyncio.sleep(0.02)
            writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        platform.latency = 0.0
        assert await known_elsewhere(platform) == ["first", "a"]
        assert await one.read(notes) == ["first", "a"]


async def test_a_reader_that_is_cancelled_does_no_harm(platform: Project) -> None:
    """Whenever a copy is left while it is brought up to date, the next one goes on from there."""
    async with family(platform) as one, family(platform) as two:
        await one.write(note("first"))
        for number in range(12):
            await two.write(note(f"{number}"))
            reading = asyncio.create_task(one.sync())
            await asyncio.sleep(0.001 * number)
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            assert await one.write(note(f"own {number}")) == 3 + 2 * number
        assert await one.read(notes) == await known_elsewhere(platform)


async def test_a_family_that_was_put_to_rest_is_read_again(platform: Project) -> None:
    """Giving the memory back loses nothing; after its end a family is closed for good."""
    async with family(platform) as one:
        await one.write(note("a"))
        await one.rest()
        assert not one.has_copy
        assert await one.peek(notes) == ["a"]
        await one.rest()
        assert await one.write(note("b")) == 2
    with pytest.raises(StoreClosedError):
        await one.peek(notes)
    with pytest.raises(StoreClosedError):
        await one.write(note("c"))


async def test_a_copy_that_cannot_take_over_what_was_published_is_made_anew(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write counts, since the head has it; the copy is read again and has it too."""
    async with family(platform) as one:
        await one.write(note("first"))

        def failing(replica: Replica, changes: object) -> None:
            monkeypatch.undo()
            raise StoreError("no memory is left")

        monkeypatch.setattr(Replica, "apply", failing)
        assert await one.write(note("a")) == 2
        assert await one.read(notes) == ["first", "a"]


async def test_what_is_noted_about_the_platforms_copies_survives_being_overtaken(platform: Project) -> None:
    """A response that is not shown yet is noted in the head by the write that stores it, whoever else writes."""
    async with family(platform) as one, family(platform) as two:
        await one.write(note("first"))
        await two.write(note("theirs"))
        one.note_unshown("resp_1", is_unshown=True)
        await one.write(note("ours"))
        assert head_of(platform)["unshown"] == ["resp_1"]
        await two.sync()
        assert two.unshown == {"resp_1"}
        one.note_unshown("resp_1", is_unshown=False)
        assert not one.unshown
        await two.write(note("theirs again"))
        await one.write(note("last"))
        assert head_of(platform)["unshown"] == []


# --- Faults of the platform --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "az login"),
        (403, "role Foundry User"),
        (404, "FOUNDRY_PROJECT_ENDPOINT"),
        (429, "Try again later"),
        (500, "The platform is at fault"),
    ],
)
async def test_a_refusal_says_what_to_do_and_nothing_is_stored(platform: Project, status: int, remedy: str) -> None:
    """Every status ends in a `StoreError` with a remedy; afterwards the family can be written as before."""
    async with family(platform) as one:
        await one.write(note("first"))
        platform.fail(status, 100, on_head)
        with pytest.raises(StoreError, match=remedy) as raised:
            await one.write(note("a"))
        assert str(status) in str(raised.value)
        platform.faults.clear()
        assert await one.read(notes) == ["first"]
        assert await one.write(note("b")) == 2
    assert await known_elsewhere(platform) == ["first", "b"]


# --- What is stored ----------------------------------------------------------------------------------------------


def on_parts(request: Recorded) -> bool:
    """Whether a request is about a part of a segment."""
    return request.key.startswith("s/")


async def test_what_is_larger_than_a_value_is_split(platform: Project) -> None:
    """Five megabytes of one write lie in values that the platform takes, and come back as they were."""
    body = noise(1, 5_000_000)
    async with family(platform) as one:
        await one.write(note("large", body))
    sizes = platform.sizes()
    assert max(sizes.values()) <= LARGEST_VALUE
    assert len([key for _, key in sizes if key.startswith("s/")]) == 7
    async with family(platform) as two:
        assert await two.read(lambda connection: connection.execute("SELECT body FROM turn_requests").fetchone()) == (
            body,
        )


async def test_segments_that_another_has_merged_are_not_missed(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds a segment gone that the head named reads the head again, and what that names."""
    async with family(platform) as one, family(platform) as two:
        await one.write(note("a", noise(1)))
        await one.write(note("b", noise(2)))
        named = {key for _, key in platform.sizes() if key.startswith("s/")}
        read = two.storage.read

        async def late(key: str) -> Any:
            monkeypatch.undo()
            found = await read(key)
            await one.write(note("c", noise(3, 2_000_000)))
            await one.rest()
            assert not named & {key for _, key in platform.sizes()}
            return found

        monkeypatch.setattr(two.storage, "read", late)
        assert await two.read(notes) == ["a", "b", "c"]


async def test_a_segment_that_comes_back_is_not_removed_with_its_former_self(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are again what they were make the same bytes; that those are removed late takes nothing away."""

    def rewrite(seed: int) -> Callable[[Connection], Any]:
        return lambda connection: connection.execute("UPDATE turn_requests SET body = ?", (noise(seed),)).rowcount

    may_remove = asyncio.Event()
    async with family(platform) as one:
        await one.write(note("a", noise(1)))
        delete = one.storage.delete

        async def late(key: str) -> None:
            await may_remove.wait()
            await delete(key)

        monkeypatch.setattr(one.storage, "delete", late)
        await one.write(rewrite(2))
        await one.write(rewrite(1))
        may_remove.set()
    assert await known_elsewhere(platform) == ["a"]


async def test_what_was_merged_is_removed_in_the_end(platform: Project) -> None:
    """Every part that is stored is one that the head reaches."""
    async with family(platform) as one:
        for number in range(60):
            await one.write(note(f"{number}", noise(number, 30_000)))
        await one.rest()
    digests = [segment["digest"] for segment in head_of(platform)["segments"]]
    assert digests
    for _, key in platform.sizes():
        assert key == HEAD or any(digest in key for digest in digests)


async def test_a_segment_that_is_made_again_leaves_nothing_behind(platform: Project) -> None:
    """Where the same rows are written once more, what held them before is removed, and what holds them now stays."""

    def same(connection: Connection) -> int:
        return connection.execute("UPDATE turn_requests SET body = ?", (noise(1),)).rowcount

    async with family(platform) as one:
        await one.write(note("a", noise(1)))
        for _ in range(3):
            assert await one.write(same) == 1
        await one.rest()
        assert await one.read(notes) == ["a"]
    assert len([key for _, key in platform.sizes() if key.startswith("s/")]) == 1
    assert await known_elsewhere(platform) == ["a"]


async def test_a_family_that_merges_much_does_not_keep_others_waiting(
    platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies are read while the segments of another family are put together."""
    may_go_on = threading.Event()

    def slow(*arguments: Any) -> Any:
        assert may_go_on.wait(10)
        return added(*arguments)

    async with family(platform) as one, family(platform, name="ann/other") as other:
        await other.write(note("other"))
        monkeypatch.setattr(family_module, "added", slow)
        writing = asyncio.create_task(one.write(note("a")))
        await asyncio.sleep(0.1)
        try:
            assert await asyncio.wait_for(other.peek(notes), 5) == ["other"]
        finally:
            may_go_on.set()
        assert await writing == 1


async def test_a_part_that_is_gone_is_the_end_of_the_conversation_and_said(platform: Project) -> None:
    """The error names the family and what to do; nothing is made up for what is missing."""
    async with family(platform) as one:
        await one.write(note("a", noise(1)))
    store = platform.records.stores["agent_host"]
    for _, key in platform.sizes():
        if key.startswith("s/"):
            del store.items["", key]
    async with family(platform) as two:
        with pytest.raises(StoreFormatError, match=f"A part of {NAME} is gone or damaged.*Begin a new one"):
            await two.read(notes)
        with pytest.raises(StoreFormatError, match="Begin a new one"):
            await two.write(note("b"))


@pytest.mark.parametrize("size", [10, LARGE])
async def test_the_records_of_an_older_version_go_on(
    platform: Project, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A newer version reads them in its own tables, whether it writes or only keeps them alive, and so does the next.

    The older version can read them as long as nothing was written, and says then that it is too old.
    """
    newest = migrate_module.migrations()
    with monkeypatch.context() as older:
        for module in (family_module, replica_module):
            older.setattr(module, "migrations", lambda: newest[:-1])
        async with family(platform) as one:
            await one.write(note("a", noise(1, size)))
            await one.write(note("b", noise(2, size)))
    there = head_of(platform)
    for _ in range(2):
        async with family(platform) as two:
            assert await two.read(notes) == ["a", "b"]
            assert (
                await two.read(lambda connection: connection.execute("SELECT heard FROM compactions").fetchall()) == []
            )
    assert head_of(platform) == there
    platform.clock.ahead += 10 * 86_400
    async with family(platform) as two, family(platform) as three:
        assert await three.read(notes) == ["a", "b"]
        assert await two.read(notes) == ["a", "b"]
        await three.rest()
        assert head_of(platform)["schema"] == newest[-1].version
        assert await two.write(note("c", noise(3, size))) == 3
        assert await three.write(note("d", noise(4, size))) == 4
    assert await known_elsewhere(platform) == ["a", "b", "c", "d"]
    for module in (family_module, replica_module):
        monkeypatch.setattr(module, "migrations", lambda: newest[:-1])
    with pytest.raises(StoreFormatError, match="Deploy the version that has written it, or a newer one"):
        await known_elsewhere(platform)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "newer one"),
        ({"schema": 10_000}, "Deploy the version that has written it"),
        ({"number": "many"}, "damaged .* Begin a new conversation"),
        ({"tail": [{"number": 1, "changes": base64.b64encode(b"nothing").decode()}]}, "Begin a new one"),
        ({"tail": [{"number": 1, "changes": "!"}]}, "Begin a new one"),
    ],
)
async def test_a_head_that_cannot_be_read_is_left_as_it_is(
    platform: Project, changes: dict[str, Any], message: str
) -> None:
    """The head of a newer version, or a damaged one, is an error with the remedy to reads and writes."""
    async with family(platform) as one:
        await one.write(note("a"))
    replace_head(platform, **changes)
    there = head_of(platform)
    async with family(platform) as two:
        for attempt in (lambda: two.read(notes), lambda: two.write(note("b"))):
            with pytest.raises(StoreFormatError, match=message):
                await attempt()
    assert head_of(platform) == there
