"""The stored form of a workflow's state: commits and blobs.

A lane at a boundary is a map from cell key to *reference*. A reference is `b"\\x00"` and a body (small values
stand in the map itself) or `b"\\x01"` and the 16-byte hash of a blob whose bytes are the body. A body is a
two-byte count, that many 16-byte hashes of further blobs it needs, and a payload that only the codec reads.

A commit names its parent and the cells that differ from it; every `MANIFEST_EVERY`th one holds all of them
(`complete`), so that a state is read from at most that many commits and by hash, never by replay.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

HASH_SIZE = 16
MANIFEST_EVERY = 32
INLINE, BLOB = b"\x00", b"\x01"

CommitKind = Literal["root", "input", "response", "step", "manual"]


def blob_hash(body: bytes) -> bytes:
    """The address of a blob: 16 bytes of BLAKE2b over its body."""
    return blake2b(body, digest_size=HASH_SIZE).digest()


def body_references(body: bytes) -> tuple[bytes, ...]:
    """Hashes of the blobs a body needs, in the order in which its payload names them."""
    count = int.from_bytes(body[:2], "big")
    return tuple(body[2 + i * HASH_SIZE : 2 + (i + 1) * HASH_SIZE] for i in range(count))


def cell_references(reference: bytes) -> tuple[bytes, ...]:
    """Hashes of the blobs that a cell's reference names directly."""
    return (reference[1:],) if reference[:1] == BLOB else body_references(reference[1:])


@dataclass(frozen=True, slots=True)
class Commit:
    """One immutable boundary of a lane.

    `delta` holds the changed cells (None: removed), or all cells if `complete`. `distance` is the number of
    commits back to the nearest complete one, 0 for a complete one. `blobs` holds bodies by hash that the
    parent may not have; a store keeps those it does not hold yet. `created_at` is in seconds since the epoch.
    """

    id: str
    parent: str | None
    workflow: str
    session_id: str
    kind: CommitKind
    seq: int
    step: int
    created_at: float
    signature: str
    delta: Mapping[str, bytes | None]
    complete: bool
    distance: int
    blobs: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)


def cells_of(chain: Iterable[Commit]) -> dict[str, bytes]:
    """The whole cell map of the newest commit of `chain`, which runs from it back to a complete one."""
    cells: dict[str, bytes] = {}
    for commit in reversed(list(chain)):
        if commit.complete:
            cells.clear()
        for key, reference in commit.delta.items():
            if reference is None:
                cells.pop(key, None)
            else:
                cells[key] = reference
    return cells
