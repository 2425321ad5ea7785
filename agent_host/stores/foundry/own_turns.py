"""The turns that this process has in flight."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from agent_host.errors import GuardLostError
from agent_host.foundry.calls import current_call, on_behalf_of
from agent_host.stores.foundry.place import Place


@dataclass(frozen=True, slots=True)
class OwnTurn:
    """Where a turn is, and the call id of the request that it belongs to."""

    place: Place
    call_id: str = field(repr=False)
    is_background: bool


class OwnTurns:
    """Turns by user and response id. Their families stay open."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], OwnTurn] = {}

    def get(self, user: str, id: str) -> OwnTurn | None:
        """A turn; None if this process has none of that id."""
        return self._turns.get((user, id))

    def hold(self, user: str, id: str, place: Place, *, is_background: bool) -> None:
        """Take in a turn of the request that is served now."""
        if (user, id) not in self._turns:
            place.turns += 1
        self._turns[user, id] = OwnTurn(place, current_call(), is_background)

    def let_go(self, user: str, id: str) -> None:
        """Forget a turn, if there is one."""
        turn = self._turns.pop((user, id), None)
        if turn is not None:
            turn.place.turns -= 1

    def calling_for(self, user: str, id: str) -> AbstractContextManager[None]:
        """What is done in the block carries the call id of a turn's own request."""
        turn = self.get(user, id)
        return on_behalf_of(turn.call_id if turn is not None else current_call())

    @contextmanager
    def as_long_as_guarded(self, user: str, id: str) -> Iterator[None]:
        """Forget a turn that the block finds to be another process's."""
        try:
            yield
        except GuardLostError:
            self.let_go(user, id)
            raise
