"""Requests to become a WebSocket, and how they are refused."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY_VIOLATION = 1008


async def refuse_upgrade(refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as `refusal` answers a request. A server that cannot do that closes the WebSocket before it is open."""
    can_answer = "websocket.http.response" in scope.get("extensions", {})

    async def answer(message: Message) -> None:
        if can_answer:
            await send({**message, "type": f"websocket.{message['type']}"})
        elif message["type"] == "http.response.start":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    await refusal({**scope, "type": "http", "method": "GET"}, receive, answer)
