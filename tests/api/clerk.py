"""A workflow that does what the text of its input begins with, so that a request can say what a test needs."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Never

from agent_host import (
    Executor,
    Message,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    config,
    handler,
    response_handler,
)
from agent_host.messages import ApprovalRequest, FunctionCall

Answering = WorkflowContext[Never, str]


class Think(Executor):
    """Says on the way what it is about to do, if it is told to think."""

    @handler
    async def think(self, said: list[Message], ctx: WorkflowContext[str, str]) -> None:
        text = said[-1].text if said else ""
        if text.startswith("think "):
            text = text.removeprefix("think ")
            await ctx.yield_output("a plain thought")
            await ctx.yield_output(TextDelta("another "))
            await ctx.yield_output(TextDelta("thought"))
        await ctx.send_message(text)


class Clerk(Executor):
    """Obeys, remembers what it was told, and notes outside of every conversation what it has really done.

    What begins with `wait` goes on when the test lets it.
    """

    done: list[str] = config()
    may_go_on: asyncio.Event = config()

    def __init__(self) -> None:
        super().__init__("clerk")
        self.told: list[str] = []
        self.answers: dict[str, str] = {}
        self.open = 0
        self.done = []
        self.may_go_on = asyncio.Event()

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.told.append(text)
        command, _, rest = text.partition(" ")
        obey = ORDERS.get(command)
        if obey is None:
            await ctx.yield_output(f"{len(self.told)}: {'|'.join(self.told)}")
        else:
            await obey(self, rest, ctx)

    async def count(self, rest: str, ctx: Answering) -> None:
        for number in range(int(rest)):
            await ctx.yield_output(TextDelta(f"{number} "))

    async def wait(self, rest: str, ctx: Answering) -> None:
        await ctx.yield_output(TextDelta("waiting "))
        self.done.append("begun")
        await self.may_go_on.wait()
        for piece in rest.split():
            await ctx.yield_output(TextDelta(f"{piece} "))
        await ctx.yield_output("at last")

    async def fail(self, rest: str, ctx: Answering) -> None:
        if rest:
            await ctx.yield_output(TextDelta(rest))
        raise ValueError("the kettle is empty")

    async def large(self, rest: str, ctx: Answering) -> None:
        await ctx.yield_output("x" * int(rest))

    async def object(self, rest: str, ctx: Answering) -> None:
        await ctx.yield_output(TextDelta('{"city": '))
        await ctx.yield_output(TextDelta(json.dumps(rest) + "}"))

    async def ask(self, rest: str, ctx: Answering) -> None:
        questions = rest.split("|")
        self.open = len(questions)
        self.done.append("asked")
        for question in questions:
            await ctx.request_info(question, str)

    async def call(self, rest: str, ctx: Answering) -> None:
        await ctx.request_info(FunctionCall("get_weather", {"city": rest}), str)

    async def refund(self, rest: str, ctx: Answering) -> None:
        await ctx.request_info(ApprovalRequest("refund", {"amount": int(rest)}, "till"), bool)

    @response_handler
    async def answered(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        self.answers[question] = answer
        self.open -= 1
        if not self.open:
            self.done.append("went on")
            told = ", ".join(f"{question} {self.answers[question]}" for question in sorted(self.answers))
            await ctx.yield_output(f"{told}; turn {len(self.told)}")

    @response_handler
    async def called(self, call: FunctionCall, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"The weather: {answer}")

    @response_handler
    async def decided(self, asked: ApprovalRequest, yes: bool, ctx: WorkflowContext[Never, str]) -> None:
        if yes:
            self.done.append(asked.name)
        await ctx.yield_output("refunded" if yes else "kept")


ORDERS: Mapping[str, Callable[[Clerk, str, Any], Awaitable[None]]] = {
    order.__name__: order
    for order in (Clerk.count, Clerk.wait, Clerk.fail, Clerk.large, Clerk.object, Clerk.ask, Clerk.call, Clerk.refund)
}


def office(clerk: Clerk) -> Workflow:
    """The workflow around a clerk."""
    think = Think("think")
    return (
        WorkflowBuilder(start_executor=think, name="office", output_from=[clerk], intermediate_output_from=[think])
        .add_edge(think, clerk)
        .build()
    )
