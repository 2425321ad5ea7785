"""A conversation that goes on in another process: the checkpoint is restored, then comes the next message."""

from typing import Any

from agent_host import CheckpointStorage, Executor, Workflow, WorkflowBuilder, WorkflowContext, handler


class Diary(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.entries: list[str] = []

    @handler
    async def enter(self, text: str, ctx: WorkflowContext[Any, list[str]]) -> None:
        self.entries.append(text)
        await ctx.yield_output(list(self.entries))

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"entries": list(self.entries)}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.entries = list(state.get("entries", []))


def build(storage: CheckpointStorage) -> Workflow:
    return WorkflowBuilder(start_executor=Diary("diary"), name="diary", checkpoint_storage=storage).build()


async def main(storage: CheckpointStorage) -> Any:
    first = await build(storage).run("rain")
    workflow = build(storage)
    latest = await storage.get_latest(workflow_name="diary")
    assert latest is not None
    restored = await workflow.run(checkpoint_id=latest.checkpoint_id)
    second = await workflow.run("sun")
    third = await workflow.run("wind", stream=True).get_final_response()
    return {"outputs": [result.get_outputs() for result in (first, restored, second, third)]}
