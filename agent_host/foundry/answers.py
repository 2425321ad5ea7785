"""What the platform reads in the headers of an answer: who has made it, its session, and whose fault an error is."""

import sys

_LONGEST_DETAIL = 2048  # characters

RawHeaders = list[tuple[bytes, bytes]]


def server_name(version: str) -> str:
    """What this server calls itself to the platform."""
    return f"agent-host/{version} (python/{sys.version_info.major}.{sys.version_info.minor})"


def answer_headers(server: str, session_id: str) -> RawHeaders:
    """The headers of every answer of a server; one that belongs to no session names none."""
    named = [(b"x-agent-session-id", session_id.encode())] if session_id else []
    return [(b"x-platform-server", server.encode()), *named]


def fault_headers(status: int, cause: BaseException | None) -> RawHeaders:
    """Whose fault an error is: the caller's, or the host's, of which the platform is told the cause."""
    if status < 500:
        return [(b"x-platform-error-source", b"user")]
    detail = [] if cause is None else [(b"x-platform-error-detail", _detail(cause))]
    return [(b"x-platform-error-source", b"platform"), *detail]


def _detail(cause: BaseException) -> bytes:
    """The cause as a header: one line of ASCII."""
    text = " ".join(f"{type(cause).__name__}: {cause}".split()).encode("ascii", "backslashreplace").decode()
    text = "".join(letter for letter in text if letter.isprintable())
    return (text if len(text) <= _LONGEST_DETAIL else text[:_LONGEST_DETAIL] + "...[truncated]").encode()
