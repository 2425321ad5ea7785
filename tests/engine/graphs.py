"""Graphs and logs that several of the engine's tests use."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, executor, handler
from agent_host.engine.checkpoint import Commit
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog


class Counter(Executor):
    """Counts what it is told, without any declaration, and yields how often and what."""

    def __init__(self, id: str = "counter") -> None:
        super().__init__(id)
        self.count = 0
        self.history: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        self.history.append(text)
        await ctx.yield_output(f"{self.count}: {' '.join(self.history)}")


def counting(storage: CheckpointStorage | None = None, name: str = "counting") -> Workflow:
    return WorkflowBuilder(start_executor=Counter(), name=name, checkpoint_storage=storage).build()


class Pinger(Executor):
    """Plays a number to and fro until it is used up; keeps what it has seen."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.seen: list[int] = []

    @handler
    async def play(self, left: int, ctx: WorkflowContext[int, str]) -> None:
        self.seen.append(left)
        ctx.set_state(f"last of {self.id}", left)
        if left:
            await ctx.send_message(left - 1)
        else:
            await ctx.yield_output(f"{self.id} saw {self.seen}")


def ping_pong(storage: CheckpointStorage | None = None) -> Workflow:
    """Two executors that send a number to and fro: `run(n)` takes n + 1 supersteps."""
    ping, pong = Pinger("ping"), Pinger("pong")
    builder = WorkflowBuilder(start_executor=ping, name="ping-pong", checkpoint_storage=storage)
    return builder.add_edge(ping, pong).add_edge(pong, ping).build()


def both_ways(storage: CheckpointStorage | None = None) -> Workflow:
    """Two branches from one input, joined again: `split` to `left` and `right`, both into `join`."""

    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor
    async def left(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"left {text}")

    @executor
    async def right(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"right {text}")

    @executor
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(" and ".join(texts))

    builder = WorkflowBuilder(start_executor=split, name="both-ways", checkpoint_storage=storage)
    builder.add_fan_out_edges(split, [left, right]).add_fan_in_edges([left, right], join)
    return builder.build()


class CountingLog(MemoryLog):
    """Keeps every commit as it was handed over, blobs included, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[Commit] = []

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        await super().commit(commits, expected_head)
        self.written += commits

    def bytes_of(self, commits: Sequence[Commit]) -> int:
        """The bytes of keys, references and bodies in commits."""
        cells = sum(len(key) + len(reference or b"") for commit in commits for key, reference in commit.delta.items())
        return cells + sum(len(body) for commit in commits for body in commit.blobs.values())


class Stopped(BaseException):
    """The process ended here."""


class StoppingLog(MemoryLog):
    """Lets `left` commits through and then fails like a process that is killed: after the commit, before the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        await super().commit(commits, expected_head)
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise Stopped


class RefusingLog(MemoryLog):
    """Lets `left` commits through and then refuses `refusals`, before they take effect; None lets all through."""

    def __init__(self) -> None:
        super().__init__()
        self.left: int | None = None
        self.refusals = 1000

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        if self.left is not None:
            self.left -= 1
            if -self.refusals <= self.left < 0:
                raise OSError("disk full")
        await super().commit(commits, expected_head)


class SlowLog(MemoryLog):
    """Stops in the middle of a commit, before or after it has taken effect, until `go_on` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.stop: str = ""
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        if self.stop == "before":
            await self._pause()
        await super().commit(commits, expected_head)
        if self.stop == "after":
            await self._pause()

    async def _pause(self) -> None:
        self.stop = ""
        self.stopped.set()
        await self.go_on.wait()


def everything_in(log: MemoryLog) -> bytes:
    """Every byte a memory log holds."""
    cells = [
        key.encode() + (reference or b"") for commit in log._commits.values() for key, reference in commit.delta.items()
    ]
    return b"\n".join([*cells, *log._blobs, *log._blobs.values(), *(repr(c).encode() for c in log._commits.values())])


class World:
    """What handlers do outside of the engine: how often each was called, and which of them fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failing: set[str] = set()
        self.waiting: dict[str, asyncio.Event] = {}


@dataclass
class Flaky:
    """Fails as often as it is told to."""

    failures: int
    calls: int = 0

    def __call__(self) -> None:
        self.calls += 1
        if self.calls <= self.failures:
            raise ConnectionError(f"failure {self.calls}")
