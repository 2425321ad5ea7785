"""The engine's rows for agent_framework, in an interpreter that has it; prints one JSON object."""

import asyncio
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, Never

from agent_framework import (  # type: ignore[import-not-found]  # not a dependency of this project
    Executor,
    FileCheckpointStorage,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
)
from timing import each, early_and_late, per_step  # type: ignore[import-not-found]  # beside this file

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
STEPS, WIDE, TURNS = 500, 200, int(sys.argv[1]) if len(sys.argv) > 1 else 1000


class Player(Executor):
    @handler
    async def play(self, left: int, ctx: WorkflowContext[int, int]) -> None:
        if left:
            await ctx.send_message(left - 1)
        else:
            await ctx.yield_output(left)


def ping_pong() -> Any:
    one, other = Player("one"), Player("other")
    builder = WorkflowBuilder(start_executor=one, name="ping-pong", max_iterations=10 * STEPS)
    return builder.add_edge(one, other).add_edge(other, one).build()


class Worker(Executor):
    @handler
    async def work(self, number: int, ctx: WorkflowContext[int]) -> None:
        await ctx.send_message(number + 1)


def wide() -> Any:
    @executor(id="split")
    async def split(number: int, ctx: WorkflowContext[int]) -> None:
        await ctx.send_message(number)

    @executor(id="join")
    async def join(numbers: list[int], ctx: WorkflowContext[int, int]) -> None:
        await ctx.yield_output(sum(numbers))

    workers = [Worker(f"w{number}") for number in range(WIDE)]
    return (
        WorkflowBuilder(start_executor=split).add_fan_out_edges(split, workers).add_fan_in_edges(workers, join).build()
    )


class Normalise(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text.strip())


class Memory(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.history: list[str] = []

    @handler
    async def run(self, text: str, ctx: WorkflowContext[str]) -> None:
        self.history.append(text)
        await ctx.send_message(f"turn {len(self.history)}: {text}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"history": self.history}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.history = state["history"]


class Answer(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(text)


def flow() -> Any:
    builder = WorkflowBuilder(start_executor=(first := Normalise("normalise")), name="bench")
    return builder.add_edge(first, memory := Memory("memory")).add_edge(memory, Answer("answer")).build()


def size(path: str) -> int:
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


async def fresh(storage: Any) -> float:
    """Microseconds of a turn of a new conversation: a new workflow object, as its host makes for each."""
    flows = [flow() for _ in range(200)]
    given = {} if storage is None else {"checkpoint_storage": storage}
    return early_and_late(await each(lambda number: flows[number].run("hello", **given), 200))[1]


async def turns(storage: Any, count: int) -> tuple[float, float]:
    workflow = flow()
    return early_and_late(
        await each(lambda number: workflow.run(f"{number} " + "x" * 2000, checkpoint_storage=storage), count)
    )


async def main() -> None:
    rows: dict[str, Any] = {}
    game, fan = ping_pong(), wide()
    rows["superstep, no storage"] = await per_step(lambda: game.run(STEPS), STEPS)
    memory = InMemoryCheckpointStorage()
    rows["superstep, in memory"] = await per_step(lambda: game.run(STEPS, checkpoint_storage=memory), STEPS, 2)
    rows["fan-out and join of 200"] = await per_step(lambda: fan.run(1), 1)
    rows["turn of three, no storage"] = await fresh(None)
    rows["turn of three, in memory"] = await fresh(InMemoryCheckpointStorage())
    few = min(TURNS, 200)  # every turn copies all earlier ones: a thousand take minutes and gigabytes
    rows["long conversation, in memory"] = await turns(InMemoryCheckpointStorage(), few)
    with tempfile.TemporaryDirectory() as folder:
        rows["turn of three, files"] = await fresh(FileCheckpointStorage(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows["long conversation, files"] = await turns(FileCheckpointStorage(folder), few)
        rows["bytes of it, files"] = size(folder)
    rows["turns of the long conversation"] = few
    print(json.dumps(rows))


asyncio.run(main())
