"""What one invocation did, as data: collected while its handler runs, merged when all siblings have finished."""

from typing import Any

import msgspec

from agent_host.engine.serialization.codec import Encoded


class Sent(msgspec.Struct, frozen=True):
    """A message a handler sent: to the executors its edges lead to, or to one of them."""

    payload: Any
    target: str | None


class Yielded(msgspec.Struct):
    """An output of a handler; `pieces` are what a streamed text was shown in."""

    value: Any
    pieces: list[str] | None = None

    @property
    def whole(self) -> Any:
        """The output as it settles."""
        return self.value if self.pieces is None else "".join(self.pieces)


class Asked(msgspec.Struct, frozen=True):
    """A request to the outside. `expires_at`: seconds since the epoch; `default`: the answer that is taken then."""

    request_id: str
    data: Any
    response_type: Any
    expires_at: float | None = None
    default: tuple[Any, ...] = ()


class Entered(msgspec.Struct, frozen=True):
    """An input for the nested workflow that the executor stands for."""

    payload: Any


class Replied(msgspec.Struct, frozen=True):
    """An answer to a request that an instance of the executor's nested workflow has open."""

    request_id: str
    answer: Any


class Effect(msgspec.Struct):
    """What one invocation did.

    `writes` are new values of shared state, `updates` those for keys with a reducer, in order. `closed` names open
    requests that nobody is to answer any more. `journal`, if not None, is what the executor keeps of its steps because
    it waits for an answer in the middle of a function.
    """

    executor_id: str
    sent: list[Sent] = msgspec.field(default_factory=list)
    yielded: list[Yielded] = msgspec.field(default_factory=list)
    asked: list[Asked] = msgspec.field(default_factory=list)
    writes: dict[str, Encoded | None] = msgspec.field(default_factory=dict)
    updates: dict[str, list[Encoded]] = msgspec.field(default_factory=dict)
    usage: dict[str, int] = msgspec.field(default_factory=dict)
    nested: list[Entered | Replied] = msgspec.field(default_factory=list)
    closed: list[str] = msgspec.field(default_factory=list)
    journal: dict[int, Encoded] | None = None
    attempt: int = 0
