"""A run that was stopped at any boundary and continued by another process ends like one that was not."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from agent_host import (
    Case,
    Default,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    response_handler,
    state,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import WorkflowConvergenceException
from tests.engine.graphs import CountingLog, Stopped, StoppingLog


@dataclass
class Draft:
    text: str
    tries: int = 0
    notes: list[str] = field(default_factory=list)


class Writer(Executor):
    """Changes the draft it gets, keeps a reference to it, and asks before the third try."""

    drafts: list[Draft] = state(factory=list)

    def __init__(self) -> None:
        super().__init__("writer")
        self.seen: dict[str, set[int]] = {}

    @handler
    async def write(self, draft: Draft, ctx: WorkflowContext[Draft, str]) -> None:
        draft.tries += 1
        self.drafts.append(draft)
        self.seen.setdefault(draft.text, set()).add(draft.tries)
        ctx.set_state("tries", ctx.get_state("tries", 0) + 1)
        if draft.tries == 3:
            await ctx.request_info(draft, bool, request_id="good enough?")
            return
        await ctx.yield_output(f"try {draft.tries} of {ctx.get_state('tries')}")
        await ctx.send_message(draft)

    @response_handler
    async def decide(self, draft: Draft, good: bool, ctx: WorkflowContext[Draft, str]) -> None:
        self.drafts.append(draft)
        await ctx.yield_output(f"good {good} after {sorted(self.seen[draft.text])} with {draft.notes}")
        await ctx.send_message(draft)


class Critic(Executor):
    """Has hooks, and finds fault."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.count = 0

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"count": self.count}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.count = state["count"]

    @handler
    async def judge(self, draft: Draft, ctx: WorkflowContext[Draft]) -> None:
        self.count += 1
        draft.notes.append(f"{self.id} {self.count}")
        await ctx.send_message(draft)


def program(log: CountingLog | StoppingLog) -> Workflow:
    @executor
    async def start(text: str, ctx: WorkflowContext[Draft]) -> None:
        await ctx.send_message(Draft(text))

    @executor
    async def gather(drafts: list[Draft], ctx: WorkflowContext[Draft, str]) -> None:
        notes = [note for draft in drafts for note in draft.notes[-1:]]
        await ctx.yield_output(f"notes {notes}")
        await ctx.send_message(Draft(drafts[0].text, drafts[0].tries, notes))

    @executor
    async def done(draft: Draft, ctx: WorkflowContext[Any, str]) -> None:
        await ctx.yield_output(f"done {draft}")

    writer, hard, soft = Writer(), Critic("hard"), Critic("soft")

    @executor
    async def spread(draft: Draft, ctx: WorkflowContext[Draft]) -> None:
        await ctx.send_message(draft)

    builder = WorkflowBuilder(start_executor=start, name="drafting", checkpoint_storage=CheckpointStorage(log))
    builder.add_edge(start, writer)
    builder.add_switch_case_edge_group(writer, [Case(lambda draft: draft.tries < 3, spread), Default(done)])
    builder.add_fan_out_edges(spread, [hard, soft]).add_fan_in_edges([hard, soft], gather).add_edge(gather, writer)
    return builder.build()


async def straight() -> tuple[list[Any], dict[str, bytes], int]:
    log = CountingLog()
    workflow = program(log)
    outputs = [*(await workflow.run("a")).get_outputs()]
    outputs += (await workflow.run(responses={"good enough?": True})).get_outputs()
    return outputs, await cells(log), len(log.written)


async def cells(log: Any) -> dict[str, bytes]:
    latest = await CheckpointStorage(log).get_latest(workflow_name="drafting")
    assert latest is not None
    return dict(latest._cells)


async def outputs_until_stopped(workflow: Workflow, *args: Any, **options: Any) -> tuple[list[Any], bool]:
    """The outputs that were told, and whether the run came to its end."""
    outputs = []
    try:
        async for event in workflow.run(*args, stream=True, **options):
            if event.type == "output":
                outputs.append(event.data)
    except Stopped:
        return outputs, False
    return outputs, True


BOUNDARIES = 15


async def test_the_number_of_boundaries_is_known() -> None:
    """The run that the next test stops everywhere has as many commits as that test assumes."""
    outputs, _, commits = await straight()
    assert outputs[-1].startswith("done Draft(text='a', tries=3")
    assert commits == BOUNDARIES


@pytest.mark.parametrize("stop_after", range(1, BOUNDARIES))
async def test_stopping_at_any_boundary_changes_nothing(stop_after: int) -> None:
    """A new workflow on the same log continues with `run()`, and ends with the same outputs and the same state."""
    expected, final, _ = await straight()
    log = StoppingLog()
    log.left = stop_after
    pending: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        (("a",), {}), ((), {"responses": {"good enough?": True}}),
    ]  # fmt: skip
    told: list[Any] = []
    stops = 0
    while pending:
        args, options = pending.pop(0)
        outputs, finished = await outputs_until_stopped(program(log), *args, **options)
        told += outputs
        if not finished:
            stops += 1
            log.left = None
            pending.insert(0, ((), {}))
    assert await cells(log) == final
    assert stops == (1 if stop_after < BOUNDARIES else 0)
    # What the commit at which the process stopped had settled was not told by it: it died before.
    missing = [output for output in expected if output not in told]
    assert [output for output in expected if output not in missing] == told
    assert len(missing) <= 1


@pytest.mark.parametrize("limit", range(1, 6))
async def test_stopping_at_the_limit_changes_nothing(limit: int) -> None:
    """Run in pieces of a few supersteps, each by a new workflow, the outputs are those of one run, in full."""
    expected, final, _ = await straight()
    log = CountingLog()
    outputs: list[Any] = []
    for args, options in ((("a",), {}), ((), {"responses": {"good enough?": True}})):
        outputs += await _in_pieces(log, limit, args, options)
    assert outputs == expected
    assert await cells(log) == final


async def _in_pieces(log: CountingLog, limit: int, args: tuple[Any, ...], options: dict[str, Any]) -> list[Any]:
    outputs: list[Any] = []
    while True:
        events: list[Any] = []
        try:
            async for event in program(log).run(*args, stream=True, max_iterations=limit, **options):
                events.append(event)
        except WorkflowConvergenceException:
            args, options = (), {}
            outputs += [event.data for event in events if event.type == "output"]
            continue
        return outputs + [event.data for event in events if event.type == "output"]
