"""Identifiers: a prefix, a partition key and an entropy part, as hosted agent platforms expect them.

The body of an id has 50 characters: an 18-character partition key (16 hexadecimal digits and `00`) and
32 letters or digits. A response takes the key of the response or conversation it continues, and its items
take the key of the response, so one key finds a whole chain.

Both parts begin with the time. Ids made one after the other are then neighbours in an index, which keeps
an insert from touching a random page.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KEY = re.compile(r"[A-Za-z]+_([0-9a-f]{16}00)[0-9A-Za-z]{32}")
_WELL_FORMED = re.compile(r"[A-Za-z0-9_-]{1,128}")


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


@dataclass(frozen=True, slots=True)
class IdSource:
    """Mints ids. Tests give it a clock and bytes of their own and get the same ids every time."""

    clock: Callable[[], float] = time.time
    entropy: Callable[[int], bytes] = secrets.token_bytes

    def partition_key(self) -> str:
        """A new key: 11 hexadecimal digits of milliseconds, 5 random ones, and `00`."""
        return f"{int(self.clock() * 1000) & 0xFFFFFFFFFFF:011x}{self.entropy(3).hex()[:5]}00"

    def new(self, prefix: str, key: str | None = None) -> str:
        """An id of the form `<prefix>_<key><entropy>`; without `key` it begins a partition of its own."""
        moment = _base62(int(self.clock() * 1_000_000), 9)
        noise = _base62(int.from_bytes(self.entropy(18), "big"), 23)
        return f"{prefix}_{key or self.partition_key()}{moment}{noise}"


def key_of(identifier: str | None) -> str | None:
    """The partition key inside an id of ours; None if it has none (ids minted elsewhere are accepted too)."""
    match = _KEY.fullmatch(identifier) if identifier else None
    return match.group(1) if match else None


def is_well_formed(identifier: str) -> bool:
    """Whether an id is made of letters, digits, underscores and dashes, at most 128 of them."""
    return _WELL_FORMED.fullmatch(identifier) is not None
