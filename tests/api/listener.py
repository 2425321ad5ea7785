"""A workflow that tells all it has heard, so that a test can see what reached it, how often and in which order."""

import asyncio
import json
from typing import Never

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


class Listener(Executor):
    """Hears messages and repeats all of them, a user's by their text alone; some texts make it do something else.

    What begins with `wait` goes on when the test lets it; `begun` notes what each turn began with.
    """

    begun: list[str] = config()
    may_go_on: asyncio.Event = config()

    def __init__(self) -> None:
        super().__init__("listener")
        self.heard: list[str] = []
        self.answer = ""
        self.begun = []
        self.may_go_on = asyncio.Event()

    @handler
    async def hear(self, said: list[Message], ctx: WorkflowContext[Never, str]) -> None:
        command, _, rest = (said[-1].text if said else "").partition(" ")
        self.begun.append(command)
        self.heard += [each.text if each.role == "user" else f"{each.role}: {each.text}" for each in said]
        if command == "ask":
            await ctx.request_info(rest, str)
            return
        if command == "fail":
            await ctx.yield_output(TextDelta("half"))
            raise ValueError("the kettle is empty")
        if command == "wait":
            await ctx.yield_output(TextDelta("waiting "))
            await self.may_go_on.wait()
        if command == "repeat":
            await ctx.yield_output(self.answer)
        elif command == "turn":
            await ctx.yield_output(self.shown(ctx))
        else:
            self.answer = ", ".join(self.heard)
            await ctx.yield_output(self.answer)

    def shown(self, ctx: WorkflowContext[Never, str]) -> str:
        """What the request says besides its input."""
        turn = ctx.turn
        return json.dumps(
            {
                "instructions": turn.instructions,
                "tools": [tool["name"] for tool in turn.tools],
                "tool_choice": turn.tool_choice,
                "metadata": dict(turn.metadata),
                "model": turn.model,
                "conversation": turn.conversation_id,
                "previous": turn.previous_response_id,
                "headers": dict(turn.client_headers),
            }
        )

    @response_handler
    async def answered(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        self.heard.append(f"{question} {answer}")
        await ctx.yield_output(", ".join(self.heard))


def audience(listener: Listener) -> Workflow:
    """The workflow around a listener."""
    return WorkflowBuilder(start_executor=listener, name="audience").build()
