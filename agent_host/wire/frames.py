"""Frames of the WebSocket mode: a client's text frames as requests, events and faults as text frames.

- A frame of a client is the body of a request for a response, with a `type` and, if it is for a named lane, its
  `stream_id`. What is wrong with the rest of it is said when its turn comes, as over HTTP.
- A frame of the server is an event as in a stream, or an `error`. It has the `stream_id` of the frame that it answers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_host.wire import checks, problems
from agent_host.wire.events import Event
from agent_host.wire.problems import Problem, problem_body

CREATE = "response.create"
_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_OF_THE_FRAME = frozenset({"type", "stream_id", "generate", "stream", "background"})

_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class CreateFrame:
    """A request for a response: its body as over HTTP, and the response that it continues, if it names one.

    One that does not generate only prepares what a later request continues.
    """

    body: bytes = field(repr=False)
    continues: str | None = None
    generates: bool = True


def stream_id_of(frame: Mapping[str, Any]) -> str | None:
    """The lane that a frame is for; None for the unnamed one. Raises the `Problem` of an id that is none."""
    given = frame.get("stream_id")
    if given is None:
        return None
    if type(given) is not str or _STREAM_ID.fullmatch(given) is None:
        raise problems.invalid_stream_id()
    return given


def create_frame(frame: Mapping[str, Any]) -> CreateFrame:
    """A decoded frame as a request, or the `Problem` of one that cannot be made over a WebSocket.

    Every response is streamed, whatever `stream` says.
    """
    if frame.get("type") is None:
        raise problems.missing_parameter("type")
    checks.one_of(CREATE)(frame["type"], "type")
    for name in ("generate", "stream", "background"):
        if frame.get(name) is not None:
            checks.boolean(frame[name], name)
    if frame.get("background"):
        raise problems.no_background_turns_here()
    body = {name: value for name, value in frame.items() if name not in _OF_THE_FRAME}
    continues = frame.get("previous_response_id")
    return CreateFrame(
        body=_json({**body, "stream": True}),
        continues=continues if type(continues) is str else None,
        generates=frame.get("generate") is not False,
    )


def event_frame(event: Event, stream_id: str | None) -> str:
    """An event of a response."""
    return _text(event, stream_id)


def error_frame(problem: Problem, stream_id: str | None) -> str:
    """A fault of the frame that was sent last on a lane, or of the connection."""
    return _text({"type": "error", "status": problem.status, **problem_body(problem)}, stream_id)


def _text(frame: Mapping[str, Any], stream_id: str | None) -> str:
    return _json(frame if stream_id is None else {**frame, "stream_id": stream_id}).decode()
