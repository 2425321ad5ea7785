"""Idempotency keys: a request that is sent again under its key gives the response that it gave before."""

from agent_host.foundry.identity import Identity
from agent_host.server.host import Host
from agent_host.stores.records import IdempotencyKey
from agent_host.wire import checks, problems
from agent_host.wire.request import CreateRequest

HEADER = "idempotency-key"
KEPT_FOR = 24 * 3600.0
"""Seconds for which a key stands for its request."""

_KEY = checks.text(256, least=1)


class Repeated(Exception):
    """The request was made before: its response is this one, finished or on its way."""

    def __init__(self, response_id: str, key: IdempotencyKey) -> None:
        super().__init__(response_id)
        self.response_id = response_id
        self._key = key

    async def is_in_flight(self, host: Host, user: str) -> bool:
        """Whether the response may still come: its turn has neither ended nor been given up."""
        return await host.store.find_key(user, self._key.key, host.sources.clock() - KEPT_FOR) is not None


def idempotency_key(given: str | None, request: CreateRequest) -> IdempotencyKey | None:
    """The request's key, if the client has given it one. What is not stored cannot be given again."""
    if given is None or not request.store:
        return None
    _KEY(given, HEADER)
    return IdempotencyKey(given, request.fingerprint)


async def refuse_repeated(host: Host, who: Identity, key: IdempotencyKey | None) -> None:
    """Raise `Repeated` if the user has made this request under this key, a `Problem` if it was another request."""
    if key is None:
        return
    earlier = await host.store.find_key(who.user, key.key, host.sources.clock() - KEPT_FOR)
    if earlier is None:
        return
    fingerprint, response_id = earlier
    if fingerprint != key.fingerprint:
        raise problems.idempotency_mismatch()
    raise Repeated(response_id, key)
