"""The process's turns: how many may run and wait, which are running, and how they end when the host goes down."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from agent_host.errors import StoreClosedError
from agent_host.wire.problems import too_busy

RETRY_AFTER = 5
CUT_PATIENCE = 2.0
"""Seconds that turns which were cut off get to be stored as failed."""


class Runs:
    """Places for turns. A turn that waits costs memory, not a thread; beyond the limits requests are refused.

    `draining` is set when the host goes down: nothing new begins, and what is left after the grace is cancelled;
    `cut_off` counts the turns that have ended as failed by that.
    """

    def __init__(self, limit: int, waiting_limit: int) -> None:
        self._limit = limit
        self._waiting_limit = waiting_limit
        self._running: set[asyncio.Task[object]] = set()
        self._interruptible: set[asyncio.Task[object]] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = 0
        self._expected = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self._going_down = asyncio.Event()
        self.cut_off = 0

    def __repr__(self) -> str:
        state = ", draining" if self.draining else ""
        return f"<Runs {self._taken} running, {len(self._waiting)} waiting{state}>"

    @property
    def draining(self) -> bool:
        return self._going_down.is_set()

    async def going_down(self) -> None:
        """Wait until `draining` is set."""
        await self._going_down.wait()

    @property
    def running(self) -> int:
        """How many turns have a place."""
        return self._taken

    def refuse_if_full(self) -> None:
        """Raise the 429 problem if no turn more may wait, and `StoreClosedError` when the host is going down."""
        if self.draining:
            raise StoreClosedError("The host is shutting down.")
        if self._taken + len(self._waiting) + self._expected >= self._limit + self._waiting_limit:
            raise too_busy(RETRY_AFTER)

    @contextmanager
    def expecting(self) -> Iterator[None]:
        """Count a turn that is about to be accepted, so that no more are let in together than may wait.

        Raises as `refuse_if_full` does.
        """
        self.refuse_if_full()
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    @asynccontextmanager
    async def place(self, *, accepted: bool = False) -> AsyncIterator[None]:
        """A place for one turn of the current task, in the order of asking.

        Raises as `refuse_if_full` does; a turn that was `accepted` before waits however many wait.
        """
        if self.draining:
            raise StoreClosedError("The host is shutting down.")
        if not accepted:
            self.refuse_if_full()
        if self._taken >= self._limit:
            await self._wait()
        else:
            self._taken += 1
        self._empty.clear()
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            yield
        finally:
            self._running.discard(task)
            self._give_back()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What the current task waits for in here is cancelled as soon as the host goes down.

        Raises `StoreClosedError` if it is going down already.
        """
        if self.draining:
            raise StoreClosedError("The host is shutting down.")
        task = asyncio.current_task()
        assert task is not None
        self._interruptible.add(task)
        try:
            yield
        finally:
            self._interruptible.discard(task)

    def _give_back(self) -> None:
        self._taken -= 1
        self._admit_next()
        if not self._taken and not self._waiting:
            self._empty.set()

    async def _wait(self) -> None:
        """Wait for a place that another turn gives back; it is ours when this returns."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back()  # the place was given to us in the same moment: pass it on
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _admit_next(self) -> None:
        while self._waiting and self._taken < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1  # reserved until the waiter wakes, so that nobody overtakes it
                turn.set_result(None)

    async def drain(self, grace: float) -> None:
        """Let running turns finish for `grace` seconds, then cut off the rest.

        A handler that blocks a thread cannot be cut off: it is not waited for, and of its turn nothing is kept.
        """
        self._going_down.set()
        for task in self._interruptible:
            task.cancel()
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(StoreClosedError("The host is shutting down."))
        if not await self._emptied(grace):
            for task in self._running:
                task.cancel()
            await self._emptied(CUT_PATIENCE)

    async def _emptied(self, seconds: float) -> bool:
        if not self._empty.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        return self._empty.is_set()
