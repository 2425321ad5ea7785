"""What a store keeps of a response, as plain data.

Rule 1: a store never looks into bytes; `input`, `body` and `delta_lengths` are made and read by the server.
Rule 2: a record has no user; which user's it is stands beside it in every call.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """A finished response and the two commits of its turn: the one it started from and the one to continue from.

    `created_at` and `completed_at` are in whole seconds since the epoch, as on the wire.
    """

    id: str
    previous_response_id: str | None
    start_commit: str
    commit: str
    conversation: str | None
    status: str
    created_at: int
    completed_at: int | None
    delta_lengths: bytes = field(repr=False)
    input: bytes = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a turn must know of a response to continue it."""

    response_id: str
    commit: str
    status: str


@dataclass(frozen=True, slots=True)
class SavePoint:
    """A commit that somebody may continue: the head of a session, or what a response stands for.

    `name` is the id of the session or of the response.
    """

    user: str
    kind: Literal["session", "response"]
    name: str
    workflow: str
    commit: str
