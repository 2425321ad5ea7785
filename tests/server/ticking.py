"""A workflow of many short supersteps: a counter and a relay pass a job to and fro, and every tick is an output.

The input is `NAME TICKS SECONDS`; each tick takes that long. What has run is noted in `ran-NAME` in the folder that
`TICKING` names.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, config, executor, handler


@dataclass(frozen=True)
class Job:
    """What travels: the name of the turn, how many ticks are to come, and how long each takes."""

    name: str
    left: int
    seconds: float


class Counter(Executor):
    folder: Path = config()

    def __init__(self, folder: Path) -> None:
        super().__init__("counter")
        self.folder = folder
        self.ticks = 0

    @handler
    async def tick(self, job: Job, ctx: WorkflowContext[Job, str]) -> None:
        with (self.folder / f"ran-{job.name}").open("a") as lines:
            lines.write(f"{job.left}\n")
        await ctx.yield_output(TextDelta(f"{job.name}:"))
        await asyncio.sleep(job.seconds)
        self.ticks += 1
        await ctx.yield_output(TextDelta(f"{self.ticks}"))
        if job.left > 1:
            await ctx.send_message(replace(job, left=job.left - 1))


@executor
async def begin(text: str, ctx: WorkflowContext[Job]) -> None:
    name, ticks, seconds = text.split()
    await ctx.send_message(Job(name, int(ticks), float(seconds)))


@executor
async def relay(job: Job, ctx: WorkflowContext[Job]) -> None:
    await ctx.send_message(job)


counter = Counter(Path(os.environ.get("TICKING", ".")))
workflow = (
    WorkflowBuilder(start_executor=begin, name="ticking", output_from=[counter], max_iterations=1000)
    .add_edge(begin, counter)
    .add_edge(counter, relay)
    .add_edge(relay, counter)
    .build()
)
