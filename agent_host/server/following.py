"""Following a response: its events from any place on, from the event log while it has one, else made again.

What a follower is shown is in the store, so every process shows the same, and a client that comes back with the number
of the last event it has seen misses nothing and sees nothing twice.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

import msgspec

from agent_host.errors import StoreClosedError, StoreError
from agent_host.server.host import Host
from agent_host.server.stored import response_of
from agent_host.wire import events, sse
from agent_host.wire.replay import replay

BATCH = 256
POLL = 0.5
"""Seconds between two looks at a turn that runs in another process, or at a store that has failed."""
MOST_TRIES = 20
"""How often a store that fails is looked at before a stream is broken off."""

log = logging.getLogger("agent_host")

_json = msgspec.json.Encoder().encode
_TERMINAL = tuple(f'{{"type":"{kind}"'.encode() for kind in sorted(events.TERMINAL))


async def follow(host: Host, user: str, response_id: str, after: int) -> AsyncIterator[bytes]:
    """Frames of the events behind a sequence number (-1: all), with comments where nothing happens, up to the last.

    Ends without a last event if the host goes down before the turn has ended, or if the response is deleted; the
    client comes back.
    """
    with suppress(StoreClosedError):
        async for frame in _frames(host, user, response_id, after):
            yield frame


async def _frames(host: Host, user: str, response_id: str, after: int) -> AsyncIterator[bytes]:
    silent = 0.0
    keep_alive = host.settings.keep_alive or POLL
    while True:
        # A turn of this process rings; only one of another must be looked at. To miss no last events of a turn that is
        # left for later, ask whether it is before you look.
        is_here = host.background.work_of((user, response_id)) is not None
        wait = keep_alive if is_here else min(POLL, keep_alive)
        with host.events.bells.listening((user, response_id)) as bell:
            found = await _news(host, user, response_id, after)
            if found == []:
                return
            if found is None:
                if host.runs.draining and not is_here:
                    return
                await asyncio.wait([bell], timeout=wait)
        if found:
            after, silent = after + len(found), 0.0
            yield b"".join(map(sse.frame, found))
            if found[-1].startswith(_TERMINAL):
                return
        elif not bell.done():
            silent += wait
            if host.settings.keep_alive and silent >= host.settings.keep_alive:
                silent = 0.0
                yield sse.KEEP_ALIVE


async def _news(host: Host, user: str, response_id: str, after: int) -> list[bytes] | None:
    """The events behind a sequence number: none if there are no more, None if there are none yet.

    Raises `StoreError` if the store does not answer for `MOST_TRIES` times `POLL`.
    """
    tries = 1
    while True:
        try:
            found = await host.store.read_events(user, response_id, after, BATCH)
            if not found and await host.store.is_in_flight(user, response_id):
                return None
            return found or await _remaining(host, user, response_id, after)
        except StoreClosedError:
            raise
        except StoreError as error:
            if tries == MOST_TRIES:
                raise
            log.warning("those who follow %s wait for the store: %s", response_id, error)
        tries += 1
        await asyncio.sleep(POLL)


async def _remaining(host: Host, user: str, response_id: str, after: int) -> list[bytes]:
    """The events of a response that has ended: those of its log, or, without a log, made again."""
    found = await host.store.read_events(user, response_id, after, BATCH)
    if found:
        return found
    record = await host.store.read_response(user, response_id)
    if record is None:
        return []
    journal = msgspec.msgpack.decode(record.delta_lengths)
    return [_json(event) for event in replay(response_of(record), journal)[after + 1 :]]
