"""Call the handlers of a superstep: those of one executor in order, those of different ones at the same time.

Rule 1: when a call fails, its siblings are cancelled and awaited, and the first error is raised.
Rule 2: what has finished by then is noted, and a retry of the superstep takes the note instead of calling again.
Rule 3: a call that is tried again starts from the state and the message that its first attempt found.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from agent_host.engine.events import OutputKey, WorkflowErrorDetails, WorkflowEventType
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.handlers import Handler, HandlerTable
from agent_host.engine.executors.policies import RetryPolicy
from agent_host.engine.running import notes
from agent_host.engine.running.attempt import Attempt, Call, Surroundings
from agent_host.engine.running.context import WorkflowContext
from agent_host.engine.running.effects import Effect
from agent_host.engine.running.frame import Frame, response_type
from agent_host.engine.running.journal import Journal
from agent_host.engine.running.notes import Finished, Notes
from agent_host.engine.running.routing import Invocation, Plan
from agent_host.engine.running.tasks import end, ended
from agent_host.engine.running.threads import LeftBehind, in_thread
from agent_host.engine.running.watchdog import executor_at_work
from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import ExecutorTimeoutError, UnsupportedValueError, WorkflowRunnerException

log = logging.getLogger("agent_host.engine")

Record = Callable[[Mapping[str, bytes]], Awaitable[None]]
Sleep = Callable[[float], Awaitable[None]]

_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class Tell(Protocol):
    """Emit an event of the run."""

    def __call__(self, kind: WorkflowEventType, **fields: Any) -> None: ...


class Unnoted(msgspec.Struct):
    """A call that has ended well and is not noted yet; `cells` if its executor was called again since."""

    frame: Frame
    invocation: Invocation
    effect: Effect
    own_writes: notes.Cells
    cells: notes.Cells | None = None


class Calls:
    """Calls the handlers of one run.

    `notes` holds what is known of the superstep that runs next. `record` makes notes durable where the run commits
    every superstep; without it they are kept in memory if `keeps_notes`. `watched`: somebody looks at what goes into
    the calls and comes out of them.
    """

    def __init__(
        self, around: Surroundings, tell: Tell, *, record: Record | None, keeps_notes: bool, sleep: Sleep,
        watched: bool,
    ) -> None:  # fmt: skip
        self.notes = Notes("", 0.0)
        self._around = around
        self._tell = tell
        self._record = record
        self._keeps_notes = keeps_notes
        self._sleep = sleep
        self._watched = watched
        self._receivers: Mapping[int, int] = {}
        self._several = False
        self._done: list[Unnoted] = []
        self._running = 0
        self._noting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Calls, {self._running} executors running, {len(self._done)} calls done>"

    async def make(self, plans: Sequence[tuple[Frame, Plan]]) -> list[list[Effect]]:
        """Make the calls of a superstep; the effects come in the order of the plans and their invocations."""
        effects: list[list[Any]] = []
        work: list[Coroutine[Any, Any, None]] = []
        count, joining = 0, False
        for frame, _ in plans:
            if not frame.clones:
                await frame.materialise()
        for frame, plan in plans:
            by_executor: dict[str, list[Invocation]] = {}
            for invocation in plan.invocations:
                by_executor.setdefault(invocation.executor, []).append(invocation)
            made: list[Any] = [None] * len(plan.invocations)
            work += [self._serve(frame, invocations, made, count) for invocations in by_executor.values()]
            effects.append(made)
            count += len(made)
            joining = joining or bool(plan.joins)
        # Who takes the only message of a superstep, with no join that keeps it, is its only receiver.
        self._receivers = _receivers(plans) if count > 1 or joining else {}
        self._done, self._running, self._several = [], len(work), count > 1
        try:
            if len(work) == 1:
                await work[0]
            elif work:
                await _all_or_none(work)
        except BaseException:
            await self._note_after()
            raise
        if self._noting is not None:
            await self._end_noting()
        return effects

    async def _serve(
        self, frame: Frame, invocations: Sequence[Invocation], effects: list[Effect | None], offset: int
    ) -> None:
        """Make the calls of one executor, except for those that are noted as finished."""
        own_writes: notes.Cells = {}
        left_behind: notes.Cells | None = None
        for number, invocation in enumerate(invocations, start=1):
            known = self._known(frame, invocation) if self.notes.calls else None
            if known is not None and (known.executor_id, known.kind) == (invocation.executor, invocation.kind):
                effects[invocation.index] = known.effect
                own_writes = dict(known.own_writes)
                left_behind = known.cells
                continue
            if left_behind is not None:
                await frame.adopt(invocation.executor, left_behind)
                left_behind = None
            effect = await self._call(frame, invocation, own_writes, offset + invocation.index)
            effects[invocation.index] = effect
            if self._several and self._keeps_notes:
                done = Unnoted(frame, invocation, effect, dict(own_writes) if own_writes else {})
                more = self._running > 1 or number < len(invocations)
                try:  # before anyone else sees it: the next call changes the executor
                    if number < len(invocations):
                        done.cells = await frame.snapshot(invocation.executor)
                finally:
                    self._done.append(done)
                if self._record is not None and self._noting is None and more:
                    self._noting = asyncio.ensure_future(self._note_early())
        if left_behind is not None:
            await frame.adopt(invocations[-1].executor, left_behind)
        self._running -= 1

    # --- One call ---

    def _call(
        self, frame: Frame, invocation: Invocation, own_writes: notes.Cells, index: int
    ) -> Coroutine[Any, Any, Effect]:
        name = invocation.executor
        executor = frame.executor(name)
        retry = executor._agent_host_retry
        call = Call(
            name, frame.name(name), invocation.index, index, invocation.sources, invocation.request_id,
            executor.handler_table, frame, own_writes, self._open_journal,
        )  # fmt: skip
        if retry is None:
            return self._attempt(frame, executor, invocation, call)
        return self._attempts(frame, executor, invocation, call, retry)

    async def _attempts(
        self, frame: Frame, executor: Executor, invocation: Invocation, call: Call, retry: RetryPolicy
    ) -> Effect:
        name, own_writes = call.executor_id, call.own_writes
        cells, writes = await frame.snapshot(name), dict(own_writes)
        while True:
            try:
                return await self._attempt(frame, executor, invocation, call, again=True)
            except Exception as error:
                pause = retry.pause(call.attempt + 1, error)
                if pause is None:
                    raise
                self._tell("warning", data=f"{_cause(call.name, error)}; it is called again in {pause:g} s.")
                await self._sleep(pause)
            await frame.adopt(name, cells)
            executor = frame.executor(name)
            own_writes.clear()
            own_writes.update(writes)
            call.attempt += 1
            if call.journal is not None:
                call.journal.restart()

    async def _attempt(
        self, frame: Frame, executor: Executor, invocation: Invocation, call: Call, *, again: bool = False
    ) -> Effect:
        arguments = self._arguments(invocation, again=again)
        handler = _handler(frame, call.handlers, invocation, arguments)
        attempt = Attempt(self._around, call, Effect(call.executor_id))
        if self._watched:
            self._tell("executor_invoked", executor_id=call.name, data=self._shown(arguments[-1]))
        if handler.takes_attempt:
            arguments = (*arguments, attempt)
        elif handler.takes_context:
            arguments = (*arguments, WorkflowContext(attempt))
        if handler.takes_self:
            arguments = (executor, *arguments)
        at_work = executor_at_work.set(call.name)
        try:
            await _run(handler, arguments, executor._agent_host_timeout, call.name)
        except Exception as error:
            error.add_note(f"raised by executor {call.name!r} of workflow {frame.definition.name!r}")
            self._tell(
                "executor_failed", executor_id=call.name,
                details=WorkflowErrorDetails.from_exception(error, executor_id=call.name),
                output=OutputKey(self._around.iteration, call.index, 0, call.attempt),
            )  # fmt: skip
            raise
        finally:
            executor_at_work.reset(at_work)
            effect = attempt.end()
        if self._watched:
            made = self._shown(_made(effect)) if effect.sent or effect.yielded else None
            self._tell("executor_completed", executor_id=call.name, data=made)
        effect.attempt = call.attempt
        return effect

    def _arguments(self, invocation: Invocation, *, again: bool) -> tuple[Any, ...]:
        delivered = []
        for payload in invocation.payloads:
            value, own = payload.deliver(self._receivers.get(id(payload), 1) + again)
            if not own and not again:
                self._tell(
                    "warning",
                    data=f"A {type(value).__qualname__} sent to several executors cannot be copied; they share one.",
                )
            delivered.append(value)
        if invocation.kind == "response":
            request, answer = delivered[0]
            return request, answer
        return (delivered if invocation.joined else delivered[0],)

    def _shown(self, value: Any) -> Any:
        """A copy for whoever watches the run; the value itself if it cannot be copied."""
        if type(value) in _PLAIN:
            return value
        if type(value) is list:  # what a join delivers, or a call has made
            return [item if type(item) in _PLAIN else self._shown(item) for item in value]
        codec = self._around.codec
        if codec.is_immutable(value):
            return value
        try:
            return codec.decode(codec.encode(value, split=False).reference)
        except UnsupportedValueError:
            return value

    # --- Notes ---

    def _known(self, frame: Frame, invocation: Invocation) -> Finished | None:
        return self.notes.calls.get(notes.call_key(frame.prefix, invocation.index))

    def _open_journal(self, call: Call) -> Journal:
        key = notes.call_key(call.scope.prefix, call.index_in_scope)
        known = self.notes.steps.setdefault(key, {})

        async def note(position: int, entry: Encoded) -> None:
            known[position] = entry
            if self._record is not None:
                await self._record({notes.step_key(key, position): entry.reference})

        frame = call.scope
        kept = frame.journal(call.executor_id)
        return Journal(call.name, self._around.codec, {**kept, **known}, note)

    async def _note_early(self) -> None:
        """Record what has finished while siblings still run, so that not even a crash repeats it."""
        await asyncio.sleep(0)  # whatever finishes at the same moment is recorded together
        while self._done and self._running:
            await self._note()
        self._noting = None

    async def _note(self) -> None:
        done, self._done = self._done, []
        entries: dict[str, bytes] = {}
        for one in done:
            executor = one.invocation.executor
            cells = one.cells if one.cells is not None else await one.frame.snapshot(executor)
            finished = Finished(executor, one.invocation.kind, one.effect, cells, one.own_writes)
            key = notes.call_key(one.frame.prefix, one.invocation.index)
            self.notes.calls[key] = finished
            if self._record is not None:
                try:
                    entries[key] = notes.encode(finished, self._around.codec)
                except UnsupportedValueError as error:  # an output may be anything; the call is then repeated
                    log.debug("A finished call of %r cannot be noted: %s", executor, error)
        if self._record is not None and entries:
            await self._record(entries)

    async def _note_after(self) -> None:
        """Note what had finished when the superstep failed. The error that ended it matters more than this."""
        try:
            await self._end_noting()
            await self._note()
        except Exception:  # noqa: BLE001 - whatever a store or a hook raises; the calls will be repeated
            log.warning("What had finished of a failed superstep could not be noted; it will be called again.")

    async def _end_noting(self) -> None:
        noting, self._noting = self._noting, None
        if noting is not None:
            await ended([noting])
            noting.result()


def _made(effect: Effect) -> list[Any]:
    """What a call has sent and yielded."""
    return [sent.payload for sent in effect.sent] + [output.whole for output in effect.yielded]


def _receivers(plans: Sequence[tuple[Frame, Plan]]) -> Mapping[int, int]:
    """How many take each message."""
    found: Counter[int] = Counter()
    for _, plan in plans:
        for invocation in plan.invocations:
            found.update(map(id, invocation.payloads))
        for waiting in plan.joins.values():  # a join takes its message later, and must find it as it was sent
            found.update(map(id, waiting))
    return found


def _handler(frame: Frame, table: HandlerTable, invocation: Invocation, arguments: tuple[Any, ...]) -> Handler:
    if invocation.kind == "response":
        wanted = response_type(invocation.response_name or "", table, frame.codec)
        handler = table.responder(arguments[0], wanted)
    else:
        handler = table.select(arguments[0])
    if handler is None:
        raise WorkflowRunnerException(
            f"Executor {frame.name(invocation.executor)!r} has no handler for a {type(arguments[0]).__qualname__}."
        )
    return handler


async def _run(handler: Handler, arguments: tuple[Any, ...], timeout: float | None, executor: str) -> None:
    try:
        if not handler.is_async:
            await _in_thread(handler.function, arguments, timeout, executor)
        elif timeout is None:
            await handler.function(*arguments)
        else:
            await _within(handler.function(*arguments), timeout, executor)
    except SystemExit as error:
        # Libraries for command lines end the process when they dislike their input; a handler may not.
        raise WorkflowRunnerException(f"The handler {handler.name!r} called sys.exit({error.code!r}).") from error
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody cancelled the run: the handler awaited something that was cancelled, which is its own failure.
        raise WorkflowRunnerException(f"The handler {handler.name!r} awaited something that was cancelled.") from error


async def _in_thread(
    function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float | None, executor: str
) -> None:
    try:
        result = await in_thread(function, arguments, timeout=timeout)
    except LeftBehind:
        raise _too_slow(executor, timeout or 0) from None
    if isinstance(result, Awaitable):
        await result


async def _within(work: Coroutine[Any, Any, Any], timeout: float, executor: str) -> None:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            await work
    except TimeoutError:
        if not limit.expired():
            raise
        raise _too_slow(executor, timeout) from None


def _too_slow(executor: str, timeout: float) -> ExecutorTimeoutError:
    return ExecutorTimeoutError(f"Executor {executor!r} took longer than its timeout of {timeout:g} s.")


def _cause(executor: str, error: Exception) -> str:
    return f"Executor {executor!r} failed with {type(error).__name__}: {error}"


async def _all_or_none(jobs: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run jobs together. When one fails the others are cancelled and awaited, and the first error is raised."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    left = len(jobs)

    async def do(job: Coroutine[Any, Any, None]) -> None:
        # asyncio.wait would have the loop call back once more for each task.
        nonlocal left
        failed = True
        try:
            await job
            failed = False
        finally:
            left -= 1
            if (failed or not left) and not over.done():
                over.set_result(None)

    tasks = [loop.create_task(do(job)) for job in jobs]
    failed: asyncio.Task[None] | None = None
    try:
        await over
        failed = next((task for task in tasks if task.done() and not task.cancelled() and task.exception()), None)
    finally:
        await end(tasks)
    if failed is not None:
        failed.result()
