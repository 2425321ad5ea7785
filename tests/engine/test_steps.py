"""Steps of a handler, and what identifies a call: equal in every attempt at it."""

import asyncio
import threading
import time
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    RetryPolicy,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    config,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import (
    UnsupportedValueError,
    WorkflowRunnerException,
)
from tests.engine.graphs import Flaky, Stopped, World

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


# --- Steps -------------------------------------------------------------------------------------------------------


class Shop(Executor):
    """Charges and ships in two steps, and fails between or after them."""

    world: World = config()

    def __init__(self, world: World, retry: RetryPolicy | None = None) -> None:
        super().__init__("shop", retry=retry)
        self.world = world

    @handler
    async def order(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        receipt = await ctx.step("charge", self._charge, text, key=ctx.idempotency_key)
        if "between" in self.world.failing:
            self.world.failing.discard("between")
            raise ConnectionError("between")
        parcel = await ctx.step("ship", self._ship, receipt)
        if "after" in self.world.failing:
            self.world.failing.discard("after")
            raise ConnectionError("after")
        await ctx.yield_output(f"{parcel['id']} for {receipt['amount']}")

    async def _charge(self, text: str, key: str) -> dict[str, Any]:
        self.world.calls.append(f"charge {key}")
        return {"amount": len(text)}

    def _ship(self, receipt: dict[str, Any]) -> dict[str, Any]:
        self.world.calls.append(f"ship on {threading.current_thread().name.split('_')[0]}")
        return {"id": "parcel"}


def shop(world: World, storage: CheckpointStorage | None = None, retry: RetryPolicy | None = None) -> Workflow:
    return WorkflowBuilder(start_executor=Shop(world, retry), name="shop", checkpoint_storage=storage).build()


@pytest.mark.parametrize("where", ["between", "after"])
@STORAGES
async def test_a_finished_step_is_not_repeated(storage: Any, where: str) -> None:
    """A handler that failed after a step takes the step's result the next time, in the same process or another."""
    world, kept = World(), storage and storage()
    world.failing = {where}
    workflow = shop(world, kept)
    with pytest.raises(ConnectionError, match=where):
        await workflow.run("hat")
    again = shop(world, CheckpointStorage(kept.log)) if kept is not None else workflow
    assert (await again.run()).get_outputs() == ["parcel for 3"]
    assert [call.split()[0] for call in world.calls] == ["charge", "ship"]
    assert world.calls[1] == "ship on agent-host-handler"


async def test_a_step_is_noted_before_the_handler_goes_on() -> None:
    """The result is durable when the step returns: a process that is killed right after it does not repeat it."""
    world, storage = World(), InMemoryCheckpointStorage()

    class Killed(Shop):
        @handler
        async def order(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.step("charge", self._charge, text, key="k")
            raise Stopped

    with pytest.raises(Stopped):
        await WorkflowBuilder(start_executor=Killed(world), name="shop", checkpoint_storage=storage).build().run("hat")
    head = await storage.log.head("shop", "default")
    assert head is not None and list(await storage.log.recorded("shop", "default", head)) == ["000000/j/000000"]


async def test_retries_keep_the_results_of_steps() -> None:
    """A policy's retry within a turn that is not stored yet does not repeat a finished step either."""
    world = World()
    world.failing = {"between", "after"}
    workflow = shop(world, retry=RetryPolicy(max_attempts=3, delay=0))
    assert (await workflow.run("hat", durability="turn")).get_outputs() == ["parcel for 3"]
    assert [call.split()[0] for call in world.calls] == ["charge", "ship"]


async def test_a_step_that_raises_is_run_again() -> None:
    """Only results are recorded."""
    flaky = Flaky(1)

    @executor(id="x", retry=RetryPolicy(delay=0))
    async def x(text: str, ctx: WorkflowContext[str, int]) -> None:
        await ctx.step("try", flaky)
        await ctx.yield_output(flaky.calls)

    assert (await WorkflowBuilder(start_executor=x).build().run("x")).get_outputs() == [2]


async def test_another_step_at_the_same_place_is_an_error() -> None:
    """A handler whose steps come in another order than recorded is told so, with both names."""
    names = ["first", "second"]

    @executor(id="x", retry=RetryPolicy(delay=0))
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.step(names.pop(0), lambda: 1)
        raise ConnectionError

    with pytest.raises(WorkflowRunnerException, match=r"makes the step 'second' where .* recorded the step 'first'"):
        await WorkflowBuilder(start_executor=x).build().run("x")


async def test_steps_side_by_side_keep_their_places() -> None:
    """Steps started together are told apart by the order in which they were called, not in which they ended."""
    calls: list[int] = []
    fails = [True]

    async def work(number: int) -> int:
        await asyncio.sleep(0.01 * (3 - number))
        calls.append(number)
        return number * 10

    @executor(id="x", retry=RetryPolicy(delay=0))
    async def x(text: str, ctx: WorkflowContext[str, list[int]]) -> None:
        found = await asyncio.gather(*(ctx.step("work", work, number) for number in range(3)))
        if fails.pop() if fails else False:
            raise ConnectionError
        await ctx.yield_output(found)

    assert (await WorkflowBuilder(start_executor=x).build().run("x")).get_outputs() == [[0, 10, 20]]
    assert sorted(calls) == [0, 1, 2]


async def test_a_step_inside_a_step_is_refused() -> None:
    """A step is one side effect; the error names both."""

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        async def outer() -> None:
            await ctx.step("inner", lambda: 1)

        await ctx.step("outer", outer)

    with pytest.raises(WorkflowRunnerException, match="'inner' of executor 'x' was called inside the step 'outer'"):
        await WorkflowBuilder(start_executor=x).build().run("x")


async def test_a_result_that_cannot_be_recorded_is_refused() -> None:
    """The error names step and executor."""

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.step("lock", threading.Lock)

    with pytest.raises(UnsupportedValueError, match="result of the step 'lock' of executor 'x' cannot be recorded"):
        await WorkflowBuilder(start_executor=x).build().run("x")


async def test_a_step_gives_what_a_repetition_would_find() -> None:
    """The value is a copy also the first time, so changing it changes no record."""
    seen: list[list[int]] = []

    @executor(id="x", retry=RetryPolicy(delay=0))
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        found = await ctx.step("list", lambda: [1])
        found.append(2)
        seen.append(found)
        if len(seen) == 1:
            raise ConnectionError

    await WorkflowBuilder(start_executor=x).build().run("x")
    assert seen == [[1, 2], [1, 2]]


# --- Identity ----------------------------------------------------------------------------------------------------


class Identified(Executor):
    """Notes the identities it is given, and fails once."""

    world: list[tuple[str, ...]] = config()

    def __init__(self, world: list[tuple[str, ...]]) -> None:
        super().__init__("identified")
        self.world = world

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.world.append((ctx.idempotency_key, str(ctx.uuid()), str(ctx.uuid()), ctx.now().isoformat()))
        if text == "fail" and len(self.world) == 1:
            raise ConnectionError
        await ctx.yield_output(text)

    @response_handler
    async def never(self, request: str, answer: str, ctx: WorkflowContext[str, str]) -> None: ...


@pytest.mark.parametrize("durability", ["step", "turn"])
async def test_a_retry_has_the_same_identity(durability: Any) -> None:
    """Key, ids and time are those of the first attempt, within the process by policy."""
    seen: list[tuple[str, ...]] = []
    identified = Identified(seen)
    identified._agent_host_retry = RetryPolicy(delay=0.01)
    workflow = WorkflowBuilder(start_executor=identified).build()
    await workflow.run("fail", durability=durability)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4
    await workflow.run("fail", durability=durability)
    assert not set(seen[2][:3]) & set(seen[0][:3])


async def test_a_resumed_run_has_the_same_identity_and_a_branch_another() -> None:
    """A crash is followed by an attempt at the same call; a fork and a run from an older commit are other calls."""
    seen: list[tuple[str, ...]] = []
    storage = InMemoryCheckpointStorage()

    def build() -> Workflow:
        kept = CheckpointStorage(storage.log)
        return WorkflowBuilder(start_executor=Identified(seen), name="n", checkpoint_storage=kept).build()

    with pytest.raises(ConnectionError):
        await build().run("fail")
    head = await build().get_last_checkpoint_id()
    assert head is not None
    await build().fork(head, "other")
    await build().run()
    await build().run(session_id="other")
    await build().run(checkpoint_id=head)
    assert seen[0] == seen[1]
    keys = [one[0] for one in seen]
    assert len({keys[0], keys[2], keys[3]}) == 3


async def test_time_is_one_moment_in_a_superstep() -> None:
    """All executors of a superstep see the same time, and the next superstep a later one."""
    seen: dict[str, float] = {}

    @executor(id="a")
    async def a(text: str, ctx: WorkflowContext[str]) -> None:
        seen["first"] = ctx.now().timestamp()
        await asyncio.sleep(0.01)
        assert ctx.now().timestamp() == seen["first"]
        await ctx.send_message(text)

    @executor(id="b")
    async def b(text: str, ctx: WorkflowContext[str]) -> None:
        seen["second"] = ctx.now().timestamp()

    began = time.time()
    await WorkflowBuilder(start_executor=a).add_edge(a, b).build().run("x")
    assert began <= seen["first"] < seen["second"] <= time.time()


async def test_the_same_input_again_is_another_turn() -> None:
    """A new input that equals the one an unfinished run has left has a commit, keys and notes of its own."""
    seen: list[tuple[str, ...]] = []
    storage = InMemoryCheckpointStorage()
    workflow = WorkflowBuilder(start_executor=Identified(seen), name="n", checkpoint_storage=storage).build()
    with pytest.raises(ConnectionError):
        await workflow.run("fail")
    await workflow.run("fail")
    assert not set(seen[0]) & set(seen[1])
    assert [info.kind for info in await workflow.history()].count("input") == 2


async def test_a_superstep_that_changes_nothing_is_another_superstep() -> None:
    """An executor that sends itself the same message again gets another key each time."""
    keys: list[str] = []

    @executor(id="again")
    async def again(text: str, ctx: WorkflowContext[str]) -> None:
        keys.append(ctx.idempotency_key)
        if len(keys) < 4:
            await ctx.send_message(text)

    storage = InMemoryCheckpointStorage()
    builder = WorkflowBuilder(start_executor=again, name="n", checkpoint_storage=storage)
    await builder.add_edge(again, again).build().run("x")
    assert len(set(keys)) == 4
