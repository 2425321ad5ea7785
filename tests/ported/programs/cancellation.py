"""A run that is cancelled in its second step, and one that nobody cancels."""

import asyncio
from typing import Any, Never

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, executor


def build(log: list[str], reached: asyncio.Event, go_on: asyncio.Event) -> Workflow:
    @executor
    async def mix(text: str, ctx: WorkflowContext[str]) -> None:
        log.append("mixed")
        await ctx.send_message(f"{text} dough")

    @executor
    async def bake(text: str, ctx: WorkflowContext[str]) -> None:
        log.append("in the oven")
        reached.set()
        await go_on.wait()
        log.append("baked")
        await ctx.send_message(f"baked {text}")

    @executor
    async def serve(text: str, ctx: WorkflowContext[Never, str]) -> None:
        log.append("served")
        await ctx.yield_output(text)

    return WorkflowBuilder(start_executor=mix).add_chain([mix, bake, serve]).build()


async def main() -> Any:
    log: list[str] = []
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def cook() -> Any:
        return await build(log, reached, go_on).run("rye")

    task = asyncio.create_task(cook())
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    cancelled, until_then = task.cancelled(), list(log)
    go_on.set()
    result = await build(log, reached, go_on).run("rye")
    return {"cancelled": cancelled, "until then": until_then, "outputs": result.get_outputs()}
