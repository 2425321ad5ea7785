"""Sealed values: nothing of them is in the clear below, and nothing that was changed comes back as a value."""

from dataclasses import replace
from pathlib import Path

import pytest

from agent_host import FileCheckpointStorage, InMemoryCheckpointStorage
from agent_host.engine.checkpoint import INLINE
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.sealed_log import SealedLog
from agent_host.errors import CheckpointDecodeError
from agent_host.testing.checkpoint_storage_contract import LONG, NAME, content, diary
from agent_host.testing.commit_log_contract import BODY, ROOT, bodies, child, inlining, nested
from tests.engine.graphs import everything_in
from tests.engine.sealing import Refusing, Scrambler

SECRET = "the secret of the diary"


async def test_nothing_of_a_value_is_readable_below(tmp_path: Path) -> None:
    """Short and long state, messages and requests are nowhere in the files; ids, sessions and keys are."""
    storage = FileCheckpointStorage(tmp_path, wrapper=Scrambler())
    workflow = diary(storage)
    for page in (SECRET, f"again ask {SECRET}", LONG + SECRET):
        await workflow.run(page, session_id="ann")
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET.encode() not in written
    assert b"dear diary" not in written
    assert b"x/diary/pages" in written
    assert b"ann" in written
    latest = await storage.get_latest(workflow_name=NAME, session_id="ann")
    assert latest is not None
    assert latest.state == {"last": LONG + SECRET}
    assert list(latest.pending_request_info_events.values()) == [f"ask {SECRET}"]


async def test_notes_are_sealed(tmp_path: Path) -> None:
    """What is noted of an unfinished superstep is hidden too, and only its key is readable."""
    below = MemoryLog()
    log = SealedLog(below, Scrambler())
    await log.commit([ROOT, child(ROOT, "one")], None)
    await log.record("support", "s1", "chk_one", {"key": SECRET.encode()})
    assert await log.recorded("support", "s1", "chk_one") == {"key": SECRET.encode()}
    (noted,) = (await below.recorded("support", "s1", "chk_one")).items()
    assert noted[0] == "key"
    assert SECRET.encode() not in noted[1]


@pytest.mark.parametrize("wrapper", [Scrambler(b"another key"), Refusing()], ids=["wrong bytes", "an error"])
async def test_another_key_is_an_error_that_says_so(wrapper: Scrambler) -> None:
    """Whether `unseal` notices it or gives some bytes: cells, blobs and notes are unreadable, never wrong."""
    below = MemoryLog()
    one = child(ROOT, "one", BODY)
    sealed = SealedLog(below, Scrambler())
    await sealed.commit([ROOT, one], None)
    await sealed.record("support", "s1", one.id, {"key": b"value"})
    other = SealedLog(below, wrapper)
    for reading, what in (
        (other.chain(one.id), "cell 'own/one' of commit chk_one"),
        (other.commits("support"), "cell 'a' of commit chk_root"),
        (other.blobs(one.blobs), f"blob {next(iter(one.blobs)).hex()}"),
        (other.recorded("support", "s1", one.id), "note 'key'"),
    ):
        with pytest.raises(CheckpointDecodeError, match=f"{what} cannot be unsealed: it was sealed with another key"):
            await reading  # type: ignore[misc]  # awaitables of different results
    assert everything_in(below)


async def test_every_changed_byte_is_noticed() -> None:
    """In sealed cells and in their tables, in blobs and in their tables."""
    below = MemoryLog()
    log = SealedLog(below, Scrambler())
    leaf = nested(b"leaf")
    top = nested(b"top", leaf)
    one = inlining(replace(child(ROOT, "one", top), blobs=bodies(leaf, top)), "pair", leaf)
    await log.commit([ROOT, one], None)
    stored = below._commits[one.id]
    cell = stored.delta["pair"] or b""
    for at in range(1, len(cell)):
        changed = cell[:at] + bytes([cell[at] ^ 1]) + cell[at + 1 :]
        below._commits[one.id] = replace(stored, delta={**stored.delta, "pair": changed})
        with pytest.raises(CheckpointDecodeError, match="cell 'pair'"):
            await log.chain(one.id)
    below._commits[one.id] = stored
    for hash_ in one.blobs:
        body = below._blobs[hash_]
        for at in range(len(body)):
            below._blobs[hash_] = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
            with pytest.raises(CheckpointDecodeError, match=f"blob {hash_.hex()}"):
                await log.blobs([hash_])
        below._blobs[hash_] = body


async def test_cells_and_notes_do_not_change_places() -> None:
    """A sealed cell under another key, of the same commit or not, is not taken for that key's value."""
    below = MemoryLog()
    log = SealedLog(below, Scrambler())
    one = replace(child(ROOT, "one"), delta={"owner": INLINE + b"\x00\x00ann", "guest": INLINE + b"\x00\x00bob"})
    await log.commit([ROOT, one], None)
    stored = below._commits[one.id]
    swapped = {"owner": stored.delta["guest"], "guest": stored.delta["owner"]}
    below._commits[one.id] = replace(stored, delta=swapped)
    with pytest.raises(CheckpointDecodeError, match="cannot be unsealed"):
        await log.chain(one.id)


async def test_checkpoints_move_between_keys() -> None:
    """A history that is saved from a sealed storage into one with another key, and into an open one, is the same."""
    source = InMemoryCheckpointStorage(wrapper=Scrambler(b"old"))
    workflow = diary(source)
    for page in ("one", LONG):
        await workflow.run(page)
    listed = await source.list_checkpoints(workflow_name=NAME)
    below = MemoryLog()
    for target in (CheckpointStorage(below, wrapper=Scrambler(b"new")), InMemoryCheckpointStorage()):
        diary(target)
        for checkpoint in listed:
            await target.save(checkpoint)
        assert [content(c) for c in await target.list_checkpoints(workflow_name=NAME)] == [content(c) for c in listed]
    assert b"dear diary" not in everything_in(below)
