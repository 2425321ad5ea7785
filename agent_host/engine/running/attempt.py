"""One attempt at a call: what it knows of its run, and what it has done.

Handlers see it through `WorkflowContext`. The engine's own executors, which stand for functions and for nested
workflows, are given the attempt itself.
"""

from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

import msgspec

from agent_host.engine.events import WorkflowEvent
from agent_host.engine.executors.handlers import HandlerTable
from agent_host.engine.reducers import MISSING, Reducer, SharedState
from agent_host.engine.running.effects import Effect
from agent_host.engine.running.journal import Journal
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import WorkflowRunnerException

if TYPE_CHECKING:
    from agent_host.engine.running.frame import Waiting


class Scope(SharedState, Protocol):
    """The part of a lane that an executor belongs to: its shared state, and what is kept of its steps."""

    @property
    def prefix(self) -> str: ...

    @property
    def reducers(self) -> Mapping[str, Reducer]: ...

    def read_state(self, key: str) -> Any: ...

    def journal(self, executor_id: str) -> Mapping[int, Encoded]: ...

    @property
    def waiting(self) -> "Waiting": ...


class Surroundings(msgspec.Struct):
    """What the attempts of one run share: where the superstep stands, and how to speak.

    The run moves `iteration`, `checkpoint_id`, `seed` and `now` along from superstep to superstep.
    `seed` is text that is the same in every attempt at a superstep and different for every other superstep; `now` is
    the time at which the superstep began.
    """

    session_id: str
    iteration: int
    checkpoint_id: str | None
    seed: str
    now: float
    clock: Callable[[], float]
    codec: Codec
    strict: bool
    streaming: bool
    turn: Any
    is_open: Callable[[str], bool]
    new_request_id: Callable[[], str]
    emit_delta: Callable[["Call", int, str], None]
    tell: Callable[["Call", WorkflowEvent], None]
    show_output: Callable[["Call", Any], Any]


class Call(msgspec.Struct):
    """One invocation while it runs, over all its attempts.

    `name` is the executor's from outside; `index` counts all calls of the superstep, `index_in_scope` those in the
    executor's part of the lane. `own_writes` is the shared state that the executor has written in this superstep.
    """

    executor_id: str
    name: str
    index_in_scope: int
    index: int
    sources: tuple[str, ...]
    request_id: str | None
    handlers: HandlerTable
    scope: Scope
    own_writes: dict[str, Encoded | None]
    open_journal: Callable[["Call"], Journal]
    journal: Journal | None = None
    attempt: int = 0


class Attempt(msgspec.Struct):
    """One attempt at a call while it runs. `uuids` counts the ids that it has derived for its handler."""

    around: Surroundings
    call: Call
    effect: Effect
    ended: bool = False
    uuids: int = 0

    def end(self) -> Effect:
        """Take nothing more in; what the handler did until now is its effect."""
        self.ended = True
        return self.effect

    def refuse_late(self, verb: str) -> None:
        """Raise if the handler has ended."""
        if self.ended:
            raise WorkflowRunnerException(
                f"Executor {self.call.name!r} calls {verb} after its handler has ended; nothing would come of it. "
                "Await what the handler starts."
            )

    def journal(self) -> Journal:
        """The results of the call's steps, over all its attempts."""
        if self.call.journal is None:
            self.call.journal = self.call.open_journal(self.call)
        return self.call.journal

    def kept_steps(self) -> Mapping[int, Encoded]:
        """What the executor has kept of its journal since an earlier call, by position."""
        return self.call.scope.journal(self.call.executor_id)

    def read_state(self, key: str) -> Any:
        """Shared state as the executor sees it; `MISSING` if it is not set. Always a copy."""
        call = self.call
        if key not in call.own_writes:
            return call.scope.read_state(key)
        written = call.own_writes[key]
        return MISSING if written is None else call.scope.decode_state(written)

    def open_requests(self) -> list[str]:
        """The ids of the executor's requests that nobody has answered yet."""
        requests = self.call.scope.waiting.requests.values()
        return [request.request_id for request in requests if request.executor == self.call.executor_id]

    def answers(self) -> dict[str, Any]:
        """What reaches this executor as answers in this superstep, by request id, in the order of its calls.

        A function that waits for several of them goes on once, with all that have come.
        """
        queue = self.call.scope.waiting.queue
        mine = [queued for queued in queue if queued.kind == "response" and queued.source == self.call.executor_id]
        return {queued.request_id or "": queued.payload.deliver(len(mine) + 1)[0][1] for queued in mine}

    def derived_id(self, purpose: str) -> UUID:
        """An id that is the same in every attempt at this call, and different for every other call and purpose."""
        call, around = self.call, self.around
        place = [around.session_id, around.seed, call.scope.prefix, str(call.index_in_scope)]
        text = "\0".join([*place, purpose])
        return UUID(bytes=blake2b(text.encode(), digest_size=16).digest(), version=5)
