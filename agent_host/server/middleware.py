"""The API key, as pure ASGI."""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from agent_host.server.streams import send_json
from agent_host.wire.problems import Problem, problem_body

OPEN_PATHS = frozenset({"/readiness"})


class ApiKey:
    """Lets a request pass that carries the key as bearer token; probes need none."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._holds(scope):
            await self._app(scope, receive, send)
            return
        problem = Problem(
            401, "The API key is missing or wrong. Send it as 'Authorization: Bearer <key>'.", code="invalid_api_key"
        )
        await send_json(send, problem.status, problem_body(problem), [(b"www-authenticate", b"Bearer")])

    def _holds(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._expected)
