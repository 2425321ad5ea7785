"""A workflow that asks leave for what it does."""

from typing import Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, response_handler
from agent_host.messages import ApprovalRequest


class Refund(Executor):
    @handler
    async def ask(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.request_info(ApprovalRequest("refund", {"amount": 5}), bool)

    @response_handler
    async def decided(self, request: ApprovalRequest, yes: bool, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output("refunded" if yes else "not refunded")


workflow = WorkflowBuilder(start_executor=Refund("refund"), name="approving").build()
