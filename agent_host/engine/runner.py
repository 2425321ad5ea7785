"""Drive one run of one lane: route, execute, merge, commit, until nothing is queued.

This is the only file of the engine that starts tasks. It writes nothing itself: each boundary goes to the run's
publisher, and the run goes on when that returns. An exception leaves the lane's view, and with it the
conversation, exactly where the last boundary put it.
"""

import asyncio
import contextvars
import functools
import logging
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent_host.engine import annotations
from agent_host.engine.checkpoint import CommitKind
from agent_host.engine.context import Effect, Surroundings, WorkflowContext
from agent_host.engine.events import OutputKey, WorkflowErrorDetails, WorkflowEvent, WorkflowEventType, WorkflowRunState
from agent_host.engine.lane import Lane, OpenRequest, Waiting
from agent_host.engine.merging import Merged, merge
from agent_host.engine.ports import Boundary, Publisher
from agent_host.engine.routing import Invocation, Plan, route
from agent_host.engine.watchdog import watched
from agent_host.errors import (
    UnknownRequestError,
    UnsupportedValueError,
    WorkflowConvergenceException,
    WorkflowRunnerException,
)

Durability = Literal["step", "turn"]
Sink = Callable[[WorkflowEvent], None]

log = logging.getLogger("agent_host.engine")
_threads = ThreadPoolExecutor(max_workers=32, thread_name_prefix="agent-host-handler")


def new_commit_id() -> str:
    """A fresh commit id whose beginning follows the clock, so that neighbours in time are neighbours in an index."""
    return f"chk_{int(time.time() * 1000):012x}{uuid.uuid4().hex}"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run behaves. `check_output` may refuse an output by raising. `clock` gives seconds since the epoch; ids and time can be set for tests."""

    durability: Durability = "step"
    max_iterations: int | None = None
    streaming: bool = False
    turn: Any = None
    check_output: Callable[[Any], None] | None = None
    clock: Callable[[], float] = time.time
    new_commit_id: Callable[[], str] = new_commit_id
    new_request_id: Callable[[], str] = lambda: str(uuid.uuid4())


class Run:
    """One run of an opened lane. `sink` hears every event at once; it must not block.

    Without a publisher the run's boundaries stay in the lane: nothing outlives the process.
    """

    def __init__(self, lane: Lane, publisher: Publisher | None, sink: Sink, options: RunOptions) -> None:
        self.lane = lane
        lane.by_reference = not lane.stored or options.durability == "turn"
        self.publisher = publisher
        self.options = options
        self.iteration = 0
        self.state = WorkflowRunState.STARTED
        self.usage: dict[str, int] = {}
        self.settled = lane.waiting
        self.at_rest = False
        self._sink = sink
        self._sequence = 0
        self._uncommitted_steps = 0
        self._held: list[tuple[WorkflowEventType, dict[str, Any]]] = []

    def __repr__(self) -> str:
        return f"<Run {self.state.value} in superstep {self.iteration} of {self.lane!r}>"

    # --- The way of one run ---

    async def start(self, message: Any) -> None:
        """Put a new input into the lane. What an earlier run left unfinished there makes way, with a warning."""
        self._begin()
        self._refuse_unhandled(message)
        self._drop_leftovers()
        graph = self.lane.definition.graph
        queued = self.lane.enqueue(graph.start, graph.start, "input", message)
        self.lane.waiting = replace(self.lane.waiting, queue=(queued,), joins={})
        await self._boundary("input", steps=0)

    async def answer(self, responses: Mapping[str, Any]) -> None:
        """Consume answers to open requests; all of them are checked before any is taken."""
        self._begin()
        requests = dict(self.lane.waiting.requests)
        queue = list(self.lane.waiting.queue)
        for request_id, value in responses.items():
            request = requests.pop(request_id, None)
            if request is None:
                known = ", ".join(map(repr, self.lane.waiting.requests)) or "none"
                raise UnknownRequestError(f"No request {request_id!r} is open in this session; open: {known}.")
            self._refuse_wrong_answer(request, value)
            queue.append(
                self.lane.enqueue(
                    request.executor,
                    request.executor,
                    "response",
                    (request.data, value),
                    request.request_id,
                    request.response_name,
                )  # fmt: skip
            )
        self.lane.waiting = replace(self.lane.waiting, queue=tuple(queue), requests=requests)
        await self._boundary("response", steps=0)

    def resume(self) -> None:
        """Go on with what is queued already."""
        self._begin()

    async def to_rest(self) -> None:
        """Run supersteps until nothing is queued, then commit what is not committed yet.

        Raises what a handler raised, `WorkflowConvergenceException` at the limit, or what the publisher raised.
        """
        try:
            with watched():
                await self._supersteps()
            if self.options.durability == "turn":
                await self._settle("step")
            self.at_rest = True
            self._status(
                WorkflowRunState.IDLE_WITH_PENDING_REQUESTS if self.lane.waiting.requests else WorkflowRunState.IDLE
            )
        except asyncio.CancelledError:
            self._status(WorkflowRunState.CANCELLED)
            raise
        except Exception as error:
            self._emit("failed", details=WorkflowErrorDetails.from_exception(error))
            self._status(WorkflowRunState.FAILED)
            raise

    async def _supersteps(self) -> None:
        limit = self.options.max_iterations or self.lane.definition.max_iterations
        while self.lane.waiting.queue:
            if self.iteration >= limit:
                raise WorkflowConvergenceException(
                    f"The run did not come to rest within {limit} supersteps; {len(self.lane.waiting.queue)} messages "
                    "are still queued. Raise max_iterations, or look for a loop that never ends."
                )
            self.iteration += 1
            await self._superstep()

    async def _superstep(self) -> None:
        waiting = self.lane.waiting
        self._emit("superstep_started", checkpoint_id=self._here())
        plan = await route(self.lane.definition.graph, waiting.queue, waiting.joins)
        for warning in plan.warnings:
            self._emit("warning", data=warning)
        effects = await self._execute(plan)
        merged = merge(effects)
        self._take_up(plan, merged)
        await self._boundary("step", steps=1)
        self._emit("superstep_completed", checkpoint_id=self._here())

    def _take_up(self, plan: Plan, merged: Merged) -> None:
        lane = self.lane
        queue = tuple(lane.enqueue(source, sent.target, "message", sent.payload) for source, sent in merged.sent)
        asked = [lane.ask(executor, asked) for executor, asked in merged.asked]
        requests = {**lane.waiting.requests, **{request.request_id: request for request in asked}}
        lane.write_state(merged.writes)
        lane.waiting = Waiting(queue, plan.joins, requests)
        for name, count in merged.usage.items():
            self.usage[name] = self.usage.get(name, 0) + count
        self._hold_settled(merged)
        for request, (_, question) in zip(asked, merged.asked, strict=True):
            self._hold(
                "request_info", data=request.data, executor_id=request.executor, request_id=request.request_id,
                response_type=question.response_type,
            )  # fmt: skip

    # --- Execute ---

    async def _execute(self, plan: Plan) -> list[Effect]:
        """Call the executors: each its messages in order, different ones at the same time."""
        by_executor: dict[str, list[Invocation]] = {}
        for invocation in plan.invocations:
            by_executor.setdefault(invocation.executor, []).append(invocation)
        around = self._surroundings()
        receivers = Counter(id(payload) for invocation in plan.invocations for payload in invocation.payloads)
        effects: list[Effect | None] = [None] * len(plan.invocations)

        async def serve(executor: str, invocations: Sequence[Invocation]) -> None:
            own_writes: dict[str, Any] = {}
            for invocation in invocations:
                effects[invocation.index] = await self._invoke(around, invocation, receivers, own_writes)

        if len(by_executor) == 1:
            for executor, invocations in by_executor.items():
                await serve(executor, invocations)
        else:
            await _all_or_none([serve(executor, invocations) for executor, invocations in by_executor.items()])
        return [effect for effect in effects if effect is not None]

    async def _invoke(
        self, around: Surroundings, invocation: Invocation, receivers: Counter[int], own_writes: dict[str, Any]
    ) -> Effect:
        name = invocation.executor
        executor = self.lane.executor(name)
        arguments = self._arguments(invocation, receivers)
        handler = (
            executor.handler_table.responder(arguments[0], _named(invocation.response_name, executor))
            if invocation.kind == "response"
            else executor.handler_table.select(arguments[0])
        )
        if handler is None:
            raise WorkflowRunnerException(f"Executor {name!r} has no handler for a {type(arguments[0]).__qualname__}.")
        context: WorkflowContext[Any, Any] = WorkflowContext(
            around, executor_id=name, invocation=invocation.index, handlers=executor.handler_table,
            sources=invocation.sources, request_id=invocation.request_id, own_writes=own_writes,
        )  # fmt: skip
        if handler.takes_context:
            arguments = (*arguments, context)
        if handler.takes_self:
            arguments = (executor, *arguments)
        self._emit("executor_invoked", executor_id=name)
        try:
            if handler.is_async:
                await handler.function(*arguments)
            else:
                await self._in_thread(handler.function, arguments)
        except Exception as error:
            error.add_note(f"raised by executor {name!r} of workflow {self.lane.definition.name!r}")
            self._emit(
                "executor_failed",
                executor_id=name,
                details=WorkflowErrorDetails.from_exception(error, executor_id=name),
            )
            raise
        effect = context._effect
        self._emit("executor_completed", executor_id=name)
        return effect

    def _arguments(self, invocation: Invocation, receivers: Counter[int]) -> tuple[Any, ...]:
        delivered = []
        for payload in invocation.payloads:
            value, own = payload.deliver(receivers[id(payload)])
            if not own:
                self._emit(
                    "warning",
                    data=f"A {type(value).__qualname__} sent to several executors cannot be copied; they share one object.",
                )
            delivered.append(value)
        if invocation.kind == "response":
            request, answer = delivered[0]
            return request, answer
        return (delivered if invocation.joined else delivered[0],)

    async def _in_thread(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        call = functools.partial(contextvars.copy_context().run, function, *arguments)
        result = await asyncio.get_running_loop().run_in_executor(_threads, call)
        if isinstance(result, Awaitable):
            await result

    def _surroundings(self) -> Surroundings:
        lane, loop = self.lane, asyncio.get_running_loop()

        def emit_delta(executor: str, invocation: int, number: int, text: str) -> None:
            designation = lane.definition.outputs.kind(executor)
            if designation is None:
                return
            event = functools.partial(
                self._emit, "output_delta", data=text, executor_id=executor,
                output=OutputKey(self.iteration, invocation, number), intermediate=designation == "intermediate",
            )  # fmt: skip
            if _on_loop(loop):
                event()
            else:
                loop.call_soon_threadsafe(event)

        return Surroundings(
            session_id=lane.session_id, iteration=self.iteration, checkpoint_id=self._here(), codec=lane.codec,
            strict=self.publisher is not None, streaming=self.options.streaming, turn=self.options.turn,
            read_state=lane.read_state, open_requests=lane.waiting.requests,
            new_request_id=self.options.new_request_id, emit_delta=emit_delta, check_output=self.options.check_output,
        )  # fmt: skip

    # --- Boundaries ---

    async def _boundary(self, kind: CommitKind, *, steps: int) -> None:
        """In durability `step` every boundary is a commit; in `turn` only the one at rest is."""
        self._uncommitted_steps += steps
        if self.options.durability == "step":
            await self._settle(kind)
        else:
            questions = [held for held in self._held if held[0] == "request_info"]
            self._held = [held for held in self._held if held[0] != "request_info"]
            for event in self._take_held():
                self._sink(event)
            self._held = questions
        self.settled = self.lane.waiting

    async def _settle(self, kind: CommitKind) -> None:
        """Commit and publish what has changed, then tell what that settles."""
        lane = self.lane
        await lane.settle_executors()
        if lane.stored:
            lane.settle_waiting()
        commit = lane.commit(kind, self.options.new_commit_id(), self.options.clock(), steps=self._uncommitted_steps)
        self._uncommitted_steps = 0 if commit is not None else self._uncommitted_steps
        events = self._take_held()
        if self.publisher is not None and (commit is not None or events):
            await self.publisher.publish(Boundary((commit,) if commit else (), events))
        for event in events:
            self._sink(event)

    def _take_held(self) -> tuple[WorkflowEvent, ...]:
        here = self.lane.view.commit_id if self.publisher is not None else None
        events = tuple(
            self._event(kind, **fields, **({"checkpoint_id": here} if kind == "request_info" else {}))
            for kind, fields in self._held
        )
        self._held = []
        return events

    def _here(self) -> str | None:
        """The commit the lane stands at; None where nothing is published, or not at every boundary."""
        if self.publisher is None or (self.options.durability == "turn" and self.iteration):
            return None
        return self.lane.view.commit_id

    # --- Checks ---

    def _refuse_unhandled(self, message: Any) -> None:
        definition = self.lane.definition
        start = definition.graph.executors[definition.graph.start]
        if not start.can_handle(message):
            takes = ", ".join(map(annotations.name, start.input_types))
            raise WorkflowRunnerException(
                f"The start executor {start.id!r} takes {takes}, not a {type(message).__qualname__}."
            )
        if self.publisher is not None and not self.lane.codec.allows(type(message)):
            raise UnsupportedValueError(
                f"A {type(message).__qualname__} as input could not be restored from a checkpoint; "
                "annotate the start executor's handler with it, or call register_checkpoint_type(cls)."
            )

    def _refuse_wrong_answer(self, request: OpenRequest, value: Any) -> None:
        executor = self.lane.definition.graph.executors[request.executor]
        wanted = _named(request.response_name, executor)
        if executor.handler_table.responder(request.data, wanted) is None:
            raise WorkflowRunnerException(
                f"Executor {request.executor!r} no longer has a @response_handler for a "
                f"{type(request.data).__qualname__} answered by {request.response_name}."
            )
        if not annotations.matcher(wanted)(value):
            raise WorkflowRunnerException(
                f"The answer to request {request.request_id!r} must be a {request.response_name}, "
                f"not a {type(value).__qualname__}."
            )

    def _drop_leftovers(self) -> None:
        waiting = self.lane.waiting
        here = self.lane.view.commit_id
        if waiting.queue:
            self._emit(
                "warning",
                data=f"{len(waiting.queue)} messages of an unfinished run were dropped for the new input. "
                f"They are kept in checkpoint {here}: run(checkpoint_id=...) continues them.",
            )
        joins: dict[str, list[str]] = {}
        for group, source in waiting.joins:
            joins.setdefault(group, []).append(source)
        for group in self.lane.definition.graph.groups:
            if group.id in joins:
                missing = ", ".join(repr(source) for source in group.sources if source not in joins[group.id])
                self._emit(
                    "warning",
                    data=f"The join into {group.targets[0]!r} never heard from {missing}; what waited there was dropped.",
                )

    # --- Events ---

    def _begin(self) -> None:
        self._emit("started")
        self._status(
            WorkflowRunState.IN_PROGRESS_PENDING_REQUESTS
            if self.lane.waiting.requests
            else WorkflowRunState.IN_PROGRESS
        )

    def _status(self, state: WorkflowRunState) -> None:
        self.state = state
        self._emit("status", state=state, checkpoint_id=self._here())

    def _event(self, kind: WorkflowEventType, **fields: Any) -> WorkflowEvent:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return WorkflowEvent(
            type=kind, session_id=self.lane.session_id, sequence=sequence, iteration=self.iteration, **fields
        )

    def _emit(self, kind: WorkflowEventType, **fields: Any) -> None:
        self._sink(self._event(kind, **fields))

    def _hold(self, kind: WorkflowEventType, **fields: Any) -> None:
        self._held.append((kind, fields))

    def _hold_settled(self, merged: Merged) -> None:
        for index, number, executor, output in merged.yielded:
            designation = self.lane.definition.outputs.kind(executor)
            if designation is not None:
                self._hold(
                    designation, data=output.value, executor_id=executor, streamed=output.streamed,
                    output=OutputKey(self.iteration, index, number),
                )  # fmt: skip
        for executor, event in merged.events:
            self._hold(event.type, data=event.data, executor_id=executor)


def _named(response_name: str | None, executor: Any) -> Any:
    """The annotation that a stored request named, looked up among the executor's own response handlers."""
    for responder in executor.handler_table.responders:
        for hint in (responder.response, *annotations.members(responder.response)):
            if annotations.name(hint) == response_name:
                return hint
    return response_name


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _all_or_none(jobs: Sequence[Awaitable[None]]) -> None:
    """Run jobs together. When one fails the others are cancelled and awaited, and the first error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not task.cancelled() and task.exception()), None)
    except asyncio.CancelledError:
        failed = None
        raise
    finally:
        for task in tasks:
            task.cancel()
        while not all(task.done() for task in tasks):
            await asyncio.wait(tasks)
    for task in tasks:
        if task is not failed and not task.cancelled():
            task.exception()  # retrieved: its executor_failed event has been sent
    if failed is not None:
        failed.result()
