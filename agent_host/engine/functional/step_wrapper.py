"""`@step`: an async function whose result is recorded when a workflow function calls it."""

import functools
import inspect
import sys
import typing
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, TypeVar, overload

from agent_host.engine.executors.handlers import _local_names
from agent_host.engine.functional.run_context import RunContext, get_run_context
from agent_host.errors import HandlerError

P = ParamSpec("P")
R = TypeVar("R")


class StepWrapper(Generic[P, R]):
    """A step. Called by a workflow function it runs once; called from anywhere else it is the function itself."""

    def __init__(self, function: Callable[P, Coroutine[Any, Any, R]], name: str | None, names: dict[str, Any]) -> None:
        if not inspect.iscoroutinefunction(function):
            raise HandlerError(
                f"@step takes an async function; {_name_of(function)} is none. Make it `async def`, or call it with "
                "ctx.step(name, function, ...), which takes plain functions too."
            )
        functools.update_wrapper(self, function)
        self.name = name or function.__name__
        self.function = function
        self._names = names
        self._context = context_parameter(function)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """The recorded result, or that of calling the function now. A parameter `ctx` may be left out."""
        context = get_run_context()
        if context is None:
            return self.function(*args, **kwargs)
        given: dict[str, Any] = dict(kwargs)
        if (
            self._context is not None
            and self._context not in inspect.signature(self.function).bind_partial(*args, **kwargs).arguments
        ):
            given[self._context] = context
        return context._replay.step(self.name, self.function, args, given, result=self.result)

    @functools.cached_property
    def result(self) -> Any:
        """The annotated type of the results; None if there is no annotation."""
        return hints_of(self.function, self._names).get("return")


@overload
def step(function: Callable[P, Coroutine[Any, Any, R]]) -> StepWrapper[P, R]: ...
@overload
def step(*, name: str | None = None) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], StepWrapper[P, R]]: ...
def step(function: Any = None, *, name: str | None = None) -> Any:
    """Mark an async function as a step: what a workflow function does once, however often it is executed.

    Its result is recorded under the step's name and its place in the function, and must be of a type that can be
    stored: annotate it. A step that raised is run again. Steps do not call steps.
    """
    names = _local_names(sys._getframe(1))

    def make(target: Callable[P, Coroutine[Any, Any, R]]) -> StepWrapper[P, R]:
        return StepWrapper(target, name, names)

    return make if function is None else make(function)


def context_parameter(function: Callable[..., Any]) -> str | None:
    """The parameter that takes the `RunContext`: by its annotation, or by the name `ctx`."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name == "ctx" or parameter.annotation in (RunContext, "RunContext"):
            return name
    return None


def hints_of(function: Callable[..., Any], names: dict[str, Any]) -> dict[str, Any]:
    """A function's annotations; `names` are those around it. Raises `HandlerError` if one cannot be understood."""
    try:
        return typing.get_type_hints(function, localns=names, include_extras=True)
    except NameError as error:
        raise HandlerError(
            f"{_name_of(function)}: an annotation cannot be understood: {error}. Import the name, also at run time."
        ) from None


def _name_of(function: Any) -> str:
    return repr(getattr(function, "__name__", function))
