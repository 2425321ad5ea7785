"""A program that is stopped after every superstep, and each time goes on in a new one from the last checkpoint."""

from dataclasses import dataclass
from typing import Any

from agent_host import CheckpointStorage, Executor, Workflow, WorkflowBuilder, WorkflowContext, handler


@dataclass
class Task:
    """The numbers that are still to be looked at."""

    left: list[int]


class Plan(Executor):
    @handler
    async def plan(self, limit: int, ctx: WorkflowContext[Task]) -> None:
        await ctx.send_message(Task(list(range(2, limit + 1))))


class Sieve(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.primes: list[int] = []
        self.multiples: dict[int, list[tuple[int, int]]] = {}

    @handler
    async def sieve(self, task: Task, ctx: WorkflowContext[Task, dict[str, Any]]) -> None:
        number = task.left.pop(0)
        divisors = [(prime, number // prime) for prime in self.primes if number % prime == 0]
        if divisors:
            self.multiples[number] = divisors
        else:
            self.primes.append(number)
        if task.left:
            await ctx.send_message(task)
        else:
            await ctx.yield_output({"primes": self.primes, "multiples": sorted(self.multiples)})

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"primes": self.primes, "multiples": self.multiples}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.primes = state.get("primes", [])
        self.multiples = state.get("multiples", {})


def build(storage: CheckpointStorage) -> Workflow:
    plan, sieve = Plan("plan"), Sieve("sieve")
    builder = WorkflowBuilder(start_executor=plan, name="primes", checkpoint_storage=storage)
    return builder.add_edge(plan, sieve).add_edge(sieve, sieve).build()


async def main(storage: CheckpointStorage) -> Any:
    stream = build(storage).run(12, stream=True)
    for starts in range(1, 20):
        async for event in stream:
            if event.type == "output":
                return {"output": event.data, "starts": starts}
            if event.type == "superstep_completed":
                break
        latest = await storage.get_latest(workflow_name="primes")
        assert latest is not None
        stream = build(storage).run(checkpoint_id=latest.checkpoint_id, stream=True)
    return {"output": "lost"}
