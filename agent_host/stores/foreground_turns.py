"""The foreground turns in flight of a process that has its store to itself.

Rule 1: nothing here waits or is stored; a turn that dies with the process has left nothing behind.
Rule 2: a turn is let in or refused as a whole, also when several threads ask.
"""

import threading

from agent_host.errors import TurnConflictError
from agent_host.stores.records import TurnInFlight
from agent_host.stores.rows import partition
from agent_host.stores.turn_rows import key_in_use, locked


class ForegroundTurns:
    """Who has an id, a conversation or an idempotency key for the time being."""

    def __init__(self) -> None:
        self._turns: dict[tuple[str, str], TurnInFlight] = {}
        self._by_conversation: dict[tuple[str, str], str] = {}
        self._by_key: dict[tuple[str, str], TurnInFlight] = {}
        self._gate = threading.Lock()

    def begin(self, user: str, turn: TurnInFlight) -> None:
        """Let a turn in, or raise `TurnConflictError` or `ConversationLockedError`."""
        with self._gate:
            if (user, turn.id) in self._turns:
                raise TurnConflictError(f"Response {turn.id} is in flight already. Use a new id.")
            if turn.conversation is not None:
                other = self._by_conversation.get((user, turn.conversation))
                if other is not None:
                    raise locked(turn.conversation, other)
            if turn.key is not None and (user, turn.key.key) in self._by_key:
                raise key_in_use(turn.key, self._by_key[user, turn.key.key].id)
            self._turns[user, turn.id] = turn
            if turn.conversation is not None:
                self._by_conversation[user, turn.conversation] = turn.id
            if turn.key is not None:
                self._by_key[user, turn.key.key] = turn

    def end(self, user: str, response_id: str) -> bool:
        """Forget a turn; False if there is none."""
        with self._gate:
            turn = self._turns.pop((user, response_id), None)
            if turn is None:
                return False
            if turn.conversation is not None:
                del self._by_conversation[user, turn.conversation]
            if turn.key is not None:
                del self._by_key[user, turn.key.key]
            return True

    def starts(self) -> set[tuple[str, str]]:
        """The partitions and ids of the commits from which turns have begun."""
        with self._gate:
            return {(partition(user), turn.start_commit) for (user, _), turn in self._turns.items()}

    def find_key(self, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        """The fingerprint and the response id of the turn that was asked for under a key since a time."""
        turn = self._by_key.get((user, key))
        if turn is None or turn.key is None or turn.created_at < since:
            return None
        return turn.key.fingerprint, turn.id
