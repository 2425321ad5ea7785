"""A workflow with memory: it tells what it was told, asks when it is told to, and can take its time."""

import asyncio
from typing import Never

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, executor, handler, response_handler
from agent_host.engine.workflow import Workflow


class Notes(Executor):
    """Remembers what it is told. `ask` makes it ask, and `tick N S` take N supersteps of S seconds each."""

    def __init__(self) -> None:
        super().__init__("notes")
        self.told: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[int, str | TextDelta]) -> None:
        self.told.append(text)
        if text == "ask":
            await ctx.request_info("sure?", str)
        elif text.startswith("tick "):
            await ctx.send_message(int(text.split()[1]))
        else:
            await ctx.yield_output(", ".join(self.told))

    @handler
    async def tick(self, left: int, ctx: WorkflowContext[int, str | TextDelta]) -> None:
        await ctx.yield_output(TextDelta(f"{left} "))
        await asyncio.sleep(float(self.told[-1].split()[2]))
        if left:
            await ctx.send_message(left - 1)

    @response_handler
    async def answered(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        self.told.append(answer)
        await ctx.yield_output(", ".join(self.told))


@executor
async def relay(left: int, ctx: WorkflowContext[int]) -> None:
    await ctx.send_message(left)


def made() -> Workflow:
    """The workflow."""
    notes = Notes()
    return (
        WorkflowBuilder(start_executor=notes, name="desk", output_from=[notes])
        .add_edge(notes, relay)
        .add_edge(relay, notes)
        .build()
    )


workflow = made()
