"""A help desk that keeps a ticket per conversation: it asks for what is missing and escalates what is urgent."""

from agent_host import Case, Default, Executor, WorkflowBuilder, WorkflowContext, handler
from typing_extensions import Never

URGENT = ("urgent", "down", "broken", "asap", "outage")


class Intake(Executor):
    """Cleans up what the user wrote."""

    @handler
    async def read(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(" ".join(text.split()))


class Ticket(Executor):
    """Remembers everything said in this conversation. Plain attributes: each conversation has its own."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.notes: list[str] = []
        self.urgent = False

    @handler
    async def add(self, text: str, ctx: WorkflowContext[dict]) -> None:
        self.notes.append(text)
        self.urgent = self.urgent or any(word in text.lower() for word in URGENT)
        await ctx.send_message({"notes": self.notes, "urgent": self.urgent})


class Reply(Executor):
    """Answers a normal ticket."""

    @handler
    async def answer(self, ticket: dict, ctx: WorkflowContext[Never, str]) -> None:
        notes = ticket["notes"]
        await ctx.yield_output(f"Noted ({len(notes)}): {notes[-1]}. First you said: {notes[0]}.")


class Escalate(Executor):
    """Answers a ticket that somebody has to look at now."""

    @handler
    async def answer(self, ticket: dict, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"Escalated, {len(ticket['notes'])} notes go to the engineer on call.")


intake, ticket, reply, escalate = Intake("intake"), Ticket("ticket"), Reply("reply"), Escalate("escalate")
workflow = (
    WorkflowBuilder(start_executor=intake, name="help-desk")
    .add_edge(intake, ticket)
    .add_switch_case_edge_group(ticket, [Case(lambda message: message["urgent"], escalate), Default(reply)])
    .build()
)
