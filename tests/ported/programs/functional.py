"""A workflow that is a plain coroutine function: branches, loops and gathering as Python writes them."""

import asyncio
from typing import Any

from agent_host import step, workflow


async def letters(text: str) -> int:
    return sum(letter.isalpha() for letter in text)


@step
async def vowels(text: str) -> int:
    return sum(letter in "aeiou" for letter in text.lower())


@step(name="rate")
async def rate_text(share: float) -> str:
    return "singable" if share > 0.4 else "hard to sing"


@workflow
async def judge_line(line: str) -> str:
    if not line.strip():
        return "silence"
    every, sung = await asyncio.gather(letters(line), vowels(line))
    return f"{line!r} is {await rate_text(sung / every)}"


@workflow(name="ballad")
async def judge_ballad(lines: list[str]) -> dict[str, int]:
    counted = {}
    for line in lines:
        counted[line] = await vowels(line)
    return counted


async def main() -> Any:
    judged = [await judge_line.build().run(line) for line in ("oh aida", "strength", "  ")]
    ballad = judge_ballad.build()
    counted = await ballad.run(["la la", "hm", "la la"])
    return {
        "name": ballad.name,
        "outputs": [result.get_outputs() for result in [*judged, counted]],
        "ends": [result.get_final_state().value for result in [*judged, counted]],
        "outside of a workflow": await vowels("aloe"),
    }
