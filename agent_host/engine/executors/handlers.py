"""Handlers: which function of an executor takes a value.

Rule 1: the most specific handler wins. `bool` is not `int`; a subclass goes to the handler for the subclass.
Rule 2: two handlers that could not be told apart are an error when the workflow is built.
Rule 3: a table holds plain functions per class, never bound methods: they are called with the lane's clone.
"""

import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal, overload

from agent_host.engine import annotations
from agent_host.errors import HandlerError, WorkflowRunnerException

Kind = Literal["handler", "response_handler"]
_MARK = "__agent_host_handler__"
_F = typing.TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and the types it declares. `sends` and `yields` are None where nothing is declared.

    `takes_attempt`: it belongs to the engine, which hands it the attempt at the call in the place of a context.
    """

    name: str
    function: Callable[..., Any]
    input: Any
    response: Any
    sends: Any
    yields: Any
    takes_self: bool
    takes_context: bool
    is_async: bool
    takes_attempt: bool = False


@dataclass(frozen=True, slots=True)
class _Mark:
    """What a decorator leaves on a function; annotations are read later, when all names exist."""

    kind: Kind
    explicit: dict[str, Any]
    names: dict[str, Any]


@overload
def handler(function: _F) -> _F: ...
@overload
def handler(*, input: Any, output: Any = None, workflow_output: Any = None) -> Callable[[_F], _F]: ...
def handler(function: Any = None, *, input: Any = None, output: Any = None, workflow_output: Any = None) -> Any:
    """Mark a method `(self, message, ctx)` as the one that takes messages of its annotated type; `ctx` may be left out.

    The types can be given to the decorator instead of the annotations; then all of them must be.
    """
    return _marking("handler", function, {"input": input, "output": output, "workflow_output": workflow_output})


@overload
def response_handler(function: _F) -> _F: ...
@overload
def response_handler(
    *, request: Any, response: Any, output: Any = None, workflow_output: Any = None
) -> Callable[[_F], _F]: ...
def response_handler(
    function: Any = None, *, request: Any = None, response: Any = None, output: Any = None, workflow_output: Any = None
) -> Any:
    """Mark a method `(self, original_request, response, ctx)` that takes the answers to its executor's requests."""
    given = {"input": request, "response": response, "output": output, "workflow_output": workflow_output}
    return _marking("response_handler", function, given)


def _marking(kind: Kind, function: Any, given: dict[str, Any]) -> Any:
    explicit = {name: hint for name, hint in given.items() if hint is not None}
    names = _local_names(sys._getframe(2))

    def mark(target: Any) -> Any:
        setattr(target, _MARK, _Mark(kind, explicit, names))
        return target

    return mark if function is None else mark(function)


def _local_names(frame: Any) -> dict[str, Any]:
    """Names of the functions around a declaration: annotations may mention classes defined beside it."""
    names: dict[str, Any] = {}
    home = frame.f_globals
    while frame is not None and frame.f_globals is home and frame.f_locals is not home:
        names = {**frame.f_locals, **names}
        frame = frame.f_back
    return names


def read_handler(function: Callable[..., Any], *, kind: Kind, owner: str, skip_self: bool, mark: Any = None) -> Handler:
    """Read a function's declared types. Raises `HandlerError` naming function and parameter."""
    mark = mark or getattr(function, _MARK)
    where = f"{owner}.{function.__name__}" if skip_self else function.__name__
    parameters = list(inspect.signature(function).parameters.values())[1 if skip_self else 0 :]
    wanted = 3 if kind == "response_handler" else 2
    if not wanted - 1 <= len(parameters) <= wanted:
        shape = "(request, response, ctx)" if wanted == 3 else "(message, ctx)"
        raise HandlerError(f"{where} must take {shape}; it takes {len(parameters)} parameters.")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise HandlerError(f"{where} has a `yield`, so calling it would do nothing. Use ctx.yield_output(...) instead.")
    explicit = mark.explicit
    hints = {} if "input" in explicit else _hints(function, mark.names, where)
    types = [explicit.get("input"), explicit.get("response")] if explicit else [hints.get(p.name) for p in parameters]
    for hint, parameter in zip(types[: wanted - 1], parameters, strict=False):
        if hint is None and not (explicit and hint is not None):
            raise HandlerError(f"{where}: annotate the parameter {parameter.name!r} with the type it takes.")
        if annotations.is_unresolved(hint):
            raise HandlerError(f"{where}: {annotations.name(hint)} is a type variable; name a concrete type.")
    if explicit:
        sends, yields = explicit.get("output", typing.Never), explicit.get("workflow_output", typing.Never)
    else:
        sends, yields = _context_types(hints.get(parameters[wanted - 1].name) if len(parameters) == wanted else None)
    return Handler(
        name=function.__name__,
        function=function,
        input=annotations.plain(types[0]),
        response=annotations.plain(types[1]) if kind == "response_handler" else None,
        sends=sends,
        yields=yields,
        takes_self=skip_self,
        takes_context=len(parameters) == wanted,
        is_async=inspect.iscoroutinefunction(function),
    )


def _hints(function: Callable[..., Any], names: dict[str, Any], where: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, localns=names, include_extras=True)
    except NameError as error:
        raise HandlerError(f"{where}: an annotation cannot be understood: {error}. Import the name, or pass the "
                           "types to the decorator.") from None  # fmt: skip


def _context_types(hint: Any) -> tuple[Any, Any]:
    """What `WorkflowContext[A, B]` declares; (None, None) for a bare context, which declares nothing."""
    arguments = typing.get_args(annotations.plain(hint)) if hint is not None else ()
    if not arguments:
        return None, None
    return arguments[0], arguments[1] if len(arguments) > 1 else typing.Never


class HandlerTable:
    """The handlers of one executor class, and the choice among them."""

    def __init__(self, owner: str, handlers: Sequence[Handler], responders: Sequence[Handler] = ()) -> None:
        self.owner = owner
        self.handlers = tuple(handlers)
        self.responders = tuple(responders)
        self._members = tuple((member, h) for h in self.handlers for member in annotations.members(h.input))
        self._by_class: dict[type, Handler | None] = {}
        self._class_decides = all(
            isinstance(member, type) and typing.get_origin(member) is None and not annotations.is_typed_dict(member)
            for member, _ in self._members
        )
        self._refuse_equal_inputs()

    @classmethod
    def of_class(cls, owner: type) -> "HandlerTable":
        """Read the marked methods of a class and its bases."""
        found: dict[Kind, list[Handler]] = {"handler": [], "response_handler": []}
        for name in dir(owner):
            function = inspect.getattr_static(owner, name)
            mark = getattr(function, _MARK, None)
            if mark is not None:
                found[mark.kind].append(read_handler(function, kind=mark.kind, owner=owner.__name__, skip_self=True))
        return cls(owner.__name__, found["handler"], found["response_handler"])

    def _refuse_equal_inputs(self) -> None:
        for (left, one), (right, other) in combinations(self._members, 2):
            if one is not other and left == right:
                raise HandlerError(
                    f"{self.owner} has two handlers for {annotations.name(left)}: {one.name} and {other.name}. "
                    "Keep one."
                )

    def refuse_ambiguous(self, classes: Iterable[type]) -> None:
        """Raise `HandlerError` if a value of one of these classes would have two handlers, neither more specific."""
        for cls in classes:
            narrowest = self._narrowest([(m, h) for m, h in self._members if annotations.is_subtype(cls, m)])
            if len(narrowest) > 1:
                names = " and ".join(h.name for h in narrowest)
                raise HandlerError(
                    f"{self.owner} cannot choose a handler for {cls.__qualname__}: {names} fit equally well. "
                    f"Add a handler for {cls.__qualname__}."
                )

    @staticmethod
    def _narrowest(fitting: list[tuple[Any, Handler]]) -> list[Handler]:
        best: dict[int, Handler] = {}
        for member, candidate in fitting:
            narrower = any(
                other is not member
                and annotations.is_subtype(other, member)
                and not annotations.is_subtype(member, other)
                for other, _ in fitting
            )
            if not narrower:
                best[id(candidate)] = candidate
        return list(best.values())

    def select(self, value: Any) -> Handler | None:
        """The handler for a value; None if there is none.

        Raises `WorkflowRunnerException` if two fit equally well (an empty list, a class made after the build).
        """
        kind = type(value)
        if kind in self._by_class:
            return self._by_class[kind]
        fitting = [(member, h) for member, h in self._members if annotations.matcher(member)(value)]
        narrowest = self._narrowest(fitting) if len(fitting) > 1 else [h for _, h in fitting]
        if len(narrowest) > 1:
            raise WorkflowRunnerException(
                f"{self.owner} cannot choose a handler for {value!r:.80}: "
                f"{' and '.join(h.name for h in narrowest)} fit equally well."
            )
        chosen = narrowest[0] if narrowest else None
        if self._class_decides:
            self._by_class[kind] = chosen
        return chosen

    def responder(self, request: Any, response_type: Any) -> Handler | None:
        """The response handler for a request and the type of its answer; the most specific request type wins."""
        fitting = [
            (h.input, h)
            for h in self.responders
            if annotations.matcher(h.input)(request) and annotations.is_subtype(response_type, h.response)
        ]
        narrowest = self._narrowest(fitting)
        exact = [h for h in narrowest if h.response == annotations.plain(response_type)]
        chosen = exact or narrowest
        return chosen[0] if chosen else None

    @property
    def input_types(self) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(member for member, _ in self._members))

    @property
    def declared(self) -> tuple[Any, ...]:
        """Every annotation the handlers mention."""
        hints = []
        for one in (*self.handlers, *self.responders):
            hints += [one.input, one.response, one.sends, one.yields]
        return tuple(hint for hint in hints if hint is not None)
