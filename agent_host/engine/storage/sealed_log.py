"""A commit log whose values are sealed - encrypted, signed, compressed - before they reach the log below.

A sealed body keeps the table of blobs it needs in the clear, so that the log below can still collect, and stands under
the hash of what it seals. What stays readable: names of workflows and sessions, ids, times, the keys of cells, sizes,
which blobs belong together, and whether two values are equal - who can guess the whole of a value can tell that it is
there.

Rule 1: whatever `unseal` lets pass is checked too. A cell is sealed with a digest over its key and itself, a blob has
        its hash, so that nothing can be changed or put in another place, even if `seal` does not sign.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Protocol

from agent_host.engine.checkpoint import HASH_SIZE, INLINE, Commit, blob_hash
from agent_host.engine.ports import CommitLog
from agent_host.errors import CheckpointDecodeError

_DIGEST = 8


class Wrapper(Protocol):
    """Seals bytes on their way into a store. Both may be called from any thread."""

    def seal(self, data: bytes) -> bytes:
        """What is stored for these bytes."""
        ...

    def unseal(self, data: bytes) -> bytes:
        """The bytes of which this is stored; raises anything if it was not sealed with this key, or was changed."""
        ...


class SealedLog:
    """A commit log over another one, which sees no value in the clear."""

    def __init__(self, log: CommitLog, wrapper: Wrapper) -> None:
        self._log = log
        self._wrapper = wrapper

    def __repr__(self) -> str:
        return f"<SealedLog over {self._log!r}>"

    async def head(self, workflow: str, session_id: str) -> str | None:
        return await self._log.head(workflow, session_id)

    async def chain(self, commit_id: str) -> list[Commit]:
        return [self._opened(commit) for commit in await self._log.chain(commit_id)]

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        found = await self._log.blobs(hashes)
        return {hash_: self._opened_blob(hash_, body) for hash_, body in found.items()}

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        await self._log.commit([self._sealed(commit) for commit in commits], expected_head)

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        await self._log.move_head(workflow, session_id, to, expected_head)

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        return [self._opened(commit) for commit in await self._log.commits(workflow, session_id)]

    async def delete(self, commit_id: str) -> bool:
        return await self._log.delete(commit_id)

    async def collect(self) -> int:
        return await self._log.collect()

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        sealed = {key: self._wrapper.seal(_signed(key, body)) for key, body in entries.items()}
        await self._log.record(workflow, session_id, head, sealed)

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        found = await self._log.recorded(workflow, session_id, head)
        return {key: self._unsealed(key, body, f"The note {key!r}") for key, body in found.items()}

    # --- One value ---

    def _sealed(self, commit: Commit) -> Commit:
        delta = {key: reference and self._sealed_cell(key, reference) for key, reference in commit.delta.items()}
        blobs = {hash_: _split(body)[0] + self._wrapper.seal(_split(body)[1]) for hash_, body in commit.blobs.items()}
        return replace(commit, delta=delta, blobs=blobs)

    def _sealed_cell(self, key: str, reference: bytes) -> bytes:
        if reference[:1] != INLINE:
            return reference
        table, _ = _split(reference[1:])
        return INLINE + table + self._wrapper.seal(_signed(key, reference[1:]))

    def _opened(self, commit: Commit) -> Commit:
        delta = {
            key: reference and self._opened_cell(commit.id, key, reference) for key, reference in commit.delta.items()
        }
        return replace(commit, delta=delta)

    def _opened_cell(self, commit_id: str, key: str, reference: bytes) -> bytes:
        if reference[:1] != INLINE:
            return reference
        table, sealed = _split(reference[1:])
        body = self._unsealed(key, sealed, f"The cell {key!r} of commit {commit_id}")
        if _split(body)[0] != table:
            raise _changed(f"The cell {key!r} of commit {commit_id}")
        return INLINE + body

    def _opened_blob(self, hash_: bytes, stored: bytes) -> bytes:
        table, sealed = _split(stored)
        what = f"The blob {hash_.hex()}"
        body = table + _call(self._wrapper.unseal, sealed, what)
        if blob_hash(body) != hash_:
            raise _changed(what)
        return body

    def _unsealed(self, key: str, sealed: bytes, what: str) -> bytes:
        signed = _call(self._wrapper.unseal, sealed, what)
        body = signed[_DIGEST:]
        if signed != _signed(key, body):
            raise _changed(what)
        return body


def _call(unseal: Callable[[bytes], bytes], sealed: bytes, what: str) -> bytes:
    try:
        return unseal(sealed)
    except Exception as error:  # it is the user's function, and whatever it raises means the same
        raise _changed(what) from error


def _changed(what: str) -> CheckpointDecodeError:
    return CheckpointDecodeError(
        f"{what} cannot be unsealed: it was sealed with another key, or changed since. Give the storage the wrapper "
        "it was written with, or restore it from a backup."
    )


def _signed(key: str, body: bytes) -> bytes:
    name = key.encode("utf-8", "surrogatepass")
    return blake2b(len(name).to_bytes(4, "big") + name + body, digest_size=_DIGEST).digest() + body


def _split(body: bytes) -> tuple[bytes, bytes]:
    """A body's table of blobs and its payload."""
    end = 2 + HASH_SIZE * int.from_bytes(body[:2], "big")
    return body[:end], body[end:]
