"""Plain functions in worker threads, so that one that blocks does not hold up every other conversation."""

import asyncio
import contextvars
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent_host.engine.running.tasks import ended

log = logging.getLogger("agent_host.engine")


class LeftBehind(TimeoutError):
    """The function still runs; nobody waits for it any more."""


class _Pool:
    """The threads of the process. One that is left behind is replaced, so that it takes nobody's place."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.threads = self._fresh()

    def _fresh(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max_workers=self._size, thread_name_prefix="agent-host-handler")

    def replace(self, used: ThreadPoolExecutor) -> None:
        """Use new threads from now on; what was given to the old ones they still do."""
        if used is self.threads:
            self.threads = self._fresh()
            used.shutdown(wait=False)


_pool = _Pool(32)


async def in_thread(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
) -> Any:
    """Call a plain function in a worker thread, with the caller's context variables.

    A thread cannot be cancelled: it is awaited to its end, unless it takes longer than `timeout` seconds; then it is
    left behind and `LeftBehind` raised. Waiting for a free thread does not count.
    """
    loop, started = asyncio.get_running_loop(), asyncio.Event()
    context, threads = contextvars.copy_context(), _pool.threads

    def call() -> Any:
        if timeout is not None:
            loop.call_soon_threadsafe(started.set)
        try:
            return context.run(function, *args, **(kwargs or {}))
        except StopIteration as error:  # a future cannot carry it
            raise RuntimeError(f"{getattr(function, '__name__', function)!r} raised StopIteration") from error

    working = loop.run_in_executor(threads, call)
    if timeout is not None:
        await _begun(working, started)
        await asyncio.wait([working], timeout=timeout)
        if not working.done():
            working.add_done_callback(_forget)
            _pool.replace(threads)
            log.warning("The function %s takes longer than %g s; its thread is left behind.", function, timeout)
            raise LeftBehind
    await ended([working])
    return working.result()


async def _begun(working: "asyncio.Future[Any]", started: asyncio.Event) -> None:
    try:
        await started.wait()
    except asyncio.CancelledError:
        if not working.cancel() or started.is_set():
            await ended([working])
        raise


def _forget(working: "asyncio.Future[Any]") -> None:
    if not working.cancelled():
        working.exception()  # nobody waits for it any more
