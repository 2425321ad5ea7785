"""Plain functions in worker threads, so that one that blocks does not hold up every other conversation."""

import asyncio
import contextvars
import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent_host.engine.running.tasks import ended

log = logging.getLogger("agent_host.engine")
_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="agent-host-handler")


class LeftBehind(TimeoutError):
    """The function still runs; nobody waits for it any more."""


async def in_thread(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    *,
    timeout: float | None = None,
) -> Any:
    """Call a plain function in a worker thread, with the caller's context variables.

    A thread cannot be cancelled: it is awaited to its end, unless it takes longer than `timeout` seconds; then it is
    left behind and `LeftBehind` raised.
    """
    call = functools.partial(contextvars.copy_context().run, function, *args, **(kwargs or {}))
    working = asyncio.get_running_loop().run_in_executor(_threads, call)
    if timeout is None:
        await ended([working])
        return working.result()
    await asyncio.wait([working], timeout=timeout)
    if not working.done():
        working.add_done_callback(_forget)
        log.warning("The function %s takes longer than %s s; its thread is left behind.", function, timeout)
        raise LeftBehind
    return working.result()


def _forget(working: "asyncio.Future[Any]") -> None:
    if not working.cancelled():
        working.exception()  # nobody waits for it any more
