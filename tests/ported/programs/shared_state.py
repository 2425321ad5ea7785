"""A long text stands in shared state under a number; messages carry only the number."""

from dataclasses import dataclass
from typing import Any, Never

from agent_host import WorkflowBuilder, WorkflowContext, executor


@dataclass
class Letter:
    number: int
    sender: str
    body: list[str]


@dataclass
class Checked:
    number: int
    complaint: bool


@executor
async def receive(text: str, ctx: WorkflowContext[int]) -> None:
    number = ctx.get_state("last number", 0) + 1
    sender, *body = text.splitlines()
    letter = Letter(number, sender, body)
    ctx.set_state("last number", number)
    ctx.set_state(f"letter {number}", letter)
    letter.body.append("never stored")
    await ctx.send_message(ctx.get_state("last number"))


@executor
async def check(number: int, ctx: WorkflowContext[Checked]) -> None:
    letter: Letter = ctx.get_state(f"letter {number}")
    words = " ".join(letter.body)
    letter.body.clear()
    await ctx.send_message(Checked(number, "bad" in words))


@executor
async def apologize(checked: Checked, ctx: WorkflowContext[Never, str]) -> None:
    letter: Letter = ctx.get_state(f"letter {checked.number}")
    await ctx.yield_output(f"Dear {letter.sender}, sorry for {letter.body[0]!r}.")


@executor
async def answer(checked: Checked, ctx: WorkflowContext[Never, str]) -> None:
    letter: Letter = ctx.get_state(f"letter {checked.number}")
    await ctx.yield_output(f"Dear {letter.sender}, thank you for {len(letter.body)} lines.")


async def main() -> Any:
    builder = WorkflowBuilder(start_executor=receive).add_edge(receive, check)
    builder.add_edge(check, apologize, condition=lambda checked: checked.complaint)
    builder.add_edge(check, answer, condition=lambda checked: not checked.complaint)
    workflow = builder.build()
    letters = ["Ada\nthe tea was bad\nthe cake was not", "Ben\nall was well\nsee you soon"]
    return {"outputs": [(await workflow.run(letter)).get_outputs() for letter in letters]}
