"""Who is calling: the user partition, the request's id, the session. Pure functions over headers and settings."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent_host.ids import key_of
from agent_host.settings import Platform

LOCAL_USER = ""
"""The partition of everything that is stored as long as no platform says who the user is."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_UNNAMED_AGENT = "server-default-agent"
_SESSION_DIGITS = 63

USER = "x-agent-user-id"
CALL = "x-agent-foundry-call-id"
RESPONSE = "x-agent-response-id"
CLIENT_HEADER = "x-client-"
WORKFLOW_EVENTS = "x-workflow-events"
"""Asks for the events of the workflow beside those of the response, in a stream."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller of one request.

    `user` partitions what is stored; it proves nothing by itself. `call_id` is the platform's token for calls that are
    made to it for this request: it stands in no log. `response_id` is the id that the platform wants the response to
    have, and `session_id` the platform's session; "" is none.
    """

    user: str
    request_id: str
    client_headers: Mapping[str, str]
    wants_workflow_events: bool = False
    call_id: str = field(default="", repr=False)
    response_id: str = ""
    session_id: str = ""


def identify(headers: Mapping[str, str], new_request_id: Callable[[], str]) -> Identity:
    """Read the caller from lower-case headers.

    The request's id is that of the trace it belongs to, else the one that the caller gave, if it is harmless in a log.
    """
    trace = _TRACE.fullmatch(headers.get("traceparent", ""))
    given = headers.get("x-request-id", "")
    named = given if _REQUEST_ID.fullmatch(given) else ""
    return Identity(
        user=headers.get(USER, LOCAL_USER),
        request_id=trace[1] if trace else named or new_request_id(),
        client_headers={name: value for name, value in headers.items() if name.startswith(CLIENT_HEADER)},
        wants_workflow_events=headers.get(WORKFLOW_EVENTS, "").lower() in ("1", "true"),
        call_id=headers.get(CALL, ""),
        response_id=headers.get(RESPONSE, ""),
    )


def session_of(platform: Platform, given: str | None, continues: str | None, entropy: Callable[[int], bytes]) -> str:
    """The session of a turn: the one it names, that of the sandbox, or one of its own.

    Turns that continue the same conversation or chain, whose id is `continues`, have the same session.
    """
    if given or platform.session_id:
        return given or platform.session_id
    if continues is None:
        return entropy(32).hex()[:_SESSION_DIGITS]
    name = platform.agent_name or _UNNAMED_AGENT
    told = f"{name}:{platform.agent_version}:{key_of(continues) or continues}"
    return hashlib.sha256(told.encode()).hexdigest()[:_SESSION_DIGITS]
