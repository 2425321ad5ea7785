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
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace

from agent_host.engine import annotations
from agent_host.engine.checkpoint import CommitKind
from agent_host.engine.context import Effect, Surroundings, WorkflowContext
from agent_host.engine.events import OutputKey, WorkflowErrorDetails, WorkflowEvent, WorkflowEventType, WorkflowRunState
from agent_host.engine.handlers import Handler, HandlerTable
from agent_host.engine.lane import Lane, OpenRequest, Waiting, response_type
from agent_host.engine.merging import Merged, merge
from agent_host.engine.ports import Boundary, Publisher
from agent_host.engine.routing import Invocation, Plan, Queued, route
from agent_host.engine.tasks import end, ended
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
    """How a run behaves.

    `show_output` turns an output into what is
    told of it, or refuses it by raising; `hears` names the events the sink wants, None all of them. `clock`
    gives seconds since the epoch; ids and time can be set for tests.
    """

    durability: Durability = "step"
    max_iterations: int | None = None
    streaming: bool = False
    turn: Any = None
    show_output: Callable[[Any], Any] | None = None
    hears: frozenset[WorkflowEventType] | None = None
    clock: Callable[[], float] = time.time
    new_commit_id: Callable[[], str] = new_commit_id
    new_request_id: Callable[[], str] = lambda: str(uuid.uuid4())


class Run:
    """One run of an opened lane. `sink` hears every event at once; it must not block.

    Without a publisher the run's boundaries stay in the lane: nothing outlives the process. `moved` tells whether the
    session stands elsewhere than where the run found it; `settled` is what was waiting at the last boundary.
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
        self.moved = False
        self._sink = sink
        self._hears = options.hears
        self._sequence = 0
        self._uncommitted_steps = 0
        self._held: list[tuple[WorkflowEventType, dict[str, Any]]] = []
        self._questions: list[tuple[WorkflowEventType, dict[str, Any]]] = []
        self._around = self._surroundings()

    def __repr__(self) -> str:
        return f"<Run {self.state.value} in superstep {self.iteration} of {self.lane!r}>"

    # --- The way of one run ---

    async def start(self, message: Any) -> None:
        """Put a new input into the lane. What an earlier run left unfinished there makes way, with a warning."""
        self._begin()
        with self._telling_failure():
            self._refuse_unhandled(message)
            self._drop_leftovers()
            start = self.lane.definition.graph.start
            queued = self.lane.enqueue(start, start, "input", message)
            self.lane.waiting = replace(self.lane.waiting, queue=(queued,), joins={})
            await self._boundary("input", steps=0)

    async def answer(self, responses: Mapping[str, Any]) -> None:
        """Consume answers to open requests; all of them are checked before any is taken."""
        self._begin()
        with self._telling_failure():
            requests = dict(self.lane.waiting.requests)
            queue = list(self.lane.waiting.queue)
            for request_id, value in responses.items():
                request = requests.pop(request_id, None)
                if request is None:
                    known = ", ".join(map(repr, self.lane.waiting.requests)) or "none"
                    raise UnknownRequestError(f"No request {request_id!r} is open in this session; open: {known}.")
                queue.append(self._answered(request, value))
            self.lane.waiting = replace(self.lane.waiting, queue=tuple(queue), requests=requests)
            await self._boundary("response", steps=0)

    def resume(self) -> None:
        """Go on with what is queued already."""
        self._begin()

    def tell_open_requests(self) -> None:
        """Emit the requests that the run has found open."""
        for request in self.lane.waiting.requests.values():
            self._emit(
                "request_info", data=request.data, executor_id=request.executor, request_id=request.request_id,
                response_type=self._response_type(request), checkpoint_id=self._here(),
            )  # fmt: skip

    async def to_rest(self) -> None:
        """Run supersteps until nothing is queued, then commit what is not committed yet.

        Raises what a handler raised, `WorkflowConvergenceException` at the limit, or what the publisher raised.
        """
        with self._telling_failure():
            with watched():
                await self._supersteps()
            if self.options.durability == "turn":
                await self._settle("step")
            self.at_rest = self.moved = True
            self._warn_of_unfinished_joins()
            waits = self.lane.waiting.requests
            self._status(WorkflowRunState.IDLE_WITH_PENDING_REQUESTS if waits else WorkflowRunState.IDLE)

    @contextmanager
    def _telling_failure(self) -> Iterator[None]:
        try:
            yield
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
            self._warn(warning)
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
            fields = {
                "data": request.data,
                "executor_id": request.executor,
                "request_id": request.request_id,
                "response_type": question.response_type,
            }
            self._questions.append(("request_info", fields))

    # --- Execute ---

    async def _execute(self, plan: Plan) -> list[Effect]:
        """Call the executors: each its messages in order, different ones at the same time."""
        by_executor: dict[str, list[Invocation]] = {}
        for invocation in plan.invocations:
            by_executor.setdefault(invocation.executor, []).append(invocation)
        around = self._around
        around.iteration = self.iteration
        around.checkpoint_id = self._here()
        around.open_requests = self.lane.waiting.requests
        receivers = Counter([id(payload) for invocation in plan.invocations for payload in invocation.payloads])
        for waiting in plan.joins.values():  # a join takes its message later, and must find it as it was sent
            receivers.update(map(id, waiting))
        effects: list[Effect | None] = [None] * len(plan.invocations)

        async def serve(executor: str, invocations: Sequence[Invocation]) -> None:
            own_writes: dict[str, Any] = {}
            for invocation in invocations:
                effects[invocation.index] = await self._invoke(around, invocation, receivers, own_writes)

        if len(by_executor) == 1:
            for executor, invocations in by_executor.items():
                await serve(executor, invocations)
        elif by_executor:
            await _all_or_none([serve(executor, invocations) for executor, invocations in by_executor.items()])
        return [effect for effect in effects if effect is not None]

    async def _invoke(
        self, around: Surroundings, invocation: Invocation, receivers: Counter[int], own_writes: dict[str, Any]
    ) -> Effect:
        name = invocation.executor
        executor = self.lane.executor(name)
        arguments = self._arguments(invocation, receivers)
        handler = self._handler(executor.handler_table, invocation, arguments)
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
            await self._call(handler, arguments)
        except Exception as error:
            error.add_note(f"raised by executor {name!r} of workflow {self.lane.definition.name!r}")
            details = WorkflowErrorDetails.from_exception(error, executor_id=name)
            self._emit("executor_failed", executor_id=name, details=details)
            raise
        self._emit("executor_completed", executor_id=name)
        return context._effect

    def _handler(self, table: HandlerTable, invocation: Invocation, arguments: tuple[Any, ...]) -> Handler:
        if invocation.kind == "response":
            wanted = response_type(invocation.response_name or "", table, self.lane.codec)
            handler = table.responder(arguments[0], wanted)
        else:
            handler = table.select(arguments[0])
        if handler is None:
            raise WorkflowRunnerException(
                f"Executor {invocation.executor!r} has no handler for a {type(arguments[0]).__qualname__}."
            )
        return handler

    async def _call(self, handler: Handler, arguments: tuple[Any, ...]) -> None:
        try:
            if handler.is_async:
                await handler.function(*arguments)
            else:
                await _in_thread(handler.function, arguments)
        except SystemExit as error:
            # Libraries for command lines end the process when they dislike their input; a handler may not.
            raise WorkflowRunnerException(f"The handler {handler.name!r} called sys.exit({error.code!r}).") from error
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # Nobody cancelled the run: the handler awaited something that was cancelled, which is its own failure.
            raise WorkflowRunnerException(
                f"The handler {handler.name!r} awaited something that was cancelled."
            ) from error

    def _arguments(self, invocation: Invocation, receivers: Counter[int]) -> tuple[Any, ...]:
        delivered = []
        for payload in invocation.payloads:
            value, own = payload.deliver(receivers[id(payload)])
            if not own:
                self._warn(f"A {type(value).__qualname__} sent to several executors cannot be copied; they share one.")
            delivered.append(value)
        if invocation.kind == "response":
            request, answer = delivered[0]
            return request, answer
        return (delivered if invocation.joined else delivered[0],)

    def _surroundings(self) -> Surroundings:
        lane, loop = self.lane, asyncio.get_running_loop()
        outputs = lane.definition.outputs

        def emit_delta(executor: str, invocation: int, number: int, text: str) -> None:
            designation = outputs.kind(executor)
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
            encode_state=lane.encode_state, decode_state=lane.decode_state, read_state=lane.read_state,
            strict=self.publisher is not None, streaming=self.options.streaming, turn=self.options.turn,
            open_requests=lane.waiting.requests,
            new_request_id=self.options.new_request_id, emit_delta=emit_delta, show_output=self.options.show_output,
        )  # fmt: skip

    # --- Boundaries ---

    async def _boundary(self, kind: CommitKind, *, steps: int) -> None:
        """In durability `step` every boundary is a commit; in `turn` only the one at rest is."""
        self._uncommitted_steps += steps
        if self.options.durability == "step":
            await self._settle(kind)
            self.moved = True
        else:
            for event in self._settled_events(self._held):
                self._sink(event)
        self.settled = self.lane.waiting

    async def _settle(self, kind: CommitKind) -> None:
        """Commit and publish what has changed, then tell what that settles."""
        lane = self.lane
        await lane.settle_executors()
        if lane.stored:
            lane.settle_waiting()
        commit = lane.commit(kind, self.options.new_commit_id(), self.options.clock(), steps=self._uncommitted_steps)
        stands_at = commit.id if commit is not None else lane.view.commit_id
        events = (*self._settled_events(self._held), *self._settled_events(self._questions, stands_at))
        if self.publisher is not None and (commit is not None or events):
            await self.publisher.publish(Boundary((commit,) if commit else (), events))
        if commit is not None:
            lane.accept(commit)
            self._uncommitted_steps = 0
        for event in events:
            self._sink(event)

    def _settled_events(
        self, held: list[tuple[WorkflowEventType, dict[str, Any]]], stands_at: str | None = None
    ) -> tuple[WorkflowEvent, ...]:
        """The held events, now numbered; `held` is empty afterwards."""
        where = stands_at if self.publisher is not None else None
        events = tuple(self._event(kind, checkpoint_id=where, **fields) for kind, fields in held)
        held.clear()
        return events

    def _here(self) -> str | None:
        """The commit the lane stands at; None where nothing is published, or not at every boundary."""
        between = self.options.durability == "turn" and self.iteration and not self.at_rest
        return None if self.publisher is None or between else self.lane.view.commit_id

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

    def _answered(self, request: OpenRequest, value: Any) -> Queued:
        """The answer as a message. Raises if it is not of the type that was asked for."""
        executor, name = request.executor, request.response_name
        wanted = self._response_type(request)
        if wanted is None or self._table(executor).responder(request.data, wanted) is None:
            raise WorkflowRunnerException(
                f"Executor {executor!r} no longer has a @response_handler for a "
                f"{type(request.data).__qualname__} answered by {name}."
            )
        if not annotations.matcher(wanted)(value):
            raise WorkflowRunnerException(
                f"The answer to request {request.request_id!r} must be a {name}, not a {type(value).__qualname__}."
            )
        return self.lane.enqueue(executor, executor, "response", (request.data, value), request.request_id, name)

    def _response_type(self, request: OpenRequest) -> Any:
        return response_type(request.response_name, self._table(request.executor), self.lane.codec)

    def _table(self, executor: str) -> HandlerTable:
        return self.lane.definition.graph.executors[executor].handler_table

    def _drop_leftovers(self) -> None:
        queue = self.lane.waiting.queue
        if queue:
            kept = self.lane.view.commit_id
            self._warn(
                f"{len(queue)} messages of an unfinished run were dropped for the new input."
                + (f" run(checkpoint_id={kept!r}) continues them." if self.publisher is not None else "")
            )
        for target, missing in self._unfinished_joins():
            self._warn(f"The join into {target!r} never heard from {missing}; what waited there was dropped.")

    def _warn_of_unfinished_joins(self) -> None:
        if not self.lane.waiting.requests:  # an answer may still bring what is missing
            for target, missing in self._unfinished_joins():
                self._warn(f"The run is over, but the join into {target!r} has not heard from {missing}.")

    def _unfinished_joins(self) -> Iterator[tuple[str, str]]:
        """The target of every half-filled join, and the sources it waits for."""
        joins = self.lane.waiting.joins
        for group in self.lane.definition.graph.groups if joins else ():
            heard = {source for group_id, source in joins if group_id == group.id}
            if heard:
                yield group.targets[0], ", ".join(repr(source) for source in group.sources if source not in heard)

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

    def _warn(self, text: str) -> None:
        self._emit("warning", data=text)

    def _emit(self, kind: WorkflowEventType, **fields: Any) -> None:
        if self._hears is None or kind in self._hears:
            self._sink(self._event(kind, **fields))

    def _hold(self, kind: WorkflowEventType, **fields: Any) -> None:
        self._held.append((kind, fields))

    def _hold_settled(self, merged: Merged) -> None:
        for index, number, executor, output in merged.yielded:
            designation = self.lane.definition.outputs.kind(executor)
            if designation is not None:
                self._hold(
                    designation, data=output.whole, executor_id=executor, streamed=output.pieces is not None,
                    output=OutputKey(self.iteration, index, number),
                )  # fmt: skip
        for executor, event in merged.events:
            self._hold(event.type, data=event.data, executor_id=executor)


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


async def _in_thread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """Call a plain function in a worker thread. A thread cannot be cancelled: it is awaited to its end."""
    call = functools.partial(contextvars.copy_context().run, function, *arguments)
    working = asyncio.get_running_loop().run_in_executor(_threads, call)
    await ended([working])
    result = working.result()
    if isinstance(result, Awaitable):
        await result


async def _all_or_none(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run jobs together. When one fails the others are cancelled and awaited, and the first error is raised."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    failed: asyncio.Task[None] | None = None
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = next((task for task in tasks if task.done() and not task.cancelled() and task.exception()), None)
    finally:
        await end(tasks)
    if failed is not None:
        failed.result()
