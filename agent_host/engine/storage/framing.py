"""Frames: how a file that is only appended to tells a write that was cut off from one that was damaged.

A frame is a marker, the payload's length, the payload's checksum, a checksum of these three, and the payload. What
was cut off by a crash is always at the end; anything else that is not a frame is damage.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

_HEADER = struct.Struct(">4sIII")
_MARKER = b"\xf0AH\x1e"


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: where its payload and the frame after it begin in the file, and the payload."""

    start: int
    end: int
    payload: memoryview


class DamagedFrameError(Exception):
    """Bytes that are no frame stand before one; `offset` is where they begin."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"damaged at byte {offset}")
        self.offset = offset


def framed(payload: bytes) -> bytes:
    """The frame of a payload of at most 4 GiB."""
    head = _MARKER + struct.pack(">II", len(payload), zlib.crc32(payload))
    return head + struct.pack(">I", zlib.crc32(head)) + payload


def read_frames(data: bytes, offset: int) -> Iterator[Frame]:
    """The whole frames of what stands in a file from `offset` on; a frame that was cut off at the end is left out.

    Raises `DamagedFrameError` where it meets something else.
    """
    view, at = memoryview(data), 0
    while True:
        length = _payload_length(view, at)
        if length is None:
            if _finds_frame(data, at + 1):
                raise DamagedFrameError(offset + at)
            return
        start = at + _HEADER.size
        payload = view[start : start + length]
        if len(payload) < length:
            return
        if not _is_whole(view, at, payload):
            if start + length < len(data):
                raise DamagedFrameError(offset + at)
            return
        at = start + length
        yield Frame(offset + start, offset + at, payload)


def _payload_length(data: memoryview, at: int) -> int | None:
    """The length that the header at this place names; None if there is no whole header."""
    if at + _HEADER.size > len(data):
        return None
    marker, length, _, checksum = _HEADER.unpack_from(data, at)
    if marker != _MARKER or zlib.crc32(data[at : at + _HEADER.size - 4]) != checksum:
        return None
    return int(length)


def _is_whole(data: memoryview, at: int, payload: memoryview) -> bool:
    length, checksum = struct.unpack_from(">II", data, at + len(_MARKER))
    return bool(len(payload) == length and zlib.crc32(payload) == checksum)


def _finds_frame(data: bytes, at: int) -> bool:
    view = memoryview(data)
    while (at := data.find(_MARKER, at)) >= 0:
        length = _payload_length(view, at)
        start = at + _HEADER.size
        if length is not None and _is_whole(view, at, view[start : start + length]):
            return True
        at += 1
    return False
