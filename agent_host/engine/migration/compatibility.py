"""What of a stored state the present workflow could not continue, and why.

Rule 1: nothing of the user's runs: no handler, no hook, no condition. Values are read as opening the state reads them.
Rule 2: what a clone passes over on purpose is no problem: an attribute that all conversations share now, or one that
        the class no longer mentions.
Rule 3: everything is found, not the first thing only, so that one look is enough.
"""

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agent_host.engine import annotations, cells
from agent_host.engine.definition import Definition
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.template import Template
from agent_host.engine.graph.edges import FanIn
from agent_host.engine.migration.salvage import Fault, salvage, type_name
from agent_host.engine.migration.stored_messages import StoredMessage, StoredRequest
from agent_host.engine.running.frame import response_type
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.stored_types import fits
from agent_host.errors import WorkflowCheckpointException, WorkflowRunnerException

What = Literal[
    "graph", "migration", "state", "shared state", "queued message", "open request", "join", "nested workflow"
]

HOOKS = "on_checkpoint_save"
"""The name under which a problem tells of what an executor's save hook returned."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Incompatibility:
    """One thing that cannot be continued.

    `executor` is its name from outside, such as `sub/worker`, and empty for what belongs to no executor; `name` is an
    attribute, a type, or what else tells the thing from its like. None of the fields names the checkpoint, so that
    equal problems of many checkpoints are equal.
    """

    executor: str
    what: What
    name: str
    why: str
    remedy: str

    def __str__(self) -> str:
        of = f" of {self.executor!r}" if self.executor else ""
        return f"{self.what} {self.name!r}{of}: {self.why} {self.remedy}"


def problems(
    definition: Definition, stored: Mapping[str, bytes], codec: Codec, bodies: Mapping[bytes, Any]
) -> list[Incompatibility]:
    """Everything in a lane's cells that the workflow could not continue, in the order of the cells' keys.

    `bodies` holds the blobs that the cells need.
    """
    found: dict[Incompatibility, None] = {}
    for prefix, own in sorted(cells.by_instance(stored).items()):
        found.update(dict.fromkeys(_problems_at(definition, cells.path_of(prefix), own, codec, bodies)))
    return list(found)


def refuse(checkpoint_id: str, found: Sequence[Incompatibility]) -> None:
    """Raise `WorkflowCheckpointException` if anything was found, naming the first few."""
    if not found:
        return
    lines = [f"- {problem}" for problem in found[:_SHOWN]]
    if len(found) > _SHOWN:
        lines.append(f"- and {len(found) - _SHOWN} more")
    raise WorkflowCheckpointException(
        f"The checkpoint {checkpoint_id!r} was stored by another version of the workflow, which cannot continue it:\n"
        + "\n".join(lines)
    )


def _problems_at(
    definition: Definition, path: cells.Path, own: Mapping[str, bytes], codec: Codec, bodies: Mapping[bytes, Any]
) -> Iterator[Incompatibility]:
    """The problems of the workflow itself, or of one instance of a nested one."""
    for depth, (executor, _) in enumerate(path):
        child = definition.children.get(executor)
        if child is None:
            where = _Place(definition, path[:depth], codec, bodies)
            yield where.problem(
                executor, "nested workflow", executor, "The workflow no longer runs a nested workflow here.",
                f"Nest one under the id {executor!r} again, or drop in migrate what is stored: "
                + where.says(f"drop_executor({executor!r})"),
            )  # fmt: skip
            return
        definition = child
    place = _Place(definition, path, codec, bodies)
    for key in sorted(own):
        check = _CHECKS.get(key[:2])
        if check is not None:
            yield from check(place, key, own[key])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a cell stands: one graph, at one path, and what its values are read with."""

    definition: Definition
    path: cells.Path
    codec: Codec
    bodies: Mapping[bytes, Any]

    def problem(self, executor: str, what: What, name: str, why: str, remedy: str) -> Incompatibility:
        owners = [owner for owner, _ in self.path]
        return Incompatibility("/".join([*owners, executor] if executor else owners), what, name, why, remedy)

    def says(self, call: str) -> str:
        """How a migration function says it, at this depth."""
        if not self.path:
            return f"old.{call}."
        return f"inner.{call} for every inner in old.nested({'/'.join(owner for owner, _ in self.path)!r})."

    def has(self, executor: str) -> bool:
        return executor in self.definition.graph.executors

    def gone(self, executor: str, what: What, name: str) -> Incompatibility:
        return self.problem(
            executor, what, name, "The workflow no longer has this executor.",
            f"Keep an executor with the id {executor!r}, or say in migrate where it went: "
            + self.says(f"rename_executor({executor!r}, ...) or .drop_executor({executor!r})"),
        )  # fmt: skip

    def unreadable(self, executor: str, what: What, name: str, fault: Fault, call: str) -> Incompatibility:
        if fault.declared:
            return self.problem(executor, what, name, fault.why, f"Or replace it in migrate: {self.says(call)}")
        return self.problem(
            executor, what, name, f"It holds {fault.type!r}, a type that the workflow no longer declares.",
            f"Annotate it in a handler or a state field, call register_checkpoint_type(cls, name={fault.type!r}), or "
            f"replace it in migrate: {self.says(call)}",
        )  # fmt: skip

    def shapeless(self, what: What, kind: str, fault: Fault | None, call: str) -> Incompatibility:
        """The problem of a cell that holds no message, or no request, at all."""
        known = fault or Fault(kind, f"It is no {kind}.", declared=True)
        return self.unreadable("", what, known.type, known, call)

    def takes(self, executor: str, payload: Any) -> bool:
        try:
            return self.definition.graph.executors[executor].can_handle(payload)
        except WorkflowRunnerException:  # two handlers fit equally well
            return False


# --- State -------------------------------------------------------------------------------------------------------


def _shared_state(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    name = key[len(cells.STATE) :]
    fault = salvage(place.codec, reference, place.bodies).fault
    if fault is not None:
        yield place.unreadable("", "shared state", name, fault, f"write_shared({name!r}, ...)")


def _executor_state(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    executor, attribute = cells.split_executor_key(key)
    template = place.definition.templates.get(executor)
    if template is None:
        yield place.gone(executor, "state", attribute or HOOKS)
    elif attribute is None:
        yield from _hook_state(place, template, reference)
    elif attribute not in template.shared and attribute not in template.foreign and attribute not in template.rebound:
        yield from _attribute(place, template, attribute, reference)


def _hook_state(place: _Place, template: Template, reference: bytes) -> Iterator[Incompatibility]:
    executor = template.executor_id
    if not template.hooked:
        yield place.problem(
            executor, "state", HOOKS, "The executor no longer has the hooks that this was stored for.",
            "Turn it into attributes in migrate, with drop_state and write, from what this gives: "
            + place.says(f"read_saved({executor!r})"),
        )  # fmt: skip
        return
    fault = salvage(place.codec, reference, place.bodies).fault
    if fault is not None:
        yield place.unreadable(executor, "state", HOOKS, fault, f"write_saved({executor!r}, ...)")


def _attribute(place: _Place, template: Template, attribute: str, reference: bytes) -> Iterator[Incompatibility]:
    executor = template.executor_id
    if template.hooked:
        yield place.problem(
            executor, "state", attribute, "The executor has checkpoint hooks now, which never see this attribute.",
            f"Say in migrate what on_checkpoint_restore gets: {place.says(f'write_saved({executor!r}, {{...}})')}",
        )  # fmt: skip
        return
    read = salvage(place.codec, reference, place.bodies)
    if read.fault is not None:
        yield place.unreadable(executor, "state", attribute, read.fault, f"write({executor!r}, {attribute!r}, ...)")
        return
    field = template.fields.get(attribute)
    hint = _hints_of(template.cls).get(attribute, Any) if field is not None and field.declared else Any
    if not fits(hint, read.value):
        yield place.problem(
            executor, "state", attribute,
            f"It is of type {type(read.value).__qualname__}; the class declares {annotations.name(hint)} now.",
            f"Convert it in migrate: {place.says(f'write({executor!r}, {attribute!r}, ...)')}",
        )  # fmt: skip


def _hints_of(cls: type[Executor]) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):  # annotations that only a type checker understands declare nothing here
        return {}


def _journal(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    executor = key.split("/")[1]
    if not place.has(executor):
        yield place.gone(executor, "state", "finished steps")
        return
    fault = salvage(place.codec, reference, place.bodies).fault
    if fault is not None:
        yield place.unreadable(executor, "state", "finished steps", fault, f"drop_steps({executor!r})")


# --- What waits --------------------------------------------------------------------------------------------------


def _queued_message(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    read = salvage(place.codec, reference, place.bodies)
    message = StoredMessage.of(read.value)
    if message is None:
        yield place.shapeless("queued message", "message", read.fault, "drop_messages()")
        return
    executor = message.target or message.source
    lost = [end for end in dict.fromkeys((message.source, executor)) if not place.has(end)]
    if lost:
        yield from (place.gone(end, "queued message", message.type) for end in lost)
    elif read.fault is not None:
        yield place.unreadable(executor, "queued message", message.type, read.fault, _drop_messages(message.type))
    elif message.kind == "response":
        request, _ = message.payload
        drop = _drop_messages(message.type)
        yield from _unanswerable(place, executor, "queued message", request, message.response_name or "", drop)
    elif message.kind == "message":
        yield from _undeliverable(place, message)
    elif not place.takes(executor, message.payload):
        yield place.problem(
            executor, "queued message", message.type, f"The executor takes no {message.type} any more.",
            f"Give it a handler for {message.type}, or drop it in migrate: {place.says(_drop_messages(message.type))}",
        )  # fmt: skip


def _undeliverable(place: _Place, message: StoredMessage) -> Iterator[Incompatibility]:
    """A problem if nobody whom the edges reach from here takes the message. Which conditions hold is not asked."""
    source, target, name = message.source, message.target, message.type
    reached = {
        receiver: [message.payload] if isinstance(group, FanIn) else message.payload
        for group in place.definition.graph.leaving[source]
        for receiver in group.targets
        if target in (None, receiver)
    }
    if any(place.takes(receiver, value) for receiver, value in reached.items()):
        return
    drop = place.says(_drop_messages(name))
    if reached:
        why = f"Sent by {source!r}; {_names(reached)} {'takes' if len(reached) == 1 else 'take'} no {name} any more."
        remedy = f"Add a handler for {name}, or drop the message in migrate: {drop}"
    else:
        why = f"Sent by {source!r}, from which no edge leads to {repr(target) if target else 'anybody'} any more."
        remedy = f"Add the edge again, or drop the message in migrate: {drop}"
    receiver = next(iter(reached)) if len(reached) == 1 else target or source
    yield place.problem(receiver, "queued message", name, why, remedy)


def _joined_message(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    group_id, source = cells.split_join_key(key)
    group = next((group for group in place.definition.graph.groups if group.id == group_id), None)
    if not isinstance(group, FanIn) or source not in group.sources:
        call = f"rename_join({group_id!r}, ...) or .drop_join({group_id!r})"
        yield place.problem(
            source, "join", group_id, "The workflow no longer has the join that this message waits in.",
            f"Say in migrate which join it is now: {place.says(call)}",
        )  # fmt: skip
        return
    read = salvage(place.codec, reference, place.bodies)
    payload = read.value[-1] if isinstance(read.value, list) and read.value else None
    name = type_name(payload)
    if read.fault is not None:
        yield place.unreadable(group.target, "join", name, read.fault, f"drop_join({group_id!r})")
    elif not place.takes(group.target, [payload]):
        yield place.problem(
            group.target, "join", name, f"The executor takes no list of {name} from its join any more.",
            f"Give it a handler for list[{name}], or drop it in migrate: {place.says(f'drop_join({group_id!r})')}",
        )  # fmt: skip


def _open_request(place: _Place, key: str, reference: bytes) -> Iterator[Incompatibility]:
    read = salvage(place.codec, reference, place.bodies)
    request = StoredRequest.of(read.value)
    if request is None:
        yield place.shapeless("open request", "request", read.fault, "drop_requests()")
        return
    drop = f"drop_requests(type={request.type!r})"
    if not place.has(request.executor):
        yield place.gone(request.executor, "open request", request.type)
    elif read.fault is not None:
        yield place.unreadable(request.executor, "open request", request.type, read.fault, drop)
    else:
        yield from _unanswerable(
            place, request.executor, "open request", request.data, request.response_name, drop
        )  # fmt: skip


def _unanswerable(
    place: _Place, executor: str, what: What, request: Any, response_name: str, drop: str
) -> Iterator[Incompatibility]:
    """A problem if the executor has no response handler for this request and the type of its answer."""
    table = place.definition.graph.executors[executor].handler_table
    wanted = response_type(response_name, table, place.codec)
    if wanted is None or table.responder(request, wanted) is None:
        name = type_name(request)
        yield place.problem(
            executor, what, name, f"No @response_handler takes {name} answered by {response_name} any more.",
            f"Add one for that pair, or drop the question in migrate: {place.says(drop)}",
        )  # fmt: skip


def _drop_messages(name: str) -> str:
    return f"drop_messages(type={name!r})"


def _names(executors: Iterable[str]) -> str:
    return ", ".join(map(repr, executors))


_CHECKS: dict[str, Callable[[_Place, str, bytes], Iterator[Incompatibility]]] = {
    cells.STATE: _shared_state,
    cells.EXECUTOR: _executor_state,
    cells.JOURNAL: _journal,
    cells.QUEUE: _queued_message,
    cells.JOIN: _joined_message,
    cells.REQUEST: _open_request,
}
