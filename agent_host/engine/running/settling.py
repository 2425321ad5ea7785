"""Take up what a superstep amounts to: new queues, joins and requests of every frame, and what leaves the workflow.

What a nested workflow yields becomes a message of the executor that stands for it, or an output of the workflow
around it; what it asks becomes a message too, or a request to the outside. Both go up as many levels as they are let.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from agent_host.engine import cells
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.nested import SubWorkflowRequestMessage
from agent_host.engine.running import requests
from agent_host.engine.running.effects import Entered, Replied, Yielded
from agent_host.engine.running.frame import Frame, OpenRequest, Waiting
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.merging import Merged
from agent_host.engine.running.routing import Plan
from agent_host.errors import WorkflowRunnerException


class SettledOutput(msgspec.Struct, frozen=True):
    """An output that leaves the workflow; `invocation` counts all calls of the superstep."""

    kind: Literal["output", "intermediate"]
    value: Any
    executor_id: str
    streamed: bool
    invocation: int
    number: int
    attempt: int


class Settled(msgspec.Struct):
    """What a superstep tells the outside, in an order that does not depend on who was faster."""

    outputs: list[SettledOutput] = msgspec.field(default_factory=list)
    asked: list[tuple[Frame, OpenRequest, Any]] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)


def settle(lane: Lane, plans: Sequence[tuple[Frame, Plan]], merged: Sequence[Merged]) -> Settled:
    """Give every frame its new state; instances of nested workflows come before what stands around them."""
    settled = Settled()
    if len(lane.frames) == 1:
        for (frame, plan), amount in zip(plans, merged, strict=True):
            _take_up(lane, frame, plan, amount, 0, {}, settled)
        return settled
    rising: dict[cells.Path, list[tuple[str, Any]]] = {}
    work: dict[cells.Path, tuple[Plan, Merged, int]] = {}
    offset = 0
    for (frame, plan), amount in zip(plans, merged, strict=True):
        work[frame.path] = (plan, amount, offset)
        offset += len(plan.invocations)
    for frame in lane.from_inside():
        done = work.get(frame.path)
        if done is not None:
            _take_up(lane, frame, *done, rising, settled)
        risen = rising.get(frame.path)
        if risen:
            queued = tuple(frame.enqueue(source, None, "message", value) for source, value in risen)
            frame.waiting = replace(frame.waiting, queue=frame.waiting.queue + queued)
    if len(plans) > 1:
        settled.outputs.sort(key=lambda output: (output.invocation, output.number))
    return settled


def _take_up(
    lane: Lane,
    frame: Frame,
    plan: Plan,
    merged: Merged,
    offset: int,
    rising: dict[cells.Path, list[tuple[str, Any]]],
    settled: Settled,
) -> None:
    sent = [frame.enqueue(source, sent.target, "message", sent.payload) for source, sent in merged.sent]
    open_requests = {name: one for name, one in frame.waiting.requests.items() if name not in merged.closed}
    number = lane.next_request() if merged.asked else 0
    for later, (executor, asked) in enumerate(merged.asked):
        request = frame.ask(executor, asked, number=number + later)
        if frame.path and lane.is_open(asked.request_id):
            raise WorkflowRunnerException(f"A request with the id {asked.request_id!r} is open already.")
        open_requests[request.request_id] = request
        if frame.outward:
            settled.asked.append((frame, request, asked.response_type))
        else:
            _ask_around(lane, frame, request, asked.response_type, rising)
    frame.write_state(merged.writes)
    for executor, journal in merged.journals.items():
        frame.keep_journal(executor, journal)
    frame.waiting = Waiting(tuple(sent), plan.joins, open_requests)
    for executor, entry in merged.nested:
        _go_down(lane, frame, executor, entry, settled)
    for index, number, executor, output, attempt in merged.yielded:
        _yield_around(lane, frame, executor, output, (offset + index, number, attempt), rising, settled)


def _go_down(lane: Lane, frame: Frame, executor: str, entry: Entered | Replied, settled: Settled) -> None:
    if isinstance(entry, Entered):
        instance = lane.instance_for(frame, executor)
        start = instance.definition.graph.start
        queued = instance.enqueue(start, start, "input", entry.payload)
        instance.waiting = replace(instance.waiting, queue=(*instance.waiting.queue, queued))
        instance.steps = 0
        return
    for below in lane.instances(frame, executor):
        request = below.waiting.requests.get(entry.request_id)
        if request is not None:
            queued = requests.answered(below, request, entry.answer)
            left = {name: other for name, other in below.waiting.requests.items() if name != entry.request_id}
            below.waiting = Waiting((*below.waiting.queue, queued), below.waiting.joins, left)
            return
    settled.warnings.append(
        f"An answer to the request {entry.request_id!r} of the nested workflow {frame.name(executor)!r} was dropped: "
        "no such request is open there, or not any more."
    )


def _ask_around(
    lane: Lane, frame: Frame, request: OpenRequest, response_type: Any, rising: dict[cells.Path, list[tuple[str, Any]]]
) -> None:
    """Hand a request to the nearest workflow around it that takes the requests of the one below."""
    owner, path = lane.interceptor(frame)
    event = WorkflowEvent(
        type="request_info", session_id=lane.session_id, sequence=0, data=request.data,
        executor_id=frame.name(request.executor), request_id=request.request_id, response_type=response_type,
    )  # fmt: skip
    rising.setdefault(path, []).append((owner, SubWorkflowRequestMessage(event, owner)))


def _yield_around(
    lane: Lane,
    frame: Frame,
    executor: str,
    output: Yielded,
    place: tuple[int, int, int],
    rising: dict[cells.Path, list[tuple[str, Any]]],
    settled: Settled,
) -> None:
    shown = lane.designation(frame, executor)
    if shown is None:
        return
    if shown.message_in is not None:
        rising.setdefault(shown.message_in, []).append((shown.executor_id, output.whole))
        return
    settled.outputs.append(
        SettledOutput(shown.kind, output.whole, shown.executor_id, output.pieces is not None, *place)
    )  # fmt: skip
