"""Who may work on a session: one run at a time.

Rule 1: the claim belongs to the run. Only its owner gives it back, and a claim that nobody holds is no claim.
Rule 2: the run of a stream belongs to whoever holds the stream; when that is dropped, the claim is abandoned.
"""

import asyncio
import contextlib
import weakref
from collections.abc import AsyncIterator
from typing import Any

from agent_host.engine.running.response_stream import ResponseStream
from agent_host.errors import WorkflowBusyError

Key = tuple[int, str]  # the storage, by identity, and the session


class Claim:
    """Proof that a run owns a session."""

    __slots__ = ("__weakref__", "_stream", "task")

    def __init__(self, task: "asyncio.Task[Any] | None", stream: "weakref.ref[ResponseStream] | None") -> None:
        self.task = task
        self._stream = stream

    @property
    def is_abandoned(self) -> bool:
        return self._stream is not None and self._stream() is None


class Claims:
    """The claims on a workflow's sessions."""

    def __init__(self, workflow: str) -> None:
        self._workflow = workflow
        self._taken: dict[Key, weakref.ref[Claim]] = {}

    @property
    def held(self) -> int:
        """How many sessions somebody works on."""
        return sum(1 for claim in self._taken.values() if claim() is not None)

    def holder(self, key: Key) -> Claim | None:
        """The claim on a session, if somebody holds one."""
        held = self._taken.get(key)
        return held() if held is not None else None

    async def take(self, key: Key, stream: "weakref.ref[ResponseStream] | None" = None) -> Claim:
        """Claim a session, or raise `WorkflowBusyError`. A run that was abandoned is ended first."""
        held = self.holder(key)
        if held is not None and held.is_abandoned and held.task is not None:
            held.task.cancel()  # the stream of that run was dropped: nobody can read it any more
            await asyncio.wait([held.task])
            held = self.holder(key)
        if held is not None:
            raise WorkflowBusyError(
                f"Session {key[1]!r} of workflow {self._workflow!r} has a run already. Await it or close its stream, "
                "or use another session_id."
            )
        claim = Claim(asyncio.current_task(), stream)
        self._taken[key] = weakref.ref(claim)
        return claim

    def give_back(self, key: Key, claim: Claim) -> None:
        """End a claim; that of another run stays."""
        if self.holder(key) in (claim, None):
            self._taken.pop(key, None)

    @contextlib.asynccontextmanager
    async def idle(self, key: Key) -> AsyncIterator[None]:
        """Hold a session that no run works on."""
        claim = await self.take(key)
        try:
            yield
        finally:
            self.give_back(key, claim)
