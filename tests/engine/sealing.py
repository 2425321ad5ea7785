"""A wrapper for the tests of sealed logs: no cipher, but it hides, differs each time and has a key."""

import itertools
from hashlib import blake2b

_nonces = itertools.count()


class Scrambler:
    """Turns bytes into others that differ at each call, and back; another key gives other bytes and no error."""

    def __init__(self, key: bytes = b"key") -> None:
        self._key = key

    def seal(self, data: bytes) -> bytes:
        nonce = next(_nonces).to_bytes(8, "big")
        return nonce + self._mixed(nonce, data)

    def unseal(self, data: bytes) -> bytes:
        return self._mixed(data[:8], data[8:])

    def _mixed(self, nonce: bytes, data: bytes) -> bytes:
        blocks = (
            blake2b(number.to_bytes(8, "big") + nonce, key=self._key).digest() for number in range(len(data) // 64 + 1)
        )
        return bytes(a ^ b for a, b in zip(data, b"".join(blocks), strict=False))


class Refusing(Scrambler):
    """Raises what the libraries of this world raise."""

    def unseal(self, data: bytes) -> bytes:
        raise ZeroDivisionError("not mine")
