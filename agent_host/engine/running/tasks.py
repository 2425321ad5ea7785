"""Waiting for what was started, to its very end, however often the waiting itself is cancelled."""

import asyncio
from collections.abc import Collection
from typing import Any


async def ended(futures: Collection["asyncio.Future[Any]"]) -> None:
    """Wait until all have ended. If the waiting is cancelled meanwhile, raises that at the end."""
    cancellation: asyncio.CancelledError | None = None
    while not all(future.done() for future in futures):
        try:
            await asyncio.wait(futures)
        except asyncio.CancelledError as error:
            cancellation = error
    for future in futures:
        if not future.cancelled():
            future.exception()  # retrieved: whoever wants it has a reference
    if cancellation is not None:
        raise cancellation


async def end(futures: Collection["asyncio.Future[Any]"]) -> None:
    """Cancel all and wait until they have ended."""
    for future in futures:
        future.cancel()
    await ended(futures)
