"""The engine's rows for agent_host; prints one JSON object."""

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from flow import hooked  # type: ignore[import-not-found]  # beside this file, also for other interpreters
from flow import workflow as flow
from timing import each, early_and_late, per_step  # type: ignore[import-not-found]  # likewise

from agent_host import (
    Executor,
    FileCheckpointStorage,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    open_store,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage

STEPS, WIDE, TURNS = 500, 200, int(sys.argv[1]) if len(sys.argv) > 1 else 1000


class Player(Executor):
    @handler
    async def play(self, left: int, ctx: WorkflowContext[int, int]) -> None:
        if left:
            await ctx.send_message(left - 1)
        else:
            await ctx.yield_output(left)


def ping_pong() -> Workflow:
    one, other = Player("one"), Player("other")
    builder = WorkflowBuilder(start_executor=one, name="ping-pong", max_iterations=10 * STEPS)
    return builder.add_edge(one, other).add_edge(other, one).build()


def wide() -> Workflow:
    @executor(id="split")
    async def split(number: int, ctx: WorkflowContext[int]) -> None:
        await ctx.send_message(number)

    class Worker(Executor):
        @handler
        async def work(self, number: int, ctx: WorkflowContext[int]) -> None:
            await ctx.send_message(number + 1)

    @executor(id="join")
    async def join(numbers: list[int], ctx: WorkflowContext[int, int]) -> None:
        await ctx.yield_output(sum(numbers))

    workers = [Worker(f"w{number}") for number in range(WIDE)]
    return (
        WorkflowBuilder(start_executor=split).add_fan_out_edges(split, workers).add_fan_in_edges(workers, join).build()
    )


@asynccontextmanager
async def sqlite(path: str) -> AsyncIterator[CheckpointStorage]:
    store = open_store(f"sqlite:///{path}")
    await store.open()
    try:
        yield CheckpointStorage(store.commit_log())
    finally:
        await store.aclose()


def size(path: str) -> int:
    return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())


async def turns(storage: CheckpointStorage | None, durability: Any, workflow: Workflow = flow) -> tuple[float, float]:
    """Microseconds of a turn at turn 10 and at the last one, 2 KB a turn kept in a history."""

    async def turn(number: int) -> None:
        await workflow.run(
            f"{number} " + "x" * 2000, session_id="long", checkpoint_storage=storage, durability=durability
        )  # fmt: skip

    return early_and_late(await each(turn, TURNS))


async def fresh(storage: CheckpointStorage | None) -> float:
    """Microseconds of a turn of a new conversation."""

    async def turn(number: int) -> None:
        await flow.run("hello", session_id=str(number), checkpoint_storage=storage)

    return early_and_late(await each(turn, 200))[1]


async def main() -> None:
    rows: dict[str, Any] = {}
    game, fan = ping_pong(), wide()
    rows["superstep, no storage"] = await per_step(lambda: game.run(STEPS), STEPS)
    memory = InMemoryCheckpointStorage()
    rows["superstep, in memory"] = await per_step(lambda: game.run(STEPS, checkpoint_storage=memory), STEPS)
    rows["fan-out and join of 200"] = await per_step(lambda: fan.run(1), 1)
    rows["turn of three, no storage"] = await fresh(None)
    rows["turn of three, in memory"] = await fresh(InMemoryCheckpointStorage())
    rows["long conversation, in memory"] = await turns(InMemoryCheckpointStorage(), "step")
    with tempfile.TemporaryDirectory() as folder:
        files = FileCheckpointStorage(folder)
        rows["turn of three, files"] = await fresh(files)
    with tempfile.TemporaryDirectory() as folder:
        rows["long conversation, files"] = await turns(FileCheckpointStorage(folder), "step")
        rows["bytes of it, files"] = size(folder)
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite(f"{folder}/store.db") as storage:
            rows["turn of three, SQLite"] = await fresh(storage)
    rows["long conversation, in memory, hooks"] = await turns(InMemoryCheckpointStorage(), "step", hooked)
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite(f"{folder}/store.db") as storage:
            rows["long conversation, SQLite, hooks"] = await turns(storage, "turn", hooked)
    with tempfile.TemporaryDirectory() as folder:
        async with sqlite(f"{folder}/store.db") as storage:
            rows["long conversation, SQLite"] = await turns(storage, "turn")
        rows["bytes of it, SQLite"] = size(folder)
    print(json.dumps(rows))


asyncio.run(main())
