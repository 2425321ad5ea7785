"""Where a turn starts: the state it begins with, the input of the start executor, and the answers to its questions.

All of it is known to be good before a turn begins: the input is one that the workflow takes, and every answer is one
that its question accepts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_host.engine import cells
from agent_host.engine.running.lane import Lane
from agent_host.engine.view import ReadBlobs, View
from agent_host.messages import ApprovalRequest
from agent_host.server import questions
from agent_host.server.connection_memory import Unstored
from agent_host.server.continuation import Continuation
from agent_host.server.host import Host
from agent_host.server.questions import AnswerItem, Approved
from agent_host.stores.records import OpenCall
from agent_host.wire.input import InputApproval, InputItem, InputMessage


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """Everything a turn begins with. `inputs` holds the start executor's input, if the request brings one.

    `calls` are the questions that are open there.
    """

    continues: Continuation
    inputs: tuple[Any, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)
    approved: tuple[Approved, ...] = ()
    calls: tuple[OpenCall, ...] = ()

    @property
    def view(self) -> View:
        """The state that the turn starts from."""
        return self.continues.view


async def starting_point(host: Host, user: str, continues: Continuation, now: float) -> StartingPoint:
    """Read what a request brings. Raises the `Problem` of what the workflow, or a question, cannot take.

    `now`, in seconds since the epoch, is when the request was made: a question may have expired since.
    """
    answered = await _answers(host, user, continues, now)
    brought = answered.others
    if answered.items and continues.is_inline:
        brought = _after_answers(continues.items, answered.items)
    says = any(isinstance(item, InputMessage) and item.role == "user" for item in brought)
    is_input = says or not (answered.items or answered.is_broken)
    inputs = (host.reader.read(brought),) if is_input else ()
    return StartingPoint(continues, inputs, answered.values, answered.approved, answered.calls)


def blob_reader(host: Host, user: str, unstored: Unstored | None) -> ReadBlobs:
    """Blob reads for a lane that starts from what is stored, or from what a connection remembers."""
    read = host.blob_reader(user)
    return read if unstored is None else unstored.blob_reader(read)


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
    calls: tuple[OpenCall, ...] = ()
    is_broken: bool = False


async def _answers(host: Host, user: str, continues: Continuation, now: float) -> _Answered:
    """The answers to all open questions of a commit, as values that these accept."""
    view, unstored = continues.view, continues.unstored
    if not any(cells.split_nested(key)[1].startswith(cells.REQUEST) for key in view.cells):
        matched = questions.match(_brought(continues, ()), (), (), continues.known_calls)
        return _Answered({}, (), matched.others)
    # A lane to try the answers on: the turn's own is not touched before all of them are known to be good.
    try:
        lane = await Lane.open("", host.definition, view, blob_reader(host, user, unstored))
    except Exception:  # noqa: BLE001 - a hook of the user's: the turn meets it again and ends as failed, in order
        return _Answered({}, (), (), is_broken=True)
    asked = {
        name: request.data
        for name, (frame, request) in lane.open_requests().items()
        if frame.outward and (request.expires_at is None or request.expires_at > now)
    }
    calls = [*await host.store.read_calls(user, view.commit_id), *(unstored.calls if unstored is not None else ())]
    matched = questions.match(_brought(continues, calls), calls, list(asked), continues.known_calls)
    approved = tuple(
        Approved(item.approval_request_id, asked[name])
        for name, item in matched.by_request.items()
        if isinstance(item, InputApproval) and item.approve and isinstance(asked[name], ApprovalRequest)
    )
    values = questions.read_answers(lane, matched.by_request, now)
    return _Answered(values, tuple(matched.by_request.values()), matched.others, approved, tuple(dict.fromkeys(calls)))


def _brought(continues: Continuation, calls: Sequence[OpenCall]) -> tuple[InputItem, ...]:
    """What entered the conversation and then the request's items.

    Nobody was told when an answer that nothing asks for entered; so that one is no fault of this request. Nor is one
    that the request answers otherwise.
    """
    if not continues.waiting.items:
        return continues.items
    given = {questions.call_id_of(item) for item in continues.items if isinstance(item, AnswerItem)}
    asked = {call.call_id for call in calls} - given
    entered = [
        item for item in continues.entered if not isinstance(item, AnswerItem) or questions.call_id_of(item) in asked
    ]
    return (*entered, *continues.items)
