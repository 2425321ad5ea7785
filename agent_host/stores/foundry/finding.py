"""In which family something is: that of the key in its id, unless this points elsewhere."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from agent_host.ids import key_of
from agent_host.stores import rows
from agent_host.stores.foundry.family import FRESH
from agent_host.stores.foundry.own_turns import OwnTurns
from agent_host.stores.foundry.place import Place, Places
from agent_host.stores.sql_store import SqlStore

T = TypeVar("T")


class Finding:
    """Looks into the families where something may be, those first that are open."""

    def __init__(self, places: Places, turns: OwnTurns) -> None:
        self._places = places
        self._turns = turns
        self._pointing: dict[tuple[str, str], asyncio.Task[None]] = {}

    async def find(self, user: str, id: str, look: Callable[[SqlStore], Awaitable[T]]) -> T:
        """What is found in the family of an id, or in one that this points to; the last empty answer if nothing is."""
        place = self._places.of(user, id)
        began = time.monotonic()
        await place.family.sync(FRESH)
        found = await look(place.sql)
        if not found and place.family.synced_at < began:
            await place.family.sync()
            found = await look(place.sql)
        for key in () if found else place.family.elsewhere:
            other = self._places.at(user, key)
            await other.family.sync(FRESH)
            found = found or await look(other.sql)
        return found

    async def find_state(self, user: str, commit_id: str, look: Callable[[SqlStore], Awaitable[T]]) -> T:
        """What is found where a commit is. What hangs on a commit does not change, so an open family is not asked."""
        own = rows.partition(user)
        for place in (*self._places.open_of(user), *self._places.open_of()):
            if await place.family.peek(partial(rows.is_stored, own=own, commit_id=commit_id)):
                return await look(place.copy)
        return await self.find(user, commit_id, look)

    async def home(self, user: str, conversation: str | None, start_commit: str, id: str) -> Place:
        """The family of a turn: that of its conversation, or of what it continues, or else of its own id."""
        if conversation is not None:
            return self._places.of(user, conversation)
        is_own = partial(rows.is_own, own=rows.partition(user), commit_id=start_commit)
        for place in self._places.open_of(user):
            if await place.family.peek(is_own):
                return place
        # The process may remember a commit for longer than its family is open.
        if key_of(start_commit) is not None:
            async for place in self.about(user, start_commit):
                if await place.family.peek(is_own):
                    return place
        place = self._places.of(user, id)
        await place.family.begin()
        return place

    async def of_turn(self, user: str, response_id: str) -> Place:
        """The family in which a background turn is in flight; that of its id if there is none."""
        turn = self._turns.get(user, response_id)
        if turn is not None:
            return turn.place
        async for place in self.about(user, response_id):
            if await place.copy.is_in_flight(user, response_id):
                return place
        return self._places.of(user, response_id)

    def begin_to_point(self, user: str, id: str, place: Place) -> None:
        """Do what `point` does meanwhile; that waits for it then."""
        if self._places.of(user, id) is not place:
            task = asyncio.create_task(self._point(user, id, place))
            self._pointing[user, id] = task
            task.add_done_callback(lambda done: self._has_pointed(user, id, done))

    def _has_pointed(self, user: str, id: str, done: "asyncio.Task[None]") -> None:
        del self._pointing[user, id]
        if not done.cancelled():
            done.exception()  # `point` tries again, and raises it

    async def point(self, user: str, id: str, place: Place) -> None:
        """See that a record is found by its id, whose key may be that of another family."""
        begun = self._pointing.get((user, id))
        if begun is not None:
            await asyncio.wait([begun])
        await self._point(user, id, place)

    async def _point(self, user: str, id: str, place: Place) -> None:
        by_key = self._places.of(user, id)
        if by_key is not place and place.key not in by_key.family.elsewhere:
            await by_key.family.begin()
            await by_key.family.point_to(place.key)

    async def about(self, user: str, id: str) -> AsyncIterator[Place]:
        """The families in which something with this id may be."""
        first = self._places.of(user, id)
        await first.family.sync(FRESH)
        yield first
        for key in first.family.elsewhere:
            other = self._places.at(user, key)
            await other.family.sync(FRESH)
            yield other
