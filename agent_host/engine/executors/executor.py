"""Executors: typed handlers plus state. An executor never knows which conversation it serves.

What an executor keeps in its attributes belongs to the conversation it is serving: each conversation works on a
clone that starts from the values the program set. `state()` declares such an attribute, `config()` takes one out.
"""

import dataclasses
import re
import sys
import typing
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, overload

from agent_host.engine import annotations
from agent_host.engine.executors.handlers import HandlerTable, _local_names, _Mark, read_handler
from agent_host.engine.executors.policies import RetryPolicy
from agent_host.errors import HandlerError, WorkflowValidationError

if TYPE_CHECKING:
    from agent_host.engine.workflow import Workflow

_ID = re.compile(r"[^/\x00-\x1f]{1,128}")
_MISSING = dataclasses.MISSING


class Field:
    """A declared attribute; see `state` and `config`."""

    def __init__(self, default: Any, factory: Callable[[], Any] | None, *, per_lane: bool) -> None:
        self.default = default
        self.factory = factory
        self.per_lane = per_lane
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        # Only reached while the instance has no such attribute: a field is not a data descriptor.
        if instance is None:
            return self
        if self.factory is None and self.default is _MISSING:
            raise AttributeError(f"{type(instance).__name__}.{self.name} has no value yet and no default")
        value = self.factory() if self.factory is not None else self.default
        instance.__dict__[self.name] = value
        return value


def state(default: Any = _MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """Declare an attribute that belongs to the conversation: `history: list[str] = state(factory=list)`.

    Undeclared attributes belong to the conversation too; a declaration adds a type and a default.
    """
    if isinstance(default, (list, dict, set, bytearray)):
        raise HandlerError(f"state({default!r}) would share one value; use state(factory={type(default).__name__}).")
    return Field(default, factory, per_lane=True)


def config(default: Any = _MISSING, *, factory: Callable[[], Any] | None = None) -> Any:
    """Declare an attribute that all conversations share and no checkpoint holds: a client, a limit, a cache."""
    return Field(default, factory, per_lane=False)


class Executor:
    """The base of all executors. Subclass it and mark methods with `@handler`.

    `shared=True` on the class (`class Lookup(Executor, shared=True)`) makes all its attributes configuration.
    `retry` calls a handler again that failed; a handler that takes longer than `timeout` seconds fails.
    `factory` makes an equal executor: each conversation then works on one of its own instead of a copy, so that it may
    hold objects that can be neither stored nor shared; those begin anew with each turn.
    """

    _agent_host_shared: ClassVar[bool] = False

    def __init__(
        self,
        id: str,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
        factory: "Callable[[], Executor] | None" = None,
    ) -> None:
        given: object = id
        if not isinstance(given, str) or not _ID.fullmatch(id):
            raise WorkflowValidationError(
                f"An executor's id is 1 to 128 printable characters without '/'; got {id!r} for {type(self).__name__}."
            )
        if timeout is not None and not _is_positive(timeout):
            raise WorkflowValidationError(f"The timeout of executor {id!r} must be positive seconds; got {timeout!r}.")
        given = retry
        if given is not None and not isinstance(given, RetryPolicy):
            raise WorkflowValidationError(f"The retry of executor {id!r} must be a RetryPolicy; got {given!r}.")
        self.id = id
        self._agent_host_retry = retry
        self._agent_host_timeout = timeout
        self._agent_host_factory = factory
        for name, field in declared_fields(type(self)).items():
            if field.factory is not None or field.default is not _MISSING:
                getattr(self, name)

    def __init_subclass__(cls, *, shared: bool = False, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._agent_host_shared = shared or cls._agent_host_shared
        if cls.__dict__.get("__slots__"):
            raise HandlerError(f"{cls.__name__} declares __slots__; executors keep their state in plain attributes.")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r}>"

    async def on_checkpoint_save(self) -> dict[str, Any]:
        """Return what to store instead of the attributes.

        Called after every superstep in which the executor took part, and once for the state that sessions begin with.
        """
        return {}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        """Take up what `on_checkpoint_save` returned. Called on a fresh clone; replaces everything."""

    @property
    def handler_table(self) -> HandlerTable:
        """The choice among this executor's handlers."""
        return _table_of(type(self))

    @property
    def input_types(self) -> list[Any]:
        """The types this executor takes."""
        return list(self.handler_table.input_types)

    @property
    def output_types(self) -> list[Any]:
        """The types this executor declares to send."""
        return _union(h.sends for h in self._all_handlers())

    @property
    def workflow_output_types(self) -> list[Any]:
        """The types this executor declares to yield."""
        return _union(h.yields for h in self._all_handlers())

    @property
    def nested_workflow(self) -> "Workflow | None":
        """The workflow that this executor runs inside itself; None but for a `WorkflowExecutor`."""
        return None

    def can_handle(self, value: Any) -> bool:
        """Whether one of the handlers takes this value."""
        return self.handler_table.select(value) is not None

    def _all_handlers(self) -> tuple[Any, ...]:
        return (*self.handler_table.handlers, *self.handler_table.responders)


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _union(hints: Any) -> list[Any]:
    return list(dict.fromkeys(member for hint in hints if hint is not None for member in annotations.members(hint)))


def _table_of(cls: type) -> HandlerTable:
    table: HandlerTable | None = cls.__dict__.get("_agent_host_table")
    if table is None:
        table = HandlerTable.of_class(cls)
        cls._agent_host_table = table  # type: ignore[attr-defined]  # kept on the class, made once
    return table


def declared_fields(cls: type) -> dict[str, Field]:
    """The `state()` and `config()` declarations of a class and its bases."""
    return {
        name: field for base in reversed(cls.__mro__) for name, field in vars(base).items() if isinstance(field, Field)
    }


def has_hooks(executor: Executor) -> bool:
    """Whether an executor saves itself instead of leaving it to its attributes."""
    cls = type(executor)
    saves = cls.on_checkpoint_save is not Executor.on_checkpoint_save
    restores = cls.on_checkpoint_restore is not Executor.on_checkpoint_restore
    if saves != restores:
        missing = "on_checkpoint_restore" if saves else "on_checkpoint_save"
        raise WorkflowValidationError(f"{cls.__name__} defines only one of the checkpoint hooks; define {missing} too.")
    return saves


class FunctionExecutor(Executor):
    """An executor made of one function `(message)` or `(message, ctx)`. Plain functions run in a worker thread."""

    def __init__(
        self,
        function: Callable[..., Any],
        id: str | None = None,
        *,
        mark: _Mark,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> None:
        super().__init__(id or function.__name__, retry=retry, timeout=timeout)
        self._agent_host_function = read_handler(
            function, kind="handler", owner=function.__name__, skip_self=False, mark=mark
        )
        self._agent_host_own_table = HandlerTable(function.__name__, [self._agent_host_function])

    @property
    def handler_table(self) -> HandlerTable:
        return self._agent_host_own_table


_F = typing.TypeVar("_F", bound=Callable[..., Any])


@overload
def executor(function: Callable[..., Any]) -> FunctionExecutor: ...
@overload
def executor(
    *,
    id: str | None = None,
    input: Any = None,
    output: Any = None,
    workflow_output: Any = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
) -> Callable[[Callable[..., Any]], FunctionExecutor]: ...
def executor(
    function: Any = None,
    *,
    id: str | None = None,
    input: Any = None,
    output: Any = None,
    workflow_output: Any = None,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
) -> Any:
    """Turn a function `(message, ctx)` into an executor. Its id is the function's name unless given.

    `retry` and `timeout` (seconds, for each call) are those of `Executor`.
    """
    given = {"input": input, "output": output, "workflow_output": workflow_output}
    mark = _Mark("handler", {k: v for k, v in given.items() if v is not None}, _local_names(sys._getframe(1)))

    def make(target: Callable[..., Any]) -> FunctionExecutor:
        return FunctionExecutor(target, id, mark=mark, retry=retry, timeout=timeout)

    return make if function is None else make(function)
