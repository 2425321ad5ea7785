"""What a store keeps besides commits and blobs, as plain data.

Rule 1: a store never looks into bytes; `request`, `input`, `body`, `delta_lengths`, events and items are made and read
by the server.
Rule 2: a record has no user; which user's it is stands beside it in every call.
Rule 3: times called `created_at` or `completed_at` are in whole seconds since the epoch, as on the wire; all other
times are seconds with a fraction.
"""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class OpenCall:
    """A question that a client has been asked: the id it answers to, and the engine's id of the request."""

    call_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class ResponseRecord:
    """A finished response and the two commits of its turn: the one it started from and the one to continue from.

    `calls` are the questions that are open in `commit`, asked by its turn or, if that has failed, before it. `items`
    are the ids of its own items, input and output, by which later requests may refer to them. `heard` are the ids of
    all items that its turn has added to what the state at `commit` has heard and said; none if it has failed.
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
    background: bool = False
    calls: tuple[OpenCall, ...] = ()
    items: tuple[str, ...] = ()
    heard: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Heard:
    """The ids of the items that one turn, named by its response, has added to what a state has heard and said."""

    response_id: str
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a turn must know of a response to continue it: a finished one, or a background one on its way.

    `commit` is empty as long as there is nothing to continue from.
    """

    response_id: str
    commit: str
    status: str


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for a request, and a hash of the request that it stands for."""

    key: str
    fingerprint: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TurnInFlight:
    """A turn in flight. `request` is what a background turn is begun again from; a foreground turn has none.

    `commit` is where it stands: the starting commit at first, then the last of its own.
    """

    id: str
    start_commit: str
    created_at: int
    conversation: str | None = None
    background: bool = False
    key: IdempotencyKey | None = None
    request: bytes = field(default=b"", repr=False)
    status: Literal["queued", "in_progress"] = "queued"
    commit: str = ""
    attempt: int = 0
    last_sequence: int = -1


@dataclass(frozen=True, slots=True)
class Guard:
    """The claim under which a background turn writes: who owns it, and the last event it has written.

    `last_sequence` is -1 before the first event.
    """

    response_id: str
    owner: str
    last_sequence: int = -1

    def after(self, events: int) -> "Guard":
        """The guard of the next write, once this many events are written."""
        return Guard(self.response_id, self.owner, self.last_sequence + events)


@dataclass(frozen=True, slots=True)
class Append:
    """Events of one turn for the event log, in order."""

    user: str
    guard: Guard
    events: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A turn in flight that nobody works on: it waits to be begun, or its owner is gone."""

    user: str
    turn: TurnInFlight


@dataclass(frozen=True, slots=True)
class Item:
    """An item of a conversation."""

    id: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation: the commit it stands at, None before its first turn."""

    id: str
    created_at: int
    metadata: bytes = field(repr=False)
    head: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """The items that entered a conversation since its last turn, in order, and the place up to which they were read."""

    items: tuple[Item, ...] = ()
    position: int = 0


@dataclass(frozen=True, slots=True)
class ConversationMove:
    """What the end of a turn changes in its conversation: the head goes from `expected_head` to the response's commit,
    the items of the turn are added, and those that were waiting up to `position` have been taken in."""

    conversation: str
    expected_head: str | None
    items: tuple[Item, ...] = ()
    position: int = 0


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction item stands for: items, and the commit to continue from, if there was one.

    `heard` are the ids of those items that the state of the commit has heard and said.
    """

    handle: str
    created_at: int
    items: bytes = field(repr=False)
    commit: str | None = None
    heard: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class SavePoint:
    """A commit that somebody may continue: the head of a session or conversation, or what a response stands for.

    `name` is the id of the session, the conversation or the response.
    """

    user: str
    kind: Literal["session", "conversation", "response"]
    name: str
    workflow: str
    commit: str


@dataclass(frozen=True, slots=True)
class CommitName:
    """A commit of a user; of a root, which belongs to nobody, the user is None."""

    user: str | None
    id: str


@dataclass(frozen=True, slots=True)
class Freed:
    """How many things of one kind went, and the bytes of what they held; indexes and room in pages are not counted."""

    count: int = 0
    size: int = 0

    def __add__(self, other: "Freed") -> "Freed":
        return Freed(self.count + other.count, self.size + other.size)


@dataclass(frozen=True, slots=True)
class Description:
    """What a store holds, of every user. Sizes are in bytes; `oldest_response` is in seconds since the epoch.

    `sizes` tells the bytes of what is held by its kind, without indexes and empty room; `free` is the room in `size`
    that is used next. `pending` counts the responses whose questions no stored turn has answered, `largest` names the
    five largest conversations by user and id, with their items and the bytes of these.
    """

    size: int
    free: int
    sizes: dict[str, int]
    users: int
    conversations: int
    responses: int
    commits: int
    blobs: int
    in_flight: int
    pending: int
    oldest_response: int | None
    largest: tuple[tuple[str, str, int, int], ...] = ()
