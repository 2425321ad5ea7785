"""Responses as the platform shows them: a copy of each that is stored, which nothing here reads."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from agent_host.errors import StoreError
from agent_host.foundry.storage import ProjectStorage, RejectedError
from agent_host.stores.foundry.place import Place
from agent_host.stores.records import ResponseRecord

Show = Callable[[ResponseRecord], tuple[dict[str, Any], list[dict[str, Any]]]]
"""Makes of a stored response what the platform shows: the response object and its input items."""

PATIENCE = 10.0
"""Seconds that the platform gets to take a response that is stored already."""

log = logging.getLogger("agent_host")


class Showing:
    """Gives the platform what it shows. What it does not take is noted in the family, and given again later."""

    def __init__(self, storage: ProjectStorage, show: Show) -> None:
        self._storage = storage
        self._show = show
        self._now: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Wait for what has begun."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def show(self, place: Place, record: ResponseRecord) -> None:
        """Show a response that is stored."""
        self._now.add(record.id)
        try:
            async with asyncio.timeout(PATIENCE):
                response, items = self._show(record)
                heard = await place.copy.read_heard(place.user, record.start_commit)
                entered = [id for id in record.heard if id not in record.items]
                said_before = [*(id for turn in reversed(heard) for id in turn.items), *entered]
                await self._storage.show_response(response, items, said_before)
        except RejectedError as error:
            log.warning("%s is stored, but the platform does not show it: %s", record.id, error)
            place.family.note_unshown(record.id, is_unshown=False)
        except (StoreError, TimeoutError) as error:
            log.warning("%s is stored, but not shown by the platform yet: %s", record.id, str(error) or "no answer")
        else:
            place.family.note_unshown(record.id, is_unshown=False)
        finally:
            self._now.discard(record.id)

    async def hide(self, record: ResponseRecord) -> None:
        """Show a response no more."""
        with suppress(StoreError):  # it goes by itself when its time has passed
            await self._storage.hide_response(self._show(record)[0]["id"])

    def show_what_is_left(self, place: Place) -> None:
        """Show in a moment what could not be shown when it was stored."""
        left = place.family.unshown - self._now
        if left:
            self._now |= left
            task = asyncio.create_task(self._show_all(place, left))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _show_all(self, place: Place, ids: Iterable[str]) -> None:
        for id in ids:
            record = await place.copy.read_response(place.user, id)
            if record is None:
                self._now.discard(id)
                place.family.note_unshown(id, is_unshown=False)
            else:
                await self.show(place, record)
