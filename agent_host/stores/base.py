"""The promise of a store: `Store`, and `CommitLog`, the narrow face that the engine used alone needs.

The rules are numbered; `agent_host.testing.store_contract` tests each of them under the same number. No
transaction, connection or query crosses these two classes, so that a database and a key-value service can
both keep the promise.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from agent_host.engine.checkpoint import Commit
from agent_host.stores.archive import Archive
from agent_host.stores.records import (
    Append,
    CommitName,
    Compaction,
    Conversation,
    ConversationMove,
    Description,
    Freed,
    Guard,
    Heard,
    IdempotencyKey,
    Item,
    Lapsed,
    OpenCall,
    ResponseRecord,
    ResumePoint,
    SavePoint,
    TurnInFlight,
    Waiting,
)

SYSTEM = "*"
"""The partition of root commits and their blobs: read by every user, the name of none."""


class CommitLog(Protocol):
    """Blobs, commits and one head per (workflow, session) of one user: what the engine asks of the outside.

    R20  `head` is None for a session that has never committed.
    R21  `commit` stores its commits and blobs and makes the last one the head, or, if the head is not
         `expected_head` or a commit's parent is not stored, raises `WorkflowConflictError` and changes nothing.
         Without commits it does nothing.
    R22  `move_head` points a session at a stored commit under the same condition; `CheckpointNotFoundError` if
         there is no such commit.
    R23  `chain` and `blobs` answer as `Store.read_chain` and `Store.read_blobs`, but whether a body has its hash is
         left to the reader: a log may hold sealed bodies under the hashes of what they seal.
    R24  `commits` lists the commits of a workflow, or of one session, by `(created_at, seq)`, without blobs. The
         workflow's roots are among them.
    R25  `delete` removes a commit and keeps every descendant readable: the children become complete in the same
         step. False if there is no such commit.
    R26  `delete` of a head, of a root, or of what a stored response, a compaction, a conversation or a background turn
         in flight is continued from, the commit that turn began at included, raises `WorkflowCheckpointException` and
         changes nothing.
    R27  Sessions of one user are invisible to every other: heads, commits and deletions.
    R28  If the process dies inside `commit`, `move_head`, `delete`, `record` or `collect`, every commit reads as before
         or as after; once the verb has returned, what it has done stays. The other verbs change nothing.
    R29  `collect` removes the user's blobs that no stored commit needs, directly or through other blobs, and tells how
         many; nothing that a stored commit of any session or user reads changes, root commits included.
    R30  `record` notes entries by key in addition to those noted before, of which it replaces those with the same key;
         `recorded` gives them back.
    R31  If the session's head is not the one named, `record` raises `WorkflowConflictError` and changes nothing, and
         `recorded` is empty.
    R32  Notes go with the next `commit` or `move_head` of their session, also if its head comes back to the same
         commit. No other session, workflow, fork or user sees them or makes them go.
    """

    async def head(self, workflow: str, session_id: str) -> str | None:
        """The id of the session's newest commit (R20)."""
        ...

    async def chain(self, commit_id: str) -> list[Commit]:
        """The commit and its ancestors back to a complete one, newest first, without blobs; empty if unknown (R23)."""
        ...

    async def blobs(self, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The bodies of these blobs; a blob that is not stored is absent from the answer (R23)."""
        ...

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        """Store the commits and make the last one the head of its session, atomically (R21)."""
        ...

    async def move_head(self, workflow: str, session_id: str, to: str, expected_head: str | None) -> None:
        """Point a session at a stored commit (R22)."""
        ...

    async def commits(self, workflow: str, session_id: str | None = None) -> list[Commit]:
        """The stored commits of a workflow, or of one of its sessions (R24)."""
        ...

    async def delete(self, commit_id: str) -> bool:
        """Remove a commit that is nobody's head (R25, R26)."""
        ...

    async def collect(self) -> int:
        """Remove the blobs that no stored commit needs; returns their number (R29)."""
        ...

    async def record(self, workflow: str, session_id: str, head: str, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that starts from `head`, by key (R30-R32)."""
        ...

    async def recorded(self, workflow: str, session_id: str, head: str) -> dict[str, bytes]:
        """What is noted of the superstep that starts from `head` (R30-R32)."""
        ...


class Store(Protocol):
    """Responses, turns in flight, conversations, commits and blobs, changed by one verb at a time.

    Everywhere:
    R1   Every record belongs to the user named in the call ("" is the one local user). Another user's id answers
         exactly as an unknown one, blobs included.
    R2   A commit of kind `root` and its blobs belong to no user: every user reads them. A user who happens to be
         called like the system partition is a user like any other.
    R3   What a verb has stored is seen by every call that begins after the verb has returned.
    R4   A verb whose caller is cancelled still runs to its end, whole or not at all; only then is the
         cancellation raised, however often it was asked for.
    R5   Verbs that run at the same time do not harm each other: the failure of one changes nothing for another.

    Opening and closing:
    R6   `open` makes an empty store or brings an older one up to date; it may be called again. If the process
         dies inside it, the next `open` goes on from the last whole step.
    R7   `aclose` ends what has begun, releases everything and may be called again. A verb before `open` or
         after `aclose`, and `open` after `aclose`, raise `StoreClosedError`.

    Reading; if the process dies inside one of these, nothing has changed:
    R8   `resolve` gives what a turn needs to continue a response, finished or a background one in flight; None for an
         unknown response and for a foreground turn in flight.
    R9   `read_chain` gives the commit and its ancestors back to a complete one, newest first, without blobs; the
         empty list for an unknown commit. A chain with a gap raises `CheckpointDecodeError` naming the gap.
    R10  `read_blobs` gives the bodies of any number of hashes, without those that are not stored. A body that
         does not have its hash raises `CheckpointDecodeError` naming it.
    R66  `read_heard` gives what the turns on the way to a commit have added to what its state has heard, newest first,
         as far as their commits are stored. Whether their responses are stored does not matter.
    R11  `read_response` gives the record as `finish` was given it, but for `heard`; None for an unknown response.
    R12  `holds_root` tells whether a root commit is stored.
    R17  `save_points` lists, of every user, the head of every session and of every conversation and every response
         that was created at a time or after it.

    Finishing a turn:
    R13  `finish` stores the commits with their blobs and the response, all of it or nothing. If the process dies
         inside it, all of it is there or nothing; once it has returned, it survives the process and the power.
    R14  The response's id is new for this user and not that of a background turn in flight, except under its guard;
         else `TurnConflictError`, and nothing has changed.
    R15  The parent of each commit is stored or stands earlier in `commits`, a commit without parent is complete,
         and the response's commit is stored or among `commits`; else `TurnConflictError`, and nothing has changed.
    R16  A commit or blob that is stored already is left as it is.
    R33  With a `guard` that holds, `finish` also writes the last events and ends the turn in flight; what its steps
         committed stays. Without a guard it ends the foreground turn of that id, if one was admitted.
    R34  With a `move`, the conversation's head goes to the response's commit, the items are added behind those that
         are there, of which a repeated one keeps its place, and what was waiting up to the position counts as taken in.
         If the conversation is gone or its head is not the expected one, `TurnConflictError`, and nothing has changed.

    Turns in flight:
    R35  `admit` refuses with `TurnConflictError` an id that the user has, as a response or in flight, and a turn with
         an idempotency key that has another one in flight or, since a time, stands for a response (R49); with
         `ConversationLockedError` a turn in a conversation that has another one in flight; of two at the same moment
         one is admitted. A refused turn has changed nothing. That the id of a foreground turn is a response's or a
         background turn's may be told by `finish` only (R14).
    R36  A background turn that was admitted survives the process, with its request and the commits it was given, from
         the moment `admit` has returned; of a foreground turn nothing needs to survive. `read_turn` gives a background
         turn in flight, `is_in_flight` tells without reading it whether there is one.
    R37  `release` takes back a turn that will not be finished; an unknown one is no error.
    R38  `take` gives a turn a new owner until a time and returns it with where it stands: if it is queued, if its lease
         has lapsed at `now`, or if `by_force`. Else, and for an unknown turn, None. From then on the guard of every
         former owner is void.
    R69  `begin` counts an attempt at a turn and stores the events behind those that are there, under the guard. What
         waits for a place has not begun; a `step` that commits counts as the beginning of a first attempt.
    R39  `renew` moves the leases of the owner's turns; it tells the ids of those that are the owner's no more.
    R59  `give_back` ends an owner's lease of a turn at once and, if it has begun, takes the attempt back that was
         counted: the turn was left in order. For anybody but the owner it does nothing.
    R40  A write with a guard whose owner or last event is not the turn's raises `GuardLostError` and changes nothing.
    R41  `step` stores the commits with their blobs, the events behind those that are there, and moves the turn to the
         last commit: all of it or nothing, under the guard and under the conditions of R15.
    R42  `record` notes entries of the superstep that the turn is in; `recorded` gives them back; they go with the next
         `step` or `finish`.
    R43  `append` adds the events of many turns in one transaction, or of one turn, if the store does not append
         together; it tells the ids of the turns whose guard was void, of which nothing was added.
    R44  `read_events` gives the events of a turn in flight or of a background response behind a sequence number, in
         order and without a gap, at most `limit`; none for what has no event log.
    R45  `lapsed` lists the turns of every user that are queued without an owner, or whose lease has lapsed at `now`.
         A store that only one process may use lets every lease lapse when it is opened.

    Responses and questions:
    R46  `delete_response` removes a finished response with its events and the ids of its items, and the questions at
         its commit unless something else is continued from there, as in R26. Its commits stay, and so do responses
         that continue it, and what it brought into a conversation. False for an unknown response or one in flight.
    R47  `read_calls` gives the questions that responses have asked at a commit, in the order in which they were asked;
         `find_call` the commit at which a question is open, and None for an unknown question.
    R48  `find_items` gives, for ids of items, the bytes that hold them: the `input` and `body` of the response that
         brought an item first of those that are stored, or the item of a conversation. Unknown ids are absent.
    R49  `find_key` gives the id of the response, finished or in flight, that was asked for under an idempotency key
         since a time, with the fingerprint of its request. A key that is used again after that time is as a new one; so
         is that of a deleted response.

    Conversations:
    R50  `create_conversation` stores a conversation with its first items; the id is new for this user, else
         `TurnConflictError`.
    R70  `adopt_conversation` gives a conversation that was made elsewhere under an id: as it stands here, or, if it is
         unknown, as it is given. What was said in it elsewhere waits for its next turn. It need not be stored before
         the end of that turn.
    R51  `read_conversation` and `update_conversation` give the conversation; None if it is unknown. An update changes
         the metadata alone.
    R52  `delete_conversation` removes a conversation and its items, and the questions at its commit as R46 does; False
         if it is unknown. Responses stay.
    R53  `add_items` adds items behind those that are there, all or none, in the order of the calls; None if the
         conversation is unknown, `TurnConflictError` if it has an item with one of the ids.
    R54  `list_items` gives a page of a conversation's items behind or before an item, oldest or newest first, and
         whether there are more; None for an unknown conversation, `UnknownItemError` for an unknown `after`.
    R55  `read_item` and `delete_item` answer None and False for what is not there. A deleted item is in no list, and
         does not wait for the next turn; the state of the conversation does not change.
    R56  `waiting_items` gives the items that were added since the last turn of the conversation, in order.

    Compactions and retention:
    R57  `keep_compaction` stores what a handle stands for; `read_compaction` gives it back to its user alone.
    R58  `forget_events` removes the events of at most so many responses that ended before a time (by `completed_at`, or
         else by their last lease), and `forget_keys` at most so many idempotency keys from before a time; the oldest
         first, of every user.
    R60  `forget_responses` removes, as R46 does, at most so many of every user's responses that were created before a
         time, the oldest first. A response that has asked something to which no stored turn has an answer stays: a
         person may still answer it. What is in flight stays, and so do conversations with their items and state.
    R61  `forget_compactions` removes at most so many of every user's compactions that were created before a time.
    R62  `unneeded_commits` names, of every user, at most so many commits that nothing is continued from (as in R26),
         that no session stands at, has made, or is in flight with, and the roots at which nothing begins, except those
         in use and those of workflows with sessions. Each comes before the commits that it was made after.
    R63  `prune` removes those of the commits named to it that are unneeded still, and from which no foreground turn
         has begun that was admitted. Every commit that stays holds the same cells as before. A commit through which
         several others are read may stay.
    R64  `collect_blobs` removes, of every user, the blobs that no stored commit needs, as in R29. Turns may go on
         meanwhile. If the process dies inside it, or its caller is cancelled, a part of them is gone.
    R65  `describe` tells what is stored and how much room it takes. Nothing changes.
    R67  `read_archive` gives a conversation with its items and its finished responses, or a response with those that it
         continues, and what is needed to continue each of them; None for an unknown id.
    R68  `add_archive` stores all of an archive or nothing. What is stored already stays as it is and must be the same,
         else `TurnConflictError`; what the archive brings is the user's alone. False if nothing was new.
    """

    event_pause: float
    """Seconds that the events of background turns wait for others before they are written."""

    appends_together: bool
    """Whether `append` takes the events of many turns. If not, those of each turn are written by themselves."""

    async def open(self) -> None:
        """Make the store usable (R6); raises `StoreError` with the remedy if it cannot be."""
        ...

    async def aclose(self) -> None:
        """End what has begun and release everything (R7)."""
        ...

    # --- Reading what a turn needs ---

    async def resolve(self, user: str, response_id: str) -> ResumePoint | None:
        """Where a turn that continues this response starts (R8)."""
        ...

    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        """The commit back to a complete one, newest first (R9)."""
        ...

    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        """The verified bodies of the blobs that are stored (R10)."""
        ...

    async def holds_root(self, commit_id: str) -> bool:
        """Whether this root commit is stored (R12)."""
        ...

    async def read_calls(self, user: str, commit_id: str) -> list[OpenCall]:
        """The questions that were asked at a commit (R47)."""
        ...

    async def find_call(self, user: str, call_id: str) -> str | None:
        """The commit at which a question is open (R47)."""
        ...

    async def find_items(self, user: str, ids: Collection[str]) -> dict[str, tuple[bytes, ...]]:
        """Where items lie, by their ids (R48)."""
        ...

    async def read_heard(self, user: str, commit_id: str) -> list[Heard]:
        """The items that the state of a commit has heard by each turn, newest first (R66)."""
        ...

    async def find_key(self, user: str, key: str, since: float) -> tuple[bytes, str] | None:
        """The fingerprint and the response id of an earlier request with this key (R49)."""
        ...

    # --- A turn in flight ---

    async def admit(
        self, user: str, turn: TurnInFlight, commits: Sequence[Commit] = (), *, keys_since: float = 0.0
    ) -> None:
        """Let a turn begin, or refuse it (R35, R36). `commits` are a root that is not stored yet.

        `keys_since` is the time since which a response is what its idempotency key stands for.
        """
        ...

    async def release(self, user: str, response_id: str) -> None:
        """Take back a turn that will not be finished (R37)."""
        ...

    async def take(
        self, user: str, response_id: str, owner: str, *, now: float, until: float, by_force: bool = False
    ) -> TurnInFlight | None:
        """Become the owner of a background turn until a time (R38)."""
        ...

    async def read_turn(self, user: str, response_id: str) -> TurnInFlight | None:
        """A background turn in flight (R36)."""
        ...

    async def is_in_flight(self, user: str, response_id: str) -> bool:
        """Whether there is such a background turn in flight (R36)."""
        ...

    async def renew(self, owner: str, ids: Collection[tuple[str, str]], until: float) -> set[tuple[str, str]]:
        """Move the leases of turns, named by user and response id; returns those that are lost (R39)."""
        ...

    async def give_back(self, user: str, response_id: str, owner: str, *, has_begun: bool) -> None:
        """Leave a background turn to whoever takes it next (R59)."""
        ...

    async def begin(self, user: str, guard: Guard, events: Sequence[bytes]) -> None:
        """Count an attempt at a background turn (R40, R69)."""
        ...

    async def step(self, user: str, guard: Guard, commits: Sequence[Commit], events: Sequence[bytes]) -> None:
        """Store a superstep of a background turn (R40, R41)."""
        ...

    async def record(self, user: str, guard: Guard, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of the superstep that a background turn is in (R40, R42)."""
        ...

    async def recorded(self, user: str, response_id: str) -> dict[str, bytes]:
        """What is noted of the superstep that a background turn is in (R42)."""
        ...

    async def append(self, batch: Sequence[Append]) -> set[str]:
        """Add events of many turns to the event log; returns the ids of those whose guard is void (R43)."""
        ...

    async def read_events(self, user: str, response_id: str, after: int, limit: int) -> list[bytes]:
        """The events behind a sequence number, -1 for all from the first (R44)."""
        ...

    async def lapsed(self, now: float) -> list[Lapsed]:
        """The turns that nobody works on (R45). For the host itself; no verb that serves a user calls it."""
        ...

    async def finish(
        self,
        user: str,
        record: ResponseRecord,
        commits: Sequence[Commit],
        *,
        guard: Guard | None = None,
        events: Sequence[bytes] = (),
        move: ConversationMove | None = None,
        key: IdempotencyKey | None = None,
    ) -> None:
        """Store the end of a turn, whole or not at all (R13-R16, R33, R34). A repetition is a conflict."""
        ...

    # --- Responses ---

    async def read_response(self, user: str, response_id: str) -> ResponseRecord | None:
        """A stored response (R11)."""
        ...

    async def delete_response(self, user: str, response_id: str) -> bool:
        """Remove a stored response (R46)."""
        ...

    async def save_points(self, since: float) -> list[SavePoint]:
        """What somebody may continue, of responses those since a time in seconds since the epoch (R17).

        For the operator, who may see every user; no verb that serves a user calls it.
        """
        ...

    # --- Conversations ---

    async def create_conversation(self, user: str, conversation: Conversation, items: Sequence[Item]) -> None:
        """Store a new conversation (R50)."""
        ...

    async def adopt_conversation(self, user: str, conversation: Conversation) -> Conversation:
        """A conversation that somebody else has made (R70)."""
        ...

    async def read_conversation(self, user: str, conversation_id: str) -> Conversation | None:
        """A conversation (R51)."""
        ...

    async def update_conversation(self, user: str, conversation_id: str, metadata: bytes) -> Conversation | None:
        """Replace the metadata of a conversation (R51)."""
        ...

    async def delete_conversation(self, user: str, conversation_id: str) -> bool:
        """Remove a conversation (R52)."""
        ...

    async def add_items(self, user: str, conversation_id: str, items: Sequence[Item]) -> Conversation | None:
        """Add items outside of a turn (R53)."""
        ...

    async def list_items(
        self, user: str, conversation_id: str, *, after: str | None, limit: int, newest_first: bool
    ) -> tuple[list[Item], bool] | None:
        """A page of items, and whether there are more (R54)."""
        ...

    async def read_item(self, user: str, conversation_id: str, item_id: str) -> Item | None:
        """An item of a conversation (R55)."""
        ...

    async def delete_item(self, user: str, conversation_id: str, item_id: str) -> bool:
        """Remove an item of a conversation (R55)."""
        ...

    async def waiting_items(self, user: str, conversation_id: str) -> Waiting:
        """What entered a conversation since its last turn (R56)."""
        ...

    # --- Compactions, retention, and the engine's face ---

    async def keep_compaction(self, user: str, compaction: Compaction) -> None:
        """Store what a compaction stands for (R57)."""
        ...

    async def read_compaction(self, user: str, handle: str) -> Compaction | None:
        """What a compaction stands for (R57)."""
        ...

    async def forget_events(self, before: float, limit: int) -> Freed:
        """Remove the events of responses that ended before a time; of how many (R58)."""
        ...

    async def forget_keys(self, before: float, limit: int) -> Freed:
        """Remove the oldest idempotency keys from before a time; how many went (R58)."""
        ...

    async def forget_responses(self, before: float, limit: int) -> Freed:
        """Remove the oldest responses from before a time in seconds since the epoch; how many went (R60)."""
        ...

    async def forget_compactions(self, before: float, limit: int) -> Freed:
        """Remove the oldest compactions from before a time; how many went (R61)."""
        ...

    async def unneeded_commits(self, limit: int, roots: Collection[str] = ()) -> list[CommitName]:
        """Name commits that may go, in the order in which `prune` takes them; `roots` are in use (R62)."""
        ...

    async def prune(self, names: Sequence[CommitName], roots: Collection[str] = ()) -> Freed:
        """Remove commits in one transaction; how many went (R63)."""
        ...

    async def collect_blobs(self) -> Freed:
        """Remove the blobs that nobody needs, in many transactions; how many went (R64)."""
        ...

    async def read_archive(self, user: str, id: str) -> Archive | None:
        """A conversation or a chain of responses, to be taken elsewhere (R67)."""
        ...

    async def add_archive(self, user: str, archive: Archive) -> bool:
        """Store what was taken from elsewhere (R68)."""
        ...

    async def describe(self) -> Description:
        """What is stored, of every user (R65). For the operator; no verb that serves a user calls it."""
        ...

    def commit_log(self, user: str = "") -> CommitLog:
        """The engine's face of this store, for one user (R20-R32)."""
        ...
