"""A help desk that keeps one ticket per conversation: it asks for what is missing and escalates what is urgent."""

import re
from dataclasses import dataclass, field
from typing import Never

from agent_host import Case, Default, Executor, WorkflowBuilder, WorkflowContext, handler

DEVICES = ("printer", "laptop", "phone", "network")
URGENT = ("urgent", "nobody can", "outage")


@dataclass
class Ticket:
    device: str = ""
    since: str = ""
    urgent: bool = False
    notes: list[str] = field(default_factory=list)


class Desk(Executor):
    """Takes down what the user says. A plain attribute: every conversation has its own ticket."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.ticket = Ticket()

    @handler
    async def take_down(self, text: str, ctx: WorkflowContext[Ticket]) -> None:
        ticket, words = self.ticket, text.lower()
        since = re.search(r"since (.+?)[.,!]*$", text, re.IGNORECASE)
        ticket.notes.append(text)
        ticket.device = ticket.device or next((device for device in DEVICES if device in words), "")
        ticket.since = since[1] if since else ticket.since
        ticket.urgent = ticket.urgent or any(word in words for word in URGENT)
        await ctx.send_message(ticket)


class Ask(Executor):
    @handler
    async def ask(self, ticket: Ticket, ctx: WorkflowContext[Never, str]) -> None:
        question = f"The {ticket.device}: since when?" if ticket.device else f"What is it: {', '.join(DEVICES)}?"
        await ctx.yield_output(question)


class Answer(Executor):
    @handler
    async def answer(self, ticket: Ticket, ctx: WorkflowContext[Never, str]) -> None:
        when = "at once" if ticket.urgent else "within a day"
        facts = [ticket.device or "device unknown", f"since {ticket.since}" if ticket.since else "time unknown"]
        await ctx.yield_output(f"{ctx.executor_id}, {when}: {', '.join(facts)}. Notes: {len(ticket.notes)}.")


desk, ask, technician, on_call = Desk("desk"), Ask("ask"), Answer("Technician"), Answer("Engineer on call")
urgent = Case(lambda t: t.urgent, on_call, label="urgent")
complete = Case(lambda t: t.device and t.since, technician, label="complete")
builder = WorkflowBuilder(start_executor=desk, name="help-desk")
workflow = builder.add_switch_case_edge_group(desk, [urgent, complete, Default(ask)]).build()
