"""Requests to become a WebSocket: which are refused, and how."""

from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY_VIOLATION = 1008


def foreign_origin(scope: Scope) -> str | None:
    """The site of the page that asks, if it is another one than the host. Programs that are no browsers name none."""
    headers = dict(scope["headers"])
    origin: str = headers.get(b"origin", b"").decode("latin-1")
    own: str = headers.get(b"host", b"").decode("latin-1")
    return origin if origin and urlsplit(origin).netloc.lower() != own.lower() else None


async def refuse_upgrade(refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as `refusal` answers a request. A server that cannot do that closes the WebSocket before it is open."""
    can_answer = "websocket.http.response" in scope.get("extensions", {})

    async def answer(message: Message) -> None:
        if can_answer:
            await send({**message, "type": f"websocket.{message['type']}"})
        elif message["type"] == "http.response.start":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    await refusal({**scope, "type": "http", "method": "GET"}, receive, answer)
