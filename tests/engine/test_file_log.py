"""Commits in files: what a crash, another process, damage and odd names do to them, and what they cost."""

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent_host import Executor, FileCheckpointStorage, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.checkpoint import Commit, cells_of
from agent_host.engine.storage import file_locks, session_file
from agent_host.engine.storage.file_log import FileLog
from agent_host.errors import CheckpointDecodeError, WorkflowCheckpointException, WorkflowConflictError
from agent_host.testing.commit_log_contract import BODY, ROOT, bare, bodies, child

LARGE = b"\x00\x00" + b"large" * 40_000


def session_files(path: Path) -> list[Path]:
    return sorted(path.glob("sessions/*/*"))


def file_of(path: Path, session: str) -> Path:
    """The one file that tells this session's name."""
    name = b"\x92\xc4" + len(b"support").to_bytes(1, "big") + b"support\xc4" + len(session).to_bytes(1, "big")
    files = [file for file in session_files(path) if file.suffix == ".log"]
    (found,) = [file for file in files if name + session.encode() in file.read_bytes()]
    return found


def everything(path: Path) -> int:
    """The bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


_opened: list[str] | None = None


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event in ("open", "os.listdir", "os.scandir"):
        _opened.append(str(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened_below(path: Path) -> Iterator[list[str]]:
    """What is opened or listed below a directory meanwhile, by any thread."""
    global _opened
    _opened = heard = []
    try:
        yield heard
    finally:
        _opened = None
        heard[:] = [name for name in heard if name.startswith(str(path))]


async def three_commits(path: Path) -> tuple[Commit, Commit, Commit]:
    log = FileLog(path)
    one, two, three = (child(ROOT, name, name.encode() * 30) for name in ("one", "two", "three"))
    two = replace(two, parent=one.id, seq=2, blobs=bodies(b"\x00\x00two" * 30), delta={"x": None})
    three = replace(three, parent=two.id, seq=3)
    await log.commit([ROOT, one], None)
    await log.commit([two], one.id)
    await log.commit([three], two.id)
    return one, two, three


# --- Crashes ------------------------------------------------------------------------------------------------------


async def test_a_file_cut_at_any_byte_of_its_last_frame_has_the_commit_before(tmp_path: Path) -> None:
    """The previous head loads with everything it needs, the lost commit is unknown, and the next commit works."""
    one, two, three = await three_commits(tmp_path / "whole")
    file = file_of(tmp_path / "whole", "s1")
    whole = file.read_bytes()
    start = whole.rindex(b"\xf0AH\x1e")
    assert len(whole) - start > 200
    for cut in range(start, len(whole)):
        file.write_bytes(whole[:cut])
        log = FileLog(tmp_path / "whole")
        assert await log.head("support", "s1") == two.id
        assert await log.chain(two.id) == [bare(replace(c, distance=d)) for c, d in ((two, 2), (one, 1), (ROOT, 0))]
        assert await log.blobs([*one.blobs, *two.blobs]) == {**one.blobs, **two.blobs}
        assert await log.chain(three.id) == []
        again = replace(three, id="chk_again")
        await log.commit([again], two.id)
        assert await FileLog(tmp_path / "whole").head("support", "s1") == again.id
        assert await FileLog(tmp_path / "whole").blobs(again.blobs) == again.blobs


async def test_a_file_cut_in_its_first_frame_is_empty(tmp_path: Path) -> None:
    """Cut anywhere, or filled with zeros, the session has never committed and can."""
    one = child(ROOT, "one", BODY)
    await FileLog(tmp_path).commit([ROOT, one], None)
    file = file_of(tmp_path, "s1")
    whole = file.read_bytes()
    for left in (*(whole[:cut] for cut in range(len(whole))), bytes(16), bytes(len(whole))):
        file.write_bytes(left)
        log = FileLog(tmp_path)
        assert await log.head("support", "s1") is None
        await log.commit([one], None)
        assert await FileLog(tmp_path).chain(one.id) == [bare(one), bare(ROOT)]


async def test_a_tail_of_noise_is_cut_off(tmp_path: Path) -> None:
    """What a loss of power leaves behind the last whole frame is not damage."""
    _, _, three = await three_commits(tmp_path)
    file = file_of(tmp_path, "s1")
    whole = file.read_bytes()
    for noise in (b"\xf0AH\x1e", bytes(4096), os.urandom(300), whole[-40:]):
        file.write_bytes(whole + noise)
        log = FileLog(tmp_path)
        assert await log.head("support", "s1") == three.id
        four = child(three, "four")
        await log.commit([four], three.id)
        assert await FileLog(tmp_path).head("support", "s1") == four.id


async def test_damage_in_the_middle_names_file_and_offset(tmp_path: Path) -> None:
    """A byte changed in any frame but the last is an error, never a shorter history; other sessions go on."""
    await three_commits(tmp_path)
    other = child(ROOT, "other", session="s2")
    await FileLog(tmp_path).commit([other], None)
    file = file_of(tmp_path, "s1")
    whole = file.read_bytes()
    frames = [at for at in range(len(whole)) if whole.startswith(b"\xf0AH\x1e", at)]
    for at in (*range(frames[0], frames[1], 7), *range(frames[1], frames[2], 5)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        frame = max(start for start in frames if start <= at)
        log = FileLog(tmp_path)
        with pytest.raises(CheckpointDecodeError, match=rf"{file.name} is damaged at byte {frame}:"):
            await log.head("support", "s1")
        assert await log.chain(other.id) == [bare(other), bare(ROOT)]
    file.write_bytes(b"not a log of anything")
    with pytest.raises(CheckpointDecodeError, match="damaged at byte 0"):
        await FileLog(tmp_path).head("support", "s1")


async def test_a_commit_that_cannot_be_written_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk the error names the file, the head stays, and later the same commit succeeds."""
    log = FileLog(tmp_path)
    one, two = child(ROOT, "one"), child(child(ROOT, "one"), "two", LARGE)
    await log.commit([ROOT, one], None)
    for step in ("fsync", "truncate"):

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            if step == "fsync":
                patch.setattr(session_file.os, "fsync", fail)
            else:
                patch.setattr(session_file, "_write", fail)
            with pytest.raises(WorkflowCheckpointException, match="No space left on device"):
                await log.commit([two], one.id)
        assert await log.head("support", "s1") == one.id
        assert await FileLog(tmp_path).head("support", "s1") == one.id
        assert await log.chain(two.id) == []
    await log.commit([two], one.id)
    assert await FileLog(tmp_path).blobs(two.blobs) == two.blobs


async def test_a_commit_is_on_the_disk_before_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file that a commit changes is flushed, and so is each directory in which a name is new."""
    flushed: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    log = FileLog(tmp_path / "new")
    one, two = child(ROOT, "one", BODY), child(child(ROOT, "one"), "two")
    await log.commit([ROOT, one], None)
    for file in session_files(tmp_path / "new"):
        place = flushed.index(file.stat().st_ino)
        assert file.parent.stat().st_ino in flushed[place:]
        assert {above.stat().st_ino for above in (file.parents[1], file.parents[2], tmp_path)} <= set(flushed)
    flushed.clear()
    await log.commit([two], one.id)
    assert flushed == [file_of(tmp_path / "new", "s1").stat().st_ino]


async def test_a_rewriting_that_is_cut_short_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting writes beside the file and takes its name last; what a crash leaves there is written over."""
    one, two, three = await three_commits(tmp_path)
    log = FileLog(tmp_path)
    await log.move_head("support", "s1", one.id, three.id)
    await log.delete(three.id)
    before = file_of(tmp_path, "s1").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(session_file.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        with pytest.raises(WorkflowCheckpointException, match="Input/output error"):
            await log.collect()
    assert [file for file in session_files(tmp_path) if file.suffix == ".new"] != []
    assert file_of(tmp_path, "s1").read_bytes() == before
    assert await FileLog(tmp_path).commits("support") == [bare(ROOT), bare(one), bare(replace(two, distance=2))]
    assert await log.collect() == 2
    assert {file.suffix for file in session_files(tmp_path)} == {".log"}
    assert await log.blobs([*one.blobs, *three.blobs]) == one.blobs


async def test_another_process_follows_a_rewriting(tmp_path: Path) -> None:
    """Who has read a file that was then written anew, shorter or longer, sees what it holds now."""
    one, _, three = await three_commits(tmp_path)
    writer, reader, sleeper = FileLog(tmp_path), FileLog(tmp_path), FileLog(tmp_path)
    assert await reader.head("support", "s1") == await sleeper.head("support", "s1") == three.id
    await writer.move_head("support", "s1", one.id, three.id)
    await writer.delete(three.id)
    await writer.collect()
    assert await reader.blobs([*one.blobs, *three.blobs]) == one.blobs
    await writer.commit([child(one, "long", LARGE)], one.id)
    assert await reader.head("support", "s1") == "chk_long"
    assert await reader.blobs([*one.blobs, *three.blobs, *bodies(LARGE)]) == {**one.blobs, **bodies(LARGE)}
    await reader.commit([child(child(one, "long"), "after")], "chk_long")
    for log in (writer, sleeper):
        assert await log.head("support", "s1") == "chk_after"
        assert await log.blobs([*one.blobs, *bodies(LARGE)]) == {**one.blobs, **bodies(LARGE)}


# --- The index ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", ["missing", "torn", "noise"])
async def test_an_index_that_is_harmed_is_completed(tmp_path: Path, harm: str) -> None:
    """A commit is found by its bare id without its entry, and after that by its entry again."""
    one, _, three = await three_commits(tmp_path)
    for shard in (tmp_path / "index").iterdir():
        data = shard.read_bytes()
        shard.write_bytes({"missing": b"", "torn": data[:-1], "noise": data[:20] + b"?" + data[20:]}[harm])
    assert len(await FileLog(tmp_path).chain(three.id)) == 4
    with opened_below(tmp_path) as heard:
        log = FileLog(tmp_path)
        assert len(await log.chain(one.id)) == 2
    assert not [name for name in heard if name.endswith("sessions")]


async def test_an_unknown_id_is_unknown(tmp_path: Path) -> None:
    """Whatever it looks like, it reaches no path outside, and nothing is made for it."""
    await three_commits(tmp_path / "log")
    log = FileLog(tmp_path / "log")
    before = sorted(tmp_path.rglob("*"))
    for commit_id in ("../../../etc/passwd", "", "x" * 10_000, "a\x00b", "\udc80", "CHK_ONE"):
        assert await log.chain(commit_id) == []
        assert not await log.delete(commit_id)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before] in ([], [tmp_path / "log/locks/all"])


async def test_one_session_among_a_thousand_is_opened_alone(tmp_path: Path) -> None:
    """Reading it, loading one of its checkpoints by id, and committing to it opens its files, the root's and no other.

    One load reads one of the 256 parts of the index.
    """
    log = FileLog(tmp_path)
    await log.commit([ROOT], None)
    commits = [child(ROOT, f"c{number}", b"\x00\x00%d" % number, session=f"s{number}") for number in range(1000)]
    await asyncio.gather(*(log.commit([commit], None) for commit in commits))
    own = {str(file_of(tmp_path, "s500")), str(file_of(tmp_path, ""))}
    with opened_below(tmp_path) as heard:
        fresh = FileLog(tmp_path)
        assert await fresh.head("support", "s500") == commits[500].id
        assert await fresh.chain(commits[500].id) == [bare(commits[500]), bare(ROOT)]
        assert await fresh.blobs([*commits[500].blobs, *ROOT.blobs]) == {**commits[500].blobs, **ROOT.blobs}
        await fresh.commit([child(commits[500], "after", BODY, session="s500")], commits[500].id)
    assert {name for name in heard if "/sessions/" in name and name.endswith(".log")} == own
    assert not [name for name in heard if name.endswith(("sessions", "index"))]
    with opened_below(tmp_path) as heard:
        assert await FileLog(tmp_path).chain(commits[7].id) == [bare(commits[7]), bare(ROOT)]
    assert len({name for name in heard if "/index/" in name}) == 1
    assert len({name for name in heard if name.endswith(".log")}) == 2


# --- Names --------------------------------------------------------------------------------------------------------


async def test_any_name_is_a_session_of_its_own(tmp_path: Path) -> None:
    """Paths, nothing, very long names, odd characters, and names that differ only in case or between the two parts."""
    names = [
        ("support", "../x"), ("support", ""), ("", "support"), ("sup", "port"), ("suppor", "t"), ("Support", "x"),
        ("support", "x"), ("support", "X"), ("support", "x" * 5000), ("support", "a/b\\c:d*?"), ("support", "\x00"),
        ("support", "\u00e4"), ("support", "a\u0308"), ("support", "\udc80"), ("support", "CON"), ("support", "."),
        ("../..", "/"),
    ]  # fmt: skip
    directory = tmp_path / "deep" / "log"
    log = FileLog(directory)
    for number, (workflow, session) in enumerate(names):
        root = replace(ROOT, id=f"chk_r{number}", workflow=workflow)
        await log.commit([root, replace(child(root, f"c{number}", session=session), kind="step")], None)
    for number, (workflow, session) in enumerate(names):
        if session:
            assert await FileLog(directory).head(workflow, session) == f"chk_c{number}"
            assert [c.session_id for c in await log.commits(workflow, session)] == [session]
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    relative = [file.relative_to(directory / "sessions").as_posix() for file in session_files(directory)]
    assert len({name.lower() for name in relative}) == len(relative) >= len(names)
    assert all(set(name) <= set("0123456789abcdef/.log") and len(name) == 37 for name in relative)


async def test_a_fork_reads_the_files_it_came_from(tmp_path: Path) -> None:
    """A session at another's commit, and one that went on from there, find all they need through their own files."""
    one, _, three = await three_commits(tmp_path)
    log = FileLog(tmp_path)
    await log.move_head("support", "pointer", three.id, None)
    fork = child(three, "fork", b"\x00\x00fork", session="fork")
    await log.commit([fork], None)
    whole = child(fork, "whole", session="fork", complete=True)
    whole = replace(whole, delta={**cells_of([fork, *await log.chain(three.id)]), **whole.delta})
    await log.commit([whole], fork.id)
    for shard in (tmp_path / "index").iterdir():
        shard.unlink()
    with opened_below(tmp_path) as heard:
        for session, head in (("pointer", three), ("fork", whole)):
            fresh = FileLog(tmp_path)
            assert await fresh.head("support", session) == head.id
            assert (await fresh.chain(head.id))[0].id == head.id
            assert await fresh.blobs([*one.blobs, *three.blobs]) == {**one.blobs, **three.blobs}
    assert not [name for name in heard if name.endswith(("sessions", "index"))]


# --- Several processes --------------------------------------------------------------------------------------------

RIVAL = """
import asyncio, sys
from dataclasses import replace
from agent_host.engine.storage.file_log import FileLog
from agent_host.errors import WorkflowConflictError
from agent_host.testing.commit_log_contract import ROOT, child

async def main(path, name):
    log, won, lost = FileLog(path), [], 0
    print("ready", flush=True)
    sys.stdin.readline()
    while len(won) < 25:
        head = await log.head("support", "s1")
        (newest, *_) = await log.chain(head)
        commit = child(newest, f"{name}{len(won)}", b"\\x00\\x00" + name.encode() * 500)
        try:
            await log.commit([commit], head)
            won.append(commit.id)
        except WorkflowConflictError:
            lost += 1
    print(lost, *won)

asyncio.run(main(*sys.argv[1:]))
"""


def race(path: Path) -> list[list[str]]:
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", RIVAL, str(path), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for name in ("left", "right")
    ]
    for rival in rivals:
        assert rival.stdout is not None and rival.stdout.readline() == "ready\n"
    for rival in rivals:
        assert rival.stdin is not None
        rival.stdin.write("go\n")
        rival.stdin.flush()
    printed = [rival.communicate(timeout=60)[0].split() for rival in rivals]
    assert [rival.returncode for rival in rivals] == [0, 0]
    return printed


async def test_two_processes_commit_to_one_session(tmp_path: Path) -> None:
    """Every commit that was accepted is in the one chain, and who came late was told."""
    await FileLog(tmp_path).commit([ROOT, child(ROOT, "first")], None)
    printed = await asyncio.to_thread(race, tmp_path)
    log = FileLog(tmp_path)
    head = await log.head("support", "s1")
    chain = await log.chain(head or "")
    won = {commit_id for _, *ids in printed for commit_id in ids}
    assert {commit.id for commit in chain} == won | {ROOT.id, "chk_first"}
    assert [commit.parent for commit in chain[:-1]] == [commit.id for commit in chain[1:]]
    assert sum(int(lost) for lost, *_ in printed) > 0


async def test_a_process_that_was_overtaken_gets_a_conflict(tmp_path: Path) -> None:
    """The head that counts is the one in the file, not the one that was read."""
    await FileLog(tmp_path).commit([ROOT, child(ROOT, "first")], None)
    slow, fast = FileLog(tmp_path), FileLog(tmp_path)
    assert await slow.head("support", "s1") == "chk_first"
    await fast.commit([child(child(ROOT, "first"), "fast")], "chk_first")
    late = child(child(ROOT, "first"), "late", BODY)
    with pytest.raises(WorkflowConflictError, match="chk_fast"):
        await slow.commit([late], "chk_first")
    assert await slow.chain(late.id) == []
    with pytest.raises(WorkflowConflictError):
        await slow.record("support", "s1", "chk_first", {"a": b"1"})


async def test_the_lock_of_all_waits_for_every_session(tmp_path: Path) -> None:
    """Those that share a lock hold it together; who wants it alone comes when all have let go, and before others."""
    path = str(tmp_path / "lock")
    order: list[str] = []

    def alone() -> None:
        with file_locks.locked(path):
            order.append("alone")

    with file_locks.locked(path, shared=True):
        with file_locks.locked(path, shared=True):
            waiting = asyncio.ensure_future(asyncio.to_thread(alone))
            await asyncio.sleep(0.05)
            order.append("inner")
        await asyncio.sleep(0.05)
        order.append("outer")
    await waiting
    assert order == ["inner", "outer", "alone"]


async def test_a_thousand_commits_at_once_do_not_wait_for_each_other_for_ever(tmp_path: Path) -> None:
    """Many sessions of one process, and verbs over all of them in between, come to an end."""
    log = FileLog(tmp_path)
    await log.commit([ROOT], None)

    async def lane(number: int) -> None:
        last, head = ROOT, None
        for step in range(4):
            commit = child(last, f"c{number}-{step}", session=f"s{number}")
            await log.commit([commit], head)
            last, head = commit, commit.id
            if number % 10 == 0:
                await log.collect()

    await asyncio.wait_for(asyncio.gather(*(lane(number) for number in range(40))), 60)
    assert len(await log.commits("support")) == 1 + 40 * 4


# --- Bytes --------------------------------------------------------------------------------------------------------


class Keeper(Executor):
    """Keeps a large value that never changes, or a list that grows, for as many supersteps as it is told."""

    def __init__(self) -> None:
        super().__init__("keeper")
        self.large = ""
        self.pages: list[str] = []

    @handler
    async def keep(self, order: tuple[int, int, int], ctx: WorkflowContext[tuple[int, int, int]]) -> None:
        left, large, page = order
        if large:
            self.large = "x" * large
        if page:
            self.pages.append(f"{left:06d}" + "y" * (page - 6))
        if left > 1:
            await ctx.send_message((left - 1, 0, page))


async def run_keeper(path: Path, order: tuple[int, int, int], *before: tuple[int, int, int]) -> None:
    keeper = Keeper()
    storage = FileCheckpointStorage(path)
    builder = WorkflowBuilder(start_executor=keeper, name="keeper", checkpoint_storage=storage)
    workflow = builder.add_edge(keeper, keeper).build()
    for each in (*before, order):
        await workflow.run(each)


async def test_a_megabyte_that_does_not_change_is_written_once(tmp_path: Path) -> None:
    """Twenty supersteps over it take at most 5 % more than itself on the disk, index and locks included."""
    await run_keeper(tmp_path, (20, 1_000_000, 0))
    assert 1_000_000 < everything(tmp_path) <= 1_050_000


async def test_a_growing_list_costs_what_it_grows_by(tmp_path: Path) -> None:
    """Eighty supersteps that each add a kilobyte to ten take at most 150 kB on the disk."""
    await run_keeper(tmp_path, (80, 0, 1_000), (1, 0, 10_000))

    assert 90_000 < everything(tmp_path) <= 150_000


async def test_equal_content_is_written_once_in_a_file(tmp_path: Path) -> None:
    """A body that a commit brings again is not written again, in one call or in two."""
    log = FileLog(tmp_path)
    one = child(ROOT, "one", LARGE, LARGE)
    await log.commit([ROOT, one, child(one, "two", LARGE)], None)
    await log.commit([child(child(one, "two"), "three", LARGE)], "chk_two")
    assert file_of(tmp_path, "s1").stat().st_size < len(LARGE) + 2_000


async def test_what_another_process_has_added_is_found(tmp_path: Path) -> None:
    """A log that read a session's file before it grew finds the blobs of a fork that another log has made since."""
    here, there = FileLog(tmp_path), FileLog(tmp_path)
    commit = child(ROOT, "first", b"\x00\x00one")
    await here.commit([ROOT, commit], None)
    await there.chain(commit.id)
    grown = child(commit, "grown", b"\x00\x00two")
    await here.commit([grown], commit.id)
    fork = child(grown, "fork", session="s2", complete=True)
    fork = replace(fork, delta={**cells_of(await here.chain(grown.id)), **fork.delta})
    await here.move_head("support", "s2", grown.id, None)
    await here.commit([fork], grown.id)
    assert (await there.chain(fork.id))[0].id == fork.id
    assert await there.blobs(grown.blobs) == grown.blobs


async def test_a_directory_that_has_gone_is_empty(tmp_path: Path) -> None:
    """What was deleted while the log was open is not remembered: nothing is built on it."""
    log = FileLog(tmp_path / "checkpoints")
    commit = child(ROOT, "first")
    await log.commit([ROOT, commit], None)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(WorkflowConflictError):
        await log.commit([child(commit, "second")], commit.id)
    assert await log.head("support", "s1") is None
    await log.commit([ROOT, commit], None)
    assert await FileLog(tmp_path / "checkpoints").head("support", "s1") == commit.id


async def test_a_commit_counts_although_the_index_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index only helps to find commits; one that cannot be written to fails nothing."""
    log = FileLog(tmp_path)
    await log.commit([ROOT, child(ROOT, "first")], None)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._directory, "index", full)
    second = child(child(ROOT, "first"), "second")
    await log.commit([second], child(ROOT, "first").id)
    assert await FileLog(tmp_path).head("support", "s1") == second.id
    assert (await FileLog(tmp_path).chain(second.id))[0].id == second.id
