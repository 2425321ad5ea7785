"""Drive one run of one lane: route, execute, merge, commit, until nothing is queued.

The runner writes nothing itself: each boundary goes to the run's publisher, and the run goes on when that returns.
An exception leaves the lane's view, and with it the conversation, exactly where the last boundary put it.
"""

import asyncio
import functools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from agent_host.engine import annotations
from agent_host.engine.checkpoint import CommitKind
from agent_host.engine.events import OutputKey, WorkflowErrorDetails, WorkflowEvent, WorkflowEventType, WorkflowRunState
from agent_host.engine.ports import Boundary, Publisher
from agent_host.engine.reducers import reduce_state
from agent_host.engine.running import notes, requests
from agent_host.engine.running.attempt import Call, Surroundings
from agent_host.engine.running.calls import Calls
from agent_host.engine.running.frame import Frame
from agent_host.engine.running.lane import Lane, Shown
from agent_host.engine.running.merging import Merged, merge
from agent_host.engine.running.notes import Notes
from agent_host.engine.running.routing import Plan, route
from agent_host.engine.running.settling import Settled, settle
from agent_host.engine.running.watchdog import watched
from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import (
    AgentHostError,
    UnsupportedValueError,
    WorkflowCheckpointException,
    WorkflowConflictError,
    WorkflowConvergenceException,
    WorkflowRunnerException,
)
from agent_host.ids import random_bytes

Durability = Literal["step", "turn"]
OnCheckpointError = Literal["fail", "warn"]
Sink = Callable[[WorkflowEvent], None]
Tell = Callable[[], None]

log = logging.getLogger("agent_host.engine")


def new_commit_id() -> str:
    """A fresh commit id whose beginning follows the clock, so that neighbours in time are neighbours in an index."""
    return f"chk_{int(time.time() * 1000):012x}{random_bytes(16).hex()}"


class StopSignal:
    """Asks a run to end after the superstep that it is in."""

    __slots__ = ("requested",)

    def __init__(self) -> None:
        self.requested = False

    def request(self) -> None:
        self.requested = True


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run behaves.

    `branch`: the run starts elsewhere than where its session stands. `on_checkpoint_error="warn"` lets a run go on
    whose boundary could not be stored; the next one that can be stored holds it too. `pace` is awaited between
    supersteps. `show_output` turns an output into what is told of it, or refuses it by raising; `hears` names the
    events the sink wants, None all of them. `clock` gives seconds since the epoch; ids, time and waiting can be set
    for tests.
    """

    durability: Durability = "step"
    max_iterations: int | None = None
    streaming: bool = False
    turn: Any = None
    branch: bool = False
    on_checkpoint_error: OnCheckpointError = "fail"
    stop: StopSignal = field(default_factory=StopSignal)
    pace: Callable[[], Awaitable[None]] | None = None
    show_output: Callable[[Any], Any] | None = None
    hears: frozenset[str] | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    new_commit_id: Callable[[], str] = new_commit_id
    new_request_id: Callable[[], str] = lambda: str(uuid.uuid4())


class Run:
    """One run of an opened lane. `sink` hears every event at once; it must not block.

    Without a publisher the run's boundaries stay in the lane: nothing outlives the process. `moved` tells whether the
    session stands elsewhere than where the run found it; `settled` is what was waiting at the last boundary, where
    that is not in the lane's cells.
    """

    def __init__(self, lane: Lane, publisher: Publisher | None, sink: Sink, options: RunOptions) -> None:
        self.lane = lane
        lane.draft.by_reference = not lane.draft.stored or options.durability == "turn"
        self.publisher = publisher
        self.options = options
        self.iteration = 0
        self.state = WorkflowRunState.STARTED
        self.usage: dict[str, int] = {}
        self.settled = lane.unfinished()
        self.at_rest = False
        self.moved = False
        self._expired_last = False
        self._sink = sink
        self._session = lane.session_id
        self._hears = options.hears
        self._sequence = 0
        self._uncommitted_steps = 0
        self._held: list[tuple[WorkflowEventType, dict[str, Any]]] = []
        self._questions: list[tuple[WorkflowEventType, dict[str, Any]]] = []
        # Where not every boundary has a commit of its own, the id of the one that comes at last names them all.
        stored_steps = options.durability == "step" and lane.draft.stored
        self._name = "" if stored_steps else options.new_commit_id()
        self._around = self._surroundings()
        steps = options.durability == "step"
        self.calls = Calls(
            self._around, self._emit, record=self._record if publisher is not None and steps else None,
            keeps_notes=steps, sleep=options.sleep,
            watched=options.hears is None or bool(options.hears & {"executor_invoked", "executor_completed"}),
        )  # fmt: skip
        self.calls.notes = self._blank_notes()

    def __repr__(self) -> str:
        return f"<Run {self.state.value} in superstep {self.iteration} of {self.lane!r}>"

    # --- The way of one run ---

    async def start(self, message: Any) -> None:
        """Put a new input into the lane. What an earlier run left unfinished there makes way, with a warning."""
        self._begin()
        with self._telling_failure():
            self._refuse_unhandled(message)
            self._drop_leftovers()
            self._take_expired()
            self._enqueue(message)
            await self._boundary("input", steps=0)

    async def answer(self, responses: Mapping[str, Any], *inputs: Any, given_at: float | None = None) -> None:
        """Consume answers to open requests; all of them are checked before any is taken.

        Further `inputs` reach the start executor in the same superstep, after the answers. Requests may have expired
        since the answers were given, at a time in seconds since the epoch that is now unless it is named.
        """
        self._begin()
        with self._telling_failure():
            for message in inputs:
                self._refuse_unhandled(message)
            requests.take(self.lane, responses, self.options.clock() if given_at is None else given_at)
            self._take_expired()
            for message in inputs:
                self._enqueue(message)
            await self._boundary("response", steps=0)

    def _enqueue(self, message: Any) -> None:
        root = self.lane.root
        start = root.definition.graph.start
        queued = root.enqueue(start, start, "input", message)
        root.waiting = replace(root.waiting, queue=(*root.waiting.queue, queued))

    async def resume(self) -> None:
        """Go on with what is queued already, and with requests that have expired."""
        self._begin()
        with self._telling_failure():
            if self.lane.queued:
                # Requests that have expired wait for the end: a commit for them would part the notes from their commit.
                self._expired_last = True
                if self.publisher is not None and self._may_use_notes():
                    notes.take_up(self.calls.notes, await self.publisher.recorded(), self.lane)
            elif self._take_expired():
                await self._boundary("response", steps=0)

    def _may_use_notes(self) -> bool:
        """Notes are of this session and of this graph; in another one the calls have other numbers."""
        return not self.options.branch and self.lane.view.signature == self.lane.definition.signature

    async def cancel(self, request_ids: Sequence[str]) -> None:
        """Drop open requests; all of them are checked before any is dropped."""
        with self._telling_failure():
            requests.drop(self.lane, request_ids)
            await self._boundary("response", steps=0)

    def tell_open_requests(self) -> None:
        """Emit the requests that the run has found open."""
        for frame, request in self.lane.open_requests().values():
            if frame.outward:
                self._emit(
                    "request_info", data=request.data, executor_id=frame.name(request.executor),
                    request_id=request.request_id, response_type=requests.answer_type(frame, request),
                    checkpoint_id=self._here(),
                )  # fmt: skip

    async def to_rest(self) -> None:
        """Run supersteps until nothing is queued, then commit what is not committed yet.

        Raises what a handler raised, `WorkflowConvergenceException` at the limit, or what the publisher raised.
        """
        with self._telling_failure():
            with watched():
                await self._supersteps()
                if self._expired_last and not self.lane.queued and self._take_expired():
                    await self._boundary("response", steps=0)
                    await self._supersteps()
            if self.options.durability == "turn":
                await self._settle("step")
            self.at_rest = self.moved = True
            self._warn_of_unfinished_joins()
            waits = any(frame.outward for frame, _ in self.lane.open_requests().values())
            self._status(WorkflowRunState.IDLE_WITH_PENDING_REQUESTS if waits else WorkflowRunState.IDLE)

    async def _supersteps(self) -> None:
        while self.lane.queued and not self.options.stop.requested:
            self._refuse_endless()
            self.iteration += 1
            await self._superstep()
            if self.options.pace is not None and self.lane.queued:
                await self.options.pace()

    @contextmanager
    def _telling_failure(self) -> Iterator[None]:
        try:
            yield
        except asyncio.CancelledError as error:
            if _is_cancelled():
                self._status(WorkflowRunState.CANCELLED)
                raise
            self._fail(error)
            raise WorkflowRunnerException(
                "A condition, a hook or the storage awaited something that was cancelled."
            ) from error
        except SystemExit as error:
            # Libraries for command lines end the process when they dislike their input; a workflow may not.
            self._fail(error)
            raise WorkflowRunnerException(f"A condition or a hook called sys.exit({error.code!r}).") from error
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        self._emit("failed", details=WorkflowErrorDetails.from_exception(error))
        self._status(WorkflowRunState.FAILED)

    async def _superstep(self) -> None:
        here = self._here()
        self._emit("superstep_started", checkpoint_id=here)
        plans = await self._route()
        self._look_around(here)
        effects = await self.calls.make(plans)
        merged = [_merged(frame, of_frame) for (frame, _), of_frame in zip(plans, effects, strict=True)]
        self._hold(settle(self.lane, plans, merged))
        for one in merged:
            if one.usage:
                self.usage = {name: self.usage.get(name, 0) + one.usage.get(name, 0) for name in self.usage | one.usage}
        await self._boundary("step", steps=1)
        self._emit("superstep_completed", checkpoint_id=self._here())

    async def _route(self) -> list[tuple[Frame, Plan]]:
        """What every frame with messages does next."""
        plans = []
        for frame in self.lane.in_order():
            waiting = frame.waiting
            if waiting.queue:
                frame.steps += 1
                plan = await route(frame.definition.graph, waiting.queue, waiting.joins)
                for warning in plan.warnings:
                    self._warn(warning)
                plans.append((frame, plan))
        return plans

    def _look_around(self, here: str | None) -> None:
        """Tell the handlers of the next superstep where they are."""
        around, known = self._around, self.calls.notes
        around.iteration = self.iteration
        around.checkpoint_id = here
        around.seed, around.now = known.seed, known.began

    def _blank_notes(self) -> Notes:
        """What is known of a superstep that nobody has tried yet: which one it is.

        It is named after the commit it starts from, so that a resumed run tries the same superstep, and otherwise
        after nothing that another superstep could have.
        """
        options, view = self.options, self.lane.view
        if self._name:
            return Notes(f"{self._name} {self.iteration}", options.clock())
        if self._uncommitted_steps or (options.branch and not self.moved):
            return Notes(options.new_commit_id(), options.clock())
        return Notes(view.commit_id, view.created_at)

    def _surroundings(self) -> Surroundings:
        lane, loop, options = self.lane, asyncio.get_running_loop(), self.options

        def shown_as(call: Call) -> Shown | None:
            assert isinstance(call.scope, Frame)
            shown = lane.designation(call.scope, call.executor_id)
            return None if shown is None or shown.message_in is not None else shown

        def show_output(call: Call, output: Any) -> Any:
            # What a nested workflow yields may be a message of the one around it: that takes it as it is.
            if options.show_output is None or shown_as(call) is None:
                return output
            return options.show_output(output)

        def emit_delta(call: Call, number: int, text: str) -> None:
            shown = shown_as(call)
            if shown is None:
                return
            event = functools.partial(
                self._emit, "output_delta", data=text, executor_id=shown.executor_id,
                output=OutputKey(self.iteration, call.index, number, call.attempt),
                intermediate=shown.kind == "intermediate",
            )  # fmt: skip
            at_once(event)

        def tell(call: Call, event: WorkflowEvent) -> None:
            at_once(functools.partial(self._tell_custom, call.name, event))

        def at_once(told: Tell) -> None:
            if _on_loop(loop):
                told()
            else:
                loop.call_soon_threadsafe(told)

        return Surroundings(
            session_id=lane.session_id, iteration=0, checkpoint_id=None, seed="", now=0.0, clock=options.clock,
            codec=lane.codec, strict=self.publisher is not None, streaming=options.streaming, turn=options.turn,
            is_open=lane.is_open, new_request_id=options.new_request_id, emit_delta=emit_delta, tell=tell,
            show_output=show_output,
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
        self.calls.notes = self._blank_notes()
        if not self.lane.draft.stored:
            self.settled = self.lane.unfinished()

    async def _settle(self, kind: CommitKind) -> None:
        """Commit and publish what has changed, then tell what that settles."""
        lane = self.lane
        await lane.settle()
        # A commit also where the cells happen to be equal: notes and keys belong to the commit they start from, and
        # what was said in a run belongs to the commit at which it ends.
        moved = lane.draft.stored and (kind == "input" or self._uncommitted_steps)
        commit = lane.commit(
            kind, self._commit_id, self.options.clock, steps=self._uncommitted_steps, even_if_equal=bool(moved)
        )
        stands_at = commit.id if commit is not None else lane.view.commit_id
        events = (*self._settled_events(self._held), *self._settled_events(self._questions, stands_at))
        if self.publisher is not None and (commit is not None or events):
            stored = await self._publish(self.publisher, Boundary((commit,) if commit else (), events))
        else:
            stored = True
        if commit is not None and stored:
            lane.accept(commit)
            self._uncommitted_steps = 0
        for event in events if stored else (replace(event, checkpoint_id=None) for event in events):
            self._sink(event)

    def _commit_id(self) -> str:
        return self._name if self.options.durability == "turn" else self.options.new_commit_id()

    async def _publish(self, publisher: Publisher, boundary: Boundary) -> bool:
        """Whether the boundary is durable now. Raises if it must be and could not be stored."""
        return await self._stored(publisher.publish(boundary))

    async def _record(self, entries: Mapping[str, bytes]) -> None:
        """Note what is finished of a superstep that starts from the session's head; elsewhere notes stay in memory."""
        if self.publisher is not None and (self.moved or not self.options.branch):
            await self._stored(self.publisher.record(entries))

    async def _stored(self, writing: Awaitable[None]) -> bool:
        try:
            await writing
        except WorkflowConflictError:
            raise
        except Exception as error:
            if self.options.on_checkpoint_error == "warn":
                log.warning("A checkpoint of session %r could not be stored: %s", self.lane.session_id, error)
                self._warn(f"The checkpoint could not be stored: {error}. The run goes on without it.")
                return False
            if isinstance(error, AgentHostError):
                raise
            raise WorkflowCheckpointException(f"The checkpoint could not be stored: {error}") from error
        return True

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

    def _refuse_endless(self) -> None:
        """Each graph has its own limit: supersteps of this run in which it had something to do."""
        for frame in self.lane.frames.values():
            limit = frame.definition.max_iterations
            if not frame.path and self.options.max_iterations is not None:
                limit = self.options.max_iterations
            if frame.steps >= limit and frame.waiting.queue:
                where = f"The nested workflow {frame.name('')[:-1]!r}" if frame.path else "The run"
                raise WorkflowConvergenceException(
                    f"{where} did not come to rest within {limit} supersteps; {self.lane.queued} messages are still "
                    "queued. Raise max_iterations, or look for a loop that never ends."
                )

    def _take_expired(self) -> bool:
        """Answer expired requests with their defaults and drop the others; whether there were any."""
        warnings, found = requests.take_expired(self.lane, self.options.clock())
        for warning in warnings:
            self._warn(warning)
        return found

    def _drop_leftovers(self) -> None:
        queued = self.lane.queued
        if queued:
            kept = self.lane.view.commit_id
            self._warn(
                f"{queued} messages of an unfinished run were dropped for the new input."
                + (f" run(checkpoint_id={kept!r}) continues them." if self.publisher is not None else "")
            )
        for target, missing in self._unfinished_joins():
            self._warn(f"The join into {target!r} never heard from {missing}; what waited there was dropped.")
        for frame in self.lane.frames.values():
            frame.waiting = replace(frame.waiting, queue=(), joins={})

    def _warn_of_unfinished_joins(self) -> None:
        if self.lane.queued or any(frame.waiting.requests for frame in self.lane.frames.values()):
            return  # what is missing may still come
        for target, missing in self._unfinished_joins():
            self._warn(f"The run is over, but the join into {target!r} has not heard from {missing}.")

    def _unfinished_joins(self) -> Iterator[tuple[str, str]]:
        """The target of every half-filled join, and the sources it waits for."""
        for frame in self.lane.frames.values():
            joins = frame.waiting.joins
            for group in frame.definition.graph.groups if joins else ():
                heard = {source for group_id, source in joins if group_id == group.id}
                if heard:
                    missing = ", ".join(repr(frame.name(source)) for source in group.sources if source not in heard)
                    yield frame.name(group.targets[0]), missing

    # --- Events ---

    def _begin(self) -> None:
        self._emit("started")
        self._status(WorkflowRunState.IN_PROGRESS_PENDING_REQUESTS if self.lane.waits else WorkflowRunState.IN_PROGRESS)

    def _status(self, state: WorkflowRunState) -> None:
        self.state = state
        self._emit("status", state=state, checkpoint_id=self._here())

    def _event(self, kind: WorkflowEventType, **fields: Any) -> WorkflowEvent:
        sequence, self._sequence = self._sequence, self._sequence + 1
        return WorkflowEvent(kind, sequence=sequence, session_id=self._session, iteration=self.iteration, **fields)

    def _tell_custom(self, executor: str, event: WorkflowEvent) -> None:
        if self._hears is None or event.type in self._hears:
            sequence, self._sequence = self._sequence, self._sequence + 1
            self._sink(replace(
                event, session_id=self._session, sequence=sequence, iteration=self.iteration,
                executor_id=executor,
            ))  # fmt: skip

    def _warn(self, text: str) -> None:
        self._emit("warning", data=text)

    def _emit(self, kind: WorkflowEventType, **fields: Any) -> None:
        if self._hears is None or kind in self._hears:
            sequence, self._sequence = self._sequence, self._sequence + 1
            self._sink(
                WorkflowEvent(kind, sequence=sequence, session_id=self._session, iteration=self.iteration, **fields)
            )

    def _hold(self, settled: Settled) -> None:
        """Keep what a superstep has settled until its commit is durable, questions until the run's is."""
        for warning in settled.warnings:
            self._warn(warning)
        for output in settled.outputs:
            self._held.append((output.kind, {
                "data": output.value, "executor_id": output.executor_id, "streamed": output.streamed,
                "output": OutputKey(self.iteration, output.invocation, output.number, output.attempt),
            }))  # fmt: skip
        for frame, request, response_type in settled.asked:
            self._questions.append(("request_info", {
                "data": request.data, "executor_id": frame.name(request.executor), "request_id": request.request_id,
                "response_type": response_type,
            }))  # fmt: skip


def _merged(frame: Frame, effects: Sequence[Any]) -> Merged:
    def reduce(key: str, updates: Sequence[Encoded]) -> Encoded:
        return reduce_state(frame, key, frame.reducers[key], frame.read_state(key), updates)

    return merge(effects, reduce)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
