"""Where a turn starts: the commit its request names, the input it takes in, and the answers it brings.

- A request that names a response or a conversation starts from that one's commit. One that names neither starts from
  the initial state, with two exceptions: its first item is a compaction that has a commit, or its last exchange answers
  a question that is open somewhere; then it goes on there.
- What a request refers to is looked up before anything of the turn is written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_host.engine import cells
from agent_host.engine.running.lane import Lane
from agent_host.engine.view import ReadBlobs, View
from agent_host.messages import ApprovalRequest
from agent_host.server import questions
from agent_host.server.connection_memory import LaneMemory, Unstored
from agent_host.server.host import Host
from agent_host.server.questions import AnswerItem, Approved
from agent_host.server.references import Resolved, resolve_references
from agent_host.stores.records import Conversation, ResumePoint, Waiting
from agent_host.wire import problems
from agent_host.wire.input import (
    InputApproval,
    InputCompaction,
    InputFunctionOutput,
    InputItem,
    InputMessage,
    read_items,
)
from agent_host.wire.request import CreateRequest

UNFINISHED = frozenset({"queued", "in_progress"})


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Everything a turn begins with. `inputs` holds the start executor's input, if the request brings one.

    `waiting` are the items that entered the conversation since its last turn; they are part of the input already.
    `unstored` is what a connection remembers of the response that is continued, if that is not stored.
    """

    view: View
    inputs: tuple[Any, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    approved: tuple[Approved, ...] = ()
    conversation: Conversation | None = None
    waiting: Waiting = field(default_factory=Waiting)
    unstored: Unstored | None = None


@dataclass(frozen=True, slots=True)
class _Implied:
    """What a request without ids continues, and what it brings there."""

    commit: str
    items: tuple[InputItem, ...]


async def find(host: Host, user: str, request: CreateRequest, memory: LaneMemory | None = None) -> StartingPoint:
    """Look up where the turn of a request starts: in its connection's memory, if it has one, and in the store.

    Raises the `Problem` of whatever the request names that is not there.
    """
    unstored = memory.find(request.previous_response_id) if memory is not None else None
    read = _read_at_once(host, request.items)
    conversation, waiting = None, Waiting()
    commit_id = host.definition.root.id
    if unstored is not None:
        commit_id = unstored.view.commit_id
    elif request.previous_response_id is not None:
        commit_id = (await resolve(host, user, request.previous_response_id)).commit
    elif request.conversation is not None:
        conversation = await host.store.read_conversation(user, request.conversation)
        if conversation is None:
            raise problems.conversation_not_found(request.conversation)
        commit_id = conversation.head or commit_id
        waiting = await host.store.waiting_items(user, conversation.id)
    resolved = await resolve_references(host.store, user, request.items)
    items = resolved.items
    if request.previous_response_id is None and conversation is None:
        implied = await _implied(host, user, request.items, resolved)
        if implied is not None:
            commit_id, items = implied.commit, implied.items
    view = unstored.view if unstored is not None else await host.view(user, commit_id)
    if view is None and conversation is not None:
        raise problems.conversation_not_found(conversation.id)
    if view is None:
        raise problems.previous_response_not_found(request.previous_response_id or "")

    entered = read_items([msgspec.json.decode(item.body) for item in waiting.items], "conversation")
    answered = await _answers(host, user, view, items, unstored)
    if answered.items and request.previous_response_id is None and conversation is None:
        others = _after_answers(items, answered.items)
    else:
        others = answered.others
    others = (*entered, *others)
    if read is not None and not (entered or answered.items):
        return StartingPoint(view, (read,), conversation=conversation, waiting=waiting, unstored=unstored)
    says = any(isinstance(item, InputMessage) and item.role == "user" for item in others)
    is_input = says or not (answered.items or answered.is_broken)
    return StartingPoint(
        view,
        inputs=(host.reader.read(others),) if is_input else (),
        answers=answered.values,
        approved=answered.approved,
        conversation=conversation,
        waiting=waiting,
        unstored=unstored,
    )


def _read_at_once(host: Host, items: Sequence[InputItem]) -> Any:
    """The start executor's input, if the request's messages are all of it; what it cannot take is said first of all."""
    return host.reader.read(items) if all(isinstance(item, InputMessage) for item in items) else None


def blob_reader(host: Host, user: str, unstored: Unstored | None) -> ReadBlobs:
    """Blob reads for a lane that starts from what is stored, or from what a connection remembers."""
    read = host.blob_reader(user)
    return read if unstored is None else unstored.blob_reader(read)


async def resolve(host: Host, user: str, response_id: str) -> ResumePoint:
    """The finished response that a request continues, or the `Problem` that there is none."""
    point = await host.store.resolve(user, response_id)
    if point is None:
        raise problems.previous_response_not_found(response_id)
    if point.status in UNFINISHED:
        await host.settle_lapsed(user, response_id)
        raise problems.previous_response_not_ready(response_id)
    return point


# --- What a request without ids continues --------------------------------------------------------------------------


async def _implied(host: Host, user: str, given: Sequence[InputItem], resolved: Resolved) -> _Implied | None:
    """Where a request that names nothing goes on by what its items are; None for the initial state."""
    if resolved.commit is not None:
        # The state knows what was compacted, so only what comes behind it is new.
        last = max(index for index, item in enumerate(given) if isinstance(item, InputCompaction))
        behind = await resolve_references(host.store, user, given[last + 1 :])
        return _Implied(resolved.commit, behind.items)
    answer = _last_answer(resolved.items)
    commit = await host.store.find_call(user, questions.call_id_of(answer)) if answer is not None else None
    return _Implied(commit, resolved.items) if commit is not None else None


def _last_answer(items: Sequence[InputItem]) -> AnswerItem | None:
    """The last answer of an inline history, unless the assistant has spoken after it: then it is over."""
    for item in reversed(items):
        if isinstance(item, (InputFunctionOutput, InputApproval)):
            return item
        if isinstance(item, InputMessage) and item.role == "assistant":
            return None
    return None


def _after_answers(items: Sequence[InputItem], answers: Sequence[AnswerItem]) -> tuple[InputItem, ...]:
    """What an inline history brings besides the answers: what stands behind them. The rest is known already."""
    last = max(index for index, item in enumerate(items) if item in answers)
    return tuple(items[last + 1 :])


# --- Answers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Answered:
    values: Mapping[str, Any]
    items: tuple[AnswerItem, ...]
    others: tuple[InputItem, ...]
    approved: tuple[Approved, ...] = ()
    is_broken: bool = False


async def _answers(
    host: Host, user: str, view: View, items: Sequence[InputItem], unstored: Unstored | None
) -> _Answered:
    """The answers to all open questions of a commit, as values that these accept."""
    if not any(cells.split_nested(key)[1].startswith(cells.REQUEST) for key in view.cells):
        matched = questions.match(items, (), ())
        return _Answered({}, (), matched.others)
    # A lane to try the answers on: the turn's own is not touched before all of them are known to be good.
    try:
        lane = await Lane.open("", host.definition, view, blob_reader(host, user, unstored))
    except Exception:  # noqa: BLE001 - a hook of the user's: the turn meets it again and ends as failed, in order
        return _Answered({}, (), (), is_broken=True)
    now = host.sources.clock()
    asked = {
        name: request.data
        for name, (frame, request) in lane.open_requests().items()
        if frame.outward and (request.expires_at is None or request.expires_at > now)
    }
    calls = [*await host.store.read_calls(user, view.commit_id), *(unstored.calls if unstored is not None else ())]
    matched = questions.match(items, calls, list(asked))
    approved = tuple(
        Approved(item.approval_request_id, asked[name])
        for name, item in matched.by_request.items()
        if isinstance(item, InputApproval) and item.approve and isinstance(asked[name], ApprovalRequest)
    )
    values = questions.read_answers(lane, matched.by_request, now)
    return _Answered(values, tuple(matched.by_request.values()), matched.others, approved)
