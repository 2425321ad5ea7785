"""Counting letters in parallel: slices stand in shared state, what is in between in files, two joins in a row."""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler

COUNTERS = ["count-0", "count-1", "count-2"]
ADDERS = ["add-0", "add-1"]


@dataclass
class Go:
    """Tells a counter that its slice is ready."""


@dataclass
class Counted:
    path: str


@dataclass
class Share:
    """The lines of one adder."""

    adder: str
    path: str


class Split(Executor):
    @handler
    async def split(self, text: str, ctx: WorkflowContext[Go]) -> None:
        letters = [letter for letter in text.lower() if letter.isalpha()]
        ctx.set_state("letters", letters)
        size = -(-len(letters) // len(COUNTERS))
        for number, counter in enumerate(COUNTERS):
            ctx.set_state(counter, (number * size, (number + 1) * size))
            await ctx.send_message(Go(), counter)


class Count(Executor):
    def __init__(self, id: str, folder: str) -> None:
        super().__init__(id)
        self.folder = folder

    @handler
    async def count(self, go: Go, ctx: WorkflowContext[Counted]) -> None:
        begin, end = ctx.get_state(self.id)
        counts = Counter(ctx.get_state("letters")[begin:end])
        path = Path(self.folder, self.id)
        path.write_text("\n".join(f"{letter} {count}" for letter, count in counts.items()))
        await ctx.send_message(Counted(str(path)))


class Shuffle(Executor):
    def __init__(self, id: str, folder: str) -> None:
        super().__init__(id)
        self.folder = folder

    @handler
    async def shuffle(self, counted: list[Counted], ctx: WorkflowContext[Share]) -> None:
        lines = sorted(line for each in counted for line in Path(each.path).read_text().splitlines())
        for number, adder in enumerate(ADDERS):
            path = Path(self.folder, f"{self.id}-{number}")
            path.write_text("\n".join(line for line in lines if ord(line[0]) % len(ADDERS) == number))
            await ctx.send_message(Share(adder, str(path)))


class Add(Executor):
    @handler
    async def add(self, share: Share, ctx: WorkflowContext[dict[str, int]]) -> None:
        if share.adder != self.id:
            return
        totals: Counter[str] = Counter()
        for line in Path(share.path).read_text().splitlines():
            letter, count = line.split()
            totals[letter] += int(count)
        await ctx.send_message(dict(totals))


class Finish(Executor):
    @handler
    async def finish(self, parts: list[dict[str, int]], ctx: WorkflowContext[Never, dict[str, int]]) -> None:
        await ctx.yield_output({letter: count for part in parts for letter, count in part.items()})


async def main() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        split, shuffle, finish = Split("split"), Shuffle("shuffle", folder), Finish("finish")
        counters: list[Executor] = [Count(name, folder) for name in COUNTERS]
        adders: list[Executor] = [Add(name) for name in ADDERS]
        builder = WorkflowBuilder(start_executor=split)
        builder.add_fan_out_edges(split, counters).add_fan_in_edges(counters, shuffle)
        builder.add_fan_out_edges(shuffle, adders).add_fan_in_edges(adders, finish)
        result = await builder.build().run("A cab, a bee and a deer.")
        return {"outputs": result.get_outputs()}
