"""A workflow that does what it is told: remember, stream, ask, fail, or wait for the test.

The last paragraph of an input begins with the command, and every input is remembered as it came, so that an answer's
text tells which history it comes from. `talker` hears and asks, `teller` says it one superstep later, and `inner` is a
workflow that asks on its own.
"""

import asyncio
from dataclasses import dataclass
from typing import Never

from agent_host import (
    Executor,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    config,
    handler,
    response_handler,
)


class Gates:
    """Where executors wait: all gates are closed until the test opens them."""

    def __init__(self) -> None:
        self._gates: dict[str, asyncio.Event] = {}
        self.waiting: set[str] = set()
        self.runs: list[str] = []
        """What `talker` has run, once for every time it did."""

    async def pass_through(self, name: str) -> None:
        self.waiting.add(name)
        try:
            await self._gates.setdefault(name, asyncio.Event()).wait()
        finally:
            self.waiting.discard(name)

    def open(self, name: str) -> None:
        self._gates.setdefault(name, asyncio.Event()).set()


@dataclass(frozen=True)
class Telling:
    """What `teller` is to say, and how: `whole`, `live`, `waiting` at a gate, or `breaking` in the middle."""

    text: str
    how: str = "whole"
    gate: str = ""


@dataclass(frozen=True)
class HowMany:
    """A question whose answer is a number."""

    of: str


class Talker(Executor):
    gates: Gates = config()

    def __init__(self, gates: Gates) -> None:
        super().__init__("talker")
        self.gates = gates
        self.said: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Telling | str, str]) -> None:
        self.gates.runs.append(text)
        self.said.append(text)
        command = text.rpartition("\n\n")[2].partition(" ")[0]
        if command == "fail":
            raise RuntimeError("told to fail")
        if command == "wait":
            await ctx.yield_output(TextDelta("so far"))
            await self.gates.pass_through(text)
        if command in ("ask", "pair"):
            await ctx.request_info(f"{text}?", str)
            if command == "pair":
                await ctx.request_info(HowMany(text), int)
        elif command == "nest":
            await ctx.send_message(text, target_id="inner")
        else:
            how = {"stream": "live", "late": "waiting", "break": "breaking"}.get(command, "whole")
            await ctx.send_message(Telling("|".join(self.said), how, text), target_id="teller")

    @response_handler
    async def learn(self, question: str, answer: str, ctx: WorkflowContext[Telling, str]) -> None:
        self.said.append(answer)
        how = "waiting" if answer.startswith("late") else "whole"
        await ctx.send_message(Telling("|".join(self.said), how, answer), target_id="teller")

    @response_handler
    async def count(self, question: HowMany, answer: int, ctx: WorkflowContext[Telling, str]) -> None:
        self.said.append(str(answer))
        await ctx.send_message(Telling("|".join(self.said)), target_id="teller")


class Teller(Executor):
    gates: Gates = config()

    def __init__(self, gates: Gates) -> None:
        super().__init__("teller")
        self.gates = gates

    @handler
    async def tell(self, telling: Telling, ctx: WorkflowContext[Never, str]) -> None:
        if telling.how == "whole":
            await ctx.yield_output(telling.text)
            return
        middle = len(telling.text) // 2
        await ctx.yield_output(TextDelta(telling.text[:middle]))
        if telling.how == "waiting":
            await self.gates.pass_through(telling.gate)
        if telling.how == "breaking":
            raise RuntimeError("told to break")
        await ctx.yield_output(TextDelta(telling.text[middle:]))


class Inner(Executor):
    """Asks once for every input, and says all that it was ever answered."""

    def __init__(self) -> None:
        super().__init__("asker")
        self.answers: list[str] = []

    @handler
    async def ask(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.request_info(f"{text}?", str)

    @response_handler
    async def learn(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        self.answers.append(answer)
        await ctx.yield_output("inner " + "|".join(self.answers))


def talking(gates: Gates) -> Workflow:
    """The workflow, with executors that wait at these gates."""
    talker, teller = Talker(gates), Teller(gates)
    asking = WorkflowBuilder(start_executor=Inner(), name="asking").build()
    inner = WorkflowExecutor(asking, "inner", allow_direct_output=True, propagate_request=True)
    builder = WorkflowBuilder(start_executor=talker, name="talking")
    return builder.add_edge(talker, teller).add_edge(talker, inner).build()
