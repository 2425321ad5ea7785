"""Cancelled tasks: what must not be abandoned, and going on in spite of it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Do something that must not be abandoned, in a task of its own, and return or raise what that does.

    A cancellation of the caller that comes meanwhile is taken back, however often: what became of the work is known,
    and the caller goes on with it.
    """
    task, _ = await _ended(work)
    take_back_cancellation()
    return task.result()


async def to_its_end_first(work: Coroutine[Any, Any, T]) -> T:
    """The same, but a cancellation that came meanwhile is raised then, unless the work has failed."""
    task, cancellation = await _ended(work)
    result = task.result()
    if cancellation is not None:
        raise cancellation
    return result


async def _ended(work: Coroutine[Any, Any, T]) -> "tuple[asyncio.Task[T], asyncio.CancelledError | None]":
    task = asyncio.get_running_loop().create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    return task, cancellation


def take_back_cancellation() -> None:
    """Go on in a task that was cancelled: what is left is to store how the turn ended."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
