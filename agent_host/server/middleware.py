"""Who is let in, as pure ASGI: with an API key whoever has it, without one whoever is no stranger's page."""

import hmac
from collections.abc import Callable, Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_host.server.upgrade import refuse_upgrade
from agent_host.settings import LOOPBACK
from agent_host.wire import problems
from agent_host.wire.problems import Problem

OPEN_PATHS = frozenset({"/readiness"})


class ApiKey:
    """Lets a request pass that carries the key as bearer token; probes need none. Others go to `refusal`."""

    def __init__(self, app: ASGIApp, *, key: str, refusal: ASGIApp) -> None:
        self._app = app
        self._refusal = refusal
        self._expected = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _path(scope) in OPEN_PATHS or self._holds(scope):
            await self._app(scope, receive, send)
        else:
            await _turn_away(self._refusal, scope, receive, send)

    def _holds(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = given.partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(key, self._expected)


class NoForeignPages:
    """Keeps out what browsers send for pages of other sites: they let every page talk to this machine.

    A page names itself as the `Origin`, which must be where the request goes. The owner of a name can point it to this
    machine, and then its page is where the request goes: so what arrives at a loopback address of a host that is
    `is_local` must name an address or `localhost`. The `trusted` names pass in both places. Others are answered by
    what `refuse` makes of the problem.
    """

    def __init__(
        self, app: ASGIApp, *, is_local: bool, trusted: Collection[str], refuse: Callable[[Problem], ASGIApp]
    ) -> None:
        self._app = app
        self._is_local = is_local
        self._trusted = frozenset(name.lower() for name in trusted)
        self._refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        problem = None if scope["type"] == "lifespan" else self._problem(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            await _turn_away(self._refuse(problem), scope, receive, send)

    def _problem(self, scope: Scope) -> Problem | None:
        origin, host = _header(scope, b"origin"), _header(scope, b"host").lower()
        page, name = _authority(origin), _name(host)
        if origin and page != host and _name(page) not in self._trusted:
            return problems.foreign_origin(origin)
        arrived_at, _ = scope.get("server") or ("", None)
        if self._is_local and arrived_at in LOOPBACK and not (_is_own(name) or name in self._trusted):
            return problems.untrusted_host(name)
        return None


async def _turn_away(refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await refuse_upgrade(refusal, scope, receive, send)
    else:
        await refusal(scope, receive, send)


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")


def _authority(origin: str) -> str:
    """The host of a page's origin, with its port; what is no address has none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(authority: str) -> str:
    """A host without its port and without the brackets of an address."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] or authority


def _is_own(name: str) -> bool:
    """Whether the name belongs to nobody else: an address, or that of this machine. Programs may give none."""
    if not name or name in LOOPBACK:
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
