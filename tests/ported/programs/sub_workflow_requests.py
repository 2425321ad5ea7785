"""A workflow inside another asks for different things at once; two executors around it answer what they can.

What neither can answer they ask the outside, and pass the answer on when it comes.
"""

from dataclasses import dataclass, field
from typing import Any, Never

from agent_host import (
    Executor,
    SubWorkflowRequestMessage,
    SubWorkflowResponseMessage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    WorkflowExecutor,
    handler,
    response_handler,
)


@dataclass
class Loan:
    """Asks for a thing to be lent."""

    thing: str
    pieces: int


@dataclass
class Lent:
    thing: str
    pieces: int
    lender: str


@dataclass
class Permit:
    """Asks whether something may be done."""

    deed: str


@dataclass
class Permitted:
    deed: str
    allowed: bool


@dataclass
class Feast:
    loans: list[Loan]
    permits: list[Permit] = field(default_factory=list)


class Committee(Executor):
    @handler
    async def prepare(self, feast: Feast, ctx: WorkflowContext[Loan | Permit | int]) -> None:
        await ctx.send_message(len(feast.loans) + len(feast.permits))
        for loan in feast.loans:
            await ctx.send_message(loan)
        for permit in feast.permits:
            await ctx.send_message(permit)


class Borrower(Executor):
    @handler
    async def borrow(self, loan: Loan, ctx: WorkflowContext) -> None:
        await ctx.request_info(loan, Lent)

    @response_handler
    async def take(self, loan: Loan, lent: Lent, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"{lent.pieces} {loan.thing} of the {lent.lender}")


class Clerk(Executor):
    @handler
    async def apply(self, permit: Permit, ctx: WorkflowContext) -> None:
        await ctx.request_info(permit, Permitted)

    @response_handler
    async def take(self, permit: Permit, permitted: Permitted, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"{permit.deed} {'allowed' if permitted.allowed else 'forbidden'}")


class List(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.expected = 0
        self.lines: list[str] = []

    @handler
    async def expect(self, count: int, ctx: WorkflowContext) -> None:
        self.expected = count

    @handler
    async def tick(self, line: str, ctx: WorkflowContext[Never, list[str]]) -> None:
        self.lines.append(line)
        if len(self.lines) == self.expected:
            await ctx.yield_output(sorted(self.lines))


def feast() -> Workflow:
    committee, borrower, clerk, ticked = Committee("committee"), Borrower("borrower"), Clerk("clerk"), List("list")
    builder = WorkflowBuilder(start_executor=committee).add_edge(committee, borrower).add_edge(committee, clerk)
    return builder.add_edge(committee, ticked).add_edge(borrower, ticked).add_edge(clerk, ticked).build()


class Store(Executor):
    """Lends what it has."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.stock = {"tables": 4, "lamps": 20}
        self.passed_on: dict[str, WorkflowEvent] = {}

    @handler
    async def look(self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]) -> None:
        loan = request.source_event.data
        if not isinstance(loan, Loan):
            return
        if self.stock.get(loan.thing, 0) >= loan.pieces:
            self.stock[loan.thing] -= loan.pieces
            await ctx.send_message(request.create_response(Lent(loan.thing, loan.pieces, "store")))
        else:
            self.passed_on[loan.thing] = request.source_event
            await ctx.request_info(loan, Lent)

    @response_handler
    async def deliver(self, loan: Loan, lent: Lent, ctx: WorkflowContext[SubWorkflowResponseMessage]) -> None:
        asked = self.passed_on.pop(loan.thing)
        await ctx.send_message(SubWorkflowResponseMessage(data=lent, source_event=asked))


class Mayor(Executor):
    """Allows what is harmless, and asks about the rest."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.passed_on: dict[str, SubWorkflowRequestMessage] = {}

    @handler
    async def judge(self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]) -> None:
        permit = request.source_event.data
        if not isinstance(permit, Permit):
            return
        if permit.deed in ("dancing", "singing"):
            await ctx.send_message(request.create_response(Permitted(permit.deed, True)))
        else:
            self.passed_on[permit.deed] = request
            await ctx.request_info(permit, Permitted)

    @response_handler
    async def decide(
        self, permit: Permit, permitted: Permitted, ctx: WorkflowContext[SubWorkflowResponseMessage]
    ) -> None:
        await ctx.send_message(self.passed_on.pop(permit.deed).create_response(permitted))


async def main() -> Any:
    store, mayor = Store("store"), Mayor("mayor")
    inner = WorkflowExecutor(feast(), "feast", allow_direct_output=True)
    builder = WorkflowBuilder(start_executor=inner).add_edge(inner, store).add_edge(store, inner)
    workflow = builder.add_edge(inner, mayor).add_edge(mayor, inner).build()
    loans = [Loan("tables", 3), Loan("lamps", 5), Loan("tents", 1)]
    asked = await workflow.run(Feast(loans, [Permit("dancing"), Permit("fireworks")]))
    answers: dict[str, Any] = {}
    for event in asked.get_request_info_events():
        if isinstance(event.data, Loan):
            answers[event.request_id] = Lent(event.data.thing, event.data.pieces, "circus")
        else:
            answers[event.request_id] = Permitted(event.data.deed, False)
    done = await workflow.run(responses=answers)
    return {
        "asked": sorted([event.source_executor_id, str(event.data)] for event in asked.get_request_info_events()),
        "outputs": [asked.get_outputs(), done.get_outputs()],
        "ends": [asked.get_final_state().value, done.get_final_state().value],
    }
