"""Shared state that several executors may write in one superstep: a reducer puts their values together."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import StateConflictError

Reducer = Callable[[Any, Any], Any]
"""Puts a new value together with what is there: `reducer(current, written)`. It receives copies."""


class _Missing:
    def __repr__(self) -> str:
        return "<nothing>"


MISSING: Any = _Missing()


class SharedState(Protocol):
    """Reads and forms values of shared state."""

    def encode_state(self, key: str, value: Any) -> Encoded: ...

    def decode_state(self, encoded: Encoded) -> Any: ...


def reduce_state(state: SharedState, key: str, reducer: Reducer, current: Any, updates: Sequence[Encoded]) -> Encoded:
    """The value of a key after its updates, in order; the first one stands alone where nothing was there.

    Raises `StateConflictError` naming the key if the reducer fails.
    """
    value = current
    for update in updates:
        written = state.decode_state(update)
        try:
            value = written if value is MISSING else reducer(value, written)
        except Exception as error:
            raise StateConflictError(
                f"The reducer of the shared state {key!r} failed for a {type(value).__qualname__} and a "
                f"{type(written).__qualname__}: {type(error).__name__}: {error}"
            ) from error
    return state.encode_state(key, value)
