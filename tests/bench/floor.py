"""The practical limit: a Starlette endpoint that parses the body and answers a response of the same size."""

import json
import time
import uuid

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

REST = {
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None,
    "instructions": None, "metadata": {}, "temperature": None, "top_p": None,
}  # fmt: skip


async def create(request: Request) -> Response:
    """Answer without doing any work."""
    body = json.loads(await request.body())
    part = {"type": "output_text", "text": "turn 1: " + body["input"], "annotations": []}
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    response = {
        "id": f"resp_{uuid.uuid4().hex}", "object": "response", "created_at": int(time.time()), "status": "completed",
        "model": "m", "output": [message], **REST,
    }  # fmt: skip
    return Response(json.dumps(response), media_type="application/json")


app = Starlette(routes=[Route("/responses", create, methods=["POST"])])
