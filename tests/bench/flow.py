"""The work that is measured: three executors, the middle one keeps a history.

`workflow` keeps it as state, `hooked` through save and restore hooks, and `slow` keeps its callers waiting.
"""

import asyncio
from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler


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


class HookedMemory(Memory):
    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"history": self.history}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.history = state["history"]


class Answer(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(text)


class SlowAnswer(Executor):
    @handler
    async def run(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await asyncio.sleep(6)
        await ctx.yield_output(text)


def build(memory: Memory, answer: Executor) -> Workflow:
    first = Normalise("normalise")
    return (
        WorkflowBuilder(start_executor=first, name="bench")
        .add_edge(first, memory)
        .add_edge(memory, answer)
        .build()
    )  # fmt: skip


workflow = build(Memory("memory"), Answer("answer"))
hooked = build(HookedMemory("memory"), Answer("answer"))
slow = build(Memory("memory"), SlowAnswer("answer"))
