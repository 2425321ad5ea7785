"""What a connection remembers, and what it forgets."""

import pytest

from agent_host.engine.checkpoint import Commit, blob_hash
from agent_host.engine.view import View
from agent_host.server.connection_memory import ConnectionMemory, LaneMemory, Unstored


def commit(name: str, *bodies: bytes) -> Commit:
    return Commit(
        name, None, "w", "s", "step", 1, 1, 0.0, "", {}, True, 0, {blob_hash(body): body for body in bodies}
    )  # fmt: skip


def unstored(name: str, *bodies: bytes) -> Unstored:
    view = View.of(commit("root"), {})
    return Unstored(view).followed_by(view, (commit(name, *bodies),), (), ())


def test_lanes_share_what_is_remembered_and_forget_their_own() -> None:
    """A lane finds what another has left, and cannot make it go."""
    shared = ConnectionMemory()
    one, two = LaneMemory(shared), LaneMemory(shared, "two")
    one.keep("resp_1", unstored("a"))
    two.evict("resp_1")
    assert two.find("resp_1") is not None
    one.evict("resp_1")
    assert two.find("resp_1") is None
    one.evict("resp_1")


def test_a_memory_has_a_size() -> None:
    """When it is full, what was used longest ago goes first; what is too large by itself is not kept."""
    memory = ConnectionMemory(limit=40_000)
    for name in ("resp_1", "resp_2"):
        memory.keep(name, None, unstored(name, b"x" * 10_000))
    assert memory.find("resp_1") is not None
    memory.keep("resp_3", None, unstored("c", b"x" * 10_000))
    assert [memory.find(name) is not None for name in ("resp_1", "resp_2", "resp_3")] == [True, False, True]
    memory.keep("resp_4", None, unstored("d", b"x" * 40_000))
    assert [memory.find(name) is not None for name in ("resp_1", "resp_3", "resp_4")] == [True, True, False]
    memory.keep("resp_5", None, unstored("e", b"x" * 30_000))
    assert len(memory) == 1


def test_a_chain_counts_as_a_whole() -> None:
    """What a response stands on is kept alive by it."""
    view = View.of(commit("root"), {})
    long = unstored("a", b"x" * 1000).followed_by(view, (commit("b", b"y" * 500),), (), ())
    assert [each.id for each in long.commits] == ["a", "b"]
    assert long.size == 1500


async def test_blobs_are_found_in_the_commits_and_behind_them() -> None:
    """The store is asked only for what no commit holds."""
    asked: list[set[bytes]] = []

    async def read(hashes: object) -> dict[bytes, bytes]:
        assert isinstance(hashes, list)
        asked.append(set(hashes))
        return {blob_hash(b"stored"): b"stored"}

    read_blobs = unstored("a", b"here").blob_reader(read)
    assert await read_blobs([blob_hash(b"here")]) == {blob_hash(b"here"): b"here"}
    assert asked == []
    both = await read_blobs([blob_hash(b"here"), blob_hash(b"stored")])
    assert set(both.values()) == {b"here", b"stored"}
    assert asked == [{blob_hash(b"stored")}]


@pytest.mark.parametrize("name", [None, "resp_1"])
def test_what_was_never_kept(name: str | None) -> None:
    """A request that continues nothing finds nothing."""
    assert LaneMemory(ConnectionMemory()).find(name) is None
