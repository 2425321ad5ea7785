"""The events of a run as something to iterate, which owns the run: whoever drops it ends it."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any

from agent_host.engine.events import WorkflowEvent, WorkflowRunResult
from agent_host.engine.running.tasks import end
from agent_host.errors import WorkflowRunnerException

_running: set["asyncio.Task[WorkflowRunResult]"] = set()


class Reader:
    """What a run and the reader of its stream share, so that neither holds the other."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[WorkflowEvent | None] = asyncio.Queue()
        self._wants_more = asyncio.Event()
        self._left = False

    def put(self, event: WorkflowEvent | None) -> None:
        """Hand over an event, or None for the end."""
        if not self._left:
            self._wants_more.clear()
        self._events.put_nowait(event)

    async def next(self) -> WorkflowEvent | None:
        """The next event, when there is one; None at the end."""
        if self._events.empty():
            self._wants_more.set()
        return await self._events.get()

    async def caught_up(self) -> None:
        """Wait until everything has been read and the reader asks for more; ends the run if nobody reads any more."""
        await self._wants_more.wait()
        if self._left:
            raise asyncio.CancelledError

    def leave(self) -> None:
        """Read no more, also if a handler swallows the cancellation of its run."""
        self._left = True
        self._wants_more.set()


class ResponseStream:
    """The events of a run while it happens. Nothing starts before the first event is asked for, and no superstep
    before all events of the one before it are read.

    Iterate it, then `get_final_response()` for the result. Leaving early is fine: `close()`, the end of an
    `async with` block, or dropping the stream ends the run, whose tasks are cancelled and awaited.
    """

    def __init__(self, start: "_Start", stop: Callable[[], None], reader: Reader) -> None:
        self._start = start
        self._stop = stop
        self._reader = reader
        self._task: asyncio.Task[WorkflowRunResult] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[WorkflowEvent]:
        return self

    async def __anext__(self) -> WorkflowEvent:
        task = self._running()
        try:
            event = await self._reader.next()
        except asyncio.CancelledError:
            await self.close()
            raise
        if event is not None:
            return event
        self._reader.put(None)  # the end is the end, however often it is asked for
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
        self._reader.leave()
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
            task.get_loop().call_soon_threadsafe(self._reader.leave)
            task.get_loop().call_soon_threadsafe(task.cancel)

    def _running(self) -> "asyncio.Task[WorkflowRunResult]":
        if self._task is None:
            if self._closed:
                raise StopAsyncIteration
            # Neither the task nor its callback may hold the stream: dropping the stream ends the run.
            reader = self._reader
            self._task = asyncio.ensure_future(self._start(reader.put, weakref.ref(self)))
            self._task.add_done_callback(lambda task: _tell_end(task, reader))
            _running.add(self._task)  # the event loop holds tasks weakly
            self._task.add_done_callback(_running.discard)
        return self._task


_Start = Callable[
    [Callable[[WorkflowEvent], None], "weakref.ref[ResponseStream]"], Coroutine[Any, Any, WorkflowRunResult]
]


def _tell_end(task: "asyncio.Task[WorkflowRunResult]", reader: Reader) -> None:
    if not task.cancelled():
        task.exception()  # seen: it may be that nobody asks for it
    reader.put(None)
