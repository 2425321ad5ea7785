"""Who is calling: the user partition and the request's id. Pure functions over headers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

LOCAL_USER = ""
"""The partition of everything that is stored as long as no platform says who the user is."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
CLIENT_HEADER = "x-client-"
WORKFLOW_EVENTS = "x-workflow-events"
"""Asks for the events of the workflow beside those of the response, in a stream."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller of one request."""

    user: str
    request_id: str
    client_headers: Mapping[str, str]
    wants_workflow_events: bool = False


def identify(headers: Mapping[str, str], new_request_id: Callable[[], str]) -> Identity:
    """Read the caller from lower-case headers. A request id that the caller gave is kept if it is harmless in a log."""
    given = headers.get("x-request-id", "")
    return Identity(
        user=LOCAL_USER,
        request_id=given if _REQUEST_ID.fullmatch(given) else new_request_id(),
        client_headers={name: value for name, value in headers.items() if name.startswith(CLIENT_HEADER)},
        wants_workflow_events=headers.get(WORKFLOW_EVENTS, "").lower() in ("1", "true"),
    )
