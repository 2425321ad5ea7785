"""A workflow that keeps a history without declaring it. Its threshold and key are given by the environment."""

import os
from typing import Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler


class Remember(Executor):
    def __init__(self) -> None:
        super().__init__("remember")
        self.history: list[str] = []
        self.count = 0
        self.key = os.environ.get("TEST_KEY", "")
        self.threshold = int(os.environ.get("TEST_THRESHOLD", "100"))

    @handler
    async def add(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.history.append(text)
        self.count += 1
        over = " (over)" if self.count > self.threshold else ""
        await ctx.yield_output(f"{self.count}: {' '.join(self.history)}{over}")


workflow = WorkflowBuilder(start_executor=Remember(), name="remember").build()
