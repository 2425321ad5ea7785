"""Two executors that answer one another until one is content: bisection, told by an enumeration."""

from enum import Enum
from typing import Any

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler


class Verdict(Enum):
    BEGIN = "begin"
    TOO_LOW = "too low"
    TOO_HIGH = "too high"
    RIGHT = "right"


class Seeker(Executor):
    def __init__(self, id: str, low: int, high: int) -> None:
        super().__init__(id)
        self.low, self.high, self.tried = low, high, 0

    @handler
    async def seek(self, verdict: Verdict, ctx: WorkflowContext[int, str]) -> None:
        if verdict is Verdict.RIGHT:
            await ctx.yield_output(f"found {self.tried}")
            return
        if verdict is Verdict.TOO_LOW:
            self.low = self.tried + 1
        elif verdict is Verdict.TOO_HIGH:
            self.high = self.tried - 1
        self.tried = (self.low + self.high) // 2
        await ctx.send_message(self.tried)


class Oracle(Executor):
    def __init__(self, id: str, secret: int) -> None:
        super().__init__(id)
        self.secret = secret

    @handler
    async def judge(self, tried: int, ctx: WorkflowContext[Verdict]) -> None:
        if tried == self.secret:
            await ctx.send_message(Verdict.RIGHT)
        else:
            await ctx.send_message(Verdict.TOO_LOW if tried < self.secret else Verdict.TOO_HIGH)


async def main() -> Any:
    seeker, oracle = Seeker("seeker", 0, 63), Oracle("oracle", 41)
    workflow = WorkflowBuilder(start_executor=seeker).add_edge(seeker, oracle).add_edge(oracle, seeker).build()
    rounds, outputs = 0, []
    async for event in workflow.run(Verdict.BEGIN, stream=True):
        if event.type == "executor_completed" and event.executor_id == "oracle":
            rounds += 1
        elif event.type == "output":
            outputs.append(event.data)
    return {"outputs": outputs, "rounds": rounds, "the seeker shows": [seeker.low, seeker.high, seeker.tried]}
