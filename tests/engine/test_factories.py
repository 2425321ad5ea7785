"""Executors that are made anew for each conversation instead of copied."""

from typing import Any

import pytest

from agent_host import Executor, InMemoryCheckpointStorage, Workflow, WorkflowBuilder, WorkflowContext, config, handler
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import ExecutorStateError


class Parser:
    """An object that can be neither stored nor shared: it remembers what it was fed."""

    def __init__(self) -> None:
        self.fed: list[str] = []


class Reading(Executor):
    client: object = config()
    on_the_class: list[str] = []  # noqa: RUF012 - this is how people write executors

    def __init__(self, made: Any = None) -> None:
        super().__init__("reading", factory=made)
        self.parser = Parser()
        self.count = 0
        self.client = object()
        self.say = self.tell

    def tell(self) -> int:
        return self.count

    @handler
    async def read(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        self.parser.fed.append(text)
        self.on_the_class.append(text)
        assert len(self.on_the_class) == self.count
        await ctx.yield_output(f"{self.say()} {self.parser.fed} {id(self.client)}")


def reading(storage: CheckpointStorage | None = None, made: Any = None) -> tuple[Workflow, Reading]:
    first = Reading(made or (lambda: Reading(made)))
    return WorkflowBuilder(start_executor=first, name="reading", checkpoint_storage=storage).build(), first


@pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])
async def test_each_turn_has_an_executor_of_its_own(storage: Any) -> None:
    """State follows the conversation, what cannot be stored begins anew, and configuration is shared."""
    workflow, first = reading(storage and storage())
    client = id(first.client)
    for session in ("one", "two"):
        assert (await workflow.run("a", session_id=session)).get_outputs() == [f"1 ['a'] {client}"]
    assert (await workflow.run("b", session_id="one")).get_outputs() == [f"2 ['b'] {client}"]
    assert first.parser.fed == []


async def test_without_a_factory_the_same_executor_is_refused() -> None:
    """An object of the program's own that cannot be stored is an error at start."""
    with pytest.raises(ExecutorStateError, match="Parser in 'parser'"):
        await WorkflowBuilder(start_executor=Reading()).build().run("a")


async def test_a_factory_must_make_the_same_executor() -> None:
    """The error names the executor and what was made instead."""

    class Other(Reading):
        pass

    workflow, _ = reading(made=lambda: Other())
    with pytest.raises(ExecutorStateError, match="factory of executor 'reading' made <Other 'reading'>"):
        await workflow.run("a")
