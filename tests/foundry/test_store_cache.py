"""Segments on the disk of a session: read once, and never trusted."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from agent_host.stores.foundry import cache as cache_module
from agent_host.stores.foundry.cache import SegmentCache
from agent_host.stores.foundry.head import digest_of
from tests.foundry.platform_store import HEAD, family, noise, note, notes
from tests.foundry.stand_in import Project

NAMES = ["a", "b", "c"]


async def fill(project: Project, folder: Path | None) -> None:
    """Write what is held by segments."""
    async with family(project, folder) as one:
        for number, name in enumerate(NAMES):
            await one.write(note(name, noise(number, 300_000)))


def reads(project: Project) -> list[str]:
    """The keys of the values that were read."""
    return [each.key for each in project.requests if each.method == "GET" and each.key]


async def test_a_new_process_of_a_session_reads_no_segment_again(platform: Project, tmp_path: Path) -> None:
    """Whoever wrote or read a segment finds it on the disk; only the head is asked for."""
    await fill(platform, tmp_path / "writer")
    for folder in ("writer", "reader"):
        platform.clear()
        async with family(platform, tmp_path / folder) as other:
            assert await other.read(notes) == NAMES
        assert (reads(platform) == [HEAD]) == (folder == "writer")
    platform.clear()
    async with family(platform, tmp_path / "reader") as again:
        assert await again.read(notes) == NAMES
        assert await again.write(note("d", noise(9, 300_000))) == 4
    assert reads(platform) == [HEAD]


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
async def test_a_damaged_file_is_as_none(platform: Project, tmp_path: Path, damage: Callable[[Path], object]) -> None:
    """A segment whose bytes do not have its name is read from the platform, and lies on the disk undamaged then."""
    await fill(platform, tmp_path)
    files = list(tmp_path.iterdir())
    assert files
    for file in files:
        damage(file)
    platform.clear()
    async with family(platform, tmp_path) as other:
        assert await other.read(notes) == NAMES
    assert len(reads(platform)) > 1
    assert all(digest_of(file.read_bytes()) == file.name for file in files)


async def test_a_folder_that_cannot_be_written_is_as_none(platform: Project, tmp_path: Path) -> None:
    """Where the folder's place is taken by a file, everything is read and written as without a cache."""
    taken = tmp_path / "taken"
    taken.write_text("no folder")
    await fill(platform, taken / "segments")
    async with family(platform, taken / "segments") as other:
        assert await other.read(notes) == NAMES
        assert await other.write(note("d", noise(9, 300_000))) == 4
    assert taken.read_text() == "no folder"


async def test_a_full_disk_leaves_no_piece_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be written whole is not there."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    cache = SegmentCache(tmp_path)
    cache.write(digest_of(b"body"), b"body")
    assert not list(tmp_path.iterdir())
    assert cache.read(digest_of(b"body")) is None


async def test_only_this_user_may_read_the_files(platform: Project, tmp_path: Path) -> None:
    """Files are private, and so is the folder, whatever the process makes other files like."""
    before = os.umask(0)
    try:
        await fill(platform, tmp_path / "home" / "segments")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "home" / "segments").stat().st_mode) == 0o700
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "home" / "segments").iterdir()}
    assert modes == {0o600}


async def test_without_a_folder_segments_are_merged_too(platform: Project) -> None:
    """A process that keeps them in memory reads none again that it has written, and the head names only a few."""
    platform.clear()
    async with family(platform) as one:
        for number in range(60):
            await one.write(note(f"{number}", noise(number, 50_000)))
        head = platform.items("agent_host")[HEAD]
        assert len(head["segments"]) <= 4
    assert set(reads(platform)) == {HEAD}


async def test_what_is_not_needed_any_more_leaves_the_disk(platform: Project, tmp_path: Path) -> None:
    """What this process has merged, and what it has learnt that others have merged, is removed."""
    await fill(platform, tmp_path / "one")
    async with family(platform, tmp_path / "one") as one, family(platform, tmp_path / "two") as two:
        await two.read(notes)
        await one.write(note("d", noise(8, 3_000_000)))
        await two.sync()
        assert await two.read(notes) == [*NAMES, "d"]
    needed = {segment["digest"] for segment in platform.items("agent_host")[HEAD]["segments"]}
    assert {file.name for file in (tmp_path / "one").iterdir()} == needed
    assert {file.name for file in (tmp_path / "two").iterdir()} == needed


async def test_memory_holds_so_much_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not used for longest is forgotten first, also when many threads write at once."""
    monkeypatch.setattr(cache_module, "IN_MEMORY", 10_000)
    cache = SegmentCache(None)
    bodies = {digest_of(body): body for body in (noise(seed, 1000) for seed in range(400))}
    await asyncio.gather(*(asyncio.to_thread(cache.write, *each) for each in bodies.items()))
    kept = [digest for digest in bodies if cache.read(digest) is not None]
    assert len(kept) == 10
    assert all(cache.read(digest) == bodies[digest] for digest in kept)
    first, second, *_ = kept
    cache.write("third", b"x" * 1000)
    assert cache.read(first) is None
    cache.read(second)
    cache.write("fourth", b"x" * 1000)
    assert cache.read(second) is not None
