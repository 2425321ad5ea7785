"""Watching what goes into every executor and what comes out of it, without touching one."""

from typing import Any, Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler


class Words(Executor):
    @handler
    async def split(self, text: str, ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message(text.split())


class Acronym(Executor):
    @handler
    async def shorten(self, words: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.send_message("".join(word[0] for word in words).upper())
        await ctx.yield_output(f"{len(words)} words")


class Shout(Executor):
    @handler
    async def shout(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{text}!")


async def main() -> Any:
    words, acronym, shout = Words("words"), Acronym("acronym"), Shout("shout")
    workflow = WorkflowBuilder(start_executor=words).add_chain([words, acronym, shout]).build()
    seen = []
    async for event in workflow.run("save our ship", stream=True):
        if event.type in ("executor_invoked", "executor_completed"):
            seen.append([event.type, event.executor_id, event.data])
    return {"seen": seen}
