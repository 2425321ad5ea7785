"""What the host forgets, from time to time and a little at a time, while it serves.

Responses go by their age. A commit goes when nothing has needed it in two rounds: whoever looked it up before the first
of them has long begun its turn, which keeps it, or has given up.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace

from agent_host.stores.base import Store
from agent_host.stores.records import CommitName, Freed
from agent_host.stores.retention import MOST_COMMITS, Collected, forget, prune

log = logging.getLogger("agent_host")

EVERY = 3600.0
"""Seconds between two rounds. No connection lives longer, so none goes on from what it saw two rounds ago."""
FIRST_AFTER = 60.0
"""Seconds from the host's start to the first round, when what waits for the host has been served."""
LOG_KEPT_FOR = 24 * 3600.0
"""Seconds that the events of finished background turns, and idempotency keys, are kept."""


class Retention:
    """Forgets what is older than `keep` seconds; with 0, responses are kept for ever. `clock` tells the time."""

    def __init__(
        self,
        store: Store,
        keep: float,
        clock: Callable[[], float],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._keep = keep
        self._clock = clock
        self._sleep = sleep
        self._unneeded: Sequence[CommitName] = ()
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Retention of {self._keep:g} s, {len(self._unneeded)} commits go next>"

    def start(self, roots: Collection[str]) -> None:
        """Forget from now on; `roots` are in use."""
        self._task = asyncio.get_running_loop().create_task(self._run(roots))

    async def aclose(self) -> None:
        """End after the step that is being taken. May be called again."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def round(self, roots: Collection[str]) -> Collected:
        """Forget once, and note which commits are to go in the next round."""
        now = self._clock()
        collected = await forget(self._store, now - self._keep if self._keep else None, now - LOG_KEPT_FOR)
        commits = await prune(self._store, self._unneeded, roots)
        blobs = await self._store.collect_blobs() if commits.count else Freed()
        self._unneeded = await self._store.unneeded_commits(MOST_COMMITS, roots)
        return replace(collected, commits=commits, blobs=blobs)

    async def _run(self, roots: Collection[str]) -> None:
        await self._sleep(FIRST_AFTER)
        while True:
            began = time.monotonic()
            try:
                collected = await self.round(roots)
            except Exception:  # the next round tries again; turns need nothing of this one
                log.exception("retention: the round was cut off and is tried again in %g s", EVERY)
            else:
                if collected:
                    log.info("retention: %s in %.1f s", collected.summary, time.monotonic() - began)
            await self._sleep(EVERY)
