"""Notice an event loop that a handler blocks, and say which handler.

One daemon thread looks at every loop that is running a workflow. A loop that has not answered for a second is
reported once, with the executor and the stack: everything else on it stands still meanwhile. The executor is found by
the context of what blocks, so also for tasks, callbacks and threads that its handler has started.
"""

import asyncio
import gc
import logging
import sys
import threading
import time
import traceback
import types
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from dataclasses import dataclass

INTERVAL = 0.25
LIMIT = 1.0
log = logging.getLogger("agent_host.engine")

executor_at_work: ContextVar[str | None] = ContextVar("agent_host_executor", default=None)
"""The executor whose handler has led to the code that runs here."""


@dataclass(slots=True)
class _Loop:
    loop: asyncio.AbstractEventLoop
    thread: int
    runs: int = 0
    asked: float | None = None
    reported: bool = False

    def answer(self) -> None:
        self.asked = None
        self.reported = False


class Watchdog:
    """Watches loops while they have runs; its thread starts with the first run and sleeps when there are none."""

    def __init__(self, limit: float = LIMIT, interval: float = INTERVAL) -> None:
        self.limit = limit
        self.interval = interval
        self._loops: dict[int, _Loop] = {}
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop until the block ends."""
        loop = asyncio.get_running_loop()
        key = id(loop)
        with self._lock:
            entry = self._loops.get(key)
            if entry is None or entry.loop is not loop:
                entry = self._loops[key] = _Loop(loop, threading.get_ident())
            entry.runs += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="agent-host-watchdog", daemon=True)
                self._thread.start()
        if not self._wake.is_set():
            self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                entry.runs -= 1
                if not entry.runs:
                    self._loops.pop(key, None)

    def _watch(self) -> None:
        while True:
            self._wake.wait()
            time.sleep(self.interval)
            with self._lock:
                entries = list(self._loops.values())
                if not entries:
                    self._wake.clear()
            for entry in entries:
                self._look_at(entry)

    def _look_at(self, entry: _Loop) -> None:
        now = time.monotonic()
        if entry.asked is None:
            entry.asked = now
            try:
                entry.loop.call_soon_threadsafe(entry.answer)
            except RuntimeError:  # the loop was closed meanwhile
                with self._lock:
                    self._loops.pop(id(entry.loop), None)
        elif now - entry.asked >= self.limit and not entry.reported:
            entry.reported = True
            frame = sys._current_frames().get(entry.thread)
            if frame is not None:
                self._report(entry, frame, now - entry.asked)

    def _report(self, entry: _Loop, frame: types.FrameType, seconds: float) -> None:
        stack = "".join(traceback.format_stack(frame)[-8:])
        log.warning(
            "The event loop has been blocked for %.1f s by %s; no other conversation moves meanwhile. "
            "Make the handler a plain function (it then runs in a thread) or await something.\n%s",
            seconds, _culprit(entry.loop, frame), stack,
        )  # fmt: skip


def _culprit(loop: asyncio.AbstractEventLoop, frame: types.FrameType) -> str:
    context = _context_of_callback(frame) or _context_of_task(asyncio.current_task(loop))
    executor = context.get(executor_at_work) if context is not None else None
    return "code outside of any executor" if executor is None else f"executor {executor!r}"


def _context_of_callback(frame: types.FrameType | None) -> Context | None:
    """The context of the callback that a loop written in Python runs; a step of a task is one too."""
    while frame is not None:
        handle = frame.f_locals.get("self")
        if isinstance(handle, asyncio.Handle):
            context: Context = handle._context  # type: ignore[attr-defined]  # there is no public way to it
            return context
        frame = frame.f_back
    return None


def _context_of_task(task: "asyncio.Task[object] | None") -> Context | None:
    """The context of a task, where the loop shows no callbacks. Task.get_context came only with Python 3.12."""
    return next((held for held in gc.get_referents(task) if isinstance(held, Context)), None)


_process_wide = Watchdog()
watched = _process_wide.watching
