"""The platform's gateway in front of the host, as pure ASGI, for a host that is not behind the real one."""

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_host.foundry.emulation import as_passed_on
from agent_host.ids import random_bytes


class EmulatedGateway:
    """Gives every request the headers that the platform would give it, and takes those that it would not pass on."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope = {**scope, "headers": as_passed_on(scope["headers"], lambda: random_bytes(16).hex())}
        await self._app(scope, receive, send)
