"""The questions of a workflow inside another are answered by the one around it; the outside never hears of them."""

from dataclasses import dataclass
from typing import Any, Never

from agent_host import (
    Executor,
    SubWorkflowRequestMessage,
    SubWorkflowResponseMessage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    handler,
    response_handler,
)


@dataclass
class Ticket:
    """A ticket on its way through the check."""

    code: str
    cleaned: str = ""
    valid: bool = False


class Clean(Executor):
    @handler
    async def clean(self, code: str, ctx: WorkflowContext[Ticket]) -> None:
        await ctx.send_message(Ticket(code, code.strip().upper()))


class Shape(Executor):
    @handler
    async def check(self, ticket: Ticket, ctx: WorkflowContext[Ticket, Ticket]) -> None:
        line, _, number = ticket.cleaned.partition("-")
        if line and number.isdigit():
            await ctx.send_message(ticket)
        else:
            await ctx.yield_output(ticket)


class Line(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.waiting: dict[str, Ticket] = {}

    @handler
    async def ask(self, ticket: Ticket, ctx: WorkflowContext) -> None:
        line = ticket.cleaned.partition("-")[0]
        self.waiting[line] = ticket
        await ctx.request_info(request_data=line, response_type=bool)

    @response_handler
    async def hear(self, line: str, runs: bool, ctx: WorkflowContext[Never, Ticket]) -> None:
        ticket = self.waiting.pop(line)
        await ctx.yield_output(Ticket(ticket.code, ticket.cleaned, runs))


def checking() -> Workflow:
    clean, shape, line = Clean("clean"), Shape("shape"), Line("line")
    return WorkflowBuilder(start_executor=clean).add_edge(clean, shape).add_edge(shape, line).build()


@dataclass
class Passenger:
    name: str
    code: str


class Gate(Executor):
    """Lets in who has a valid ticket, and remembers codes."""

    def __init__(self, id: str, lines: set[str]) -> None:
        super().__init__(id)
        self.lines = lines
        self.good: set[str] = set()
        self.bad: set[str] = set()
        self.waiting: dict[str, Passenger] = {}

    @handler
    async def arrive(self, passenger: Passenger, ctx: WorkflowContext[Passenger | str, str]) -> None:
        if passenger.code in self.good:
            await ctx.send_message(passenger)
        elif passenger.code in self.bad:
            await ctx.yield_output(f"{passenger.name} is known, and stays outside")
        else:
            self.waiting[passenger.code] = passenger
            await ctx.send_message(passenger.code)

    @handler
    async def answer(
        self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]
    ) -> None:
        runs = request.source_event.data in self.lines
        await ctx.send_message(request.create_response(runs), target_id=request.executor_id)

    @handler
    async def decide(self, ticket: Ticket, ctx: WorkflowContext[Passenger, str]) -> None:
        passenger = self.waiting.pop(ticket.code)
        passenger.code = ticket.cleaned
        if ticket.valid:
            self.good.add(ticket.code)
            await ctx.send_message(passenger)
        else:
            self.bad.add(ticket.code)
            await ctx.yield_output(f"{passenger.name} stays outside")


class Train(Executor):
    @handler
    async def board(self, passenger: Passenger, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{passenger.name} boards with {passenger.code}")


async def main() -> Any:
    gate, train = Gate("gate", {"S1", "U6"}), Train("train")
    inner = WorkflowExecutor(checking(), id="checking")
    builder = WorkflowBuilder(start_executor=gate).add_edge(gate, inner).add_edge(inner, gate)
    workflow = builder.add_edge(gate, train).build()
    passengers = [
        ("Ann", "s1-77"),
        ("Bo", "nonsense"),
        ("Cy", " u6-5 "),
        ("Di", "x9-1"),
        ("Al", "s1-77"),
        ("Bea", "nonsense"),
    ]
    outputs, questions = [], 0
    for name, code in passengers:
        async for event in workflow.run(Passenger(name, code), stream=True):
            if event.type == "output":
                outputs.append(event.data)
            elif event.type == "request_info":
                questions += 1
    return {"outputs": outputs, "questions to the outside": questions}
