"""Two executors ask at the same time; the answers come one by one, and what is still open stays open."""

from dataclasses import dataclass
from typing import Any, Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, response_handler


@dataclass
class Proposal:
    about: str
    euros: int


@dataclass
class Decision:
    granted: bool
    remark: str = ""


class Applicant(Executor):
    @handler
    async def apply(self, plan: dict[str, int], ctx: WorkflowContext[Proposal]) -> None:
        for about, euros in plan.items():
            await ctx.send_message(Proposal(about, euros), target_id=about)


class Office(Executor):
    @handler
    async def submit(self, proposal: Proposal, ctx: WorkflowContext) -> None:
        ctx.set_state(f"asked by {self.id}", proposal.euros)
        await ctx.request_info(proposal, Decision)

    @response_handler
    async def take(self, proposal: Proposal, decision: Decision, ctx: WorkflowContext[str]) -> None:
        asked = ctx.get_state(f"asked by {self.id}")
        said = "granted" if decision.granted else f"refused ({decision.remark})"
        await ctx.send_message(f"{proposal.about} {asked} {said}")


class Minutes(Executor):
    @handler
    async def write(self, lines: list[str], ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output("; ".join(lines))


async def main() -> Any:
    applicant, minutes = Applicant("applicant"), Minutes("minutes")
    offices: list[Executor] = [Office("roof"), Office("garden")]
    builder = WorkflowBuilder(start_executor=applicant).add_fan_out_edges(applicant, offices)
    workflow = builder.add_fan_in_edges(offices, minutes).build()
    asked = await workflow.run({"roof": 900, "garden": 50})
    ids = {event.data.about: event.request_id for event in asked.get_request_info_events()}
    first = await workflow.run(responses={ids["garden"]: Decision(False, "too late")})
    second = await workflow.run(responses={ids["roof"]: Decision(True)})
    return {
        "asked": sorted([event.data.about, event.data.euros] for event in asked.get_request_info_events()),
        "ends": [result.get_final_state().value for result in (asked, first, second)],
        "outputs": [result.get_outputs() for result in (asked, first, second)],
    }
