"""Some of several ways, chosen per message; what a way takes long for is read from shared state, not sent along."""

from dataclasses import dataclass
from typing import Any, Never

from agent_host import WorkflowBuilder, WorkflowContext, executor

LONG = 40


@dataclass
class Triage:
    report: str
    kind: str
    length: int
    summary: str = ""


@executor
async def file_report(text: str, ctx: WorkflowContext[str]) -> None:
    number = f"report-{1 + len(ctx.get_state('numbers', []))}"
    ctx.set_state("numbers", [*ctx.get_state("numbers", []), number])
    ctx.set_state(number, text)
    await ctx.send_message(number)


@executor
async def triage(number: str, ctx: WorkflowContext[Triage]) -> None:
    text: str = ctx.get_state(number)
    kind = "praise" if "thank" in text else "defect" if "broken" in text else "unclear"
    await ctx.send_message(Triage(number, kind, len(text)))


@executor
async def thank(found: Triage, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{found.report}: thanks passed on")


@executor
async def repair(found: Triage, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{found.report}: repair ordered")


@executor
async def summarize(found: Triage, ctx: WorkflowContext[Triage]) -> None:
    first, _, _ = ctx.get_state(found.report).partition(",")
    await ctx.send_message(Triage(found.report, found.kind, found.length, summary=first))


@executor
async def ask_back(found: Triage, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{found.report}: what is meant by {ctx.get_state(found.report)!r}?")


@executor
async def archive(found: Triage, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{found.report}: archived as {found.summary or 'a whole'}")


def ways(found: Triage, ids: list[str]) -> list[str]:
    to_thank, to_repair, to_summarize, to_ask = ids
    if found.kind == "praise":
        return [to_thank]
    if found.kind == "defect":
        return [to_repair, to_summarize] if found.length > LONG else [to_repair]
    return [to_ask]


async def main() -> Any:
    builder = WorkflowBuilder(start_executor=file_report).add_edge(file_report, triage)
    builder.add_multi_selection_edge_group(triage, [thank, repair, summarize, ask_back], selection_func=ways)
    builder.add_edge(triage, archive, condition=lambda found: found.length <= LONG)
    builder.add_edge(summarize, archive)
    workflow = builder.build()
    reports = ["many thanks", "broken handle", "the lid is broken, it came off on the second day", "hm"]
    return {"outputs": [sorted((await workflow.run(report)).get_outputs()) for report in reports]}
