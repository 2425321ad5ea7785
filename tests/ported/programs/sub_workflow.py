"""A workflow as one executor of another: each text goes through it, and what it yields comes back as a message."""

from dataclasses import dataclass
from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, WorkflowExecutor, handler


@dataclass
class Page:
    number: int
    text: str


@dataclass
class Measured:
    number: int
    words: int
    letters: int


class Strip(Executor):
    @handler
    async def strip(self, page: Page, ctx: WorkflowContext[Page]) -> None:
        await ctx.send_message(Page(page.number, page.text.strip(" .,")))


class Measure(Executor):
    @handler
    async def measure(self, page: Page, ctx: WorkflowContext[Never, Measured]) -> None:
        letters = sum(letter.isalpha() for letter in page.text)
        await ctx.yield_output(Measured(page.number, len(page.text.split()), letters))


class Book(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.pages = 0
        self.measured: list[Measured] = []

    @handler
    async def open(self, texts: list[str], ctx: WorkflowContext[Page]) -> None:
        self.pages = len(texts)
        for number, text in enumerate(texts, 1):
            await ctx.send_message(Page(number, text), target_id="measuring")

    @handler
    async def collect(self, measured: Measured, ctx: WorkflowContext[Never, list[list[int]]]) -> None:
        self.measured.append(measured)
        if len(self.measured) == self.pages:
            await ctx.yield_output(sorted([each.number, each.words, each.letters] for each in self.measured))


def measuring() -> Workflow:
    strip, measure = Strip("strip"), Measure("measure")
    return WorkflowBuilder(start_executor=strip).add_edge(strip, measure).build()


async def main() -> Any:
    book, inner = Book("book"), WorkflowExecutor(measuring(), id="measuring")
    workflow = WorkflowBuilder(start_executor=book).add_edge(book, inner).add_edge(inner, book).build()
    result = await workflow.run(["Call me.", "", "  It was the best of times, it was... ", "So."])
    return {"outputs": result.get_outputs(), "ends": result.get_final_state().value}
