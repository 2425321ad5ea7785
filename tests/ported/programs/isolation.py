"""One workflow remembers from run to run; a workflow that is built anew knows nothing of it."""

from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler


class Till(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.sold: list[str] = []

    @handler
    async def sell(self, item: str, ctx: WorkflowContext[int]) -> None:
        self.sold.append(item)
        ctx.set_state("sum", ctx.get_state("sum", 0) + len(item))
        await ctx.send_message(len(self.sold))


class Receipt(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.printed = 0

    @handler
    async def write(self, count: int, ctx: WorkflowContext[Never, str]) -> None:
        self.printed += 1
        await ctx.yield_output(f"receipt {self.printed}: {count} sold for {ctx.get_state('sum')}")


def build() -> Workflow:
    till, receipt = Till("till"), Receipt("receipt")
    return WorkflowBuilder(start_executor=till).add_edge(till, receipt).build()


async def main() -> Any:
    morning, evening = build(), build()
    said = []
    for workflow, item in [(morning, "tea"), (morning, "bread"), (evening, "wine"), (morning, "eggs")]:
        said += (await workflow.run(item)).get_outputs()
    return {"outputs": said}
