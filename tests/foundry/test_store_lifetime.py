"""What is used lives on, and what nobody uses ends as a whole: values of the platform have a time to live."""

from dataclasses import replace
from typing import Any

import pytest

from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.records import response
from tests.foundry.platform_store import HEAD, LIFETIME, family, noise, note, notes, on_head, process
from tests.foundry.stand_in import Project

DAY = 86_400.0
HALF = LIFETIME / 2


async def fill(project: Project) -> list[str]:
    """Write so much that the family has a large segment, a small one, and a tail."""
    names = ["large", "medium", "small", "tiny"]
    async with family(project) as one:
        for number, size in enumerate((1_500_000, 200_000, 60_000, 5)):
            await one.write(note(names[number], noise(number, size)))
    head: dict[str, Any] = project.items("agent_host")[HEAD]
    assert (len(head["segments"]), len(head["tail"])) == (2, 2)
    return names


def reachable_until(project: Project) -> float:
    """When the first of the values ends that the head reaches."""
    store = project.records.stores["agent_host"]
    head = project.items("agent_host")[HEAD]
    digests = [segment["digest"] for segment in head["segments"]]
    parts = [item for (_, key), item in store.items.items() if any(digest in key for digest in digests)]
    return min(item.written_at for item in [*parts, store.items["", HEAD]]) + LIFETIME


@pytest.mark.parametrize(
    "steps", [[25] * 8, [29.9] * 6, [40 / 3] * 12, [16, 29, 1, 29, 14, 29, 29], [0.5] * 3 + [29] * 3]
)
@pytest.mark.parametrize("writes", ["never", "always", "sometimes"])
async def test_what_is_used_lives_on(platform: Project, steps: list[float], writes: str) -> None:
    """However long ago it was written, everything is read by a new process, as long as one has used it in time.

    As long as the head counts, nothing that it reaches ends.
    """
    names = await fill(platform)
    for number, days in enumerate(steps):
        platform.clock.ahead += days * DAY
        async with family(platform) as one:
            assert await one.read(notes) == names
            if writes == "always" or (writes == "sometimes" and number % 2):
                names.append(f"step {number}")
                await one.write(note(names[-1], noise(number, 1000)))
        until = platform.items("agent_host")[HEAD]["written_at"] + HALF
        assert until >= platform.clock() + HALF - 2 * DAY
        assert reachable_until(platform) > until + 10 * DAY


async def test_a_process_that_goes_on_keeps_alive_what_it_reads(platform: Project) -> None:
    """A copy in memory is compared with the head, which is written again by that, once and not every time."""
    names = await fill(platform)
    async with family(platform) as one:
        assert await one.read(notes) == names
        for _ in range(10):
            platform.clock.ahead += 10 * DAY
            for _ in range(3):
                await one.sync()
                assert await one.peek(notes) == names
            platform.clear()
            await one.rest()
            assert len([each for each in platform.requests if each.method == "PUT" and each.key == HEAD]) <= 1
    async with family(platform) as two:
        assert await two.read(notes) == names


async def test_reading_often_writes_seldom(platform: Project) -> None:
    """Within a day nothing is written for being read."""
    names = await fill(platform)
    platform.clock.ahead += DAY * 0.9
    platform.clear()
    async with family(platform) as one:
        assert await one.read(notes) == names
    assert {each.method for each in platform.requests} == {"GET"}


async def test_what_is_written_is_not_written_again_for_being_read(platform: Project) -> None:
    """A process whose first use of a family is a write writes its head once."""
    await fill(platform)
    platform.clock.ahead += 10 * DAY
    platform.clear()
    async with family(platform) as one:
        assert await one.write(note("new")) == 5
    assert len([each for each in platform.requests if on_head(each)]) == 1


@pytest.mark.parametrize("days", [31, 45, 59, 61, 100])
async def test_what_nobody_uses_ends_as_a_whole(platform: Project, days: float) -> None:
    """After half of its life it answers as unknown, whatever the platform still has, and begins anew under its name."""
    await fill(platform)
    platform.clock.ahead += days * DAY
    async with family(platform) as one:
        assert await one.read(notes) == []
        assert await one.write(note("new", noise(9, 200_000))) == 1
    platform.clock.ahead += 20 * DAY
    async with family(platform) as two:
        assert await two.read(notes) == ["new"]


async def test_a_process_notices_that_what_it_knows_has_ended(platform: Project) -> None:
    """A copy in memory ends with the head that it was made from, and so does another process's."""
    names = await fill(platform)
    async with family(platform) as one, family(platform) as two:
        assert await one.read(notes) == await two.read(notes) == names
        platform.clock.ahead += 31 * DAY
        await one.sync()
        assert await one.read(notes) == []
        assert await one.write(note("new")) == 1
        assert await two.write(note("also new")) == 2
        assert await two.read(notes) == ["new", "also new"]


async def test_a_response_that_nobody_continued_for_long_is_unknown(platform: Project) -> None:
    """Its id answers as unknown, and a turn that begins anew under the same id is stored."""
    turn = child(ROOT, "1", b"body")
    async with process(platform) as store:
        await store.finish("ann", response("1", ROOT, turn), [ROOT, turn])
    platform.clock.ahead += 29 * DAY
    async with process(platform) as store:
        assert await store.resolve("ann", "resp_1") is not None
    platform.clock.ahead += 31 * DAY
    async with process(platform) as store:
        assert await store.resolve("ann", "resp_1") is None
        assert await store.read_response("ann", "resp_1") is None
        assert await store.read_chain("ann", turn.id) == []
        again = replace(response("1", ROOT, turn), body=b"again")
        await store.finish("ann", again, [ROOT, turn])
    async with process(platform) as store:
        assert await store.read_response("ann", "resp_1") == again
