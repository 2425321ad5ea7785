"""Values to bytes and back, for the types that a graph declares and no others."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_host.engine.checkpoint import BLOB, INLINE, blob_hash
from agent_host.engine.serialization.annotation_names import FORMS
from agent_host.engine.serialization.decoding import Bodies
from agent_host.engine.serialization.encoding import ENCODERS, PLAIN, Body, Unsupported, pack
from agent_host.engine.serialization.shared_values import Stretch
from agent_host.engine.serialization.stored_types import AllowList
from agent_host.errors import UnsupportedValueError

INLINE_LIMIT = 256  # bytes up to which a cell stands in the commit itself


@dataclass(frozen=True, slots=True)
class Encoded:
    """A cell's reference and the blobs it needs that were not known to be stored."""

    reference: bytes
    blobs: Mapping[bytes, bytes] = field(default_factory=dict)


class Codec(AllowList):
    """Encodes and decodes the values of one allow-list."""

    def union(self, other: "Codec") -> "Codec":
        """A codec that allows what either allows."""
        merged = (other if other.pickled_types else self)._fresh(self.pickled_types | other.pickled_types)
        for stored in (*self._by_tag.values(), *other._by_tag.values()):
            merged._allow(stored)
        for table in (self._annotations, other._annotations):
            merged._annotations.update(table)
        return merged

    def _fresh(self, pickled_types: frozenset[type]) -> "Codec":
        return Codec(shared=self.shared)

    def covers(self, other: "Codec") -> bool:
        """Whether this codec allows all that the other allows."""
        return (
            other.types <= self.types
            and other.pickled_types <= self.pickled_types
            and other._annotations._by_name.keys() <= self._annotations._by_name.keys()
        )

    def allows(self, cls: type) -> bool:
        """Whether values of exactly this class can be stored (what they contain is another question)."""
        listed = cls in PLAIN or cls is int or cls in ENCODERS or cls in self._by_class
        return listed or cls in self.pickled_types or issubclass(cls, FORMS)

    def encode(self, value: Any, *, known: Collection[bytes] = (), split: bool = True) -> Encoded:
        """Encode one cell. Blobs whose hashes are in `known` are stored already and left out.

        `split=False` keeps everything in one body, for state that never leaves the process. Raises
        `UnsupportedValueError` naming the place inside the value and its type.
        """
        body = Body(self, known, split)
        try:
            data = body.finish(pack(body.tree(value)))
        except Unsupported as error:
            place = "".join(reversed(error.path[-8:])) or "the value itself"
            raise UnsupportedValueError(f"{error.reason} (at {place})") from None
        except (OverflowError, UnicodeEncodeError) as error:
            raise UnsupportedValueError(f"{error}") from None
        if not split or len(data) <= INLINE_LIMIT:
            return Encoded(INLINE + data, body.blobs)
        blob = blob_hash(data)
        self.shared.add_body(blob, data)
        if blob not in known:
            body.blobs[blob] = data
        return Encoded(BLOB + blob, body.blobs)

    def decode(self, reference: bytes, bodies: Mapping[bytes, bytes | Stretch] | None = None) -> Any:
        """A fresh value from a cell's reference; immutable parts may be shared with other lanes.

        `bodies` holds the blobs and stretches that a loader gathered; what is missing is looked up in the process's
        cache.
        """
        source = Bodies(self, bodies or {})
        data = source.body(reference[1:]) if reference[:1] == BLOB else reference[1:]
        return source.value(data)
