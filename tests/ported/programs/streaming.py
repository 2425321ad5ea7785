"""Reading a run while it happens: who works when, what comes out, and the states the run goes through."""

from typing import Any, Never

from agent_host import WorkflowBuilder, WorkflowContext, executor


@executor
async def count_words(text: str, ctx: WorkflowContext[int]) -> None:
    await ctx.send_message(len(text.split()))


@executor
async def estimate(words: int, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{words} words")
    await ctx.yield_output(f"{words / 200:.2f} minutes")


async def main() -> Any:
    workflow = WorkflowBuilder(start_executor=count_words).add_edge(count_words, estimate).build()
    stream = workflow.run("how long does this take to read", stream=True)
    events = [event async for event in stream]
    result = await stream.get_final_response()
    return {
        "work": [[event.type, event.executor_id] for event in events if event.type.startswith("executor_")],
        "outputs": [[event.executor_id, event.data] for event in events if event.type == "output"],
        "supersteps": [event.iteration for event in events if event.type == "superstep_completed"],
        "states": [event.state.value for event in events if event.type == "status" and event.state],
        "the same at the end": result.get_outputs() == [event.data for event in events if event.type == "output"],
    }
