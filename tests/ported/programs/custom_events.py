"""A handler that tells of its progress by an event of its own, in a run that is being read and in one that is not."""

from typing import Any, Never

from agent_host import WorkflowBuilder, WorkflowContext, WorkflowEvent, executor


class Progress(WorkflowEvent):
    """How far the copying is, in percent."""


@executor
async def copy(pages: int, ctx: WorkflowContext[Never, str]) -> None:
    for page in range(1, pages + 1):
        await ctx.add_event(Progress(type="progress", data=100 * page // pages))
    await ctx.yield_output(f"{pages} pages")


async def main() -> Any:
    workflow = WorkflowBuilder(start_executor=copy).build()
    streamed = [event.data async for event in workflow.run(4, stream=True) if isinstance(event, Progress)]
    result = await workflow.run(2)
    kept = [[event.type, event.data] for event in result if isinstance(event, Progress)]
    return {"streamed": streamed, "kept": kept, "outputs": result.get_outputs()}
