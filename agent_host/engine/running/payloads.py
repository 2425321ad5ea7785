"""A message's content on its way from one executor to the next.

A stored payload is bytes; each receiver decodes its own. A live payload passes by reference to a single receiver;
several receivers get a decoded copy each if its type allows, so that none sees another's changes.
"""

from collections import ChainMap
from collections.abc import MutableMapping
from typing import Any

from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import UnsupportedValueError

UNSET: Any = object()


class StoredPayload:
    """Content inside the cell of a message that waits: the last item of the list that the cell holds.

    `value` is the content, if it is immutable: then nobody needs to decode it.
    """

    __slots__ = ("_bodies", "_codec", "_peeked", "encoded")

    def __init__(self, encoded: Encoded, codec: Codec, bodies: MutableMapping[bytes, Any], value: Any = UNSET) -> None:
        self.encoded = encoded
        self._codec = codec
        self._bodies = bodies
        self._peeked = value

    def _decode(self) -> Any:
        own = self.encoded.blobs
        return self._codec.decode(self.encoded.reference, ChainMap(dict(own), self._bodies) if own else self._bodies)[
            -1
        ]

    def peek(self) -> Any:
        """The content to look at; never handed to an executor unless it is immutable."""
        if self._peeked is UNSET:
            self._peeked = self._decode()
        return self._peeked

    def deliver(self, receivers: int) -> tuple[Any, bool]:
        """The content for one of `receivers`, and whether it is that receiver's own."""
        if self._peeked is not UNSET and self._codec.is_immutable(self._peeked):
            return self._peeked, True
        return self._decode(), True


class LivePayload:
    """Content that never leaves the process."""

    __slots__ = ("_codec", "_encoded", "_value")

    def __init__(self, value: Any, codec: Codec) -> None:
        self._value = value
        self._codec = codec
        self._encoded: Encoded | None = None

    def peek(self) -> Any:
        return self._value

    def deliver(self, receivers: int) -> tuple[Any, bool]:
        """The content for one of `receivers`; False if it could not be copied and is shared."""
        if receivers == 1 or self._codec.is_immutable(self._value):
            return self._value, True
        if self._encoded is None:
            try:
                self._encoded = self._codec.encode(self._value, split=False)
            except UnsupportedValueError:
                return self._value, False
        return self._codec.decode(self._encoded.reference), True


Payload = StoredPayload | LivePayload
