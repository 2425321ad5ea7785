"""The platform as a container sees it, for trying isolation on one's own machine: its variables and its headers."""

import hashlib
from collections.abc import Callable, Iterable, Mapping

from agent_host.foundry.answers import RawHeaders
from agent_host.foundry.identity import CALL, CLIENT_HEADER, USER

VARIABLES: Mapping[str, str] = {
    "FOUNDRY_HOSTING_ENVIRONMENT": "emulated",
    "FOUNDRY_AGENT_NAME": "local-agent",
    "FOUNDRY_AGENT_VERSION": "1",
    "FOUNDRY_AGENT_SESSION_ID": "local-session",
    "FOUNDRY_AGENT_SESSION_GUID": "0" * 32,
}
"""What the platform sets. It sets the project's endpoint too, which nobody can make up."""

CALLER_NAMED = b"x-ms-user-identity"
"""With it a caller whom the platform trusts names the user on whose behalf it calls."""
_NOBODY_NAMED = b"local-user"

_PASSED_ON = frozenset(
    b"accept accept-encoding accept-language content-type content-length content-encoding user-agent "
    b"traceparent tracestate baggage correlation-context request-context "
    b"x-ms-client-request-id x-request-id request-id ms-cv".split()
)
_NEEDED_HERE = frozenset({b"host", b"origin"})
"""The platform drops these too. On one's own machine they tell programs from the pages of strangers."""


def as_passed_on(headers: Iterable[tuple[bytes, bytes]], new_call_id: Callable[[], str]) -> RawHeaders:
    """The headers of a caller as the platform's gateway gives them to the container, with those that it adds.

    The user's id is opaque, and always the same for the same user.
    """
    given = list(headers)
    user = next((value for name, value in given if name == CALLER_NAMED), b"") or _NOBODY_NAMED
    passed = [(name, value) for name, value in given if _is_passed(name)]
    added = {USER: hashlib.sha256(user).hexdigest()[:32], CALL: new_call_id()}
    return [*passed, *((name.encode(), value.encode()) for name, value in added.items())]


def _is_passed(name: bytes) -> bool:
    return name in _PASSED_ON or name in _NEEDED_HERE or name.startswith(CLIENT_HEADER.encode())
