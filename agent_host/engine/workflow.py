"""The workflow object: an immutable definition that serves any number of sessions at once.

Rule 1: a session has one run at a time. The claim belongs to the run: only its owner gives it back, and a run that
        was dropped before it began has claimed nothing.
Rule 2: nothing about a run or a session is kept here; where sessions stand is in `sessions.py`.
"""

import json
import logging
import weakref
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

from agent_host.engine.claims import Claims
from agent_host.engine.definition import Declaration, Definition, OutputDesignation, capture
from agent_host.engine.events import WorkflowEvent, WorkflowRunResult, WorkflowRunState
from agent_host.engine.executors.executor import Executor
from agent_host.engine.graph.graph import Graph
from agent_host.engine.graph.graph_data import workflow_to_data
from agent_host.engine.history import CheckpointInfo, next_executors
from agent_host.engine.running import requests
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.response_stream import Reader, ResponseStream
from agent_host.engine.running.runner import Durability, OnCheckpointError, Run, RunOptions
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.sessions import LiveSessions, Sessions, StoredSessions
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage, storage_given
from agent_host.errors import WorkflowValidationError

DEFAULT_SESSION = "default"
UNNAMED = "workflow"
log = logging.getLogger("agent_host.engine")


class _Nothing:
    def __repr__(self) -> str:
        return "<no message>"


_NOTHING: Any = _Nothing()


@dataclass(frozen=True, slots=True)
class _Request:
    """The arguments of one `run` call."""

    message: Any
    responses: Mapping[str, Any] | None
    session_id: str
    checkpoint_id: str | None
    sessions: Sessions
    options: RunOptions
    include_status_events: bool

    def __post_init__(self) -> None:
        if not self.session_id:
            raise ValueError("session_id must not be empty.")
        if self.message is not _NOTHING and self.responses:
            raise ValueError("run() takes a message or responses, not both.")
        if self.responses is not None and not isinstance(self.responses, Mapping):
            raise TypeError(f"responses takes a mapping of request ids to answers; got {self.responses!r}.")
        options = self.options
        for name, given, known in (
            ("durability", options.durability, get_args(Durability)),
            ("on_checkpoint_error", options.on_checkpoint_error, get_args(OnCheckpointError)),
        ):
            if given not in known:
                raise ValueError(f"{name} is one of {', '.join(map(repr, known))}; got {given!r}.")
        limit: object = options.max_iterations
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise ValueError(f"max_iterations must be a whole number, at least 1; got {limit!r}.")


class Workflow:
    """A graph of executors, ready to run. Made by `WorkflowBuilder.build()`; safe to share between tasks."""

    def __init__(
        self,
        declaration: Declaration,
        codec: Codec,
        *,
        description: str | None = None,
        storage: CheckpointStorage | None = None,
    ) -> None:
        self.declaration = declaration
        self.description = description
        self._codec = codec
        self._storage = storage
        self._definition: Definition | None = None
        self._claims = Claims(declaration.name)
        self._live = LiveSessions()
        self._status = WorkflowRunState.IDLE

    def __repr__(self) -> str:
        running = self._claims.held
        return f"<Workflow {self.name!r}, {len(self.graph.executors)} executors, {running} sessions running>"

    # --- Run ---

    @overload
    def run(
        self, message: Any = ..., *, stream: Literal[False] = False, responses: Mapping[str, Any] | None = None,
        session_id: str = ..., checkpoint_id: str | None = None, checkpoint_storage: CheckpointStorage | None = None,
        max_iterations: int | None = None, durability: Durability = "step", include_status_events: bool = False,
        on_checkpoint_error: OnCheckpointError = "fail", turn: Any = None,
    ) -> Coroutine[Any, Any, WorkflowRunResult]: ...  # fmt: skip
    @overload
    def run(
        self, message: Any = ..., *, stream: Literal[True], responses: Mapping[str, Any] | None = None,
        session_id: str = ..., checkpoint_id: str | None = None, checkpoint_storage: CheckpointStorage | None = None,
        max_iterations: int | None = None, durability: Durability = "step", include_status_events: bool = False,
        on_checkpoint_error: OnCheckpointError = "fail", turn: Any = None,
    ) -> "ResponseStream": ...  # fmt: skip
    def run(
        self,
        message: Any = _NOTHING,
        *,
        stream: bool = False,
        responses: Mapping[str, Any] | None = None,
        session_id: str = DEFAULT_SESSION,
        checkpoint_id: str | None = None,
        checkpoint_storage: CheckpointStorage | None = None,
        max_iterations: int | None = None,
        durability: Durability = "step",
        include_status_events: bool = False,
        on_checkpoint_error: OnCheckpointError = "fail",
        turn: Any = None,
    ) -> "Coroutine[Any, Any, WorkflowRunResult] | ResponseStream":
        """Run the workflow in a session until nothing is queued.

        `message` is a new input (None is one only if the start executor takes it), `responses` answers open requests
        by id; with neither, queued work goes on.
        `checkpoint_id` starts from that commit instead of the session's head; it may be combined with either.
        `durability="step"` commits every superstep, `"turn"` once at rest. A checkpoint that cannot be stored fails
        the run, or is a warning with `on_checkpoint_error="warn"`. `turn` is handed to handlers as `ctx.turn`. With
        `stream=True` the result is a `ResponseStream` of events.

        Raises `WorkflowBusyError` if the session has a run already, and whatever a handler raised; the session then
        stands at its last commit and can be run again at once.
        Without a storage a message for a single executor is handed over as it is: if its handler changes the message
        and then fails, the next attempt finds it changed. With a storage each attempt gets a copy of its own.
        """
        reader = Reader()
        options = RunOptions(
            durability=durability, max_iterations=max_iterations, streaming=stream, turn=turn,
            on_checkpoint_error=on_checkpoint_error, pace=reader.caught_up if stream else None,
        )  # fmt: skip
        given = _NOTHING if message is None and not self.get_start_executor().can_handle(None) else message
        request = _Request(
            given, responses, session_id, checkpoint_id, self._sessions_in(checkpoint_storage), options,
            include_status_events,
        )  # fmt: skip
        if stream:
            return ResponseStream(lambda sink, owner: self._run(request, sink, owner), options.stop.request, reader)
        return self._run(request)

    async def _run(
        self,
        request: _Request,
        sink: Callable[[WorkflowEvent], None] | None = None,
        stream: "weakref.ref[ResponseStream] | None" = None,
    ) -> WorkflowRunResult:
        events: list[WorkflowEvent] = []

        def hear(event: WorkflowEvent) -> None:
            events.append(event)
            if sink is not None:
                sink(event)

        key = request.sessions.key(request.session_id)
        claim = await self._claims.take(key, stream)
        try:
            opened = await request.sessions.open(await self.definition(), request.session_id, request.checkpoint_id)
            lane, publisher = opened.lane, opened.publisher
            await self._drive(opened.run(request.options, hear), request)
            if publisher is not None and request.checkpoint_id:
                await publisher.stand_at(lane.view.commit_id)
            return WorkflowRunResult(
                events, session_id=request.session_id,
                checkpoint_id=lane.view.commit_id if publisher is not None else None,
                include_status=request.include_status_events,
            )  # fmt: skip
        finally:
            self._claims.give_back(key, claim)

    async def _drive(self, run: Run, request: _Request) -> None:
        """Feed the run, let it come to rest, and note where that leaves the session."""
        try:
            if request.message is not _NOTHING:
                await run.start(request.message)
            elif request.responses:
                await run.answer(request.responses)
                if request.checkpoint_id:
                    run.tell_open_requests()
            else:
                await run.resume()
                run.tell_open_requests()
            await run.to_rest()
        except BaseException:
            await self._show_last_boundary(run.lane)
            raise
        else:
            self._show(run.lane)
        finally:
            if request.session_id == DEFAULT_SESSION:
                self._status = run.state
            request.sessions.leave(request.session_id, run)

    # --- Checkpoints ---

    async def create_checkpoint(
        self, session_id: str = DEFAULT_SESSION, *, checkpoint_storage: CheckpointStorage | None = None
    ) -> str:
        """The id of the commit the session stands at; a session that has never run stands at the initial state.

        Costs nothing but the root commit of a new session. Refused with `WorkflowBusyError` during a run, and with
        `WorkflowCheckpointException` while messages are queued; open requests are part of the checkpoint.
        """
        sessions = self._sessions_in(checkpoint_storage)
        async with self._claims.idle(sessions.key(session_id)):
            return await sessions.pin(await self.definition(), session_id)

    async def reset(
        self, session_id: str = DEFAULT_SESSION, *, checkpoint_storage: CheckpointStorage | None = None
    ) -> None:
        """Put a session back to the initial state: requests, queue and executor state are gone from it.

        Its earlier checkpoints stay and can be run from. Refused with `WorkflowBusyError` during a run.
        """
        sessions = self._sessions_in(checkpoint_storage)
        async with self._claims.idle(sessions.key(session_id)):
            self._show(await sessions.reset(await self.definition(), session_id))
        if session_id == DEFAULT_SESSION:
            self._status = WorkflowRunState.IDLE

    async def get_last_checkpoint_id(
        self, session_id: str = DEFAULT_SESSION, *, checkpoint_storage: CheckpointStorage | None = None
    ) -> str | None:
        """The head of a session in its storage; None if there is none."""
        return await self._sessions_in(checkpoint_storage).head(self.name, session_id)

    async def fork(
        self, checkpoint_id: str, session_id: str, *, checkpoint_storage: CheckpointStorage | None = None
    ) -> str:
        """Begin a session at a checkpoint of another one; neither sees what the other does. Returns its id.

        Copies nothing. Refused with `WorkflowConflictError` if the session exists already.
        """
        sessions = self._sessions_in(checkpoint_storage)
        async with self._claims.idle(sessions.key(session_id)):
            await sessions.begin(await self.definition(), session_id, checkpoint_id)
        return checkpoint_id

    async def history(
        self, session_id: str = DEFAULT_SESSION, *, checkpoint_storage: CheckpointStorage | None = None
    ) -> list[CheckpointInfo]:
        """The checkpoints that led to where a session stands, newest first. Reads no state.

        Raises `WorkflowCheckpointException` without a storage: a session in this process keeps no past.
        """
        return await self._sessions_in(checkpoint_storage).history(self.name, session_id)

    async def next_executors(
        self,
        checkpoint_id: str | None = None,
        *,
        session_id: str = DEFAULT_SESSION,
        checkpoint_storage: CheckpointStorage | None = None,
    ) -> list[str]:
        """The executors that `run()` would call next, from a checkpoint or where a session stands; none at rest.

        Asks conditions and selections of the graph, and calls no handler.
        """
        sessions = self._sessions_in(checkpoint_storage)
        opened = await sessions.open(await self.definition(), session_id, checkpoint_id)
        return await next_executors(opened.lane)

    async def cancel_pending_requests(
        self,
        request_ids: Sequence[str] | None = None,
        *,
        session_id: str = DEFAULT_SESSION,
        checkpoint_storage: CheckpointStorage | None = None,
    ) -> list[str]:
        """Drop open requests of a session, all of them if none is named; returns the ids of those dropped.

        Raises `UnknownRequestError`, and drops nothing, if one of them is not open. Refused with
        `WorkflowBusyError` during a run.
        """
        sessions = self._sessions_in(checkpoint_storage)
        async with self._claims.idle(sessions.key(session_id)):
            opened = await sessions.open(await self.definition(), session_id)
            run = opened.run(RunOptions(), lambda event: None)
            outward = [name for name, (frame, _) in opened.lane.open_requests().items() if frame.outward]
            dropped = list(request_ids) if request_ids is not None else outward
            await run.cancel(dropped)
            if dropped:
                sessions.leave(session_id, run)
        if session_id == DEFAULT_SESSION and set(dropped) >= set(outward):
            self._status = WorkflowRunState.IDLE
        return dropped

    async def resolve_pause_checkpoint_id(
        self,
        request_ids: Sequence[str] | None = None,
        *,
        session_id: str = DEFAULT_SESSION,
        checkpoint_storage: CheckpointStorage | None = None,
    ) -> str | None:
        """The checkpoint that holds a session's open requests: its head. `request_info` events carry it already.

        None without a storage. Raises `UnknownRequestError` if one of the requests named is not open.
        """
        sessions = self._sessions_in(checkpoint_storage)
        if not request_ids:
            return await sessions.head(self.name, session_id)
        opened = await sessions.open(await self.definition(), session_id)
        requests.refuse_unknown(opened.lane, request_ids)
        return opened.lane.view.commit_id if opened.publisher is not None else None

    # --- What it is ---

    @property
    def status(self) -> WorkflowRunState:
        """Where the default session's last run ended, or stands."""
        return self._status

    @property
    def name(self) -> str:
        return self.declaration.name

    @property
    def graph(self) -> Graph:
        return self.declaration.graph

    def to_dict(self) -> dict[str, Any]:
        """What can be seen of the workflow, as plain JSON; see `WorkflowBuilder.from_dict` for the way back."""
        return workflow_to_data(self)

    def to_json(self) -> str:
        """The text of `to_dict()`."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    @property
    def outputs(self) -> OutputDesignation:
        """Which executors' outputs are the answer, and which are comments on the way."""
        return self.declaration.outputs

    @property
    def signature(self) -> str:
        """What a checkpoint remembers of the graph, to notice that it has changed."""
        return self.declaration.signature

    @property
    def max_iterations(self) -> int:
        return self.declaration.max_iterations

    @property
    def output_types(self) -> list[Any]:
        """The types that executors declare to yield as output, without those that declare nothing."""
        yielding = self.get_output_executors()
        return list(dict.fromkeys(hint for executor in yielding for hint in executor.workflow_output_types))

    @property
    def input_types(self) -> list[Any]:
        """What `run` takes as message."""
        return self.graph.executors[self.graph.start].input_types

    def get_start_executor(self) -> Executor:
        return self.graph.executors[self.graph.start]

    def get_output_executors(self) -> list[Executor]:
        return [executor for name, executor in self.graph.executors.items() if self.is_terminal_executor(name)]

    def get_intermediate_executors(self) -> list[Executor]:
        return [executor for name, executor in self.graph.executors.items() if self.is_intermediate_executor(name)]

    def is_terminal_executor(self, executor_id: str) -> bool:
        """Whether what this executor yields is output of the workflow."""
        return self.outputs.kind(executor_id) == "output"

    def is_intermediate_executor(self, executor_id: str) -> bool:
        """Whether what this executor yields is a comment on the way."""
        return self.outputs.kind(executor_id) == "intermediate"

    def get_executors_list(self) -> list[Executor]:
        return list(self.graph.executors.values())

    async def definition(self) -> Definition:
        """The workflow with its initial state, taken once, when it is first needed.

        Raises `ExecutorStateError` if an executor holds something that could be neither stored nor shared.
        """
        if self._definition is None:
            made = await capture(self.declaration, self._codec)
            if self._definition is None:  # else another task was faster
                self._definition = made
        return self._definition

    def _sessions_in(self, given: CheckpointStorage | None) -> Sessions:
        """The sessions in a storage, else in the workflow's own, else in this process."""
        storage = storage_given(given) or self._storage
        if storage is not None and not self.declaration.named:
            raise WorkflowValidationError(
                "A workflow with a checkpoint storage needs a name: checkpoints are found by it after a restart. "
                "Give one to the builder: WorkflowBuilder(name=...)."
            )
        return self._live if storage is None else StoredSessions(storage)

    # --- The default session shows in the executors the program made ---

    def _show(self, lane: Lane) -> None:
        """Let the original executors show the default session's attributes. One loop that cannot fail."""
        if lane.session_id == DEFAULT_SESSION:
            for name, clone in lane.root.clones.items():
                self.graph.executors[name].__dict__ = vars(clone.executor)

    async def _show_last_boundary(self, lane: Lane) -> None:
        """After a run that did not finish: show what the session stands at, not what the run left behind."""
        if lane.session_id != DEFAULT_SESSION:
            return
        try:
            await lane.roll_back()
        except Exception:  # the run's own error matters more; what was shown before it stays
            log.exception("The executors of workflow %r cannot be shown as of their last checkpoint.", self.name)
        else:
            self._show(lane)
