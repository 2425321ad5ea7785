"""Workflow functions that several of the engine's tests use, and what can be asked of their runs."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent_host import CustomEvent, RunContext, Workflow, step, workflow
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog


@dataclass
class Draft:
    text: str
    version: int = 1


@dataclass
class Verdict:
    good: bool
    note: str = ""


class World:
    """What happens outside of the engine; `at` is called with the name of everything that does."""

    def __init__(self, at: Callable[[str], None] = lambda name: None) -> None:
        self.calls: list[str] = []
        self._at = at

    def call(self, name: str) -> None:
        self.calls.append(name)
        self._at(name)


def publishing(world: World, log: MemoryLog | None = None) -> Workflow:
    """Writes a draft, asks for a verdict until it is good, then publishes."""

    @step
    async def write(topic: str, version: int) -> Draft:
        world.call(f"write {version}")
        return Draft(topic, version)

    @step
    async def publish(draft: Draft, note: str) -> str:
        world.call(f"publish {draft.version}")
        return f"{draft.text} {draft.version} ({note})"

    @workflow(name="publishing")
    async def publishing(topic: str, ctx: RunContext) -> str:
        world.call("execute")
        await ctx.yield_output(f"about {topic}")
        version = 1
        while True:
            draft = await write(topic, version)
            ctx.set_state("versions", ctx.get_state("versions", 0) + 1)
            await ctx.add_event(CustomEvent("progress", version))
            ctx.add_usage(output_tokens=10)
            verdict = await ctx.request_info(draft, Verdict)
            await ctx.yield_output(f"heard {verdict.note}")
            if verdict.good:
                return f"{await publish(draft, verdict.note)} of {ctx.get_state('versions')}"
            version += 1

    return publishing.build(checkpoint_storage=CheckpointStorage(log) if log is not None else None)


def asked(result: Any) -> dict[str, Any]:
    return {event.request_id: event.data for event in result.get_request_info_events()}


def warnings_of(result: Any) -> list[str]:
    return [event.data for event in result if event.type == "warning"]


async def journal_of(log: MemoryLog, name: str) -> list[str]:
    latest = await CheckpointStorage(log).get_latest(workflow_name=name)
    assert latest is not None
    return [key for key in latest._cells if key.startswith("j/")]


def gathering(world: World, log: MemoryLog | None = None) -> Workflow:
    """Three branches that prepare, ask, and finish, each at its own speed."""

    @step
    async def prepare(name: str) -> str:
        await asyncio.sleep(0.001 * len(world.calls))
        world.call(f"prepare {name}")
        return name

    @step
    async def finish(name: str, answer: str) -> str:
        world.call(f"finish {name}")
        return f"{name} {answer}"

    async def branch(name: str, ctx: RunContext) -> str:
        answer = await ctx.request_info(await prepare(name), str, request_id=name)
        return await finish(name, answer)

    @workflow
    async def gathering(names: list[str], ctx: RunContext) -> list[str]:
        world.call("execute")
        return await asyncio.gather(*(branch(name, ctx) for name in names))

    return gathering.build(checkpoint_storage=CheckpointStorage(log) if log is not None else None)
