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


# --- What changes between two versions of a program ----------------------------------------------------------------


async def test_what_has_become_configuration_is_no_longer_read_from_the_store() -> None:
    """An attribute that an older program kept for each conversation comes from the program once it is config()."""
    storage = InMemoryCheckpointStorage()

    class Keeping(Executor):
        def __init__(self) -> None:
            super().__init__("limited")
            self.limit = 0

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, int]) -> None:
            self.limit = 5
            await ctx.yield_output(self.limit)

    class Configured(Executor):
        limit: int = config(99)

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, int]) -> None:
            await ctx.yield_output(self.limit)

    def limiting(limited: Executor) -> Workflow:
        kept = CheckpointStorage(storage.log)
        return WorkflowBuilder(start_executor=limited, name="limited", version="1", checkpoint_storage=kept).build()

    assert (await limiting(Keeping()).run("a")).get_outputs() == [5]
    assert (await limiting(Configured("limited")).run("b")).get_outputs() == [99]


async def test_an_event_shows_what_went_in_not_what_became_of_it() -> None:
    """Without a storage a handler gets the message itself; the event that tells of the call has a copy."""

    class Spoiling(Executor):
        @handler
        async def take(self, words: list[list[str]], ctx: WorkflowContext[Any, str]) -> None:
            words[0].append("spoiled")
            words.append(["more"])

    result = await WorkflowBuilder(start_executor=Spoiling("spoiling")).build().run([["word"]])
    assert [event.data for event in result if event.type == "executor_invoked"] == [[["word"]]]
