"""Which background turns of a session are in flight: what its next process must look after."""

from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from agent_host.errors import StoreError
from agent_host.foundry.storage import ProjectStorage
from agent_host.stores.foundry.place import hash_of


@dataclass(frozen=True, slots=True)
class IndexedTurn:
    """A turn that was in flight, and the key of the family that it is in."""

    user: str
    response_id: str
    family: str


class TurnIndex:
    """The turns of the platform's session, of which only one process runs at a time; without a session there is none.

    It may name turns that have ended, and may lack one whose process has died in the moment of its beginning.
    """

    def __init__(self, storage: ProjectStorage, session: Callable[[], str]) -> None:
        self._storage = storage
        self._session = session

    async def add(self, turn: IndexedTurn) -> None:
        """Note a turn."""
        if self._session():
            value = {"user": turn.user, "response_id": turn.response_id, "family": turn.family}
            await self._storage.put(self._key(turn.user, turn.response_id), value, self._tags())

    async def remove(self, user: str, response_id: str) -> None:
        """Forget a turn."""
        if self._session():
            with suppress(StoreError):  # the next process finds that there is no such turn
                await self._storage.delete(self._key(user, response_id))

    async def left_behind(self) -> AsyncIterator[IndexedTurn]:
        """The turns that were noted."""
        for key in await self._storage.keys(self._tags()) if self._session() else ():
            item = await self._storage.read(key)
            if item is not None:
                yield IndexedTurn(item.value["user"], item.value["response_id"], item.value["family"])

    def _key(self, user: str, response_id: str) -> str:
        return f"t/{hash_of(self._session())}/{hash_of(user, response_id)}"

    def _tags(self) -> dict[str, str]:
        return {"kind": "turn", "session": hash_of(self._session())}
