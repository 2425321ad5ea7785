"""One of two workers fails; the same workflow goes on from the last checkpoint and comes to its end."""

from typing import Any, Never

from agent_host import CheckpointStorage, Executor, WorkflowBuilder, WorkflowContext, handler

BROKEN: set[str] = set()


class Foreman(Executor):
    @handler
    async def assign(self, fields: list[str], ctx: WorkflowContext[list[str]]) -> None:
        ctx.set_state("fields", fields)
        await ctx.send_message(fields[::2], target_id="tractor-0")
        await ctx.send_message(fields[1::2], target_id="tractor-1")


class Tractor(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.ploughed: list[str] = []

    @handler
    async def plough(self, fields: list[str], ctx: WorkflowContext[list[str]]) -> None:
        for field in fields:
            if field in BROKEN:
                raise ConnectionError(f"stuck in {field}")
            self.ploughed.append(field)
        await ctx.send_message(self.ploughed)

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"ploughed": self.ploughed}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.ploughed = state.get("ploughed", [])


class Ledger(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.done: list[str] = []

    @handler
    async def enter(self, fields: list[str], ctx: WorkflowContext[Never, str]) -> None:
        twice = set(fields) & set(self.done)
        if twice:
            raise ValueError(f"{twice} is entered already")
        self.done += fields
        if sorted(self.done) == sorted(ctx.get_state("fields")):
            await ctx.yield_output(f"all {len(self.done)} fields: {', '.join(sorted(self.done))}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"done": self.done}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.done = state.get("done", [])


async def main(storage: CheckpointStorage) -> Any:
    foreman, ledger = Foreman("foreman"), Ledger("ledger")
    builder = WorkflowBuilder(start_executor=foreman, name="ploughing", checkpoint_storage=storage)
    for tractor in (Tractor("tractor-0"), Tractor("tractor-1")):
        builder.add_edge(foreman, tractor).add_edge(tractor, ledger)
    workflow = builder.build()
    BROKEN.add("marsh")
    failures: list[Any] = []
    outputs, states = [], []
    try:
        async for event in workflow.run(["hill", "dale", "moor", "marsh", "heath"], stream=True):
            if event.type == "status" and event.state:
                states.append(event.state.value)
            if event.type == "executor_failed" and event.details:
                failures.append([event.executor_id, event.details.error_type])
    except ConnectionError as error:
        failures.append(str(error))
    BROKEN.clear()
    latest = await storage.get_latest(workflow_name="ploughing")
    assert latest is not None
    async for event in workflow.run(checkpoint_id=latest.checkpoint_id, stream=True):
        if event.type == "output":
            outputs.append(event.data)
    return {"failures": failures, "states": states, "outputs": outputs}
