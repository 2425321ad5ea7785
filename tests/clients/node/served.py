"""The workflow that the Node clients talk to: it repeats what it was given, or does what the last text begins with."""

import asyncio
from typing import Never

from agent_host import Executor, Message, TextDelta, WorkflowBuilder, WorkflowContext, handler, response_handler


class Think(Executor):
    """Says on the way what it is about to do, if it is told to think."""

    @handler
    async def think(self, said: list[Message], ctx: WorkflowContext[list[Message], str]) -> None:
        if said[-1].text.startswith("think"):
            await ctx.yield_output("a plain thought")
        await ctx.send_message(said)


class Answer(Executor):
    def __init__(self) -> None:
        super().__init__("answer")
        self.turns = 0

    @handler
    async def hear(self, said: list[Message], ctx: WorkflowContext[Never, str]) -> None:
        self.turns += 1
        command, _, rest = said[-1].text.partition(" ")
        if command == "fail":
            raise ValueError("the kettle is empty")
        if command == "ask":
            for question in rest.split("|"):
                await ctx.request_info(question, str)
        elif command == "count":
            for number in range(int(rest)):
                await asyncio.sleep(0.01)
                await ctx.yield_output(TextDelta(f"{number} "))
        elif command == "wait":
            await ctx.yield_output(TextDelta("waiting"))
            await asyncio.Event().wait()
        else:
            given = ", ".join(f"{message.role} {message.text}" for message in said)
            await ctx.yield_output(f"{self.turns}: {given}")

    @response_handler
    async def answered(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{question} {answer}, turn {self.turns}")


think, answer = Think("think"), Answer()
workflow = (
    WorkflowBuilder(start_executor=think, name="served", output_from=[answer], intermediate_output_from=[think])
    .add_edge(think, answer)
    .build()
)
