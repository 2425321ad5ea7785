"""A workflow of three executors in a row, each of which writes a line when it runs; one of them waits for a file.

The input is `NAME PLACE`: at `PLACE` (`first`, `between`, `second` or `ask`) the turn waits for the file `go-NAME` in
the folder that `STEPPING` names, or asks its client. Lines go to `ran-NAME` there.
"""

import asyncio
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Never

from agent_host import (
    Executor,
    TextDelta,
    WorkflowBuilder,
    WorkflowContext,
    config,
    handler,
    response_handler,
)


@dataclass(frozen=True)
class Job:
    """What travels: the name of the turn, where it waits, and the turns of its conversation so far."""

    name: str
    place: str
    turns: int


class Folder:
    """Where turns leave their traces."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def note(self, job: Job, executor: str) -> None:
        with (self._path / f"ran-{job.name}").open("a") as lines:
            lines.write(f"{executor}\n")

    async def wait(self, job: Job) -> None:
        while not (self._path / f"go-{job.name}").exists():
            await asyncio.sleep(0.01)


class First(Executor):
    folder: Folder = config()

    def __init__(self, folder: Folder) -> None:
        super().__init__("first")
        self.folder = folder
        self.turns = 0

    @handler
    async def begin(self, text: str, ctx: WorkflowContext[Job, str]) -> None:
        name, place = text.split()
        self.turns += 1
        job = Job(name, place, self.turns)
        self.folder.note(job, "first")
        if place == "first":
            await ctx.yield_output(TextDelta("beginning"))
            await self.folder.wait(job)
        await ctx.yield_output("begun")
        await ctx.send_message(job)


class Second(Executor):
    folder: Folder = config()

    def __init__(self, folder: Folder) -> None:
        super().__init__("second")
        self.folder = folder

    @handler
    async def go_on(self, job: Job, ctx: WorkflowContext[Job, str]) -> None:
        if job.place == "between":
            await self.folder.wait(job)
        self.folder.note(job, "second")
        if job.place == "second":
            await ctx.yield_output(TextDelta("half "))
            await ctx.yield_output(TextDelta("way"))
            await self.folder.wait(job)
            await ctx.yield_output(TextDelta(" there"))
        if job.place == "ask":
            await ctx.request_info(job, str)
        else:
            await ctx.send_message(job)

    @response_handler
    async def learn(self, job: Job, answer: str, ctx: WorkflowContext[Job, str]) -> None:
        self.folder.note(job, "answered")
        await ctx.send_message(replace(job, place=answer))


class Third(Executor):
    folder: Folder = config()

    def __init__(self, folder: Folder) -> None:
        super().__init__("third")
        self.folder = folder

    @handler
    async def end(self, job: Job, ctx: WorkflowContext[Never, str]) -> None:
        self.folder.note(job, "third")
        if job.place == "third":
            await ctx.yield_output(TextDelta("ending"))
            await self.folder.wait(job)
        await ctx.yield_output(f"turn {job.turns}")


def stepping(folder: Folder) -> WorkflowBuilder:
    """`first`, `second` and `third`, one superstep after the other."""
    first, second, third = First(folder), Second(folder), Third(folder)
    builder = WorkflowBuilder(start_executor=first, name="stepping", output_from=[first, second, third])
    return builder.add_edge(first, second).add_edge(second, third)


workflow = stepping(Folder(os.environ.get("STEPPING", "."))).build()
