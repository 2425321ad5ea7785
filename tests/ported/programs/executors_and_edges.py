"""The two ways to write an executor, in a chain: a class with a handler, and a function."""

from typing import Any, Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, executor, handler


class Trim(Executor):
    @handler
    async def trim(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(" ".join(text.split()))


@executor(id="title")
async def title(text: str, ctx: WorkflowContext[str]) -> None:
    await ctx.send_message(text.title())


@executor
async def underline(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{text}\n{'=' * len(text)}")


async def main() -> Any:
    trim = Trim(id="trim")
    workflow = WorkflowBuilder(start_executor=trim).add_chain([trim, title, underline]).build()
    result = await workflow.run("  a   short  report ")
    return {"outputs": result.get_outputs(), "ends": result.get_final_state().value}
