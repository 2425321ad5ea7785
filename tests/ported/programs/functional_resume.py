"""A workflow function with checkpoints: in a new process it goes on behind the last step that was recorded."""

from typing import Any

from agent_host import CheckpointStorage, RunContext, step, workflow

DONE: list[str] = []


@step
async def knead(flour: str) -> str:
    DONE.append(f"knead {flour}")
    return f"{flour} dough"


@step
async def bake(dough: str) -> str:
    DONE.append(f"bake {dough}")
    return f"bread of {dough}"


@workflow(name="bakery")
async def bakery(flour: str, ctx: RunContext) -> str:
    dough = await knead(flour)
    salt = await ctx.request_info(f"How much salt for the {dough}?", str, request_id="salt")
    return await bake(f"{dough} with {salt}")


async def main(storage: CheckpointStorage) -> Any:
    DONE.clear()
    asked = await bakery.build(checkpoint_storage=storage).run("rye")
    paused = await storage.get_latest(workflow_name="bakery")
    assert paused is not None
    again = await bakery.build(checkpoint_storage=storage).run(checkpoint_id=paused.checkpoint_id)
    baked = await bakery.build(checkpoint_storage=storage).run(
        checkpoint_id=paused.checkpoint_id, responses={"salt": "a pinch"}
    )
    results = [asked, again, baked]
    return {
        "asked": [[event.data for event in result.get_request_info_events()] for result in results],
        "outputs": [result.get_outputs() for result in results],
        "ends": [result.get_final_state().value for result in results],
        "done": list(DONE),
    }
