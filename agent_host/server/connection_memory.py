"""What one connection remembers of responses that are not stored, so that they can be continued over it.

A response that is remembered is continued as a stored one. When a turn that continues it is stored, the commits that
lead from the store to it are stored too.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, replace

from agent_host.engine.checkpoint import Commit
from agent_host.engine.view import ReadBlobs, View
from agent_host.stores.records import OpenCall
from agent_host.wire.input import InputItem
from agent_host.wire.request import CreateRequest

KEPT_BYTES = 64 * 1024 * 1024
"""The most that one connection remembers; what several responses share counts for each of them."""
_OVERHEAD = 4096  # bytes that the smallest response costs


@dataclass(frozen=True, slots=True)
class Unstored:
    """What a turn has left that was not stored: the state it reached, how to get there, and what it asks.

    `commits` lead from a stored commit, or the root, to the view; `calls` are the questions that are open there.
    `items` are input that waits for the turn that continues this one; `heard` are the ids of the items that were heard
    and said since that stored commit.
    """

    view: View
    commits: tuple[Commit, ...] = ()
    calls: tuple[OpenCall, ...] = ()
    items: tuple[InputItem, ...] = ()
    heard: tuple[str, ...] = ()
    size: int = 0

    @property
    def stored(self) -> str:
        """The stored commit, or the root, that it has come from."""
        return (self.commits[0].parent or "") if self.commits else self.view.commit_id

    def followed_by(
        self, view: View, commits: tuple[Commit, ...], calls: tuple[OpenCall, ...], heard: tuple[str, ...]
    ) -> "Unstored":
        """What a turn leaves that has continued this one, with the commits that it has made and what it has heard."""
        size = self.size + _size_of(commits) + sum(map(len, heard))
        return Unstored(view, (*self.commits, *commits), calls, heard=(*self.heard, *heard), size=size)

    def blob_reader(self, read: ReadBlobs) -> ReadBlobs:
        """Blob reads that find what is not stored in the commits, and ask `read` for the rest."""

        async def read_blobs(hashes: Collection[bytes]) -> dict[bytes, bytes]:
            found = {blob: commit.blobs[blob] for commit in self.commits for blob in hashes if blob in commit.blobs}
            missing = [blob for blob in hashes if blob not in found]
            return {**found, **await read(missing)} if missing else found

        return read_blobs


def _size_of(commits: Collection[Commit]) -> int:
    """About how many bytes these commits hold."""
    cells = sum(len(key) + len(value or b"") for commit in commits for key, value in commit.delta.items())
    return cells + sum(len(body) for commit in commits for body in commit.blobs.values())


class ConnectionMemory:
    """The unstored responses of a connection, those used last when there are too many. `limit` is in bytes."""

    def __init__(self, limit: int = KEPT_BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[str, tuple[str | None, Unstored]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<ConnectionMemory of {len(self)} responses, {self._size} bytes>"

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, response_id: str) -> Unstored | None:
        """What is remembered of a response."""
        if response_id not in self._kept:
            return None
        self._kept.move_to_end(response_id)
        return self._kept[response_id][1]

    def keep(self, response_id: str, lane: str | None, unstored: Unstored) -> None:
        """Remember a response that was made on a lane, if it is not too large by itself."""
        if unstored.size + _OVERHEAD > self._limit:
            return
        self._kept[response_id] = (lane, unstored)
        self._size += unstored.size + _OVERHEAD
        while self._size > self._limit:
            self._forget(next(iter(self._kept)))

    def evict(self, response_id: str, lane: str | None) -> None:
        """Forget a response, if it was made on this lane: for others it is a fork that has failed."""
        if response_id in self._kept and self._kept[response_id][0] == lane:
            self._forget(response_id)

    def _forget(self, response_id: str) -> None:
        _, unstored = self._kept.pop(response_id)
        self._size -= unstored.size + _OVERHEAD


@dataclass(frozen=True, slots=True)
class LaneMemory:
    """The memory of a connection as the turns of one lane see it: they find what all have left."""

    of_connection: ConnectionMemory
    lane: str | None = None

    def find(self, response_id: str | None) -> Unstored | None:
        """What is remembered of a response."""
        return self.of_connection.find(response_id) if response_id is not None else None

    def keep(self, response_id: str, unstored: Unstored) -> None:
        """Remember a response of this lane."""
        self.of_connection.keep(response_id, self.lane, unstored)

    def evict(self, response_id: str) -> None:
        """Forget a response of this lane."""
        self.of_connection.evict(response_id, self.lane)

    def with_waiting(self, request: CreateRequest) -> CreateRequest:
        """The request, behind the input that has waited for it."""
        before = self.find(request.previous_response_id)
        return replace(request, items=(*before.items, *request.items)) if before is not None else request
