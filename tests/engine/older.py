"""Executors and states for the tests of changed graphs: an older version of a workflow runs, a newer one looks."""

import dataclasses
from typing import Any

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, WorkflowExecutor, executor, handler
from agent_host.engine.definition import Definition
from agent_host.engine.migration.compatibility import Incompatibility, problems
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.view import View, gather, read_view
from agent_host.errors import WorkflowConvergenceException

NAME = "desk"


def record(stored_as: str, /, **fields: Any) -> Any:
    """A dataclass that is stored under this name, as one version of a program declares it."""
    return dataclasses.make_dataclass(stored_as, list(fields.items()))


def keeper(id: str, attribute: str, first: Any, then: Any = None) -> Executor:
    """Keeps an attribute, which begins as `first` and is `then` once a text was heard; sends the text on."""

    class Keeper(Executor):
        def __init__(self) -> None:
            super().__init__(id)
            setattr(self, attribute, first)

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str]) -> None:
            setattr(self, attribute, then)
            await ctx.send_message(text)

    return Keeper()


def sender(id: str, *messages: Any, sends: Any, target: str | None = None) -> Executor:
    """Sends the same messages for every text."""

    async def send(text: str, ctx: WorkflowContext[Any]) -> None:
        for message in messages:
            await ctx.send_message(message, target)

    return executor(id=id, input=str, output=sends)(send)


def taker(id: str, takes: Any) -> Executor:
    """Takes messages of a type and does nothing with them."""

    async def take(message: Any, ctx: WorkflowContext) -> None: ...

    return executor(id=id, input=takes)(take)


def chain(*executors: Executor, storage: CheckpointStorage | None = None, name: str = NAME) -> Workflow:
    """Executors one after the other."""
    builder = WorkflowBuilder(start_executor=executors[0], name=name, checkpoint_storage=storage)
    return (builder.add_chain(executors) if len(executors) > 1 else builder).build()


def nested(inner: Workflow, *owners: str, storage: CheckpointStorage | None = None) -> Workflow:
    """A workflow inside others: the innermost under the last id, the outermost an executor that sends the text on."""
    for owner in reversed(owners):
        inner = chain(
            keeper("start", "count", 0, 0), WorkflowExecutor(inner, owner, propagate_request=True), storage=storage
        )
    return inner


async def stop_after(workflow: Workflow, steps: int, message: Any = "go") -> None:
    """Run so many supersteps and leave the rest queued."""
    try:
        await workflow.run(message, max_iterations=steps)
    except WorkflowConvergenceException:
        return
    raise AssertionError("the run came to rest; nothing is queued")


async def stored(log: MemoryLog, definition: Definition, commit_id: str | None = None) -> tuple[View, dict[bytes, Any]]:
    """A stored state, of the default session's head unless a commit is named, and the blobs that it needs."""
    found = commit_id or await log.head(definition.name, "default")
    assert found is not None
    _, view = await read_view(log.chain, found)
    return view, await gather(list(view.cells.values()), definition.codec, log.blobs)


async def found_by(workflow: Workflow, log: MemoryLog) -> list[Incompatibility]:
    """The problems that a workflow has with what stands in a log."""
    definition = await workflow.definition()
    view, bodies = await stored(log, definition)
    return problems(definition, view.cells, definition.codec, bodies)


def told(problems: list[Incompatibility]) -> list[tuple[str, str, str]]:
    """Which executor, what, and its name: the part of a problem that programs go by."""
    return [(problem.executor, problem.what, problem.name) for problem in problems]
