"""Idempotency keys across processes: one value for each key of a user, which names the response that has it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from agent_host.errors import StoreError
from agent_host.foundry.calls import current_call, on_behalf_of
from agent_host.foundry.storage import OvertakenError, ProjectStorage, StateItem
from agent_host.stores.foundry.place import hash_of
from agent_host.stores.records import IdempotencyKey
from agent_host.stores.turn_rows import key_in_use

log = logging.getLogger("agent_host")

HELD = 120.0
"""Seconds for which a key belongs to a turn that no process but its own can see; that renews it meanwhile."""
MOST_ENDED = 10_000
"""How many turns of this process are remembered to have ended."""

Look = Callable[[str, str, str, float], Awaitable[tuple[bytes, str] | None]]
"""Finds what a key stands for in the family of a response: user, response id, key, since."""


@dataclass(frozen=True, slots=True)
class _Claim:
    key: IdempotencyKey
    etag: str
    call_id: str = field(repr=False)


class Claims:
    """Who has which key. `clock` gives seconds since the epoch."""

    def __init__(
        self, storage: ProjectStorage, look: Look, session: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        self._storage = storage
        self._look = look
        self._session = session
        self._clock = clock
        self._own: dict[tuple[str, str], _Claim] = {}
        self._renewing: asyncio.Task[None] | None = None
        self._ended: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def find(self, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        """The fingerprint and the response id of an earlier request with this key."""
        return await self._holder(await self._storage.read(_place(user, key)), user, key, since)

    async def claim(self, user: str, response_id: str, key: IdempotencyKey, since: float) -> None:
        """Take a key for a response, or raise `TurnConflictError`."""
        value = self._value(response_id, key)
        etag: str | None = None
        while True:
            try:
                etag = await self._storage.replace(_place(user, key.key), value, etag)
            except (OvertakenError, StoreError) as error:
                item = await self._storage.read(_place(user, key.key))
                etag = None if item is None else item.etag
                # An answer that was lost may stand for a claim that was taken.
                if item is None or etag is None or item.value != value:
                    if isinstance(error, StoreError):
                        raise
                    holder = await self._holder(item, user, key.key, since)
                    if holder is not None and holder[1] != response_id:
                        raise key_in_use(key, holder[1]) from None
                    continue
            self._own[user, response_id] = _Claim(key, etag, current_call())
            if self._renewing is None:
                self._renewing = asyncio.create_task(self._renew())
            return

    async def _renew(self) -> None:
        """Keep what turns in flight have claimed."""
        while self._own:
            await asyncio.sleep(HELD / 3)
            for (user, response_id), claim in list(self._own.items()):
                with on_behalf_of(claim.call_id):
                    value = self._value(response_id, claim.key)
                    try:
                        etag = await self._storage.replace(_place(user, claim.key.key), value, claim.etag)
                    except (OvertakenError, StoreError) as error:
                        log.warning("the idempotency key of %s is not renewed: %s", response_id, error)
                    else:
                        if self._own.get((user, response_id)) is claim:
                            self._own[user, response_id] = replace(claim, etag=etag)
        self._renewing = None

    async def aclose(self) -> None:
        """Renew nothing any more."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])

    async def put(self, user: str, response_id: str, key: IdempotencyKey) -> None:
        """Let a key stand for a response that is stored, whatever it stood for."""
        self._note_ended(user, response_id)
        await self._storage.put(_place(user, key.key), self._value(response_id, key))

    def _value(self, response_id: str, key: IdempotencyKey) -> dict[str, Any]:
        return {
            "response_id": response_id,
            "fingerprint": key.fingerprint.hex(),
            "claimed_at": self._clock(),
            "session": self._session(),
        }

    def has(self, user: str, response_id: str) -> bool:
        """Whether a turn in flight has taken a key."""
        return (user, response_id) in self._own

    async def give_up(self, user: str, response_id: str) -> None:
        """Free the key of a turn that will not be finished."""
        own = self._own.pop((user, response_id), None)
        if own is not None:
            await self._storage.delete(_place(user, own.key.key), own.etag)

    def keep(self, user: str, response_id: str) -> None:
        """Leave the key of a turn to its response, which is stored now."""
        self._own.pop((user, response_id), None)
        self._note_ended(user, response_id)

    def _note_ended(self, user: str, response_id: str) -> None:
        self._ended[user, response_id] = None
        while len(self._ended) > MOST_ENDED:
            self._ended.popitem(last=False)

    async def _holder(self, item: StateItem | None, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        if item is None:
            return None
        value: dict[str, Any] = item.value
        response_id, fingerprint = str(value["response_id"]), bytes.fromhex(value["fingerprint"])
        found = await self._look(user, response_id, key, since)
        if found is not None:
            return found
        is_ours = (user, response_id) in self._own or (user, response_id) in self._ended
        # Of a session's processes only one runs at a time: what an earlier one has claimed is nobody's.
        is_ours = is_ours or (self._session() != "" and value.get("session") == self._session())
        is_elsewhere = not is_ours and self._clock() < float(value["claimed_at"]) + HELD
        return (fingerprint, response_id) if is_elsewhere else None


def _place(user: str, key: str) -> str:
    return f"k/{hash_of(user, key)}"
