"""The background turns of this process: who works on them, whose they are, and what becomes of those left behind.

A background turn has a lease. As long as this process lives it renews its own. Turns whose lease has lapsed, because
their process has died or was stopped, are taken up by whoever finds them: at start, from time to time, and when
somebody asks for one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.running.runner import StopSignal
from agent_host.errors import StoreError
from agent_host.ids import random_bytes
from agent_host.server.event_log import Key
from agent_host.stores.base import Store
from agent_host.stores.records import Guard, TurnInFlight

log = logging.getLogger("agent_host")

LEASE = 20.0
RENEW_EVERY = 5.0
"""Seconds. A turn of a process that has died is taken up after `LEASE` and at most `RENEW_EVERY`."""

TakeUp = Callable[[str, TurnInFlight], Awaitable[None]]
"""Goes on with a turn of a user that nobody works on."""


class Work:
    """One background turn that this process works on."""

    def __init__(self, task: "asyncio.Task[None]", stop: StopSignal) -> None:
        self.task = task
        self.stop = stop
        self.cancelled_by_client = False

    def cancel(self) -> None:
        """End it as cancelled, because a client wants it."""
        self.cancelled_by_client = True
        self.task.cancel()


class BackgroundTurns:
    """What this process works on in the background. `owner` is its name in the store, new with each process.

    `left` counts the turns that it has given back unfinished; `ring` wakes those who follow a turn when its work ends.
    """

    def __init__(self, store: Store, clock: Callable[[], float], ring: Callable[[Key], None]) -> None:
        self.owner = random_bytes(16).hex()
        self._store = store
        self._clock = clock
        self._ring = ring
        self._works: dict[Key, Work] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self.left = 0

    def __repr__(self) -> str:
        return f"<BackgroundTurns {len(self._works)} in work>"

    def __len__(self) -> int:
        return len(self._works)

    async def take(self, key: Key, *, by_force: bool = False) -> TurnInFlight | None:
        """Become the owner of a turn; None if another process is, or if there is no such turn."""
        now = self._clock()
        user, response_id = key
        taken = await self._store.take(user, response_id, self.owner, now=now, until=now + LEASE, by_force=by_force)
        reached(CrashPoint.TAKEN)
        return taken

    def guard(self, taken: TurnInFlight) -> Guard:
        """The guard of this process's writes to a turn that it has taken."""
        return Guard(taken.id, self.owner, taken.last_sequence)

    def take_new_name(self) -> None:
        """Be another owner from now on: a copy of this process has its name. Only while nothing is in work."""
        self.owner = random_bytes(16).hex()

    def is_cancelled(self, key: Key) -> bool:
        """Whether a client wants the end of a turn that this process works on."""
        work = self._works.get(key)
        return work is not None and work.cancelled_by_client

    def work_of(self, key: Key) -> Work | None:
        """This process's work on a response, if it is the one that works on it."""
        return self._works.get(key)

    def begin(self, key: Key, work: Coroutine[Any, Any, None], stop: StopSignal) -> None:
        """Work on a turn in a task of its own."""
        task = asyncio.get_running_loop().create_task(work)
        self._works[key] = Work(task, stop)
        if self._stopping:
            stop.request()
        task.add_done_callback(lambda _: self._has_ended(key))

    def lose(self, key: Key) -> None:
        """End the work on a turn that is this process's no more."""
        work = self._works.get(key)
        if work is not None:
            work.task.cancel()

    def _has_ended(self, key: Key) -> None:
        self._works.pop(key, None)
        self._ring(key)

    def start(self, take_up: TakeUp) -> None:
        """From now on take up what is left behind, and renew leases."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep(take_up))

    def stop(self) -> None:
        """Let every turn end after the superstep it is in."""
        self._stopping = True
        for work in self._works.values():
            work.stop.request()

    async def ended(self, patience: float) -> None:
        """Wait so many seconds for turns that were told to stop."""
        if self._works:
            await asyncio.wait([work.task for work in self._works.values()], timeout=patience)

    async def aclose(self) -> None:
        """Stop renewing leases."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def give_back(self, key: Key, *, has_begun: bool) -> None:
        """Leave a turn in order: the next process need not wait for it, and does not count this one as dead."""
        self.left += self._stopping
        user, response_id = key
        reached(CrashPoint.GIVING_BACK)
        try:
            await self._store.give_back(user, response_id, self.owner, has_begun=has_begun)
        except StoreError as error:
            log.warning("%s is taken up again when its lease has lapsed: %s", response_id, error)

    async def _keep(self, take_up: TakeUp) -> None:
        while True:
            try:
                await self._renew()
                await self.sweep(take_up)
            except StoreError as error:
                log.error("background turns are looked after again in a moment: %s", error)
            except Exception:  # it is tried again in a moment; turns guard their own writes
                log.exception("background turns are looked after again in a moment")
            await asyncio.sleep(RENEW_EVERY)

    async def _renew(self) -> None:
        if self._works:
            for key in await self._store.renew(self.owner, list(self._works), self._clock() + LEASE):
                self.lose(key)

    async def sweep(self, take_up: TakeUp, only: Key | None = None) -> None:
        """Take up the turns that nobody works on, or one of them."""
        if self._stopping:
            return
        for lapsed in await self._store.lapsed(self._clock()):
            key = (lapsed.user, lapsed.turn.id)
            if key not in self._works and only in (None, key):
                try:
                    await take_up(lapsed.user, lapsed.turn)
                except Exception:  # one turn that cannot be taken up must not keep the host from the others
                    log.exception("%s could not be taken up; it is tried again later", lapsed.turn.id)
