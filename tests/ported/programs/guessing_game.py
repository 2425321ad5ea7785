"""The workflow guesses, a human says higher, lower or correct: one question per run, as often as it takes."""

from dataclasses import dataclass
from typing import Any

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, response_handler


@dataclass
class Hint:
    """What the player knows: between which numbers it is."""

    low: int
    high: int


@dataclass
class Question:
    guess: int
    text: str


class Player(Executor):
    @handler
    async def guess(self, hint: Hint, ctx: WorkflowContext[int]) -> None:
        await ctx.send_message((hint.low + hint.high) // 2)


class Table(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.low, self.high, self.asked = 1, 10, 0

    @handler
    async def begin(self, word: str, ctx: WorkflowContext[Hint]) -> None:
        await ctx.send_message(Hint(self.low, self.high))

    @handler
    async def show(self, guess: int, ctx: WorkflowContext) -> None:
        self.asked += 1
        question = Question(guess, f"Question {self.asked}: is it {guess}? (higher, lower, correct)")
        await ctx.request_info(request_data=question, response_type=str)

    @response_handler
    async def hear(self, question: Question, reply: str, ctx: WorkflowContext[Hint, str]) -> None:
        if reply == "correct":
            await ctx.yield_output(f"It is {question.guess}, after {self.asked} questions.")
            return
        if reply == "higher":
            self.low = question.guess + 1
        else:
            self.high = question.guess - 1
        await ctx.send_message(Hint(self.low, self.high))


def reply(guess: int, secret: int) -> str:
    return "correct" if guess == secret else "higher" if guess < secret else "lower"


async def main() -> Any:
    table, player = Table("table"), Player("player")
    workflow = WorkflowBuilder(start_executor=table).add_edge(table, player).add_edge(player, table).build()
    asked, outputs, ends = [], [], []
    stream = workflow.run("begin", stream=True)
    while True:
        responses = {}
        async for event in stream:
            if event.type == "request_info":
                assert isinstance(event.data, Question)
                asked.append([event.source_executor_id, event.data.text])
                responses[event.request_id] = reply(event.data.guess, secret=9)
            elif event.type == "output":
                outputs.append(event.data)
        ends.append((await stream.get_final_response()).get_final_state().value)
        if not responses:
            return {"asked": asked, "outputs": outputs, "ends": ends}
        stream = workflow.run(stream=True, responses=responses)
