"""A run with a fan-out, a fan-in, shared state and a loop; the process may die after any of its boundaries.

`begin STORE WHEN NUMBER` runs it until the process dies before or after that commit, `resume STORE...` goes on. Both
print what they hear as JSON lines.
"""

import asyncio
import json
import os
import sys
from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler, open_store
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage


class Begin(Executor):
    def __init__(self) -> None:
        super().__init__("begin")
        self.rounds: list[int] = []

    @handler
    async def begin(self, number: int, ctx: WorkflowContext[int, str]) -> None:
        self.rounds.append(number)
        ctx.set_state("rounds", [*ctx.get_state("rounds", []), number])
        await ctx.yield_output(f"round {number}")
        await ctx.send_message(number)


class Work(Executor):
    def __init__(self, id: str, factor: int) -> None:
        super().__init__(id)
        self.factor = factor
        self.total = 0

    @handler
    async def work(self, number: int, ctx: WorkflowContext[int]) -> None:
        self.total += number * self.factor
        ctx.set_state(self.id, self.total)
        await ctx.send_message(self.total)


class Join(Executor):
    def __init__(self) -> None:
        super().__init__("join")
        self.seen: list[list[int]] = []

    @handler
    async def join(self, totals: list[int], ctx: WorkflowContext[int, str]) -> None:
        self.seen.append(totals)
        await ctx.yield_output(f"totals {totals} of {ctx.get_state('rounds')}")
        if len(self.seen) < 3:
            await ctx.send_message(len(self.seen) + 1, "begin")
        else:
            await ctx.send_message(len(self.seen), "end")


class End(Executor):
    @handler
    async def end(self, rounds: int, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{rounds} rounds, {ctx.get_state('left')}, {ctx.get_state('right')}")


def counting() -> Workflow:
    begin, left, right, join, end = Begin(), Work("left", 1), Work("right", 10), Join(), End("end")
    return (
        WorkflowBuilder(start_executor=begin, name="counting", output_from=[begin, join, end])
        .add_fan_out_edges(begin, [left, right])
        .add_fan_in_edges([left, right], join)
        .add_edge(join, begin)
        .add_edge(join, end)
        .build()
    )


class Mortal:
    """A commit log that lets the process die around its nth commit: just before it, or right after it."""

    def __init__(self, log: Any, when: str, number: int) -> None:
        self._log = log
        self._when = when
        self._number = number
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def commit(self, *arguments: Any) -> None:
        self.count += 1
        for _ in range(10):
            await asyncio.sleep(0)  # whoever listens hears what has been told so far
        self._die_if("before")
        await self._log.commit(*arguments)
        self._die_if("after")

    def _die_if(self, when: str) -> None:
        if (when, self.count) == (self._when, self._number):
            sys.stdout.flush()
            os._exit(9)


async def run(url: str, when: str, number: int, message: list[int]) -> None:
    """Run to the end, or to the death of the process; print every output when it is heard, and the final state."""
    store = open_store(url)
    await store.open()
    log = Mortal(store.commit_log(), when, number)
    storage = CheckpointStorage(log)
    stream = counting().run(*message, stream=True, session_id="s", checkpoint_storage=storage, durability="step")
    async for event in stream:
        if event.type == "output":
            print(json.dumps({"output": event.data}))
    head = await storage.get_latest(workflow_name="counting", session_id="s")
    assert head is not None
    state = [head.state, head.executor_states, head.messages, head.waiting_in_joins]
    print(json.dumps({"state": repr(state), "commits": log.count}))
    await store.aclose()


async def main(command: str, *arguments: str) -> None:
    if command == "begin":
        url, when, number = arguments
        await run(url, when, int(number), [1])
    else:
        for url in arguments:
            await run(url, "never", 0, [])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
