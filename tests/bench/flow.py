"""The work that is measured: three executors, the middle one keeps a history."""

from typing import Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler


class Normalise(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text.strip())


class Memory(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.history: list[str] = []

    @handler
    async def run(self, text: str, ctx: WorkflowContext[str]) -> None:
        self.history.append(text)
        await ctx.send_message(f"turn {len(self.history)}: {text}")


class Answer(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(text)


workflow = (
    WorkflowBuilder(start_executor=(normalise := Normalise("normalise")), name="bench")
    .add_edge(normalise, memory := Memory("memory"))
    .add_edge(memory, Answer("answer"))
    .build()
)
