"""Which blobs the stored commits need, directly or through other blobs."""

from collections.abc import Iterable, Mapping, Sequence

from agent_host.engine.checkpoint import cell_references


def needed_blobs(
    deltas: Iterable[Mapping[str, bytes | None]], references: Mapping[bytes, Sequence[bytes]]
) -> set[bytes]:
    """The hashes that these deltas reach; `references` holds, by hash, the hashes that a blob's body names.

    Every ancestor that a commit is read through must be among the deltas, or the cells it still has from there are
    missed.
    """
    waiting = {
        blob for delta in deltas for reference in delta.values() if reference for blob in cell_references(reference)
    }
    needed: set[bytes] = set()
    while waiting:
        needed |= waiting
        waiting = {child for blob in waiting for child in references.get(blob, ())} - needed
    return needed
