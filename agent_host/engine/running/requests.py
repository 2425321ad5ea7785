"""Open requests: who may answer them, with what, and until when.

Every function that changes a lane checks everything first; if it raises, nothing has changed.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from agent_host.engine import annotations
from agent_host.engine.running.frame import Frame, OpenRequest, response_type
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.routing import Queued
from agent_host.errors import UnknownRequestError, WorkflowRunnerException


def answer_type(frame: Frame, request: OpenRequest) -> Any:
    """The annotation of a request's answer; None if this program has no such type."""
    table = frame.definition.graph.executors[request.executor].handler_table
    return response_type(request.response_name, table, frame.codec)


def answered(frame: Frame, request: OpenRequest, value: Any) -> Queued:
    """The answer as a message. Raises if it is not of the type that was asked for."""
    executor, name = request.executor, request.response_name
    table = frame.definition.graph.executors[executor].handler_table
    wanted = answer_type(frame, request)
    if wanted is None or table.responder(request.data, wanted) is None:
        raise WorkflowRunnerException(
            f"Executor {frame.name(executor)!r} no longer has a @response_handler for a "
            f"{type(request.data).__qualname__} answered by {name}."
        )
    if not annotations.matcher(wanted)(value):
        value = _converted(request, wanted, value)
    return frame.enqueue(executor, executor, "response", (request.data, value), request.request_id, name)


def _converted(request: OpenRequest, wanted: Any, value: Any) -> Any:
    """An answer given as plain JSON values as what was asked for: a model, a dataclass, an enum, a float."""
    try:
        if isinstance(wanted, type) and annotations.is_pydantic(wanted):
            return wanted.model_validate(value)  # type: ignore[attr-defined]  # by its shape
        return msgspec.convert(value, wanted)
    except (ValueError, TypeError):  # both libraries raise kinds of these
        raise WorkflowRunnerException(
            f"The answer to request {request.request_id!r} must be a {request.response_name}, not a "
            f"{type(value).__qualname__}."
        ) from None


def take(lane: Lane, responses: Mapping[str, Any], now: float) -> None:
    """Turn answers into messages and their requests into history. `now` is in seconds since the epoch."""
    taken: list[tuple[Frame, Queued]] = []
    for request_id, value in responses.items():
        frame, request = _find(lane, request_id)
        if _is_expired(request, now):
            raise UnknownRequestError(f"The request {request_id!r} can no longer be answered: it has expired.")
        taken.append((frame, answered(frame, request, value)))
    for frame, queued in taken:
        _close(frame, queued.request_id or "", queued)


def take_expired(lane: Lane, now: float) -> tuple[list[str], bool]:
    """Answer expired requests with their defaults and drop those that have none.

    Returns a warning for each that was dropped, and whether there were any.
    """
    expired = [entry for entry in lane.open_requests().values() if _is_expired(entry[1], now)] if lane.waits else []
    answers = [answered(frame, request, request.default[0]) if request.default else None for frame, request in expired]
    warnings = []
    for (frame, request), queued in zip(expired, answers, strict=True):
        _close(frame, request.request_id, queued)
        if queued is None:
            warnings.append(
                f"The request {request.request_id!r} of {frame.name(request.executor)!r} has expired without an answer "
                "and without a default; it was dropped."
            )
    return warnings, bool(expired)


def drop(lane: Lane, request_ids: Iterable[str]) -> None:
    """Close requests that nobody is to answer any more."""
    found = [(_find(lane, request_id)[0], request_id) for request_id in request_ids]
    for frame, request_id in found:
        _close(frame, request_id, None)


def refuse_unknown(lane: Lane, request_ids: Iterable[str]) -> None:
    """Raise `UnknownRequestError` if one of these requests is not open to the outside."""
    for request_id in request_ids:
        _find(lane, request_id)


def unknown(request_id: str, known: Iterable[str], where: str = "in this session") -> UnknownRequestError:
    """The error for an answer that nobody has asked for."""
    names = ", ".join(map(repr, known)) or "none"
    return UnknownRequestError(f"No request {request_id!r} is open {where}; open: {names}.")


def _find(lane: Lane, request_id: str) -> tuple[Frame, OpenRequest]:
    outward = {name: entry for name, entry in lane.open_requests().items() if entry[0].outward}
    if request_id not in outward:
        raise unknown(request_id, outward)
    return outward[request_id]


def _is_expired(request: OpenRequest, now: float) -> bool:
    return request.expires_at is not None and request.expires_at <= now


def _close(frame: Frame, request_id: str, queued: Queued | None) -> None:
    waiting = frame.waiting
    left = {name: request for name, request in waiting.requests.items() if name != request_id}
    frame.waiting = replace(waiting, queue=(*waiting.queue, queued) if queued else waiting.queue, requests=left)
