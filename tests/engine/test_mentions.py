"""Types that no annotation names, but a handler's code: they may stand in state and in attributes."""

import enum
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent_host import Executor, InMemoryCheckpointStorage, WorkflowBuilder, WorkflowContext, executor, handler
from agent_host.engine.executors.mentions import mentioned
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import UnsupportedValueError


class Mood(enum.Enum):
    GOOD = "good"


@dataclass
class Stamp:
    mood: Mood


@dataclass
class Letter:
    text: str
    stamps: list[Stamp] = field(default_factory=list)


def written(text: str) -> Letter:
    return Letter(text, [Stamp(Mood.GOOD)])


class Office(Executor):
    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        before: Any = ctx.get_state("letter")
        self.last = written(text)
        ctx.set_state("letter", self.last)
        await ctx.yield_output("nothing" if before is None else f"{before.text} {before.stamps[0].mood.value}")


async def test_what_a_handlers_code_names_can_be_stored() -> None:
    """Also through a function of the program, with the classes of its fields, and in another process."""
    storage = InMemoryCheckpointStorage()
    for expected in ("nothing", "a good"):
        kept = CheckpointStorage(storage.log)
        workflow = WorkflowBuilder(start_executor=Office("office"), name="n", checkpoint_storage=kept).build()
        assert (await workflow.run("a")).get_outputs() == [expected]
    latest = await kept.get_latest(workflow_name="n")
    assert latest is not None
    assert latest.executor_states["office"]["last"] == written("a")


async def test_what_nothing_names_is_refused_with_the_remedy() -> None:
    """A class that comes from elsewhere is an error at first use that says what to do."""
    made = [dataclass(type("Unnamed", (), {"__annotations__": {"text": str}}))]

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        ctx.set_state("letter", made[0](text))

    with pytest.raises(UnsupportedValueError, match="call register_checkpoint_type"):
        await WorkflowBuilder(start_executor=x).build().run("a")


def test_a_guess_never_takes_the_name_of_a_declared_type() -> None:
    """Of two classes of one name the declared one is stored; the other is refused when it is used, not at build."""

    def other() -> type:
        @dataclass
        class Stamp:
            number: int

        return Stamp

    second: Any = other()
    second.__qualname__ = "Stamp"

    @executor(id="x")
    async def x(stamp: Stamp, ctx: WorkflowContext[str, str]) -> None:
        ctx.set_state("stamp", second(1))

    WorkflowBuilder(start_executor=x).build()


def test_only_the_program_is_looked_through() -> None:
    """Functions of libraries are not followed, and code that mentions itself comes to an end."""

    def around() -> Any:
        return around, pytest.raises, written

    found = mentioned(around)
    assert pytest.raises in found and Letter in found
    assert UnsupportedValueError not in found
