"""`@workflow`: an async function as a workflow of one executor.

Rule 1: a function that waits for an answer keeps its journal; one that has returned keeps nothing.
Rule 2: several answers that come together are one more execution, not several.
"""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, Union, overload

from agent_host.engine import annotations
from agent_host.engine.builder import WorkflowBuilder
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.handlers import Handler, HandlerTable, _local_names
from agent_host.engine.executors.policies import RetryPolicy
from agent_host.engine.functional.mentions import Mentions
from agent_host.engine.functional.replay import SUSPENDED, Replay
from agent_host.engine.functional.run_context import RunContext, _active
from agent_host.engine.functional.step_wrapper import context_parameter, hints_of
from agent_host.engine.running.attempt import Attempt
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.workflow import Workflow
from agent_host.errors import HandlerError

P = ParamSpec("P")
R = TypeVar("R")

# The name that agent_framework gives to what `build` returns. Here it is a workflow like any other.
FunctionalWorkflow = Workflow


class FunctionalWorkflowDefinition(Generic[P, R]):
    """A function that is a workflow. `build()` makes workflows of it; `function` is the function itself."""

    def __init__(
        self,
        function: Callable[P, Coroutine[Any, Any, R]],
        *,
        names: dict[str, Any],
        name: str | None = None,
        description: str | None = None,
        version: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> None:
        _refuse_unfit(function)
        functools.update_wrapper(self, function)
        self.function = function
        self.name = name or function.__name__
        self.description = description
        self._names = names
        self._version = version
        self._retry = retry
        self._timeout = timeout

    def __repr__(self) -> str:
        return f"<FunctionalWorkflowDefinition {self.name!r}>"

    def __call__(self) -> Workflow:
        """The workflow, so that the definition itself can be served."""
        return self.build()

    def build(self, *, checkpoint_storage: CheckpointStorage | None = None) -> Workflow:
        """Make the workflow. Raises `HandlerError` if the function's annotations cannot be understood."""
        executor = FunctionalExecutor(self.function, self.name, self._names, retry=self._retry, timeout=self._timeout)
        return WorkflowBuilder(
            start_executor=executor, name=self.name, description=self.description, version=self._version,
            checkpoint_storage=checkpoint_storage,
        ).build()  # fmt: skip


@overload
def workflow(function: Callable[P, Coroutine[Any, Any, R]]) -> FunctionalWorkflowDefinition[P, R]: ...
@overload
def workflow(
    *,
    name: str | None = None,
    description: str | None = None,
    version: str | None = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], FunctionalWorkflowDefinition[P, R]]: ...
def workflow(function: Any = None, **options: Any) -> Any:
    """Turn an async function `(message)` or `(message, ctx: RunContext)` into a workflow. `build()` makes it.

    What the function returns is the workflow's output; None is none. It calls `@step` functions for what must happen
    once, `asyncio.gather` for what can happen at the same time, and `ctx` for the rest. `retry` and `timeout` are those
    of an executor, for each execution of the function; `version` is that of the builder.
    """
    names = _local_names(sys._getframe(1))

    def make(target: Callable[P, Coroutine[Any, Any, R]]) -> FunctionalWorkflowDefinition[P, R]:
        return FunctionalWorkflowDefinition(target, names=names, **options)

    return make if function is None else make(function)


class FunctionalExecutor(Executor, shared=True):
    """Executes a workflow function. It has no state of its own."""

    def __init__(
        self,
        function: Callable[..., Coroutine[Any, Any, Any]],
        id: str,
        names: dict[str, Any],
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(id, retry=retry, timeout=timeout)
        self._agent_host_function = function
        self._agent_host_parameters = _parameters(function)
        self._agent_host_own_table = _FunctionTable(function, names)

    @property
    def handler_table(self) -> HandlerTable:
        return self._agent_host_own_table

    def _call(self, message: Any, ctx: RunContext) -> Coroutine[Any, Any, Any]:
        takes_message, takes_context = self._agent_host_parameters
        given = {takes_message: message}
        if takes_context is not None:
            given[takes_context] = ctx
        return self._agent_host_function(**given)


class _FunctionTable(HandlerTable):
    """The handlers of a function: one for its input, and one for any answer if it can ask."""

    def __init__(self, function: Callable[..., Any], names: dict[str, Any]) -> None:
        mentions = Mentions.of(function)
        self._mentioned = (*(step.result for step in mentions.steps), *mentions.classes)
        hints = hints_of(function, names)
        message, context = _parameters(function)
        if message not in hints:
            raise HandlerError(f"{function.__name__}: annotate the parameter {message!r} with the type it takes.")
        yields = _yields(hints, asks=context is not None)

        def handler(name: str, called: Callable[..., Any], takes: Any, response: Any) -> Handler:
            return Handler(
                name=name, function=called, input=takes, response=response, sends=typing.Never, yields=yields,
                takes_self=True, takes_context=False, is_async=True, takes_attempt=True,
            )  # fmt: skip

        responders = [handler("go_on", _go_on, Any, Any)] if context is not None else []
        super().__init__(
            function.__name__, [handler("begin", _begin, annotations.plain(hints[message]), None)], responders
        )

    @property
    def declared(self) -> tuple[Any, ...]:
        return (*super().declared, *(hint for hint in self._mentioned if hint is not None))


async def _begin(executor: FunctionalExecutor, message: Any, attempt: Attempt) -> None:
    await _execute(executor, Replay.begin(attempt, message), message)


async def _go_on(executor: FunctionalExecutor, request: Any, answer: Any, attempt: Attempt) -> None:
    answers = attempt.answers()
    if attempt.call.request_id == list(answers)[-1]:
        waiting = Replay.go_on(attempt, answers)
        if waiting is not None:
            await _execute(executor, *waiting)


async def _execute(executor: FunctionalExecutor, replay: Replay, message: Any) -> None:
    context = RunContext(replay)
    token = _active.set(context)
    try:
        result = await replay.execute(lambda: executor._call(message, context))
    finally:
        _active.reset(token)
    effect = replay.attempt.effect
    if result is SUSPENDED:
        effect.journal = replay.kept()
        return
    effect.journal = {}
    if result is not None:
        replay.context.yield_output(result)


def _parameters(function: Callable[..., Any]) -> tuple[str, str | None]:
    """The names of the parameters for the message and for the context."""
    context = context_parameter(function)
    (message,) = (name for name in inspect.signature(function).parameters if name != context)
    return message, context


def _refuse_unfit(function: Callable[..., Any]) -> None:
    name = getattr(function, "__name__", repr(function))
    if not inspect.iscoroutinefunction(function):
        raise HandlerError(f"@workflow takes an async function; {name!r} is none.")
    context = context_parameter(function)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != context]
    named = all(p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) for p in parameters)
    if len(parameters) != 1 or not named:
        raise HandlerError(
            f"The workflow function {name!r} must take (message) or (message, ctx: RunContext). Put several inputs "
            "into one dataclass."
        )


def _yields(hints: dict[str, Any], *, asks: bool) -> Any:
    """What the function declares to yield: what it returns. None, for nothing declared, if it may only use `ctx`."""
    if "return" not in hints:
        return None
    kinds = [member for member in annotations.members(hints["return"]) if member is not type(None)]
    if not kinds:
        return None if asks else typing.Never
    return Union[tuple(kinds)]  # noqa: UP007 - the members are known only at run time
