"""Whatever keeps an executor's state, it comes back from a checkpoint as it went in."""

from dataclasses import dataclass, field
from fractions import Fraction
from queue import Queue
from typing import Any

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    executor,
    handler,
    state,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from tests.engine.graphs import CountingLog


@dataclass
class Note:
    text: str
    tags: set[str] = field(default_factory=set)


class Undeclared(Executor):
    """Changes an attribute, one that stands on the class, and one that it adds."""

    common: list[str] = []  # noqa: RUF012 - how people write it, and each conversation gets its own

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.seen: dict[Any, Any] = {(1, 2): {"tuple", "key"}}

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text:
            self.common.append(text)
            self.seen[Fraction(1, 3)] = [text] * 2000
            self.added = Note(text, {text})
        await ctx.send_message(text)


class Declaring(Executor):
    """Has all its state declared."""

    notes: list[Note] = state(factory=list)
    total: float = state(0)

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text:
            self.notes.append(Note(text))
            self.total += 0.1
        await ctx.send_message(text)


class Saving(Executor):
    """Has hooks, and state in a foreign object."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.jobs: Queue[str] = Queue()

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"jobs": list(self.jobs.queue)}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.jobs = Queue()
        for job in state["jobs"]:
            self.jobs.put(job)

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text:
            self.jobs.put(text)
        await ctx.send_message(text)


def of_every_kind(storage: CheckpointStorage) -> Any:
    @executor
    async def function(text: str, ctx: WorkflowContext[str, str]) -> None:
        if text:
            ctx.set_state("function", {text: [text]})
        await ctx.send_message(text)

    @executor
    async def last(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(text)

    inside: list[Any] = [Undeclared("undeclared"), Declaring("declaring"), Saving("saving"), function, last]
    nested = WorkflowExecutor(WorkflowBuilder(start_executor=inside[0], name="in").add_chain(inside).build(), "nested")
    chain: list[Any] = [Undeclared("undeclared"), Declaring("declaring"), nested, Saving("saving"), function, last]
    builder = WorkflowBuilder(start_executor=chain[0], name="kinds", checkpoint_storage=storage)
    return builder.add_chain(chain).build()


async def test_what_is_restored_is_saved_the_same_again() -> None:
    """Of every kind of executor: called without changing anything, after a restart, none writes a cell of its own."""
    log = CountingLog()
    await of_every_kind(CheckpointStorage(log)).run("a")
    kept = {key for commit in log.written for key, reference in commit.delta.items() if reference and "x/" in key}
    assert {key.rpartition("x/")[2] for key in kept} == {
        "undeclared/common", "undeclared/seen", "undeclared/added", "declaring/notes", "declaring/total", "saving",
    }  # fmt: skip
    assert {key.split("/")[0] for key in kept} == {"x", "w"}
    before = len(log.written)
    result = await of_every_kind(CheckpointStorage(log)).run("")
    assert result.get_outputs() == [""]
    called = {event.executor_id for event in result if event.type == "executor_completed"}
    assert {"undeclared", "declaring", "saving", "function", "nested"} <= called
    assert {key for commit in log.written[before:] for key in commit.delta if "x/" in key or "s/" in key} == set()


async def test_a_change_deep_inside_what_was_restored_is_noticed() -> None:
    """Changes in place, some levels down, turn after turn, in a value that is the same object all the time."""

    class Deep(Executor):
        def __init__(self) -> None:
            super().__init__("deep")
            self.tree: dict[str, Any] = {"a": [{"b": Note("n")}]}

        @handler
        async def grow(self, tag: str, ctx: WorkflowContext[str, list[str]]) -> None:
            self.tree["a"][0]["b"].tags.add(tag)
            if len(tag) > 1:
                await ctx.send_message(tag[1:])
            else:
                await ctx.yield_output(sorted(self.tree["a"][0]["b"].tags))

    deep = Deep()
    storage = InMemoryCheckpointStorage()
    builder = WorkflowBuilder(start_executor=deep, name="deep", checkpoint_storage=storage).add_edge(deep, deep)
    workflow = builder.build()
    assert (await workflow.run("12")).get_outputs() == [["12", "2"]]
    assert (await workflow.run("34")).get_outputs() == [["12", "2", "34", "4"]]
    tags = [c.executor_states["deep"]["tree"]["a"][0]["b"].tags for c in await storage.list_checkpoints(
        workflow_name="deep") if c.kind == "step"]  # fmt: skip
    assert list(map(len, tags)) == [1, 2, 3, 4]
