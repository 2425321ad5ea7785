"""Events as the bytes of a server-sent event stream, and back.

- A frame is `event: <type>`, one `data:` line of JSON, and an empty line; lines end in a line feed only.
- No `id:` (a client that has seen one takes the next comment for an empty event), no `retry:`, no end marker.
- Some readers split lines at Unicode's line separators too, so these are escaped inside the JSON.
- The decoder accepts bytes cut anywhere, and skips what it need not know: comments, other fields, `[DONE]`.
"""

from typing import Any

import msgspec

KEEP_ALIVE = b": keep-alive\n\n"
CONTENT_TYPE = "text/event-stream; charset=utf-8"

_encoder = msgspec.json.Encoder()
_SEPARATORS = ((b"\xc2\x85", rb"\u0085"), (b"\xe2\x80\xa8", rb"\u2028"), (b"\xe2\x80\xa9", rb"\u2029"))


def encode(event: dict[str, Any]) -> bytes:
    """One event as one frame."""
    return frame(_encoder.encode(event))


def frame(data: bytes) -> bytes:
    """One event as one frame, given as the JSON that events of a log are: without white space, its `type` first."""
    start = data.index(b'"', data.index(b":")) + 1
    type = data[start : data.index(b'"', start)]
    if not data.isascii():
        for raw, escaped in _SEPARATORS:
            data = data.replace(raw, escaped)
    return b"event: %b\ndata: %b\n\n" % (type, data)


class Decoder:
    """Collects bytes as they arrive and gives the events that are complete."""

    __slots__ = ("_buffer", "_data")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> list[dict[str, Any]]:
        """The events that `chunk` completes; raises `msgspec.DecodeError` if one is not JSON."""
        start = len(self._buffer)
        self._buffer += chunk
        end = self._buffer.rfind(b"\n", start)
        if end < 0:
            return []
        lines = bytes(self._buffer[:end]).split(b"\n")
        del self._buffer[: end + 1]
        events = []
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
        return events

    def _line(self, line: bytes) -> dict[str, Any] | None:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            return None
        data, self._data = b"\n".join(self._data), []
        if not data or data == b"[DONE]":
            return None
        event: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        return event
