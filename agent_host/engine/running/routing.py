"""What runs next: a function of the graph, the queued messages and the waiting joins.

Rule 1: no handler of an executor runs here; only conditions and selections are asked.
Rule 2: the answer depends on nothing else, so what runs next can be told for any checkpoint.
Rule 3: an exception in a condition or selection is an error of the run, never a branch.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec

from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch
from agent_host.engine.graph.graph import Graph
from agent_host.errors import WorkflowRunnerException

MessageKind = Literal["input", "message", "response"]
JoinKey = tuple[str, str]  # edge group id, source


class Payload(Protocol):
    """A message's content: looked at while routing, delivered to each receiver."""

    def peek(self) -> Any: ...


class Queued(msgspec.Struct, frozen=True):
    """A message on its way. `target` names one executor; without it the source's edges decide.

    A `response` carries what was asked and the answer; `request_id` is the request's id, `response_name` the name of
    the type that was asked for.
    """

    source: str
    target: str | None
    kind: MessageKind
    payload: Any
    request_id: str | None = None
    response_name: str | None = None


class Invocation(msgspec.Struct, frozen=True):
    """One call of one executor. `payloads` has one entry, or one per waiting message for a fan-in."""

    index: int
    executor: str
    kind: MessageKind
    payloads: tuple[Any, ...]
    sources: tuple[str, ...]
    joined: bool = False
    request_id: str | None = None
    response_name: str | None = None


class Plan(msgspec.Struct, frozen=True):
    """The next superstep: its calls in order, what joins still wait for, and messages nobody takes."""

    invocations: tuple[Invocation, ...]
    joins: Mapping[JoinKey, tuple[Any, ...]]
    warnings: tuple[str, ...]


@dataclass(slots=True)
class _Routing:
    graph: Graph
    joins: dict[JoinKey, tuple[Any, ...]]
    heard: dict[str, int]  # of every join, how many of its sources wait in it
    invocations: list[Invocation] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def call(self, executor: str, message: Queued) -> None:
        self.invocations.append(
            Invocation(
                len(self.invocations),
                executor,
                message.kind,
                (message.payload,),
                (message.source,),
                request_id=message.request_id,
                response_name=message.response_name,
            )
        )

    def takes(self, executor: str, value: Any) -> bool:
        return self.graph.executors[executor].can_handle(value)


async def route(graph: Graph, queue: Sequence[Queued], joins: Mapping[JoinKey, tuple[Any, ...]]) -> Plan:
    """Deliver every queued message, in order, along the edges of its source."""
    routing = _Routing(graph, dict(joins), _heard(joins))
    for message in queue:
        if message.kind != "message":
            routing.call(message.target or graph.start, message)
            continue
        value = message.payload.peek()
        delivered = False
        for group in graph.leaving[message.source]:
            delivered |= await _ROUTERS[type(group)](routing, group, message, value)
        if not delivered:
            to = f" to {message.target!r}" if message.target else ""
            routing.warnings.append(
                f"A {type(value).__name__} sent by {message.source!r}{to} was delivered to nobody: no edge leads to an "
                "executor that takes it, or every condition refused it."
            )
    return Plan(tuple(routing.invocations), routing.joins, tuple(routing.warnings))


def _heard(joins: Mapping[JoinKey, tuple[Any, ...]]) -> dict[str, int]:
    heard: dict[str, int] = {}
    for group, _ in joins:
        heard[group] = heard.get(group, 0) + 1
    return heard


async def _along_single(routing: _Routing, group: SingleEdge, message: Queued, value: Any) -> bool:
    if message.target not in (None, group.target) or not routing.takes(group.target, value):
        return False
    if group.condition is not None and not await _answer(group.condition(value)):
        return False
    routing.call(group.target, message)
    return True


async def _along_fan_out(routing: _Routing, group: FanOut, message: Queued, value: Any) -> bool:
    if message.target is not None:
        chosen: Sequence[str] = (message.target,) if message.target in group.targets else ()
    elif group.selection is None:
        chosen = group.targets
    else:
        named = list(await _answer(group.selection(value, list(group.targets))))
        unknown = [target for target in named if target not in group.targets]
        if unknown:
            raise WorkflowRunnerException(
                f"The selection after {group.source!r} chose {unknown[0]!r}, which is not one of its targets: "
                f"{', '.join(group.targets)}."
            )
        chosen = tuple(dict.fromkeys(named))
    takers = [target for target in chosen if routing.takes(target, value)]
    for target in takers:
        routing.call(target, message)
    return bool(takers)


async def _along_switch(routing: _Routing, group: Switch, message: Queued, value: Any) -> bool:
    if message.target is not None:
        chosen = message.target if message.target in group.targets else None
    else:
        chosen = group.default
        for condition, target in group.cases:
            if await _answer(condition(value)):
                chosen = target
                break
    if chosen is None or not routing.takes(chosen, value):
        return False
    routing.call(chosen, message)
    return True


async def _into_fan_in(routing: _Routing, group: FanIn, message: Queued, value: Any) -> bool:
    if message.target not in (None, group.target):
        return False
    key = (group.id, message.source)
    before = routing.joins.get(key, ())
    routing.joins[key] = (*before, message.payload)
    if not before:
        routing.heard[group.id] = routing.heard.get(group.id, 0) + 1
    if routing.heard[group.id] < len(group.sources):
        return True
    del routing.heard[group.id]
    items = [payload for source in group.sources for payload in routing.joins.pop((group.id, source))]
    if not routing.takes(group.target, [item.peek() for item in items]):
        return False
    routing.invocations.append(
        Invocation(len(routing.invocations), group.target, "message", tuple(items), group.sources, joined=True)
    )
    return True


async def _answer(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


_ROUTERS: dict[type[EdgeGroup], Any] = {
    SingleEdge: _along_single,
    FanOut: _along_fan_out,
    Switch: _along_switch,
    FanIn: _into_fan_in,
}
