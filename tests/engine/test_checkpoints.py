"""What a checkpoint holds, how checkpoints follow each other, and how a session goes back to one."""

import asyncio
import itertools
from typing import Any, Literal

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import (
    CheckpointDecodeError,
    CheckpointNotFoundError,
    UnknownRequestError,
    UnsupportedValueError,
    WorkflowCheckpointException,
)
from tests.engine.graphs import Counter, CountingLog, both_ways, counting, ping_pong

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


async def test_every_boundary_is_one_commit_on_the_last() -> None:
    """Input, supersteps, next input: one chain, numbered without gaps, each the parent of the next."""
    storage = InMemoryCheckpointStorage()
    workflow = ping_pong(storage)
    await workflow.run(2)
    await workflow.run(1)
    found = await storage.list_checkpoints(workflow_name="ping-pong")
    assert [c.kind for c in found] == ["root", "input", "step", "step", "step", "input", "step", "step"]
    assert [c.seq for c in found] == list(range(8))
    assert [c.step for c in found] == [0, 0, 1, 2, 3, 3, 4, 5]
    assert [c.previous_checkpoint_id for c in found] == [None, *(c.checkpoint_id for c in found[:-1])]
    assert found[-1].checkpoint_id == await workflow.get_last_checkpoint_id()


async def test_a_superstep_starts_from_the_checkpoint_the_one_before_has_reached() -> None:
    """`superstep_started` carries the id that `superstep_completed` carried before it; the first one the input's."""
    storage = InMemoryCheckpointStorage()
    events = [event async for event in ping_pong(storage).run(3, stream=True)]
    started = [event.checkpoint_id for event in events if event.type == "superstep_started"]
    completed = [event.checkpoint_id for event in events if event.type == "superstep_completed"]
    ids = await storage.list_checkpoint_ids(workflow_name="ping-pong")
    assert ids[1:] == [started[0], *completed]
    assert started[1:] == completed[:-1]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert events[-1].checkpoint_id == completed[-1]


async def test_in_turn_mode_a_run_is_one_commit_at_rest() -> None:
    """Inner boundaries have no checkpoint id; the last status and the result name the one commit."""
    storage = InMemoryCheckpointStorage()
    workflow = ping_pong(storage)
    stream = workflow.run(3, stream=True, durability="turn")
    events = [event async for event in stream]
    assert {event.checkpoint_id for event in events if event.type.startswith("superstep")} == {None}
    found = await storage.list_checkpoints(workflow_name="ping-pong")
    assert [(c.kind, c.step) for c in found] == [("root", 0), ("step", 4)]
    assert found[-1].executor_states == {"ping": {"seen": [3, 1]}, "pong": {"seen": [2, 0]}}
    assert found[-1].state == {"last of ping": 1, "last of pong": 0}
    assert events[-1].checkpoint_id == found[-1].checkpoint_id
    assert (await stream.get_final_response()).checkpoint_id == found[-1].checkpoint_id


async def test_both_modes_reach_the_same_state() -> None:
    """Committing once or at every boundary makes no difference to outputs and cells, over several turns."""
    ends = []
    for durability in ("step", "turn"):
        storage = InMemoryCheckpointStorage()
        workflow = ping_pong(storage)
        outputs = [(await workflow.run(n, durability=durability)).get_outputs() for n in (3, 0, 4)]  # type: ignore[call-overload]
        latest = await storage.get_latest(workflow_name="ping-pong")
        assert latest is not None
        ends.append((outputs, dict(latest._cells)))
    assert ends[0] == ends[1]


async def test_no_change_makes_no_commit() -> None:
    """Continuing a session at rest, or going to the checkpoint it stands at, writes nothing, again and again."""
    log = CountingLog()
    workflow = counting(CheckpointStorage(log))
    await workflow.run()
    assert log.written == []
    await workflow.run("a")
    head = await workflow.get_last_checkpoint_id()
    count = len(log.written)
    durabilities: list[Literal["step", "turn"]] = ["step", "turn"]
    for checkpoint, durability in itertools.product((None, head, None, head), durabilities):
        result = await workflow.run(checkpoint_id=checkpoint, durability=durability)
        assert result.checkpoint_id == head
    assert len(log.written) == count


async def test_a_branch_is_a_second_child() -> None:
    """Two inputs given to one checkpoint are two children of it, and neither knows of the other."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    base = (await workflow.run("base")).checkpoint_id
    left = await workflow.run("left", checkpoint_id=base)
    right = await workflow.run("right", checkpoint_id=base)
    assert left.get_outputs() == ["2: base left"]
    assert right.get_outputs() == ["2: base right"]
    found = await storage.list_checkpoints(workflow_name="counting")
    assert len([c for c in found if c.previous_checkpoint_id == base]) == 2
    assert (await workflow.run("on")).get_outputs() == ["3: base right on"]
    assert (await workflow.run("on", checkpoint_id=left.checkpoint_id)).get_outputs() == ["3: base left on"]


@STORAGES
async def test_going_back_to_a_checkpoint_moves_the_session_there(storage: Any) -> None:
    """`run(checkpoint_id=...)` alone puts the session at the checkpoint: what follows goes on from it."""
    workflow = counting(storage() if storage else None)
    initial = await workflow.create_checkpoint()
    await workflow.run("a")
    saved = await workflow.create_checkpoint()
    await workflow.run("b")
    await workflow.run(checkpoint_id=saved)
    assert workflow.get_start_executor().history == ["a"]  # type: ignore[attr-defined]
    assert (await workflow.run("c")).get_outputs() == ["2: a c"]
    await workflow.run(checkpoint_id=initial)
    assert (await workflow.run("d")).get_outputs() == ["1: d"]


@STORAGES
async def test_a_checkpoint_can_be_made_before_the_first_run(storage: Any) -> None:
    """It is the initial state, for every session the same, and any session can begin from it."""
    workflow = counting(storage() if storage else None)
    initial = await workflow.create_checkpoint()
    assert await workflow.create_checkpoint("another") == initial
    await workflow.run("a")
    later = await workflow.create_checkpoint()
    assert later != initial
    assert later == await workflow.create_checkpoint()
    assert (await workflow.run("b", checkpoint_id=initial)).get_outputs() == ["1: b"]
    assert (await workflow.run("c", checkpoint_id=later)).get_outputs() == ["2: a c"]
    assert (await workflow.run("d", session_id="another", checkpoint_id=later)).get_outputs() == ["2: a d"]


async def test_the_initial_checkpoint_belongs_to_no_session() -> None:
    """Made in several sessions it is one commit, and none of them learns the name of another."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    for session in ("alice", "bob"):
        assert await workflow.create_checkpoint(session) == (await workflow.definition()).root.id
        latest = await storage.get_latest(workflow_name="counting", session_id=session)
        assert latest is not None
        assert (latest.session_id, latest.kind) == ("", "root")
    assert await storage.list_checkpoint_ids(workflow_name="counting", session_id="alice") == []
    assert (await workflow.run("a", session_id="bob")).get_outputs() == ["1: a"]


class Asking(Executor):
    """Asks before it answers."""

    def __init__(self) -> None:
        super().__init__("asking")
        self.asked = 0

    @handler
    async def ask(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.asked += 1
        await ctx.request_info(text, bool, request_id=f"r{self.asked}")

    @response_handler
    async def hear(self, request: str, answer: bool, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{request}: {answer}")


@STORAGES
async def test_a_checkpoint_has_the_open_requests(storage: Any) -> None:
    """A request raised in the last superstep is in the checkpoint made after it, and can be answered from there."""
    made = storage() if storage else None
    workflow = WorkflowBuilder(start_executor=Asking(), name="asking", checkpoint_storage=made).build()
    result = await workflow.run("sure?")
    saved = await workflow.create_checkpoint()
    if made:
        assert result.get_request_info_events()[0].checkpoint_id == saved
        assert (await made.load(saved)).pending_request_info_events == {"r1": "sure?"}
    for answer in (True, False):
        again = await workflow.run(responses={"r1": answer}, checkpoint_id=saved)
        assert again.get_outputs() == [f"sure?: {answer}"]


@STORAGES
async def test_reset_leaves_nothing_of_the_session(storage: Any) -> None:
    """After `reset` state and requests are as at the beginning; old checkpoints can still be run from."""
    asking = Asking()
    made = storage() if storage else None
    workflow = WorkflowBuilder(start_executor=asking, name="asking", checkpoint_storage=made).build()
    await workflow.run("one?")
    await workflow.run("two?")
    saved = await workflow.create_checkpoint()
    await workflow.reset()
    assert asking.asked == 0
    with pytest.raises(UnknownRequestError, match="open: none"):
        await workflow.run(responses={"r1": True})
    assert [event.request_id for event in (await workflow.run("three?")).get_request_info_events()] == ["r1"]
    again = await workflow.run(responses={"r2": True}, checkpoint_id=saved)
    assert again.get_outputs() == ["two?: True"]


async def test_reset_leads_to_the_initial_state_of_the_running_program() -> None:
    """A session made by an older program is reset to what the program begins with today."""

    class Greeter(Executor):
        def __init__(self, greeting: str) -> None:
            super().__init__("greeter")
            self.greeting = greeting

        async def on_checkpoint_save(self) -> dict[str, Any]:
            return {"greeting": self.greeting}

        async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
            self.greeting = state["greeting"]

        @handler
        async def greet(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            await ctx.yield_output(f"{self.greeting} {text}")

    storage = InMemoryCheckpointStorage()

    def program(greeting: str) -> Any:
        return WorkflowBuilder(start_executor=Greeter(greeting), name="g", checkpoint_storage=storage).build()

    await program("Hello").run("a")
    today = program("Good day")
    assert (await today.run("b")).get_outputs() == ["Hello b"]
    await today.reset()
    assert (await today.run("c")).get_outputs() == ["Good day c"]


class Restless(Executor):
    """Has hooks; the restore hook fails when told to."""

    fails = False

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.count = 0
        self.restored: list[dict[str, Any]] = []

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"count": self.count}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        if type(self).fails and self.id == "second":
            raise RuntimeError("cannot restore")
        self.restored = [*self.restored, state]
        self.count = state["count"]

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        if self.id == "first":
            await ctx.send_message(text)
        else:
            await ctx.yield_output(f"{self.count}")


@STORAGES
async def test_a_failing_restore_hook_changes_nothing(storage: Any) -> None:
    """Neither a run, nor going back, nor a reset leaves anything half done when a hook fails."""

    class Fails(Restless):
        fails = False

    first, second = Fails("first"), Fails("second")
    made = storage() if storage else None
    workflow = WorkflowBuilder(start_executor=first, name="restless", checkpoint_storage=made)
    workflow = workflow.add_edge(first, second).build()  # type: ignore[assignment]
    initial = await workflow.create_checkpoint()  # type: ignore[attr-defined]
    await workflow.run("a")  # type: ignore[attr-defined]
    head = await workflow.get_last_checkpoint_id()  # type: ignore[attr-defined]
    Fails.fails = True
    for attempt in (workflow.run("b"), workflow.run(checkpoint_id=initial), workflow.reset()):  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="cannot restore"):
            await attempt
        assert (first.count, second.count) == (1, 1)
        assert await workflow.get_last_checkpoint_id() == head  # type: ignore[attr-defined]
    Fails.fails = False
    assert (await workflow.run("b")).get_outputs() == ["2"]  # type: ignore[attr-defined]


@STORAGES
async def test_an_executor_that_has_not_run_begins_with_its_defaults(storage: Any) -> None:
    """Going back to a checkpoint from before an executor ran clears what it has learned since."""
    first, second = Restless("first"), Counter("second")
    builder = WorkflowBuilder(start_executor=first, name="mixed", checkpoint_storage=storage() if storage else None)
    workflow = builder.add_edge(first, second).build()
    initial = await workflow.create_checkpoint()
    await workflow.run("a")
    assert (first.count, second.count, second.history) == (1, 1, ["a"])
    await workflow.run(checkpoint_id=initial)
    assert (first.count, second.count, second.history) == (0, 0, [])
    assert first.restored == [{"count": 0}]


async def test_nothing_done_after_a_commit_changes_it() -> None:
    """Lists, messages and state that an executor goes on changing stand in a checkpoint as they were."""
    kept: dict[str, Any] = {}

    @executor
    async def start(text: str, ctx: WorkflowContext[list[str]]) -> None:
        kept["message"] = [text]
        kept["state"] = {"inner": [text]}
        ctx.set_state("notes", kept["state"])
        kept["state"]["inner"].append("after set_state")
        await ctx.send_message(kept["message"])

    @executor
    async def end(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        kept["message"].append("later")
        kept["state"]["inner"].append("later")
        texts.append("mine")
        ctx.get_state("notes")["inner"].append("in a copy")

    storage = InMemoryCheckpointStorage()
    workflow = WorkflowBuilder(start_executor=start, name="w", checkpoint_storage=storage).add_edge(start, end).build()
    await workflow.run("a")
    between = (await storage.list_checkpoints(workflow_name="w"))[2]
    assert between.messages == {"start": [["a"]]}
    assert between.state == {"notes": {"inner": ["a"]}}
    latest = await storage.get_latest(workflow_name="w")
    assert latest is not None
    assert latest.state == {"notes": {"inner": ["a"]}}


async def test_changing_what_was_loaded_changes_nothing_stored() -> None:
    """Every look at a checkpoint is a look at fresh values."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    await workflow.run("a")
    latest = await storage.get_latest(workflow_name="counting")
    assert latest is not None
    latest.executor_states["counter"]["history"].append("damage")
    for listed in await storage.list_checkpoints(workflow_name="counting"):
        listed.state["x"] = 1
    again = await storage.load(latest.checkpoint_id)
    assert again.executor_states == {"counter": {"count": 1, "history": ["a"]}}
    assert again.state == {}
    assert (await workflow.run("b")).get_outputs() == ["2: a b"]


async def test_a_change_deep_inside_is_noticed() -> None:
    """A nested value that was changed in place is a change."""

    class Deep(Executor):
        def __init__(self) -> None:
            super().__init__("deep")
            self.tree = {"a": [{"b": {1, 2}}]}

        @handler
        async def grow(self, number: int, ctx: WorkflowContext[int, list[int]]) -> None:
            self.tree["a"][0]["b"].add(number)
            await ctx.yield_output(sorted(self.tree["a"][0]["b"]))

    for storage in (None, InMemoryCheckpointStorage()):
        workflow = WorkflowBuilder(start_executor=Deep(), name="deep", checkpoint_storage=storage).build()
        await workflow.run(3)
        assert (await workflow.run(4)).get_outputs() == [[1, 2, 3, 4]]


async def test_a_half_filled_join_is_part_of_a_checkpoint() -> None:
    """What waits in a fan-in while a question is open is there after a restart, and the answer completes it."""

    @executor
    async def left(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(f"left {text}")

    class Right(Asking):
        @response_handler
        async def hear(self, request: str, answer: bool, ctx: WorkflowContext[str]) -> None:
            await ctx.send_message(f"right {answer}")

    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(text)

    @executor
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(" and ".join(texts))

    storage = InMemoryCheckpointStorage()

    def program() -> Any:
        right = Right()
        builder = WorkflowBuilder(start_executor=split, name="w", checkpoint_storage=storage)
        return builder.add_fan_out_edges(split, [left, right]).add_fan_in_edges([left, right], join).build()

    for durability in ("step", "turn"):
        result = await program().run("x", session_id=durability, durability=durability)
        assert not [event for event in result if event.type == "warning"]
        latest = await storage.get_latest(workflow_name="w", session_id=durability)
        assert latest is not None
        assert list(latest.waiting_in_joins.values()) == [["left x"]]
        request_id = result.get_request_info_events()[0].request_id
        answered = await program().run(responses={request_id: True}, session_id=durability)
        assert answered.get_outputs() == ["left x and right True"]


async def test_messages_to_several_targets_are_delivered_together() -> None:
    """The checkpoint before a fan-out has the message for all targets; going back there delivers it to all."""
    storage = InMemoryCheckpointStorage()
    workflow = both_ways(storage)
    result = await workflow.run("x")
    assert result.get_outputs() == ["left x and right x"]
    found = await storage.list_checkpoints(workflow_name="both-ways")
    assert [c.messages for c in found] == [
        {},
        {"split": ["x"]},
        {"split": ["x"]},
        {"left": ["left x"], "right": ["right x"]},
        {},
    ]
    for checkpoint in found[1:4]:
        again = await both_ways(storage).run(checkpoint_id=checkpoint.checkpoint_id)
        assert again.get_outputs() == ["left x and right x"]


async def test_no_key_of_shared_state_can_touch_the_engine() -> None:
    """User keys that look like the engine's own are plain keys."""
    keys = ["_executor_state", "x/counter", "q/000000", "x/counter/count", "m", "", "s/", "r/r1", "e/a/b/000000"]

    class Writing(Counter):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            for key in keys:
                ctx.set_state(key, f"{key} {text}")
            self.count += 1

    storage = InMemoryCheckpointStorage()
    workflow = WorkflowBuilder(start_executor=Writing(), name="w", checkpoint_storage=storage).build()
    await workflow.run("a")
    await workflow.run("b")
    latest = await storage.get_latest(workflow_name="w")
    assert latest is not None
    assert latest.state == {key: f"{key} b" for key in keys}
    assert latest.executor_states == {"counter": {"count": 2}}
    assert (latest.messages, latest.pending_request_info_events, latest.waiting_in_joins) == ({}, {}, {})


class Unstorable:
    """Nothing that could be stored."""


@pytest.mark.parametrize("where", ["send_message", "yield_output", "request_info", "state", "attribute", "nested"])
async def test_what_cannot_be_stored_is_refused_with_its_place(where: str) -> None:
    """The error names the executor, the place and the type, and nothing of the superstep is kept."""

    class Storing(Asking):
        @handler
        async def ask(self, text: str, ctx: WorkflowContext[Any, Any]) -> None:
            if where == "send_message":
                await ctx.send_message(Unstorable())
            elif where == "yield_output":
                await ctx.yield_output(Unstorable())
            elif where == "request_info":
                await ctx.request_info(Unstorable(), bool)
            elif where == "state":
                ctx.set_state("key", {"deep": [Unstorable()]})
            elif where == "attribute":
                self.asked = Unstorable()  # type: ignore[assignment]
            else:
                await ctx.send_message([{"deep": Unstorable()}])

    storage = InMemoryCheckpointStorage()
    workflow = WorkflowBuilder(start_executor=Storing(), name="w", checkpoint_storage=storage).build()
    with pytest.raises(UnsupportedValueError, match="Unstorable") as caught:
        await workflow.run("a")
    assert "'asking'" in str(caught.value)
    assert where != "state" or "'key'" in str(caught.value)
    assert where != "attribute" or "'asked'" in str(caught.value)
    assert where not in ("state", "nested") or "['deep']" in str(caught.value)
    latest = await storage.get_latest(workflow_name="w")
    assert latest is not None
    assert latest.kind == "input"


async def test_a_value_that_contains_itself_is_refused() -> None:
    """A cycle is an error that names the attribute, not an endless loop."""

    class Cyclic(Counter):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.history.append(self.history)  # type: ignore[arg-type]

    workflow = WorkflowBuilder(start_executor=Cyclic()).build()
    with pytest.raises(UnsupportedValueError, match=r"'history'.*contains itself"):
        await workflow.run("a")


async def test_an_unknown_checkpoint_is_not_found() -> None:
    """With and without a storage; and a checkpoint of another workflow is refused."""
    storage = InMemoryCheckpointStorage()
    for workflow in (counting(), counting(storage)):
        with pytest.raises(CheckpointNotFoundError, match="nothing"):
            await workflow.run(checkpoint_id="chk_nothing")
    other = (await counting(storage, "other").run("a")).checkpoint_id
    with pytest.raises(WorkflowCheckpointException, match="belongs to the workflow 'other'"):
        await counting(storage).run("b", checkpoint_id=other)


async def test_a_checkpoint_with_a_gap_behind_it_is_an_error() -> None:
    """A state of which a part is missing is never taken for a whole one."""
    storage = InMemoryCheckpointStorage()
    workflow = counting(storage)
    await workflow.run("a")
    del storage.log._commits[(await workflow.definition()).root.id]  # type: ignore[attr-defined]
    head = await workflow.get_last_checkpoint_id()
    assert head is not None
    for attempt in (workflow.run("b"), storage.load(head), workflow.run("b", checkpoint_id=head)):
        with pytest.raises(CheckpointDecodeError, match="missing"):
            await attempt


async def test_a_checkpoint_needs_the_executors_it_holds_state_of() -> None:
    """State of an executor that is gone is an error that names it."""
    storage = InMemoryCheckpointStorage()
    await counting(storage, "w").run("a")
    only = WorkflowBuilder(start_executor=Counter("another"), name="w", checkpoint_storage=storage).build()
    with pytest.raises(WorkflowCheckpointException, match="state 'count' of 'counter': The workflow no longer has"):
        await only.run("b")


class Quiet(Executor):
    """Keeps nothing; asks, fails or sends, as it is told."""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if text == "ask":
            await ctx.request_info(text, bool)
        elif text == "fail":
            raise ValueError(text)
        await ctx.send_message(text)

    @response_handler
    async def hear(self, request: str, answer: bool, ctx: WorkflowContext[str, str]) -> None: ...


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ask", "open request 'str' of 'old'"),
        ("fail", "queued message 'str' of 'old'"),
        ("wait", r"join '\(old,other\)->end' of 'old'"),
    ],
)
async def test_a_checkpoint_needs_the_executors_that_it_waits_for(text: str, message: str) -> None:
    """An open request, a queued message or a half-filled join of a part that is gone is an error that names it."""
    storage = InMemoryCheckpointStorage()

    def program(name: str) -> Any:
        @executor
        async def end(texts: list[str], ctx: WorkflowContext[str, str]) -> None: ...

        first, other = Quiet(name), Quiet("other")
        builder = WorkflowBuilder(start_executor=first, name="w", checkpoint_storage=storage)
        builder.add_edge(first, other, condition=lambda text: False).add_fan_in_edges([first, other], end)
        return builder.build()

    if text == "fail":
        with pytest.raises(ValueError, match="fail"):
            await program("old").run(text)
    else:
        await program("old").run(text)
    with pytest.raises(WorkflowCheckpointException, match=message):
        await program("new").run()


async def test_a_long_chain_is_read_from_a_complete_commit() -> None:
    """Every 32nd commit holds the whole state, so that no state needs more than 31 commits besides it."""
    storage = InMemoryCheckpointStorage()
    workflow = ping_pong(storage)
    result = await workflow.run(99)
    assert result.checkpoint_id is not None
    chain = await storage.log.chain(result.checkpoint_id)
    assert len(chain) <= 32
    assert chain[-1].complete
    again = await ping_pong(storage).run(0)
    assert again.get_outputs() == [f"ping saw {[*range(99, 0, -2), 0]}"]


async def test_two_sessions_at_once_share_one_storage() -> None:
    """Sessions that run at the same time keep their own chains and heads."""
    storage = InMemoryCheckpointStorage()
    workflow = ping_pong(storage)
    await asyncio.gather(*(workflow.run(n, session_id=f"s{n}") for n in range(5)))
    for n in range(5):
        found = await storage.list_checkpoints(workflow_name="ping-pong", session_id=f"s{n}")
        assert len(found) == n + 2
        assert found[-1].state.get("last of ping", 0) + found[-1].state.get("last of pong", 0) in (0, 1)
