"""The events of a run as something to iterate, which owns the run: whoever drops it ends it."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any

from agent_host.engine.events import WorkflowEvent, WorkflowRunResult
from agent_host.engine.tasks import end
from agent_host.errors import WorkflowRunnerException


class ResponseStream:
    """The events of a run while it happens. Nothing starts before the first event is asked for.

    Iterate it, then `get_final_response()` for the result. Leaving early is fine: `close()`, the end of an
    `async with` block, or dropping the stream ends the run, whose tasks are cancelled and awaited.
    """

    def __init__(self, start: "_Start", stop: Callable[[], None]) -> None:
        self._start = start
        self._stop = stop
        self._waiting: asyncio.Queue[WorkflowEvent | None] = asyncio.Queue()
        self._task: asyncio.Task[WorkflowRunResult] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[WorkflowEvent]:
        return self

    async def __anext__(self) -> WorkflowEvent:
        task = self._running()
        try:
            event = await self._waiting.get()
        except asyncio.CancelledError:
            await self.close()
            raise
        if event is not None:
            return event
        self._waiting.put_nowait(None)  # the end is the end, however often it is asked for
        if not self._closed:
            self._closed = True
            task.result()
        raise StopAsyncIteration

    async def get_final_response(self) -> WorkflowRunResult:
        """Run to the end, if that has not happened, and return the result. Raises what the run raised."""
        async for _ in self:
            pass
        if self._task is None or self._task.cancelled():
            raise WorkflowRunnerException("The stream was closed before its run ended.")
        return self._task.result()

    def stop(self) -> None:
        """Let the run end after the superstep it is in. What is queued then stays: `run()` continues it.

        Read on to the end: the last events and the result still come.
        """
        self._stop()

    async def close(self) -> None:
        """End the run if it has not ended; its tasks are awaited."""
        self._closed = True
        if self._task is not None:
            await end([self._task])

    async def __aenter__(self) -> "ResponseStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        task = self._task
        if task is not None and not task.done() and not task.get_loop().is_closed():
            task.get_loop().call_soon_threadsafe(task.cancel)

    def _running(self) -> "asyncio.Task[WorkflowRunResult]":
        if self._task is None:
            if self._closed:
                raise StopAsyncIteration
            # Neither the task nor its callback may hold the stream: dropping the stream ends the run.
            waiting = self._waiting
            self._task = asyncio.ensure_future(self._start(waiting.put_nowait, weakref.ref(self)))
            self._task.add_done_callback(lambda task: _tell_end(task, waiting))
        return self._task


_Start = Callable[
    [Callable[[WorkflowEvent], None], "weakref.ref[ResponseStream]"], Coroutine[Any, Any, WorkflowRunResult]
]


def _tell_end(task: "asyncio.Task[WorkflowRunResult]", waiting: "asyncio.Queue[WorkflowEvent | None]") -> None:
    if not task.cancelled():
        task.exception()  # seen: it may be that nobody asks for it
    waiting.put_nowait(None)
