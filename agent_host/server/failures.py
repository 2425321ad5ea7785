"""What a client is told about a turn that failed: a code of OpenAI's enumeration and a text.

Strict clients refuse codes outside of the enumeration, so there are few. The full cause goes to the log.
"""

from typing import Any

from agent_host.wire.response import error_object

_BY_STATUS = {429: "rate_limit_exceeded"}
_STOPPED = "The server was shut down before the turn had finished. Send the request again; nothing of it was kept."


def stopped() -> dict[str, Any]:
    """The turn was cut off by the host's own shutdown."""
    return error_object("server_error", _STOPPED)


def abandoned(reason: str) -> dict[str, Any]:
    """A background turn that no process goes on with."""
    return error_object("server_error", f"The turn was given up: {reason.rstrip('.')}. Send the request again.")


def homeless() -> dict[str, Any]:
    """The turn's conversation is gone, or has gone on in another process."""
    return error_object(
        "server_error",
        "The conversation was deleted, or went on elsewhere, while the turn ran; nothing of it was kept. Ask again.",
    )


def unstored(request_id: str) -> dict[str, Any]:
    """The turn ran, but its end could not be stored."""
    return error_object(
        "server_error", f"The turn could not be stored; nothing of it was kept. Request id {request_id}."
    )


def failure(error: BaseException, request_id: str, *, expose: bool) -> dict[str, Any]:
    """The `error` of a failed response. With `expose` it tells the executor and the cause."""
    try:
        code, cause = _told_by(error)
    except Exception:  # noqa: BLE001 - an error may be of a class whose own attributes or text fail
        code, cause = "server_error", type(error).__name__
    if not expose:
        cause = f"The workflow failed. The log has the cause under the request id {request_id}."
    return error_object(code, cause)


def _told_by(error: BaseException) -> tuple[str, str]:
    """The code of an error, and its text with the executor that has raised it."""
    code = _BY_STATUS.get(getattr(error, "status_code", 0), "server_error")
    where = next((note for note in getattr(error, "__notes__", ()) if note.startswith("raised by executor")), "")
    cause = f"{type(error).__name__}: {error}"[:500]
    return code, f"{cause} ({where})" if where else cause
