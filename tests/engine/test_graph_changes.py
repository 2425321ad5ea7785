"""Sessions that go on under another version of their workflow: which do by themselves, and how a migration is kept."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.migration.graph_policy import Migrate
from agent_host.engine.migration.stored_state import StoredState
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import WorkflowCheckpointException
from tests.conftest import ServeApp
from tests.engine.graphs import CountingLog
from tests.engine.older import chain, nested, sender, taker
from tests.engine.test_compatibility import Hooked, asker


class Counter(Executor):
    """Counts its texts and keeps them; fails on `fail`."""

    def __init__(self, id: str = "counter") -> None:
        super().__init__(id)
        self.count = 0
        self.texts: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text == "fail":
            raise ValueError(text)
        self.count += 1
        self.texts.append(text)
        await ctx.yield_output(f"{self.count}: {' '.join(self.texts)}")


class Other(Counter):
    """The same under another class name, which makes another signature."""


def counting(
    log: CountingLog, *, id: str = "counter", cls: type[Counter] = Counter, migrate: Migrate | None = None, **more: Any
) -> Workflow:
    storage = CheckpointStorage(log)
    return WorkflowBuilder(
        start_executor=cls(id), name="counting", checkpoint_storage=storage, migrate=migrate, **more
    ).build()


class Renaming:
    """A migration from `counter` to `teller`; counts how often it is made."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, old: StoredState) -> None:
        self.made += 1
        old.rename_executor("counter", "teller")


# --- What needs no migration -------------------------------------------------------------------------------------

SCRIPT = """
import asyncio
from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler, open_store
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage

class Counter(Executor):
    count = 0
    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        await ctx.yield_output(f"{self.count} in {__name__}")

async def main() -> list[str]:
    store = open_store("host.db")
    await store.open()
    storage = CheckpointStorage(store.commit_log())
    builder = WorkflowBuilder(
        start_executor=Counter("c"), name="w", checkpoint_storage=storage, on_graph_change="strict"
    )
    outputs = (await builder.build().run("go")).get_outputs()
    await store.aclose()
    return outputs

if __name__ == "__main__":
    print(*asyncio.run(main()))
"""


def test_a_script_its_import_and_its_renamed_module_are_one_workflow(tmp_path: Path) -> None:
    """A class counts by its name without module: even a strict workflow goes on where the other has stopped."""
    (tmp_path / "flow.py").write_text(SCRIPT)
    (tmp_path / "moved.py").write_text(SCRIPT)
    told = []
    for program in (
        ["flow.py"],
        *(["-c", f"import {m}, asyncio; print(*asyncio.run({m}.main()))"] for m in ("flow", "moved")),
    ):
        done = subprocess.run(
            [sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, check=False
        )  # fmt: skip
        told.append(done.stdout.strip() or done.stderr)
    assert told == ["1 in __main__", "2 in flow", "3 in moved"]


async def test_a_changed_lambda_and_reordered_edges_are_the_same_graph() -> None:
    """Neither changes the signature, so nothing is asked and nothing is refused."""
    log, storage = CountingLog(), None
    storage = CheckpointStorage(log)

    def build(condition: Any, *order: str) -> Workflow:
        start = Counter("start")
        builder = WorkflowBuilder(
            start_executor=start, name="counting", checkpoint_storage=storage, on_graph_change="strict"
        )
        for name in order:
            builder.add_edge(start, taker(name, str), condition)
        return builder.build()

    await build(lambda text: True, "a", "b").run("one")
    assert (await build(lambda text: len(text) > 3, "b", "a").run("two")).get_outputs() == ["2: one two"]


async def test_a_grown_graph_goes_on() -> None:
    """By default an executor and an edge more are no obstacle; the next commit has the new signature."""
    log = CountingLog()
    await counting(log).run("one")
    counter = Counter()
    builder = WorkflowBuilder(start_executor=counter, name="counting", checkpoint_storage=CheckpointStorage(log))
    grown = builder.add_edge(counter, taker("more", str)).build()
    assert (await grown.run("two")).get_outputs() == ["2: one two"]
    assert log.written[-1].signature == grown.signature != log.written[1].signature


async def test_strict_refuses_a_grown_graph_and_changes_nothing() -> None:
    """The error names both graphs; the session stands where it stood."""
    log = CountingLog()
    await counting(log).run("one")
    written = len(log.written)
    with pytest.raises(WorkflowCheckpointException, match="on_graph_change='strict'"):
        await counting(log, cls=Other, on_graph_change="strict").run("two")
    assert len(log.written) == written
    assert (await counting(log).run("two")).get_outputs() == ["2: one two"]


async def test_a_state_of_the_same_graph_costs_nothing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a change neither the migration nor the comparison is made."""

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a state of the same graph was looked into")

    log = CountingLog()
    await counting(log, migrate=never).run("one")
    monkeypatch.setattr("agent_host.engine.migration.migration.problems", never)
    assert (await counting(log, migrate=never).run("two")).get_outputs() == ["2: one two"]


# --- How a migration is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["step", "turn"])
async def test_the_next_commit_keeps_what_a_migration_has_made(durability: Any) -> None:
    """After one run the state is whole without the migration, which is not called again."""
    log, renaming = CountingLog(), Renaming()
    old = (await counting(log).run("one")).checkpoint_id
    now = counting(log, id="teller", migrate=renaming)
    result = await now.run("two", durability=durability)
    assert result.get_outputs() == ["2: one two"]
    assert renaming.made == 1
    first = next(commit for commit in log.written if commit.signature == now.signature and commit.kind != "root")
    assert (first.parent, first.complete) == (old, False)
    stored = await CheckpointStorage(log, now._codec).load(result.checkpoint_id or "")
    assert stored.executor_states == {"teller": {"count": 2, "texts": ["one", "two"]}}
    again = counting(log, id="teller")
    assert (await again.run("three")).get_outputs() == ["3: one two three"]
    await now.run("four")
    assert renaming.made == 1


async def test_looking_changes_nothing() -> None:
    """A run that has nothing to do makes no commit for a migration's sake; the next one makes it again."""
    log, renaming = CountingLog(), Renaming()
    old = (await counting(log).run("one")).checkpoint_id
    now = counting(log, id="teller", migrate=renaming)
    written = len(log.written)
    for durability in ("step", "turn"):
        assert (await now.run(durability=durability)).checkpoint_id == old  # type: ignore[call-overload]
    assert (len(log.written), renaming.made) == (written, 2)
    assert (await now.run("two")).get_outputs() == ["2: one two"]


async def test_a_failed_run_leaves_the_older_state_as_it_was() -> None:
    """What was migrated for a run that failed before its first commit is gone; older and newer program go on."""
    log, renaming = CountingLog(), Renaming()
    await counting(log).run("one")
    now = counting(log, id="teller", migrate=renaming)
    with pytest.raises(ValueError, match="fail"):
        await now.run("fail", durability="turn")
    assert (await now.run("two", durability="turn")).get_outputs() == ["2: one two"]


async def test_every_older_checkpoint_can_be_branched_from() -> None:
    """Going back to a checkpoint of the older version migrates it anew; both branches are whole."""
    log, renaming = CountingLog(), Renaming()
    old = (await counting(log).run("one")).checkpoint_id
    now = counting(log, id="teller", migrate=renaming)
    left = await now.run("left", checkpoint_id=old)
    right = await now.run("right", checkpoint_id=old)
    assert [left.get_outputs(), right.get_outputs()] == [["2: one left"], ["2: one right"]]
    assert renaming.made == 2
    assert (await now.run("on", checkpoint_id=left.checkpoint_id)).get_outputs() == ["3: one left on"]


async def test_a_migration_may_fall_on_a_complete_commit() -> None:
    """Whether the next commit holds the difference or everything, the state is the same."""
    for turns in range(29, 33):
        log = CountingLog()
        for number in range(turns):
            await counting(log).run(str(number), durability="turn")
        await counting(log, id="teller", migrate=Renaming()).run("x", durability="turn")
        (output,) = (await counting(log, id="teller").run("y", durability="turn")).get_outputs()
        assert output.startswith(f"{turns + 2}: 0 1 2")


async def test_large_values_of_a_migration_are_stored_once() -> None:
    """What a migration wrote is stored with the next commit and found by another process."""
    log = CountingLog()
    await counting(log).run("one")
    texts = [f"text {number} {'x' * 200}" for number in range(100)]
    now = counting(log, cls=Other, migrate=lambda old: old.write("counter", "texts", texts))
    await now.run("two")
    bodies = {blob for commit in log.written for blob in commit.blobs}
    assert bodies <= log._blobs.keys()
    again = counting(log, cls=Other)
    definition = await again.definition()
    definition.codec.shared._entries.clear()  # as in another process
    (output,) = (await again.run("three")).get_outputs()
    assert output == f"3: {' '.join([*texts, 'two', 'three'])}"


async def test_a_value_that_comes_back_to_what_it_was_is_kept() -> None:
    """What a migration changed and the run changed back differs from the migrated state, so it is in the commit."""
    log = CountingLog()
    await counting(log).run("one")
    now = counting(log, cls=Other, migrate=lambda old: old.write("counter", "count", 0))
    assert (await now.run("two", durability="turn")).get_outputs() == ["1: one two"]
    assert (await counting(log, cls=Other).run("three")).get_outputs() == ["2: one two three"]


class Noting(Hooked):
    """Yields what its hook restored and what stands in the shared state, and notes the text in both."""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{self.kept} {ctx.get_state('noted')}")
        ctx.set_state("noted", text)
        self.kept = text


async def test_hooks_and_shared_state_see_what_was_migrated() -> None:
    """What a restore hook gets and what handlers read is the migrated state, already in the first run."""
    log = CountingLog()

    def build(**more: Any) -> Workflow:
        storage = CheckpointStorage(log)
        return WorkflowBuilder(start_executor=Noting("a"), name="w", checkpoint_storage=storage, **more).build()

    def migrate(old: StoredState) -> None:
        old.write_saved("a", {"kept": f"migrated {old.read_saved('a')}"})
        old.write_shared("noted", f"migrated {old.read_shared('noted')}")

    await build(version="1").run("one")
    result = await build(version="2", migrate=migrate).run("two")
    assert result.get_outputs() == ["migrated {'kept': 'one'} migrated one"]


async def test_what_waits_goes_on_after_a_migration() -> None:
    """A queued message and an open request reach the executors under their new names."""
    log = CountingLog()
    older = chain(sender("a", 7, sends=int), Doubler("b"), storage=CheckpointStorage(log), name="counting")
    with pytest.raises(Exception, match="supersteps"):
        await older.run("go", max_iterations=1)

    def migrate(old: StoredState) -> None:
        old.rename_executor("a", "x")
        old.rename_executor("b", "y")

    x, y = sender("x", 7, sends=int), Doubler("y")
    builder = WorkflowBuilder(
        start_executor=x, name="counting", checkpoint_storage=CheckpointStorage(log), migrate=migrate
    )  # fmt: skip
    assert (await builder.add_edge(x, y).build().run()).get_outputs() == [14]

    log = CountingLog()
    await chain(asker(), storage=CheckpointStorage(log), name="counting").run("go")
    builder = WorkflowBuilder(
        start_executor=asker(id="z"), name="counting", checkpoint_storage=CheckpointStorage(log),
        migrate=lambda old: old.rename_executor("a", "z"),
    )  # fmt: skip
    now = builder.build()
    await now.run(responses={"q1": True})
    assert (await now.run()).get_request_info_events() == []


class Doubler(Executor):
    """Yields twice its number."""

    @handler
    async def double(self, number: int, ctx: WorkflowContext[int, int]) -> None:
        await ctx.yield_output(2 * number)


async def test_nested_state_goes_on_after_a_migration() -> None:
    """What an instance of a nested workflow has stored is found under its owner's new name."""
    log = CountingLog()
    await nested(chain(Counter()), "outer", storage=CheckpointStorage(log)).run("one")

    def migrate(old: StoredState) -> None:
        old.rename_executor("outer", "sub")
        for inner in old.nested("sub"):
            inner.write("counter", "count", 10)

    now = nested(chain(Counter()), "sub", storage=CheckpointStorage(log))
    builder = WorkflowBuilder(
        start_executor=now.graph.executors["start"], name="desk", checkpoint_storage=CheckpointStorage(log),
        migrate=migrate,
    )  # fmt: skip
    now = builder.add_edge(now.graph.executors["start"], now.graph.executors["sub"]).build()
    await now.run("two")
    latest = await CheckpointStorage(log, now._codec).get_latest(workflow_name="desk")
    assert latest is not None
    assert {key.split("/", 1)[0] for key in latest._cells} == {"w"}
    state = StoredState.of("", "", latest._cells, now._codec, latest._bodies)
    assert state.nested("sub")[0].read("counter", "count") == 11


async def test_a_migration_goes_by_the_version_that_the_author_gave() -> None:
    """`old.version` is what the workflow was built with, so migrations of several versions can be one function."""
    log, seen = CountingLog(), []
    await counting(log, version="2025-06").run("one")
    now = counting(log, cls=Other, version="2025-07", migrate=lambda old: seen.append(old.version))
    assert (await now.run("two")).get_outputs() == ["2: one two"]
    assert seen == ["2025-06"]


class Late(Executor):
    """Fails when its siblings are done."""

    @handler
    async def fail(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        await asyncio.sleep(0.05)
        raise ValueError("late")


class Fixed(Executor):
    """Takes the place of `Late` in the next version."""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None: ...


async def test_notes_of_another_graph_are_not_used() -> None:
    """A finished call of the superstep in which the older version failed is made again, from the migrated state."""
    log = CountingLog()

    def build(late: Executor, **more: Any) -> Workflow:
        start = sender("start", "text", sends=str)
        builder = WorkflowBuilder(
            start_executor=start, name="counting", checkpoint_storage=CheckpointStorage(log), **more
        )
        return builder.add_fan_out_edges(start, [Counter("a"), late]).build()

    with pytest.raises(ValueError, match="late"):
        await build(Late("b")).run("go")
    head = await log.head("counting", "default")
    assert await log.recorded("counting", "default", head or "")
    now = build(Fixed("b"), migrate=lambda old: old.write("a", "count", 100))
    assert (await now.run()).get_outputs() == ["101: text"]


async def test_a_response_of_the_older_version_can_be_continued(serve_app: ServeApp, tmp_path: Path) -> None:
    """The host migrates the state of a stored response when somebody continues it, and again for another branch."""
    store = f"sqlite:///{tmp_path}/upgraded.db"

    def build(id: str, **more: Any) -> Workflow:
        return WorkflowBuilder(start_executor=Counter(id), name="counting", **more).build()

    older = await serve_app(build("counter"), store)
    one = await older.say("one")
    await older.host.aclose()
    renaming = Renaming()
    newer = await serve_app(build("teller", migrate=renaming), store)
    two = await newer.say("two", one.id)
    three = await newer.say("three", two.id)
    branch = await newer.say("branch", one.id)
    assert [two.output_text, three.output_text, branch.output_text] == [
        "2: one two",
        "3: one two three",
        "2: one branch",
    ]
    assert renaming.made == 2
