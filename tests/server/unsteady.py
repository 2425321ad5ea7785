"""A store whose verbs can be held at their beginning or made to fail, and a workflow that does as it is told."""

import asyncio
from collections import Counter
from typing import Any

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.workflow import Workflow
from agent_host.errors import StoreError
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase


class Gate:
    """Holds the next one who comes, and lets all others pass."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self._open = asyncio.Event()

    async def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            await self._open.wait()

    def open(self) -> None:
        self._open.set()


class UnsteadyStore(SqlStore):
    """Holds the verbs in `gates` and fails those in `failures`, so many times each; counts in `called`."""

    def __init__(self, path: Any) -> None:
        super().__init__(SqliteDatabase(str(path)))
        self.gates: dict[str, Gate] = {}
        self.failures: Counter[str] = Counter()
        self.called: Counter[str] = Counter()

    def hold(self, verb: str) -> Gate:
        self.gates[verb] = Gate()
        return self.gates[verb]

    async def _reach(self, verb: str) -> None:
        self.called[verb] += 1
        if verb in self.gates:
            await self.gates[verb].pass_through()
        if self.failures[verb]:
            self.failures[verb] -= 1
            raise StoreError("The disk is at fault.")

    async def append(self, *arguments: Any) -> Any:
        await self._reach("append")
        return await super().append(*arguments)

    async def finish(self, *arguments: Any, **options: Any) -> None:
        await self._reach("finish")
        await super().finish(*arguments, **options)

    async def lapsed(self, *arguments: Any) -> Any:
        await self._reach("lapsed")
        return await super().lapsed(*arguments)

    async def read_events(self, *arguments: Any) -> Any:
        await self._reach("read_events")
        return await super().read_events(*arguments)

    async def read_turn(self, *arguments: Any) -> Any:
        await self._reach("read_turn")
        return await super().read_turn(*arguments)

    async def release(self, *arguments: Any) -> None:
        await self._reach("release")
        await super().release(*arguments)

    async def take(self, *arguments: Any, **options: Any) -> Any:
        await self._reach("take")
        return await super().take(*arguments, **options)


class Told(Executor, shared=True):
    """Says what it has heard, and does what it says: `wait` until it may go on, say something `large`, `leave` by
    cancelling its own task, or `raise`.
    """

    def __init__(self) -> None:
        super().__init__("told")
        self.may_go_on = asyncio.Event()

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Any, str]) -> None:
        heard.append(text)
        await ctx.yield_output(TextDelta(text))
        if "large" in text:
            await ctx.yield_output("y" * 2_000_000)
        if "wait" in text:
            await self.may_go_on.wait()
        if "leave" in text:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        if "raise" in text:
            raise to_raise[0]


heard: list[str] = []
"""What has run, in the order in which it began."""


to_raise: list[BaseException] = []
"""What `raise` raises."""


def telling(told: Told) -> Workflow:
    heard.clear()
    to_raise[:] = [ValueError("as told")]
    return WorkflowBuilder(start_executor=told, name="telling").build()
