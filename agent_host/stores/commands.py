"""Threads that run commands from a queue, many at a time, for callers in event loops.

Rule 1: a command that was taken from the queue is always answered, with its result or its error.
Rule 2: the answers of a batch go back together: one wake-up for each event loop, not for each command.
Rule 3: nothing here knows what a command does.
"""

import asyncio
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from agent_host.errors import StoreClosedError

T = TypeVar("T")

Work = Callable[[list["Command"]], None]
"""Runs a batch and puts a result or an error into each command; the batch is empty when time passed without one."""


class Command:
    """A function to run, the loop in which somebody waits for it, and how it went."""

    __slots__ = ("_is_settled", "_waiter", "error", "fn", "loop", "result")

    def __init__(self, fn: Callable[[Any], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.fn = fn
        self.loop = loop
        self.result: Any = None
        self.error: BaseException | None = None
        self._is_settled = False
        self._waiter: asyncio.Future[None] = loop.create_future()

    async def settled(self) -> asyncio.CancelledError | None:
        """Wait until the command has run, however often the caller is cancelled; returns the last cancellation."""
        cancellation: asyncio.CancelledError | None = None
        while not self._is_settled:
            try:
                await self._waiter
            except asyncio.CancelledError as error:
                cancellation = error
                self._waiter = self.loop.create_future()
        return cancellation

    def settle(self) -> None:
        """Let the one who waits go on; called in its loop."""
        self._is_settled = True
        if not self._waiter.done():
            self._waiter.set_result(None)


async def run_to_end(future: asyncio.Future[T]) -> T:
    """Wait for a result that cannot be called off; if the caller was cancelled meanwhile, raise that at the end.

    A task cancelled natively (which is what web servers do) would otherwise go on while its transaction still
    runs. The cancellation may be asked for any number of times; an error of the future gives way to it.
    """
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            cancellation = error
        except Exception:  # noqa: BLE001 - it is the future's own, which is done now and raises it below
            break
    if cancellation is None:
        return future.result()
    future.exception()  # marks an error as seen; the caller is told of the cancellation
    raise cancellation


class CommandQueue:
    """A queue of commands and the threads that serve it. Commands begin in the order in which they were given."""

    def __init__(self, name: str, *, largest_batch: int) -> None:
        self._name = name
        self._largest_batch = largest_batch
        self._waiting: SimpleQueue[Command | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._open = False
        # Held while a command is put and while the queue closes, so that none is put behind the end.
        self._gate = threading.Lock()

    def start(self, workers: list[Work], idle_after: Callable[[], float | None] = lambda: None) -> None:
        """Serve the queue with one thread for each worker.

        `idle_after` says how many seconds to wait for a command before the worker is called with an empty
        batch; None waits for ever.
        """
        self._open = True
        for number, work in enumerate(workers, start=1):
            # Daemons: a program that forgets to close its store must still be able to exit. What was
            # acknowledged is durable by then.
            thread = threading.Thread(
                target=self._serve, args=(work, idle_after), name=f"{self._name}-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Run what is waiting, then end the threads. Blocks; may be called again."""
        with self._gate:
            self._open = False
            threads, self._threads = self._threads, []
            for _ in threads:
                self._waiting.put(None)
        for thread in threads:
            thread.join()

    def check_open(self) -> None:
        """Raise `StoreClosedError` unless the queue is served."""
        if not self._open:
            raise StoreClosedError("The store is not open: it was closed, or `open` was not called yet.")

    async def run(self, fn: Callable[[Any], T], then: Callable[[], object] | None = None) -> T:
        """Have `fn` run by a thread and wait for it to its end, also when cancelled.

        If it has succeeded, `then` is called before the caller goes on, also when that goes on with its cancellation.
        """
        command = Command(fn, asyncio.get_running_loop())
        with self._gate:
            self.check_open()
            self._waiting.put(command)
        cancellation = await command.settled()
        if then is not None and command.error is None:
            then()
        if cancellation is not None:
            raise cancellation
        if command.error is not None:
            raise command.error
        result: T = command.result
        return result

    def _serve(self, work: Work, idle_after: Callable[[], float | None]) -> None:
        last = False
        while not last:
            batch, last = self._take(idle_after())
            try:
                work(batch)
            except BaseException as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
                for command in batch:
                    command.error = command.error or error
            _answer(batch)

    def _take(self, seconds: float | None) -> tuple[list[Command], bool]:
        """Everything that is waiting, and whether it is the last of all."""
        batch: list[Command] = []
        try:
            command = self._waiting.get(timeout=seconds)
            while command is not None:
                batch.append(command)
                if len(batch) == self._largest_batch:
                    return batch, False
                command = self._waiting.get_nowait()
        except Empty:
            return batch, False
        return batch, True


def _answer(batch: list[Command]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[Command]] = {}
    for command in batch:
        by_loop.setdefault(command.loop, []).append(command)
    for loop, commands in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, commands)
        except RuntimeError:  # the loop is closed, so nobody waits any more
            continue


def _settle(commands: list[Command]) -> None:
    for command in commands:
        command.settle()
