"""What states have heard and said, by the ids of the items: read once from the store, then carried on in memory."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from agent_host.stores.base import Store

KEPT_IDS = 200_000
"""The most ids that are kept in memory, some 20 MB; what was used longest ago goes first."""

Place = tuple[str, str]
"""A user and a commit."""


class HeardItems:
    """What the states at commits have heard: the id of each item, with that of the response whose turn has heard it.

    Of a line of turns the newest commit alone is kept, so a turn costs the same however long its line is. Nothing is
    kept of lines whose clients bring no ids.
    """

    def __init__(self, store: Store, limit: int = KEPT_IDS) -> None:
        self._store = store
        self._limit = limit
        self._size = 0
        self._kept: OrderedDict[Place, Mapping[str, str]] = OrderedDict()

    def __repr__(self) -> str:
        return f"<HeardItems at {len(self._kept)} commits, {self._size} ids>"

    async def at(self, user: str, commit_id: str) -> Mapping[str, str]:
        """What the state of a commit has heard."""
        found = self._kept.get((user, commit_id))
        if found is None:
            turns = await self._store.read_heard(user, commit_id)
            found = {id: turn.response_id for turn in reversed(turns) for id in turn.items}
            self._keep((user, commit_id), found)
        return found

    def carry_on(self, user: str, start: str, end: str, response_id: str, heard: Iterable[str]) -> None:
        """Note that a turn has gone from one commit to another and has heard these items."""
        found = self._kept.get((user, start))
        if found is not None and start != end:
            self._forget((user, start))
            # A copy: a branch from the same start may be looking at what was heard there.
            self._keep((user, end), {**found, **dict.fromkeys(heard, response_id)})

    def _keep(self, place: Place, found: Mapping[str, str]) -> None:
        self._forget(place)
        self._kept[place] = found
        self._size += len(found)
        while self._size > self._limit:
            self._forget(next(iter(self._kept)))

    def _forget(self, place: Place) -> None:
        self._size -= len(self._kept.pop(place, ()))
