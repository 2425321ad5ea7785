"""Types given to the decorators instead of annotations."""

from typing import Any

from agent_host import Executor, WorkflowBuilder, WorkflowContext, executor, handler


class Parse(Executor):
    @handler(input=str, output=int)
    async def parse(self, text, ctx) -> None:
        for word in text.split():
            await ctx.send_message(int(word))


class Describe(Executor):
    @handler
    async def describe(self, number: int, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"{number} is {'odd' if number % 2 else 'even'}")


@executor(id="say", input=str, workflow_output=str)
async def say(text, ctx: WorkflowContext) -> None:
    await ctx.yield_output(text)


async def main() -> Any:
    parse, describe = Parse("parse"), Describe("describe")
    workflow = WorkflowBuilder(start_executor=parse).add_edge(parse, describe).add_edge(describe, say).build()
    result = await workflow.run("3 8 12")
    return {"outputs": result.get_outputs()}
