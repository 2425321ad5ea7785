"""Calls to the platform that are made for a request: they carry the request's call id, and never its user."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from agent_host.foundry.identity import CALL

_call_id: ContextVar[str] = ContextVar("call_id", default="")


@contextmanager
def on_behalf_of(call_id: str) -> Iterator[None]:
    """What runs in the block, and what it begins, calls the platform under this call id; "" is none."""
    token = _call_id.set(call_id)
    try:
        yield
    finally:
        _call_id.reset(token)


def current_call() -> str:
    """The call id of the request that is served now; "" if there is none."""
    return _call_id.get()


def call_headers() -> dict[str, str]:
    """The headers of a call to the platform that is made now. They belong to one call, not to a shared client."""
    call_id = _call_id.get()
    return {CALL: call_id} if call_id else {}
