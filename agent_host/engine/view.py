"""A stored state as a run finds it: the cells of one commit, and the blobs below them."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent_host.engine.checkpoint import BLOB, Commit, blob_hash, body_references, cell_references, cells_of
from agent_host.engine.serialization.codec import Codec
from agent_host.errors import CheckpointDecodeError, CheckpointNotFoundError

ReadBlobs = Callable[[Collection[bytes]], Awaitable[dict[bytes, bytes]]]
ReadChain = Callable[[str], Awaitable[list[Commit]]]


@dataclass(frozen=True, slots=True)
class View:
    """The state at one commit: its place in the chain and all cells. `created_at`: seconds since the epoch."""

    commit_id: str
    seq: int
    step: int
    distance: int
    cells: Mapping[str, bytes]
    signature: str
    created_at: float = 0.0

    @classmethod
    def of(cls, commit: Commit, cell_map: Mapping[str, bytes]) -> "View":
        return cls(
            commit.id, commit.seq, commit.step, commit.distance, cell_map, commit.signature, commit.created_at
        )  # fmt: skip


async def read_whole(read_chain: ReadChain, commit_id: str) -> list[Commit]:
    """A commit and those it is read through, newest first. Raises `CheckpointNotFoundError`."""
    chain = await read_chain(commit_id)
    if not chain or chain[0].id != commit_id:
        raise CheckpointNotFoundError(f"There is no checkpoint {commit_id!r}.")
    if not chain[-1].complete:
        raise CheckpointDecodeError(f"The checkpoint {commit_id!r} depends on {chain[-1].parent!r}, which is missing.")
    return chain


async def read_view(read_chain: ReadChain, commit_id: str) -> tuple[Commit, View]:
    """Read a commit and the state it stands for. Raises `CheckpointNotFoundError`."""
    chain = await read_whole(read_chain, commit_id)
    return chain[0], View.of(chain[0], cells_of(chain))


async def gather(references: Collection[bytes], codec: Codec, read_blobs: ReadBlobs) -> dict[bytes, Any]:
    """Everything that decoding these cells needs, from the process's cache or read in as few batches as possible."""
    shared = codec.shared
    # The body of a cell is needed as bytes, even if a chunk of some list has the same bytes and is decoded.
    whole = {reference[1:] for reference in references if reference[:1] == BLOB}

    def at_hand(blob: bytes) -> Any:
        return (None if blob in whole else shared.stretch(blob, codec.types)) or shared.body(blob)

    return await collect(references, at_hand, shared.add_body, read_blobs)


async def collect(
    references: Collection[bytes],
    at_hand: Callable[[bytes], Any],
    keep: Callable[[bytes, bytes], None],
    read_blobs: ReadBlobs,
) -> dict[bytes, Any]:
    """Every blob that these cells need, directly or through other blobs, read in as few batches as possible.

    `at_hand` gives what need not be read: a body, or what was decoded from one with all that it needs. `keep` gets
    each body that was read. Raises `CheckpointDecodeError` for a blob that is missing or damaged.
    """
    found: dict[bytes, Any] = {}
    wanted = {blob for reference in references for blob in cell_references(reference)}
    while wanted:
        missing = set()
        below: set[bytes] = set()
        for blob in wanted:
            held = at_hand(blob)
            if held is None:
                missing.add(blob)
            else:
                found[blob] = held
                if isinstance(held, bytes):
                    below.update(body_references(held))
        if missing:
            for blob, body in (await read_blobs(missing)).items():
                if blob_hash(body) != blob:
                    raise CheckpointDecodeError(
                        f"The blob {blob.hex()} is damaged: its content does not match its hash."
                    )
                found[blob] = body
                keep(blob, body)
                below.update(body_references(body))
                missing.discard(blob)
            if missing:
                raise CheckpointDecodeError(f"The store lacks the blob {min(missing).hex()}, which a checkpoint needs.")
        wanted = below - found.keys()
    return found
