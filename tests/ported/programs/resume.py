"""From every checkpoint of a finished run a new workflow comes to the same end, the later the sooner."""

from dataclasses import dataclass
from typing import Any

from agent_host import CheckpointStorage, Executor, Workflow, WorkflowBuilder, WorkflowContext, handler


@dataclass
class Walk:
    """A way of steps on a grid, not all of them taken yet."""

    left: str


class Guide(Executor):
    @handler
    async def begin(self, steps: str, ctx: WorkflowContext[Walk]) -> None:
        ctx.set_state("steps", len(steps))
        await ctx.send_message(Walk(steps))


class Walker(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.at = (0, 0)
        self.visits: dict[tuple[int, int], int] = {(0, 0): 1}

    @handler
    async def walk(self, walk: Walk, ctx: WorkflowContext[Walk, str]) -> None:
        east, north = {"e": (1, 0), "w": (-1, 0), "n": (0, 1), "s": (0, -1)}[walk.left[0]]
        self.at = (self.at[0] + east, self.at[1] + north)
        self.visits[self.at] = self.visits.get(self.at, 0) + 1
        if walk.left[1:]:
            await ctx.send_message(Walk(walk.left[1:]))
        else:
            twice = sorted(place for place, visits in self.visits.items() if visits > 1)
            await ctx.yield_output(f"at {self.at} after {ctx.get_state('steps')} steps, more than once at {twice}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"at": self.at, "visits": self.visits}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.at = state.get("at", (0, 0))
        self.visits = state.get("visits", {(0, 0): 1})


def build(storage: CheckpointStorage) -> Workflow:
    guide, walker = Guide("guide"), Walker("walker")
    builder = WorkflowBuilder(start_executor=guide, name="walk", checkpoint_storage=storage)
    return builder.add_edge(guide, walker).add_edge(walker, walker).build()


async def main(storage: CheckpointStorage) -> Any:
    whole = await build(storage).run("nnesswn")
    calls, ends = [], []
    for checkpoint in await storage.list_checkpoints(workflow_name="walk"):
        if checkpoint.messages:
            result = await build(storage).run(checkpoint_id=checkpoint.checkpoint_id)
            calls.append(sum(event.type == "executor_completed" for event in result))
            ends.append(result.get_outputs())
    same = all(end == whole.get_outputs() for end in ends)
    return {"outputs": whole.get_outputs(), "calls left": sorted(calls), "the same end each time": same}
