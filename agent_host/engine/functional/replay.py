"""One execution of a workflow function: what its journal holds is taken from there, everything else is done.

Rule 1: whatever the function is told from outside is an entry: results of steps, answers, state, time, ids. So it goes
        the same way again.
Rule 2: a question without an answer ends its task. The other tasks go on to their own ends, unless they do nothing but
        wait; those that the question's task was started from make no new entry, also if they swallow the signal.
Rule 3: a step that has begun is brought to its end and recorded, also when the function has failed or waits. Only the
        function itself can give it up, with a timeout for example, and whoever cancels the run.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any, NamedTuple

from agent_host.engine import annotations
from agent_host.engine.events import CustomEvent
from agent_host.engine.functional.branch import Branch, run_of
from agent_host.engine.reducers import MISSING
from agent_host.engine.running.attempt import Attempt
from agent_host.engine.running.context import WorkflowContext
from agent_host.engine.running.tasks import end
from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import StepMismatchError, UnsupportedValueError, WorkflowRunnerException

INPUT, OUTPUT = "the input", "ctx.yield_output"
SUSPENDED: Any = object()
PATIENCE = 5.0  # seconds that tasks get which do nothing but wait, while the function waits for an answer

_branch: ContextVar[Branch | None] = ContextVar("agent_host_branch", default=None)


class Suspended(BaseException):
    """Ends a task that waits for an answer. Not an `Exception`, so that no handler of errors takes it for one."""


class _Place(NamedTuple):
    """Where an entry belongs; whether it was made past an unanswered question, where there can be no new one."""

    branch: Branch
    position: int
    barred: bool

    def refuse_barred(self) -> None:
        if self.barred:
            raise Suspended


class Replay:
    """One execution, in one call of the function's executor.

    `answers` are those that have come, by request id; they are taken out when the function asks for them.
    """

    def __init__(self, attempt: Attempt, run: int, answers: dict[str, Any]) -> None:
        self.attempt = attempt
        self.context: WorkflowContext[Any, Any] = WorkflowContext(attempt)
        self.answers = answers
        self._run = run
        self._journal = attempt.journal()
        self._codec = attempt.around.codec
        self._root = Branch((run,), asyncio.current_task())
        self._unanswered: list[str] = []
        self._unstorable: UnsupportedValueError | None = None
        self._faults: list[WorkflowRunnerException] = []
        self._branches: set[asyncio.Task[Any]] = set()
        self._steps: set[asyncio.Task[Any]] = set()
        self._closing = self._ended = False

    def __repr__(self) -> str:
        return f"<Replay of {self.context.executor_id!r}, run {self._run}, {len(self._journal.all())} entries>"

    @classmethod
    def begin(cls, attempt: Attempt, message: Any) -> "Replay":
        """The first execution for a new input; what waited for answers until now is over."""
        replay = cls(attempt, _last_run(attempt) + 1, {})
        replay._drop(attempt.open_requests(), "The new input has ended what asked")
        try:
            replay._journal.put(replay._root.place(), INPUT, message)
        except UnsupportedValueError as error:
            replay._unstorable = error  # matters only if the function has to be executed again
        return replay

    @classmethod
    def go_on(cls, attempt: Attempt, answers: dict[str, Any]) -> "tuple[Replay, Any] | None":
        """Another execution, with answers, and the input as it came; None if nothing waits any more."""
        replay = cls(attempt, _last_run(attempt), answers)
        found = replay._journal.recorded(replay._root.place(), INPUT)
        if found is None:
            replay._warn_of_unheard()
            return None
        return replay, found[0]

    # --- Executing ---

    async def execute(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """What the function returns, or `SUSPENDED` if it waits for answers. Raises what it raised."""
        token = _branch.set(self._root)
        try:
            result = await self._settle(*await self._outcome(function))
        except BaseException:
            await end([*self._branches, *self._steps])
            raise
        finally:
            self._ended = True
            _branch.reset(token)
        self._warn_of_unheard()
        if result is not SUSPENDED:
            self._drop(self.attempt.open_requests(), "The function has returned without the answer to")
        return result

    def kept(self) -> dict[int, Encoded]:
        """The entries with which the function goes on when an answer comes."""
        return {position: entry for position, entry in self._journal.all().items() if run_of(position) == self._run}

    async def _outcome(self, function: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[Any, BaseException | None]:
        try:
            return await function(), None
        except asyncio.CancelledError:
            if not self._unanswered or _is_cancelled(self._root.task):
                raise
            return None, None  # it waited for a task that a question has ended
        except (Exception, Suspended, BaseExceptionGroup) as error:  # noqa: BLE001 - raised again when steps have ended
            return None, _failure(error)

    async def _settle(self, result: Any, failure: BaseException | None) -> Any:
        waits = failure is None and bool(self._unanswered)
        late = [task for task in self._branches if not task.done()]
        self._closing = True
        if not waits:
            await end(late)
        while running := [task for task in (*self._branches, *self._steps) if not task.done()]:
            ended, _ = await asyncio.wait(running, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
            if not ended and all(step.done() for step in self._steps):
                await end(running)  # they may wait for what the function does after the answer
        for task in (*self._branches, *self._steps):
            error = None if task.cancelled() else task.exception()
            if waits and task in late and failure is None:
                failure = _failure(error)  # the function had left: nobody else sees it
        if waits and failure is None and self._faults:
            failure = self._faults[0]
        if failure is not None:
            raise failure
        return SUSPENDED if waits else result

    @contextmanager
    def _loud(self) -> Iterator[None]:
        """Mistakes of the program fail the run, also where a question has already ended whoever would see them."""
        try:
            yield
        except WorkflowRunnerException as error:
            self._faults.append(error)
            raise

    # --- Steps ---

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any = None,
    ) -> Coroutine[Any, Any, Any]:
        """Call a function once. Its position is taken now, whenever the result is awaited.

        `result` is the annotation of what it returns.
        """
        place = self._place(name)
        if result is not None and self._codec.annotation_name(result) is None:
            self._codec.allow([result])
        return self._step(place, name, function, args, kwargs)

    async def _step(
        self, place: _Place, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._refuse_ended(name)
        digest = self._digest(args, kwargs)
        with self._loud():
            known = self._journal.recorded(place.position, name)
            if known is not None:
                self._refuse_swap(name, digest, known[1])
                return known[0]
        place.refuse_barred()
        # A task of its own: what ends the function's task, such as a question, must not cut the step off.
        work = asyncio.ensure_future(self._journal.step(place.position, name, function, args, kwargs, digest))
        self._steps.add(work)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if not (self._unanswered or self._closing):
                await end([work])
            raise

    def _digest(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Tells the arguments of two calls apart; empty for arguments that have no stored form."""
        try:
            encoded = self._codec.encode([args, sorted(kwargs.items())], split=False)
        except UnsupportedValueError:
            return b""
        return blake2b(encoded.reference, digest_size=8).digest()

    def _refuse_swap(self, name: str, digest: bytes, recorded: bytes) -> None:
        """Other arguments at a position may be a new version of the program. Those of another position are a swap."""
        if not (digest and recorded) or digest == recorded:
            return
        if any(run_of(other) == self._run for other in self._journal.positions(name, digest)):
            raise StepMismatchError(
                f"Executor {self.context.executor_id!r} calls the step {name!r} with arguments with which it was "
                "recorded in another place. Let the function start its steps in the same order each time: iterate "
                "over a list instead of a set, and make a step of what a task awaits before its first step."
            )

    # --- Questions ---

    def ask(
        self, data: object, response_type: Any, request_id: str | None, expires_in: Any, default: Any
    ) -> Coroutine[Any, Any, Any]:
        """Ask the outside, or take the answer. The question's position is taken now."""
        name = f"ctx.request_info({request_id or ''})"
        return self._ask(self._place(name), name, data, response_type, request_id, expires_in, default)

    async def _ask(
        self, place: _Place, name: str, data: object, response_type: Any, request_id: str | None, *expiry: Any
    ) -> Any:
        self._refuse_ended(name)
        with self._loud():
            known = self._journal.recorded(place.position, name)
            if known is None:
                place.refuse_barred()
                known = (request_id or str(self.attempt.derived_id(f"request {place.position}")),)
            asked = known[0]
            if len(known) == 1 and self._takes(asked, response_type):
                known = self._journal.put(place.position, name, asked, self.answers.pop(asked))
            if len(known) > 1:
                return known[1]
            if not self.attempt.around.is_open(asked):
                if self._unstorable is not None:
                    raise self._unstorable
                expires_in, default = expiry
                self.context.request_info(data, response_type, request_id=asked, expires_in=expires_in, default=default)
                self._journal.put(place.position, name, asked)
        self._suspend(place.branch, asked)
        return None

    def _takes(self, request_id: str, response_type: Any) -> bool:
        """Whether there is an answer of the type that is asked for. Another one is told, and asked for again."""
        if request_id not in self.answers:
            return False
        answer = self.answers[request_id]
        if annotations.matcher(response_type)(answer):
            return True
        del self.answers[request_id]
        self._warn(
            f"The answer to request {request_id!r} must be a {annotations.name(response_type)}, not a "
            f"{type(answer).__qualname__}; it is asked again."
        )
        return False

    def _suspend(self, branch: Branch, request_id: str) -> None:
        self._unanswered.append(request_id)
        task = asyncio.current_task()
        if task is not None and task is not self._root.task:
            self._branches.add(task)
        for one in branch.line():
            one.suspended = True
        raise Suspended(f"request {request_id!r} waits for its answer")

    # --- Everything else ---

    def once(self, name: str) -> bool:
        """Whether what follows is done for the first time; an earlier superstep has done it otherwise."""
        place = self._place(name)
        if self._journal.recorded(place.position, name) is not None:
            return False
        place.refuse_barred()
        self._journal.put(place.position, name)
        return True

    def read(self, name: str, value: Callable[[int], Any]) -> Any:
        """A value as the function first found it; `value` gets the position. `MISSING` can be one."""
        place = self._place(name)
        known = self._journal.recorded(place.position, name)
        if known is None:
            place.refuse_barred()
            found = value(place.position)
            known = self._journal.put(place.position, name, *(() if found is MISSING else (found,)))
        return known[0] if known else MISSING

    def streams(self) -> bool:
        """Whether a piece of text is new. Pieces with no other entry between them are one output."""
        branch = self._here(OUTPUT)
        if branch.streaming is None:
            branch.streaming = self.once(f"{OUTPUT}(TextDelta)")
        return branch.streaming

    def write(self, key: str, value: Any) -> None:
        """Write state. It is no entry: what the function writes follows from what it has read."""
        if self._here(f"ctx.set_state({key!r})").suspended:
            raise Suspended
        self.context.set_state(key, value)

    # --- Places ---

    def _place(self, name: str) -> _Place:
        branch = self._here(name)
        branch.streaming = None
        return _Place(branch, branch.place(), branch.suspended)

    def _here(self, name: str) -> Branch:
        """The branch that runs now. Raises where it may make no entry: inside a step, in a thread, after the end."""
        self._refuse_ended(name)
        self._journal.refuse_nesting(name)
        branch = _branch.get()
        try:
            task = asyncio.current_task()
        except RuntimeError:
            task = None
        if branch is None or task is None:
            raise WorkflowRunnerException(
                f"{name} of executor {self.context.executor_id!r} was called in a thread of its own; call it in the "
                "function, and hand the result on."
            )
        if branch.task is not task:
            branch = branch.fork(task)
            _branch.set(branch)
            self._branches.add(task)
        return branch

    def _refuse_ended(self, name: str) -> None:
        if self._ended:
            if self._unanswered:
                raise Suspended
            self.attempt.refuse_late(name)

    # --- Warnings ---

    def _warn(self, text: str) -> None:
        self.context.add_event(CustomEvent("warning", text))

    def _drop(self, requests: Iterable[str], why: str) -> None:
        names = sorted(requests)
        if names:
            self._warn(f"{why} {', '.join(map(repr, names))}; nobody can answer it any more.")
            self.attempt.effect.closed.extend(names)

    def _warn_of_unheard(self) -> None:
        if self.answers:
            names = ", ".join(map(repr, self.answers))
            self._warn(f"Nobody waited for the answer to {names} any more; it was not heard.")


def _last_run(attempt: Attempt) -> int:
    """The number of the run whose entries the executor keeps; 0 if it keeps none."""
    return max(map(run_of, attempt.kept_steps()), default=0)


def _failure(error: BaseException | None) -> BaseException | None:
    """What of an error is more than a question that waits."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(Suspended)[1]
    return None if isinstance(error, Suspended) else error


def _is_cancelled(task: "asyncio.Task[Any] | None") -> bool:
    return task is not None and task.cancelling() > 0
