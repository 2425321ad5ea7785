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


async def read_view(read_chain: ReadChain, commit_id: str) -> tuple[Commit, View]:
    """Read a commit and the state it stands for. Raises `CheckpointNotFoundError`."""
    chain = await read_chain(commit_id)
    if not chain or chain[0].id != commit_id:
        raise CheckpointNotFoundError(f"There is no checkpoint {commit_id!r}.")
    if not chain[-1].complete:
        raise CheckpointDecodeError(f"The checkpoint {commit_id!r} depends on {chain[-1].parent!r}, which is missing.")
    return chain[0], View.of(chain[0], cells_of(chain))


async def gather(references: Collection[bytes], codec: Codec, read_blobs: ReadBlobs) -> dict[bytes, Any]:
    """Everything that decoding these cells needs, from the process's cache or read in as few batches as possible."""
    shared, found = codec.shared, {}
    whole = {reference[1:] for reference in references if reference[:1] == BLOB}
    wanted = {blob for reference in references for blob in cell_references(reference)}
    while wanted:
        missing = set()
        below: set[bytes] = set()
        for blob in wanted:
            # The body of a cell is needed as bytes, even if a chunk of some list has the same bytes and is decoded.
            at_hand = (None if blob in whole else shared.run(blob, codec.types)) or shared.body(blob)
            if at_hand is None:
                missing.add(blob)
            else:
                found[blob] = at_hand
                if isinstance(at_hand, bytes):
                    below.update(body_references(at_hand))
        if missing:
            for blob, body in (await read_blobs(missing)).items():
                if blob_hash(body) != blob:
                    raise CheckpointDecodeError(
                        f"The blob {blob.hex()} is damaged: its content does not match its hash."
                    )
                found[blob] = body
                shared.add_body(blob, body)
                below.update(body_references(body))
                missing.discard(blob)
            if missing:
                raise CheckpointDecodeError(f"The store lacks the blob {min(missing).hex()}, which a checkpoint needs.")
        wanted = below - found.keys()
    return found
