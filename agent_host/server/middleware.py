"""The API key, as pure ASGI."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_host.server.upgrade import refuse_upgrade

OPEN_PATHS = frozenset({"/readiness"})


class ApiKey:
    """Lets a request pass that carries the key as bearer token; probes need none. Others go to `refusal`."""

    def __init__(self, app: ASGIApp, *, key: str, refusal: ASGIApp) -> None:
        self._app = app
        self._refusal = refusal
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or _path(scope) in OPEN_PATHS or self._holds(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await refuse_upgrade(self._refusal, scope, receive, send)
        else:
            await self._refusal(scope, receive, send)

    def _holds(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)


def _path(scope: Scope) -> str:
    """The path below the place where the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
