"""Random workflows, and a conversation to have with them: what property tests of the engine run.

A program is a sequence of stages. Whatever its executors do ends up in outputs, attributes and shared state, so that
two runs that differ anywhere differ in what can be compared.
"""

import asyncio
import itertools
import operator
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from agent_host import (
    Case,
    Default,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    WorkflowExecutor,
    config,
    handler,
    response_handler,
)
from agent_host.engine.checkpoint import Commit
from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage

# --- The outside of a program ------------------------------------------------------------------------------------


class Broken(Exception):
    """A handler failed because the test told it to."""


class World:
    """What handlers meet outside of the engine: who may go on when, and which calls fail.

    `calls` are the calls that began, `ended` those that ended well, `steps` the side effects that were had, all by
    idempotency key; `failing` are numbers of calls that raise, counted from 0. With `gated`, every call waits until it
    is let go.
    """

    def __init__(self, *, failing: Sequence[int] = (), gated: bool = False) -> None:
        self.calls: list[str] = []
        self.ended: list[str] = []
        self.steps: list[str] = []
        self.failing = set(failing)
        self.gated = gated
        self.waiting: dict[str, asyncio.Future[None]] = {}

    async def meet(self, key: str) -> None:
        """Begin a call: wait for the gate, then fail or not."""
        number = len(self.calls)
        self.calls.append(key)
        if self.gated:
            self.waiting[key] = asyncio.get_running_loop().create_future()
            await self.waiting[key]
        if number in self.failing:
            raise Broken(f"call {number}")

    async def side_effect(self, key: str) -> int:
        self.steps.append(key)
        return len(key)

    def let_go(self, key: str) -> None:
        self.waiting.pop(key).set_result(None)


async def until_quiet() -> None:
    """Let everything happen that can happen without the world."""
    for _ in range(30):
        await asyncio.sleep(0)


async def release_in_order_of(chance: random.Random, world: World, run: "asyncio.Future[Any]") -> None:
    """Let the calls of a run go on one at a time, each time a random one of those that wait."""
    await until_quiet()
    while not run.done():
        if world.waiting:
            world.let_go(chance.choice(sorted(world.waiting)))
        await until_quiet()


# --- Executors ---------------------------------------------------------------------------------------------------


@dataclass
class Item:
    """What travels. Handlers change the one they get."""

    label: str
    turns: int = 0
    trail: list[str] = field(default_factory=list)


class Worker(Executor):
    """Notes what it sees in attributes, in shared state of its own and in that of all, and hands the item on."""

    world: World = config()

    def __init__(self, id: str, world: World) -> None:
        super().__init__(id)
        self.world = world
        self.seen: list[str] = []
        self.by_label: dict[str, set[int]] = {}

    @handler
    async def take(self, item: Item, ctx: WorkflowContext[Item, str]) -> None:
        self.note(item, ctx)
        await self.world.meet(ctx.idempotency_key)
        await self.pass_on(item, ctx)
        self.world.ended.append(ctx.idempotency_key)

    def note(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        item.trail.append(f"{self.id}:{len(self.seen)}")
        self.seen.append(item.label)
        self.by_label.setdefault(item.label, set()).add(item.turns)
        ctx.set_state(f"last of {self.id}", item)
        ctx.set_state("trail", [self.id])

    async def pass_on(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        self.tell(item, ctx)
        await ctx.send_message(item)

    def tell(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        labels = {label: sorted(turns) for label, turns in self.by_label.items()}
        ctx.yield_output(f"{self.id} {item} after {self.seen} {labels}, all {ctx.get_state('trail')}")


class Starting(Worker):
    """Makes the item of a text."""

    @handler
    async def begin(self, text: str, ctx: WorkflowContext[Item, str]) -> None:
        await self.take(Item(text), ctx)


class Hooked(Worker):
    """Saves itself by hooks."""

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"seen": self.seen, "by_label": self.by_label}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.seen, self.by_label = state["seen"], state["by_label"]


class Asking(Worker):
    """Asks before it hands on."""

    async def pass_on(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        await ctx.request_info(item, int, request_id=f"{ctx.executor_id} {item.label} {item.turns}")

    @response_handler
    async def hear(self, item: Item, answer: int, ctx: WorkflowContext[Item, str]) -> None:
        item.trail.append(f"answer {answer}")
        self.note(item, ctx)
        await self.world.meet(ctx.idempotency_key)
        self.tell(item, ctx)
        await ctx.send_message(item)
        self.world.ended.append(ctx.idempotency_key)


class Stepping(Worker):
    """Has side effects, each as a step."""

    async def pass_on(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        key = ctx.idempotency_key
        for number in range(2):
            item.turns += 3 * await ctx.step("effect", self.world.side_effect, f"{key}/{number}")
        await super().pass_on(item, ctx)


class Twice(Worker):
    """Makes two items of one."""

    async def pass_on(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        self.tell(item, ctx)
        for number in "12":
            await ctx.send_message(replace(item, label=item.label + number, trail=list(item.trail)))


class Looping(Worker):
    """Counts the turns of an item; the edges decide whether it comes again."""

    async def pass_on(self, item: Item, ctx: WorkflowContext[Any, Any]) -> None:
        item.turns += 1
        await super().pass_on(item, ctx)


class Joining(Worker):
    """Makes one item of several."""

    @handler
    async def join(self, items: list[Item], ctx: WorkflowContext[Item, str]) -> None:
        trail = [place for item in items for place in item.trail]
        await self.take(Item("+".join(dict.fromkeys(item.label for item in items)), len(items), trail), ctx)


class Leaving(Worker):
    """Yields the item, which so leaves a nested workflow."""

    @handler
    async def leave(self, item: Item, ctx: WorkflowContext[Any, Item]) -> None:
        self.note(item, ctx)
        await ctx.yield_output(item)

    take = None  # type: ignore[assignment]  # two handlers for one type would be refused


KINDS: dict[str, type[Worker]] = {
    "plain": Worker, "hooked": Hooked, "asking": Asking, "stepping": Stepping, "twice": Twice,
}  # fmt: skip


# --- Programs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class One:
    """One executor."""

    kind: str


@dataclass(frozen=True)
class Spread:
    """Branches that begin with one message and end in a join; a branch is a chain of executors."""

    branches: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Switched:
    """One of several executors, chosen by the item."""

    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Loop:
    """One executor that an item comes back to this many times."""

    turns: int


@dataclass(frozen=True)
class Nested:
    """A workflow of its own."""

    stages: tuple[Any, ...]


Program = tuple[Any, ...]

kinds = st.sampled_from(["plain", "hooked", "asking", "stepping"])
flat = st.one_of(
    st.builds(One, st.sampled_from(["plain", "hooked", "asking", "stepping", "twice"])),
    st.builds(Spread, st.lists(st.lists(kinds, min_size=1, max_size=2).map(tuple), min_size=2, max_size=3).map(tuple)),
    st.builds(Switched, st.lists(kinds, min_size=2, max_size=3).map(tuple)),
    st.builds(Loop, st.integers(1, 3)),
)
nested = st.recursive(
    flat, lambda inner: st.builds(Nested, st.lists(inner, min_size=1, max_size=2).map(tuple)), max_leaves=3
)
programs: st.SearchStrategy[Program] = st.lists(nested, min_size=1, max_size=3).map(tuple).filter(
    lambda program: repr(program).count("twice") <= 2
)  # fmt: skip


class _Assembly:
    """A builder and the ends to which the next stage is attached."""

    def __init__(self, world: World, name: str, storage: CheckpointStorage | None, **outputs: Any) -> None:
        self.world = world
        self.made = 0
        start = Starting("start", world)
        self.ends: list[tuple[Executor, Callable[[Item], bool] | None]] = [(start, None)]
        self.builder = WorkflowBuilder(
            start_executor=start, name=name, checkpoint_storage=storage, state={"trail": operator.add}, **outputs
        )

    def new(self, kind: type[Worker], name: str) -> Worker:
        self.made += 1
        return kind(f"{name}{self.made}", self.world)

    def attach(self, made: Executor) -> Executor:
        for end, condition in self.ends:
            self.builder.add_edge(end, made, condition)
        self.ends = [(made, None)]
        return made

    def add(self, stage: Any) -> None:
        match stage:
            case One(kind):
                self.attach(self.new(KINDS[kind], kind))
            case Spread(branches):
                source, join = self.attach(self.new(Worker, "spread")), self.new(Joining, "join")
                chains = [[self.new(KINDS[kind], kind) for kind in branch] for branch in branches]
                self.builder.add_fan_out_edges(source, [chain[0] for chain in chains])
                for chain in chains:
                    if len(chain) > 1:
                        self.builder.add_chain(chain)
                self.builder.add_fan_in_edges([chain[-1] for chain in chains], join)
                self.ends = [(join, None)]
            case Switched(kinds):
                source, members = self.attach(self.new(Worker, "switch")), [self.new(KINDS[k], k) for k in kinds]
                cases = [Case(_is_number(number), member) for number, member in enumerate(members[1:], start=1)]
                self.builder.add_switch_case_edge_group(source, [*cases, Default(members[0])])
                self.ends = [(member, None) for member in members]
            case Loop(turns):
                loop = self.attach(self.new(Looping, "loop"))
                self.builder.add_edge(loop, loop, lambda item: item.turns % (turns + 1) != 0)
                self.ends = [(loop, lambda item: item.turns % (turns + 1) == 0)]
            case Nested(stages):
                self.made += 1
                inner = inside(stages, self.world, f"nested{self.made}")
                self.attach(WorkflowExecutor(inner, inner.name, propagate_request=True))


def _is_number(number: int) -> Callable[[Item], bool]:
    return lambda item: len(item.trail) % 3 == number


def inside(stages: Program, world: World, name: str) -> Workflow:
    """A nested workflow: items flow in and out."""
    leaving = Leaving("leave", world)
    assembly = _Assembly(world, name, None, output_from=[leaving], intermediate_output_from="all_other")
    for stage in stages:
        assembly.add(stage)
    assembly.attach(leaving)
    return assembly.builder.build()


def build(program: Program, world: World, storage: CheckpointStorage | None) -> Workflow:
    """A new workflow object, as every process makes its own."""
    assembly = _Assembly(world, "random", storage)
    for stage in program:
        assembly.add(stage)
    return assembly.builder.build()


# --- Conversations -----------------------------------------------------------------------------------------------

Told = tuple[str, str | None, Any, str | None]
Run = Callable[..., Any]


def told_by(events: Sequence[WorkflowEvent]) -> list[Told]:
    """The outputs among events, with the checkpoint that holds them."""
    return [
        (event.type, event.executor_id, event.data, event.checkpoint_id)
        for event in events
        if event.type in ("output", "intermediate")
    ]


async def converse(run: Run, open_requests: Callable[[], Any], choices: Sequence[int]) -> None:
    """Two inputs, each followed by answers to all that is asked, some at a time as the choices have it."""
    number = 0
    for text in ("a", "b"):
        await run(text)
        while asked := sorted(await open_requests()):
            chosen = choices[number % len(choices)]
            number += 1
            picked = asked[chosen % len(asked) :]
            await run(responses={name: chosen + len(name) for name in picked})


async def requests_of(workflow: Workflow) -> list[str]:
    """The ids of the requests that are open."""
    return [event.request_id or "" for event in await workflow.run() if event.type == "request_info"]


Boundary = tuple[str, int, int, Mapping[str, bytes | None], bool]


async def boundaries(log: CommitLog, *, every_step: bool = True) -> list[Boundary]:
    """All that the chain of a session says, but for ids and time, oldest first. The chain is checked on the way."""
    head = await log.head("random", "default")
    assert head is not None
    found: list[Commit] = []
    wanted: str | None = head
    while wanted is not None:
        (commit, *_) = await log.chain(wanted)
        found.append(commit)
        wanted = commit.parent
    check_chain(found, every_step=every_step)
    return [(c.kind, c.seq, c.step, dict(c.delta), c.complete) for c in reversed(found)]


def check_chain(newest_first: Sequence[Commit], *, every_step: bool) -> None:
    """Numbers rise by one, steps with supersteps, and at least every 32nd commit is complete."""
    for commit, parent in itertools.pairwise(newest_first):
        assert commit.parent == parent.id
        assert commit.seq == parent.seq + 1
        if every_step:
            assert commit.step == parent.step + (commit.kind == "step")
        assert commit.distance == (0 if commit.complete else parent.distance + 1) < 32
        assert commit.created_at >= parent.created_at or parent.kind == "root"
    root = newest_first[-1]
    assert (root.kind, root.parent, root.seq, root.step, root.complete) == ("root", None, 0, 0, True)
