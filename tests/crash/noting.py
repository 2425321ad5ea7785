"""A workflow of two siblings: one takes a step and says when it has returned, the other waits for a file.

Both leave their lines and files in the folder that `NOTING` names.
"""

import asyncio
import os
from pathlib import Path
from typing import Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler

FOLDER = Path(os.environ.get("NOTING", "."))


def note(name: str, line: str) -> None:
    with (FOLDER / name).open("a") as lines:
        lines.write(f"{line}\n")


class Begin(Executor, shared=True):
    @handler
    async def begin(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)


class Charging(Executor, shared=True):
    @handler
    async def charge(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.step("charge", note, "step", "charged")
        (FOLDER / "returned").touch()
        await asyncio.sleep(0 if (FOLDER / "go").exists() else 60)
        await ctx.yield_output("charged")


class Sibling(Executor, shared=True):
    @handler
    async def wait(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        note("sibling", "begun")
        while not (FOLDER / "go").exists():
            await asyncio.sleep(0.01)


begin, charging, sibling = Begin("begin"), Charging("charging"), Sibling("sibling")
workflow = (
    WorkflowBuilder(start_executor=begin, name="noting", output_from=[charging])
    .add_fan_out_edges(begin, [charging, sibling])
    .build()
)
