"""Some executors give the answer, some comment on the way, and some are not heard at all."""

from typing import Any, Literal

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, executor

Designation = Literal["all", "all_other"]


def build(answer_only: bool = False, comments: Designation | list[str] | None = None) -> Workflow:
    @executor
    async def plan(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"plan for {text}")
        await ctx.send_message(text)

    @executor
    async def research(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"notes on {text}")
        await ctx.send_message(text)

    @executor
    async def answer(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"all about {text}")

    by_name = {"plan": plan, "research": research}
    middle: Any = [by_name[name] for name in comments] if isinstance(comments, list) else comments
    builder = WorkflowBuilder(
        start_executor=plan, output_from=[answer] if answer_only else None, intermediate_output_from=middle
    )
    return builder.add_chain([plan, research, answer]).build()


async def main() -> Any:
    said = {}
    for name, workflow in {
        "nothing designated": build(),
        "one answers": build(answer_only=True),
        "one answers, all others comment": build(answer_only=True, comments="all_other"),
        "one answers, one comments": build(answer_only=True, comments=["research"]),
    }.items():
        result = await workflow.run("tides")
        said[name] = {"outputs": result.get_outputs(), "comments": result.get_intermediate_outputs()}
    return said
