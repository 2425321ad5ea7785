"""Where a user's records are: families that are open in this process, and how one is found."""

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from agent_host.engine.checkpoint import Commit
from agent_host.errors import TurnConflictError
from agent_host.foundry.storage import ProjectStorage
from agent_host.ids import key_of
from agent_host.stores import rows, turn_rows
from agent_host.stores.base import SYSTEM
from agent_host.stores.database import Connection
from agent_host.stores.foundry.cache import SegmentCache
from agent_host.stores.foundry.family import Family, T
from agent_host.stores.sql_store import SqlStore

OTHERS = "others"
"""The family of the ids without a partition key."""
MOST_OPEN = 64
IDLE = 5.0
"""How many families are kept open, and seconds after which one more may go that nobody has used."""


class _AsItIs:
    """The copy of a family as a database that is read without asking the platform."""

    is_exclusive = False

    def __init__(self, family: Family) -> None:
        self._family = family
        self.open, self.aclose, self.write = family.open, family.aclose, family.write
        self.check_writable = family.check_writable

    async def read(self, fn: Callable[[Connection], T]) -> T:
        return await self._family.peek(fn)


@dataclass(slots=True, eq=False)
class Place:
    """A family of a user, the verbs on it, and the same without asking whether the copy is up to date.

    `number` counts the families that were opened before.
    """

    user: str
    key: str
    family: Family
    sql: SqlStore
    copy: SqlStore
    number: int
    used_at: float = 0.0
    turns: int = 0

    async def free(self, response_id: str) -> bool:
        """Take a background turn from its owner; False if there is no such turn."""
        own = rows.partition(self.user)
        return await self.family.write(partial(turn_rows.let_lease_lapse, own=own, response_id=response_id))


class Places:
    """The families that are open, the last used one last."""

    def __init__(self, storage: ProjectStorage, cache: SegmentCache, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._cache = cache
        self._clock = clock
        self._places: OrderedDict[tuple[str, str], Place] = OrderedDict()
        self._opened = 0
        self._roots: dict[str, Commit] = {}
        self._sharing: dict[str, asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def at(self, user: str, key: str) -> Place:
        """The family of a user under a partition key."""
        place = self._places.get((user, key))
        if place is None:
            name = f"{hash_of(user)}/{key}"
            family = Family(name, self._storage, self._cache, self._clock)
            for root in self._roots.values():
                family.defer_first(root.id, partial(_put_root, root=root))
            self._opened += 1
            place = Place(user, key, family, SqlStore(family), SqlStore(_AsItIs(family)), self._opened)
            self._make_room()
            self._places[user, key] = place
        place.used_at = time.monotonic()
        self._places.move_to_end((user, key))
        return place

    def of(self, user: str, id: str) -> Place:
        """The family of the partition key in an id."""
        return self.at(user, key_of(id) or OTHERS)

    async def share(self, root: Commit) -> None:
        """Give each family a root that is stored in one of them; theirs is stored with their next write.

        It is not done before all have it, whoever has asked first.
        """
        if root.id not in self._sharing:
            self._roots[root.id] = root
            self._sharing[root.id] = asyncio.create_task(self._give(root))
        await asyncio.shield(self._sharing[root.id])

    async def _give(self, root: Commit) -> None:
        for place in list(self._places.values()):
            await place.family.defer(root.id, partial(_put_root, root=root))

    def is_shared(self, commit_id: str) -> bool:
        """Whether this is the id of a root that all families have."""
        sharing = self._sharing.get(commit_id)
        return sharing is not None and sharing.done()

    def forget_root(self, commit_id: str) -> None:
        """Give families that are opened from now on no such root."""
        self._roots.pop(commit_id, None)
        self._sharing.pop(commit_id, None)

    def open_of(self, user: str | None = None) -> list[Place]:
        """The families that have a copy here, those of one user or all, the last used one first."""
        return [
            place
            for place in reversed(self._places.values())
            if place.family.has_copy and (user is None or place.user == user)
        ]

    async def aclose(self) -> None:
        """Close all of them."""
        places, self._places = list(self._places.values()), OrderedDict()
        await asyncio.gather(*(place.family.aclose() for place in places), *self._closing)

    def _make_room(self) -> None:
        idle_since = time.monotonic() - IDLE
        while len(self._places) >= MOST_OPEN:
            oldest = next(
                (
                    each
                    for each in self._places.values()
                    if each.used_at < idle_since and not each.turns and each.family.is_idle
                ),
                None,
            )
            if oldest is None:
                return
            del self._places[oldest.user, oldest.key]
            # Not closed: a verb that began before may come back to it, and finds it all the same.
            task = asyncio.create_task(oldest.family.rest())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def _put_root(connection: Connection, root: Commit) -> None:
    rows.insert_commits(connection, SYSTEM, [root], TurnConflictError)


def hash_of(*parts: str) -> str:
    """A name for texts that may be long or secret, of 32 digits."""
    told = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(told.encode()).hexdigest()[:32]
