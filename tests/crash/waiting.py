"""A workflow that waits: for a file, deaf in a thread, or for a client that does not read."""

import asyncio
import time
from pathlib import Path
from typing import Never

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, executor, handler


class Wait(Executor):
    def __init__(self) -> None:
        super().__init__("wait")
        self.turns = 0

    @handler
    async def wait(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.turns += 1
        kind, _, name = text.partition(" ")
        if kind == "wait":
            await ctx.yield_output(TextDelta("waiting"))
            while not Path(name).exists():
                await asyncio.sleep(0.01)
        elif kind == "begin":
            Path(name).touch()
            await asyncio.Event().wait()
        elif kind == "thread":
            await ctx.yield_output(TextDelta("waiting"))
            await asyncio.to_thread(time.sleep, 60)
        elif kind == "flood":
            for _ in range(100):
                await ctx.yield_output(TextDelta("x" * 100_000))
        await ctx.yield_output(f"turn {self.turns}")


@executor
def deaf(text: str, ctx: WorkflowContext[Never, str]) -> None:
    ctx.yield_output(TextDelta("waiting"))
    time.sleep(60)


workflow = WorkflowBuilder(start_executor=Wait(), name="waiting").build()
blocking = WorkflowBuilder(start_executor=deaf, name="blocking").build()
