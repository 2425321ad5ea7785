"""A workflow with everything that a crash can meet: text in pieces, siblings, steps, a nested workflow, a question.

The input is `NAME KIND`, and KIND is `work`, `nested`, `ask` or `fail`. Every side effect is a line in the file `NAME`
of the folder that `TRACES` names. The answer is the names of all turns that led there, so a turn that was lost,
repeated or mixed up shows in every later one.
"""

import asyncio
import os
from dataclasses import dataclass
from typing import Never

from agent_host import (
    Executor,
    TextDelta,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    handler,
    response_handler,
)

PAUSE = float(os.environ.get("PAUSE", "0.03"))
"""Seconds; long enough for events to be written meanwhile."""


@dataclass(frozen=True)
class Job:
    """What travels: the turn's name and kind, and the names of the turns until now."""

    name: str
    kind: str
    names: tuple[str, ...]


def note(job: Job, effect: str) -> str:
    """The side effect: a line in a file, whole or not at all."""
    file = os.open(os.path.join(os.environ["TRACES"], job.name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, f"{effect}\n".encode())
    finally:
        os.close(file)
    return effect


class Begin(Executor):
    def __init__(self) -> None:
        super().__init__("begin")
        self.pages: list[str] = []  # so long that each is a blob

    @handler
    async def begin(self, text: str, ctx: WorkflowContext[Job, str]) -> None:
        name, kind = text.split("\n")[-1].split()
        self.pages.append(f"{name} " * 200)
        job = Job(name, kind, tuple(page.partition(" ")[0] for page in self.pages))
        note(job, "begin")
        await ctx.yield_output(TextDelta("to be "))
        await asyncio.sleep(PAUSE)
        await ctx.yield_output(TextDelta("or not"))
        await ctx.send_message(job)


class Left(Executor, shared=True):
    @handler
    async def work(self, job: Job, ctx: WorkflowContext[Job]) -> None:
        await ctx.step("left step", note, job, "left step")
        await asyncio.sleep(PAUSE)
        await ctx.send_message(job)
        note(job, "left")


class Right(Executor, shared=True):
    @handler
    async def work(self, job: Job, ctx: WorkflowContext[Job]) -> None:
        await ctx.step("right step", note, job, "right step")
        await ctx.send_message(job)
        note(job, "right")


class Join(Executor, shared=True):
    @handler
    async def join(self, jobs: list[Job], ctx: WorkflowContext[Job, str]) -> None:
        job = jobs[0]
        note(job, "join")
        await ctx.yield_output("joined")
        if job.kind == "fail":
            raise ValueError("told to fail")
        if job.kind == "ask":
            await ctx.request_info(job, str)
        else:
            await ctx.send_message(job, "nested" if job.kind == "nested" else "end")

    @response_handler
    async def learn(self, job: Job, answer: str, ctx: WorkflowContext[Job, str]) -> None:
        note(job, f"learn {answer}")
        await ctx.yield_output(TextDelta("learnt "))
        await asyncio.sleep(PAUSE)
        await ctx.send_message(Job(job.name, answer, job.names), "end")


class Inner(Executor, shared=True):
    @handler
    async def work(self, job: Job, ctx: WorkflowContext[Job]) -> None:
        note(job, self.id)
        await ctx.send_message(job)


class Outer(Executor, shared=True):
    @handler
    async def work(self, job: Job, ctx: WorkflowContext[Never, Job]) -> None:
        await asyncio.sleep(PAUSE)
        note(job, self.id)
        await ctx.yield_output(job)


class End(Executor, shared=True):
    @handler
    async def end(self, job: Job, ctx: WorkflowContext[Never, str]) -> None:
        note(job, "end")
        await ctx.yield_output(TextDelta(f"{job.names[0]}"))
        await asyncio.sleep(PAUSE)
        await ctx.yield_output(TextDelta("".join(f" {name}" for name in job.names[1:])))


inner, outer = Inner("inner"), Outer("outer")
nested = WorkflowExecutor(WorkflowBuilder(start_executor=inner).add_edge(inner, outer).build(), "nested")
begin, left, right, join, end = Begin(), Left("left"), Right("right"), Join("join"), End("end")
workflow = (
    WorkflowBuilder(start_executor=begin, name="working", output_from=[begin, join, end])
    .add_fan_out_edges(begin, [left, right])
    .add_fan_in_edges([left, right], join)
    .add_edge(join, end)
    .add_edge(join, nested)
    .add_edge(nested, end)
    .build()
)
