"""Whatever the graph: stopping, failing, timing, durability and storage change nothing of what comes out."""

import asyncio
import copy
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_host import Workflow
from agent_host.engine.checkpoint import Commit
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from tests.engine.graphs import Stopped
from tests.engine.programs import (
    Boundary,
    Broken,
    Program,
    Told,
    World,
    boundaries,
    build,
    converse,
    programs,
    release_in_order_of,
    requests_of,
    told_by,
    until_quiet,
)

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
CHOICES = st.lists(st.integers(0, 5), min_size=1, max_size=6)


def splits(program: Program) -> bool:
    """Whether the program has supersteps of several calls."""
    return "Spread" in repr(program)


class Straight:
    """A conversation that nothing disturbs."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.told: list[Told] = []
        self.boundaries: list[Boundary] = []

    @classmethod
    async def of(cls, program: Program, choices: Sequence[int], *, stored: bool = True, **options: Any) -> "Straight":
        straight = cls(MemoryLog())
        workflow = build(program, World(), CheckpointStorage(straight.log) if stored else None)

        async def run(*args: Any, **more: Any) -> None:
            straight.told += told_by(await workflow.run(*args, **options, **more))

        await converse(run, lambda: requests_of(workflow), choices)
        if stored:
            straight.boundaries = await boundaries(straight.log, every_step=options.get("durability") != "turn")
        return straight

    @property
    def outputs(self) -> list[tuple[Any, ...]]:
        return [told[:3] for told in self.told]


# --- Stopped at every boundary -----------------------------------------------------------------------------------


class DyingLog(MemoryLog):
    """Ends the process at every commit, before it is made or after it; a commit that was lost is made next time."""

    def __init__(self, when: str) -> None:
        super().__init__()
        self.when = when
        self.lost = False
        self.last_kind = ""

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        self.last_kind = commits[-1].kind
        if self.when == "before" and not self.lost:
            self.lost = True
            raise Stopped
        self.lost = False
        await super().commit(commits, expected_head)
        if self.when == "after":
            raise Stopped


async def dying(program: Program, choices: Sequence[int], when: str) -> tuple[list[tuple[Any, ...]], list[Boundary]]:
    """The conversation, with a new workflow object after each commit: what was told, and the boundaries."""
    log, told = DyingLog(when), []

    def process() -> Workflow:
        return build(program, World(), CheckpointStorage(log))

    async def run(*args: Any, **options: Any) -> None:
        while True:
            events = []
            try:
                async for event in process().run(*args, stream=True, **options):
                    events.append(event)
            except Stopped:
                if when == "after" or log.last_kind == "step":
                    args, options = (), {}
                continue
            finally:
                told.extend(told_by(events))
            return

    await converse(run, lambda: requests_of(process()), choices)
    return [one[:3] for one in told], await boundaries(log)


@settings(PATIENT, max_examples=12)
@given(program=programs, choices=CHOICES)
def test_a_process_that_dies_before_each_commit_changes_nothing(program: Program, choices: list[int]) -> None:
    """Every superstep is done a second time by another process: outputs once and in order, and the same commits."""

    async def play() -> None:
        straight = await Straight.of(program, choices)
        told, stored = await dying(program, choices, "before")
        assert stored == straight.boundaries
        assert told == straight.outputs

    asyncio.run(play())


@settings(PATIENT, max_examples=12)
@given(program=programs, choices=CHOICES)
def test_a_process_that_dies_after_each_commit_changes_nothing(program: Program, choices: list[int]) -> None:
    """Every superstep is done by a process of its own, which has nothing but the store: the same commits."""

    async def play() -> None:
        straight = await Straight.of(program, choices)
        _, stored = await dying(program, choices, "after")
        assert stored == straight.boundaries

    asyncio.run(play())


@settings(PATIENT, max_examples=20)
@given(program=programs.filter(splits), choices=CHOICES, at=st.integers(0, 1000))
def test_a_process_that_is_lost_in_a_superstep_repeats_no_finished_call(
    program: Program, choices: list[int], at: int
) -> None:
    """Another process calls only what had not finished, and repeats no step that had; the result is the same."""

    async def play() -> None:
        straight = await Straight.of(program, choices)
        chance = random.Random(at)
        log, world = MemoryLog(), World(gated=True)
        spared = at % 4  # so many supersteps of several calls come to their end

        async def until_lost(run: "asyncio.Future[Any]") -> bool:
            """Let the calls go until the process is to die, with some of a superstep's calls ended and others not."""
            nonlocal spared
            await until_quiet()
            while not run.done():
                await asyncio.sleep(0)
                together = len(world.waiting)
                lost = together > 1 and not spared
                spared -= together > 1 and spared > 0
                for _ in range(chance.randrange(1, together) if lost else together):
                    world.let_go(chance.choice(sorted(world.waiting)))
                    await until_quiet()
                if lost:
                    return True
            return False

        async def run(*args: Any, **options: Any) -> None:
            nonlocal log, world
            first = asyncio.ensure_future(build(program, world, CheckpointStorage(log)).run(*args, **options))
            if not await until_lost(first):
                await first
                return
            log, died, world = copy.deepcopy(log), world, World()
            await build(program, world, CheckpointStorage(log)).run()
            assert not set(world.calls) & set(died.ended)
            assert set(died.waiting) <= set(world.calls)
            assert not set(world.steps) & set(died.steps)
            first.cancel()
            await asyncio.wait([first])

        await converse(run, lambda: requests_of(build(program, World(), CheckpointStorage(log))), choices)
        assert await boundaries(log) == straight.boundaries

    asyncio.run(play())


# --- Timing ------------------------------------------------------------------------------------------------------


@settings(PATIENT, max_examples=30)
@given(program=programs, choices=CHOICES, seed=st.integers(0, 1000))
def test_timing_changes_nothing(program: Program, choices: list[int], seed: int) -> None:
    """In whatever order siblings come to their end: the same outputs in the same order, the same commits."""

    async def play() -> None:
        straight = await Straight.of(program, choices)
        log, world, told = MemoryLog(), World(gated=True), []
        chance = random.Random(seed)
        workflow = build(program, world, CheckpointStorage(log))

        async def run(*args: Any, **options: Any) -> None:
            running = asyncio.ensure_future(workflow.run(*args, **options))
            await release_in_order_of(chance, world, running)
            told.extend(told_by(await running))

        await converse(run, lambda: requests_of(workflow), choices)
        assert [one[:3] for one in told] == straight.outputs
        assert await boundaries(log) == straight.boundaries

    asyncio.run(play())


# --- Failures ----------------------------------------------------------------------------------------------------


@settings(PATIENT, max_examples=40)
@given(
    program=programs,
    choices=CHOICES,
    failing=st.lists(st.integers(0, 30), unique=True, max_size=8),
    gated=st.booleans(),
)
def test_failures_change_nothing(program: Program, choices: list[int], failing: list[int], gated: bool) -> None:
    """After any call has failed the session stands where it was, and `run()` comes to what a run without failures does.

    No call that had finished is made again, nor any step.
    """

    async def play() -> None:
        straight = await Straight.of(program, choices)
        log, world, told = MemoryLog(), World(failing=failing, gated=gated), []
        workflow = build(program, world, CheckpointStorage(log))
        chance = random.Random(len(failing))

        async def run(*args: Any, **options: Any) -> None:
            while True:
                events: list[Any] = []
                running = asyncio.ensure_future(listen(workflow, events, *args, **options))
                if gated:
                    await release_in_order_of(chance, world, running)
                try:
                    await running
                except Broken:
                    world.waiting.clear()
                    args, options = (), {}
                    started = [event.checkpoint_id for event in events if event.type == "superstep_started"]
                    assert await workflow.get_last_checkpoint_id() == started[-1]
                    continue
                finally:
                    told.extend(told_by(events))
                return

        await converse(run, lambda: requests_of(workflow), choices)
        assert [one[:3] for one in told] == straight.outputs
        assert await boundaries(log) == straight.boundaries
        assert len(world.ended) == len(set(world.ended))
        assert len(world.steps) == len(set(world.steps))

    asyncio.run(play())


async def listen(workflow: Workflow, events: list[Any], *args: Any, **options: Any) -> None:
    async for event in workflow.run(*args, stream=True, **options):
        events.append(event)


# --- Ways to run -------------------------------------------------------------------------------------------------


@settings(PATIENT, max_examples=30)
@given(program=programs, choices=CHOICES)
def test_durability_and_storage_change_no_output(program: Program, choices: list[int]) -> None:
    """Committed at each boundary, once a turn, or nowhere: the same outputs, and where stored the same state."""

    async def play() -> None:
        straight = await Straight.of(program, choices)
        by_turn = await Straight.of(program, choices, durability="turn")
        assert by_turn.outputs == straight.outputs
        assert await state_of(by_turn.log) == await state_of(straight.log)
        for durability in ("step", "turn"):
            unstored = await Straight.of(program, choices, stored=False, durability=durability)
            assert unstored.outputs == straight.outputs

    asyncio.run(play())


async def state_of(log: MemoryLog) -> dict[str, bytes]:
    latest = await CheckpointStorage(log).get_latest(workflow_name="random")
    assert latest is not None
    return dict(latest._cells)
