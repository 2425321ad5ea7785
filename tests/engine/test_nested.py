"""A workflow inside a workflow: it works in the supersteps of the outer one and is stored with it."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    SubWorkflowRequestMessage,
    SubWorkflowResponseMessage,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    WorkflowRunState,
    executor,
    handler,
    response_handler,
)
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import (
    TypeCompatibilityError,
    UnknownRequestError,
    WorkflowConvergenceException,
    WorkflowRunnerException,
    WorkflowValidationError,
)
from tests.engine.graphs import Counter, CountingLog, Stopped, StoppingLog, ping_pong


@dataclass(frozen=True)
class Question:
    """What a nested workflow asks."""

    text: str


class Asker(Executor):
    """Asks about each text, and sends on what it was told, with how often it has asked."""

    def __init__(self, id: str = "asker") -> None:
        super().__init__(id)
        self.asked = 0

    @handler
    async def ask(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.asked += 1
        await ctx.request_info(Question(text), str, request_id=f"about {text}")

    @response_handler
    async def told(self, question: Question, answer: str, ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{question.text}: {answer} ({self.asked})")


@executor(id="split")
async def split(text: str, ctx: WorkflowContext[str]) -> None:
    for word in text.split():
        await ctx.send_message(word)


@executor(id="collect")
async def collect(text: str, ctx: WorkflowContext[str, str]) -> None:
    await ctx.yield_output(text)


def asking() -> Workflow:
    return WorkflowBuilder(start_executor=Asker(), name="asking").build()


def around(inner: Workflow, storage: CheckpointStorage | None = None, **options: Any) -> Workflow:
    """`split` sends each word of a text to a nested workflow; `collect` yields what comes out of it."""
    nested = WorkflowExecutor(inner, "inner", **options)
    builder = WorkflowBuilder(start_executor=split, name="around", checkpoint_storage=storage)
    if options.get("allow_direct_output"):
        return builder.add_edge(split, nested).build()
    return builder.add_edge(split, nested).add_edge(nested, collect).build()


def deep(depth: int, storage: CheckpointStorage | None = None) -> Workflow:
    """A workflow that asks, wrapped into `depth` others that let its requests out."""
    workflow = asking()
    for level in range(depth, 0, -1):
        nested = WorkflowExecutor(workflow, f"level{level}", allow_direct_output=True, propagate_request=True)
        top = storage if level == 1 else None
        workflow = WorkflowBuilder(start_executor=nested, name=f"deep{level}", checkpoint_storage=top).build()
    return workflow


STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


@STORAGES
async def test_outputs_become_messages(storage: Any) -> None:
    """What the nested workflow yields goes along the edges of the executor that stands for it."""
    workflow = around(WorkflowBuilder(start_executor=Counter(), name="n").build(), storage and storage())
    assert (await workflow.run("a")).get_outputs() == ["1: a"]


@STORAGES
async def test_inputs_that_follow_each_other_meet_the_same_state(storage: Any) -> None:
    """A second input finds what the first one left, as the executors of the outer workflow do."""
    workflow = around(WorkflowBuilder(start_executor=Counter(), name="n").build(), storage and storage())
    await workflow.run("a")
    assert (await workflow.run("b")).get_outputs() == ["2: a b"]
    await workflow.reset()
    assert (await workflow.run("c")).get_outputs() == ["1: c"]


@STORAGES
async def test_inputs_that_overlap_do_not_meet(storage: Any) -> None:
    """Three inputs in one superstep go to three instances, whose outputs come in the order of the inputs."""
    workflow = around(WorkflowBuilder(start_executor=Counter(), name="n").build(), storage and storage())
    assert (await workflow.run("a b c")).get_outputs() == ["1: a", "1: b", "1: c"]
    assert (await workflow.run("d e")).get_outputs() == ["2: a d", "2: b e"]


async def test_twelve_instances_keep_their_order() -> None:
    """Instances are in the order of their numbers, not of their names."""
    workflow = around(WorkflowBuilder(start_executor=Counter(), name="n").build())
    words = [f"w{number}" for number in range(12)]
    assert (await workflow.run(" ".join(words))).get_outputs() == [f"1: {word}" for word in words]


@STORAGES
async def test_direct_output(storage: Any) -> None:
    """With allow_direct_output the nested workflow's output is the outer one's, under the executor's name."""
    inner = WorkflowBuilder(start_executor=Counter(), name="n").build()
    workflow = around(inner, storage and storage(), allow_direct_output=True)
    outputs = [event for event in await workflow.run("a") if event.type == "output"]
    assert [(event.data, event.executor_id) for event in outputs] == [("1: a", "inner")]


async def test_text_streams_out_of_any_depth() -> None:
    """A TextDelta of a nested executor is shown while it is made, and settles as one output."""

    @executor(id="talker")
    async def talk(text: str, ctx: WorkflowContext[str, str]) -> None:
        for piece in ("to", "get", "her"):
            await ctx.yield_output(TextDelta(piece))
            await asyncio.sleep(0)

    workflow: Any = WorkflowBuilder(start_executor=talk, name="talk").build()
    for level in ("c", "b", "a"):
        nested = WorkflowExecutor(workflow, level, allow_direct_output=True)
        workflow = WorkflowBuilder(start_executor=nested, name=f"in {level}").build()
    events = [event async for event in workflow.run("x", stream=True)]
    shown = [event for event in events if event.type == "output_delta"]
    settled = next(event for event in events if event.type == "output")
    assert [event.data for event in shown] == ["to", "get", "her"]
    assert {event.output for event in shown} == {settled.output}
    assert settled.data == "together"
    assert events.index(shown[0]) < events.index(
        next(e for e in events if e.type == "executor_completed" and e.executor_id == "a/b/c/talker")
    )


async def test_events_come_live_from_inside() -> None:
    """The executors of a nested workflow are named with the way to them."""
    workflow = around(WorkflowBuilder(start_executor=Counter(), name="n").build())
    events = [event async for event in workflow.run("a", stream=True)]
    invoked = [event.executor_id for event in events if event.type == "executor_invoked"]
    assert invoked == ["split", "inner", "inner/counter", "collect"]
    assert [event.iteration for event in events if event.type == "executor_invoked"] == [1, 2, 3, 4]


async def test_intermediate_outputs_pass_as_such() -> None:
    """What a nested workflow calls intermediate is intermediate outside too."""
    counter = Counter()
    inner = WorkflowBuilder(start_executor=counter, name="n", intermediate_output_from=[counter]).build()
    workflow = around(inner, allow_direct_output=True)
    result = await workflow.run("a")
    assert result.get_intermediate_outputs() == ["1: a"]
    assert result.get_outputs() == []


async def test_nested_supersteps_are_checkpoints_of_the_outer_workflow() -> None:
    """Each superstep inside is a commit, which holds the nested cells and no copy of anything else."""
    log = CountingLog()
    workflow = around(ping_pong_of_text(), CheckpointStorage(log))
    assert (await workflow.run("5")).get_outputs() == ["pong saw [4, 2, 0]"]
    steps = [commit for commit in log.written if commit.kind == "step"]
    assert len(steps) == 11
    assert sorted(steps[5].delta) == [
        "w/inner/1/w/game/1/q/000000",
        "w/inner/1/w/game/1/s/last of pong",
        "w/inner/1/w/game/1/x/pong/seen",
    ]


def ping_pong_of_text() -> Workflow:
    @executor(id="number")
    async def number(text: str, ctx: WorkflowContext[int]) -> None:
        await ctx.send_message(int(text))

    inner = WorkflowExecutor(ping_pong(), "game", allow_direct_output=True)
    return WorkflowBuilder(start_executor=number, name="text").add_edge(number, inner).build()


async def test_shared_state_is_each_workflows_own() -> None:
    """A key of the nested workflow is not the same key of the outer one."""

    class Writer(Executor):
        @handler
        async def write(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            before = ctx.get_state("key", "nothing")
            ctx.set_state("key", f"{self.id} {text}")
            await ctx.send_message(text)
            await ctx.yield_output(before)

    inner = WorkflowExecutor(WorkflowBuilder(start_executor=Writer("w"), name="n").build(), "inner")
    outer = Writer("w")
    storage = InMemoryCheckpointStorage()
    builder = WorkflowBuilder(start_executor=outer, name="o", checkpoint_storage=storage)
    workflow = builder.add_edge(outer, inner).add_edge(inner, collect).build()
    assert (await workflow.run("a")).get_outputs() == ["nothing", "nothing"]
    assert (await workflow.run("b")).get_outputs() == ["w a", "w a"]


@STORAGES
async def test_a_request_is_a_message_for_the_outer_workflow(storage: Any) -> None:
    """An executor of the outer workflow answers what the nested one asks, and nobody outside hears of it."""

    class Boss(Executor):
        @handler
        async def decide(
            self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]
        ) -> None:
            assert isinstance(request.source_event.data, Question)
            answer = request.create_response(request.source_event.data.text.upper())
            await ctx.send_message(answer, target_id=request.executor_id)

    boss, inner = Boss("boss"), WorkflowExecutor(asking(), "inner")
    builder = WorkflowBuilder(start_executor=split, name="o", checkpoint_storage=storage and storage())
    builder.add_edge(split, inner).add_edge(inner, boss).add_edge(boss, inner).add_edge(inner, collect)
    workflow = builder.build()
    result = await workflow.run("a b")
    assert result.get_outputs() == ["a: A (1)", "b: B (1)"]
    assert result.get_request_info_events() == []
    assert result.get_final_state() is WorkflowRunState.IDLE
    assert [e for e in result if e.type == "warning"] == []


async def test_an_outer_executor_hands_a_request_on() -> None:
    """The event inside the message can be asked again outside, with its own type, and the answer sent back."""

    class Clerk(Executor):
        @handler
        async def pass_on(
            self, request: SubWorkflowRequestMessage, ctx: WorkflowContext[SubWorkflowResponseMessage]
        ) -> None:
            self.executor_id = request.executor_id
            await ctx.request_info(request, request.source_event.response_type)

        @response_handler
        async def back(
            self, request: SubWorkflowRequestMessage, answer: str, ctx: WorkflowContext[SubWorkflowResponseMessage]
        ) -> None:
            await ctx.send_message(request.create_response(answer), target_id=request.executor_id)

    clerk, inner = Clerk("clerk"), WorkflowExecutor(asking(), "inner")
    builder = WorkflowBuilder(start_executor=inner, name="o", checkpoint_storage=InMemoryCheckpointStorage())
    workflow = builder.add_edge(inner, clerk).add_edge(clerk, inner).add_edge(inner, collect).build()
    first = await workflow.run("a")
    (event,) = first.get_request_info_events()
    assert event.executor_id == "clerk"
    result = await workflow.run(responses={event.request_id: "yes"})
    assert result.get_outputs() == ["a: yes (1)"]


@STORAGES
async def test_requests_of_parallel_instances_are_answered_each_on_its_own(storage: Any) -> None:
    """Two instances wait; answering one lets only that one go on, and the other stays pending."""
    workflow = around(asking(), storage and storage(), propagate_request=True)
    first = await workflow.run("a b")
    assert [event.request_id for event in first.get_request_info_events()] == ["about a", "about b"]
    assert {event.executor_id for event in first.get_request_info_events()} == {"inner/asker"}
    second = await workflow.run(responses={"about b": "yes"})
    assert second.get_outputs() == ["b: yes (1)"]
    assert second.get_final_state() is WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    third = await workflow.run(responses={"about a": "no"})
    assert third.get_outputs() == ["a: no (1)"]
    with pytest.raises(UnknownRequestError, match="about a"):
        await workflow.run(responses={"about a": "again"})


@STORAGES
async def test_an_input_does_not_disturb_an_instance_that_waits(storage: Any) -> None:
    """While one instance waits for an answer, a new input goes to another."""
    workflow = around(asking(), storage and storage(), propagate_request=True)
    await workflow.run("a")
    await workflow.run("b")
    result = await workflow.run(responses={"about a": "yes", "about b": "no"})
    assert result.get_outputs() == ["a: yes (1)", "b: no (1)"]


async def test_a_pause_three_levels_down_survives_the_process() -> None:
    """The answer given in another process reaches the executor that asked, once, with its state."""
    storage = InMemoryCheckpointStorage()
    (event,) = (await deep(3, storage).run("a")).get_request_info_events()
    assert event.executor_id == "level1/level2/level3/asker"
    again = deep(3, CheckpointStorage(storage.log))
    (found,) = (await again.run()).get_request_info_events()
    assert (found.request_id, found.data) == ("about a", Question("a"))
    result = await deep(3, CheckpointStorage(storage.log)).run(responses={"about a": "yes"})
    assert result.get_outputs() == ["a: yes (1)"]
    assert result.get_request_info_events() == []
    assert (await deep(3, CheckpointStorage(storage.log)).run()).get_request_info_events() == []


async def test_stopping_at_any_boundary_changes_nothing() -> None:
    """Killed after any commit and resumed by another process, nested workflows come to the same result."""
    uninterrupted = around(ping_pong_of_text(), InMemoryCheckpointStorage())
    straight = (await uninterrupted.run("3 2")).get_outputs()
    after = (await uninterrupted.run("1")).get_outputs()
    for stop in range(1, 9):
        log = StoppingLog()
        log.left = stop
        with pytest.raises(Stopped):
            await around(ping_pong_of_text(), CheckpointStorage(log)).run("3 2")
        log.left = None
        resumed = around(ping_pong_of_text(), CheckpointStorage(log))
        rest = (await resumed.run()).get_outputs()
        assert rest == straight[len(straight) - len(rest) :]
        assert (await resumed.run("1")).get_outputs() == after


async def test_a_failure_inside_leaves_everything_where_it_was() -> None:
    """A nested executor that raises fails the run, names itself, and can be run again."""
    fails = [True]

    @executor(id="fragile")
    async def fragile(text: str, ctx: WorkflowContext[str, str]) -> None:
        if fails:
            raise ValueError("broken")
        await ctx.yield_output(text)

    workflow = around(WorkflowBuilder(start_executor=fragile, name="n").build(), InMemoryCheckpointStorage())
    with pytest.raises(ValueError, match="broken") as caught:
        await workflow.run("a b")
    assert caught.value.__notes__ == ["raised by executor 'inner/fragile' of workflow 'n'"]
    assert await workflow.next_executors() == ["inner/fragile"]
    fails.clear()
    assert (await workflow.run()).get_outputs() == ["a", "b"]


async def test_each_graph_has_its_own_limit() -> None:
    """Supersteps inside a nested workflow count against its limit, not against the outer one's."""
    game = WorkflowExecutor(ping_pong(), "game", allow_direct_output=True)
    endless = WorkflowBuilder(start_executor=game, name="outer", max_iterations=5).build()
    with pytest.raises(WorkflowConvergenceException, match="nested workflow 'game' did not come to rest within 100"):
        await endless.run(200)
    assert (await endless.run(50)).get_outputs()


async def test_fork_and_reset_take_the_nested_state_along() -> None:
    """A fork has the nested workflow's state of its moment; a reset of one session does not touch the other."""
    inner = WorkflowBuilder(start_executor=Counter(), name="n").build()
    workflow = around(inner, InMemoryCheckpointStorage())
    await workflow.run("a", session_id="one")
    point = await workflow.create_checkpoint("one")
    await workflow.fork(point, "two")
    await workflow.run("b", session_id="one")
    await workflow.reset("one")
    assert (await workflow.run("c", session_id="two")).get_outputs() == ["2: a c"]
    assert (await workflow.run("d", session_id="one")).get_outputs() == ["1: d"]


async def test_an_instance_with_hooks_is_restored_by_them() -> None:
    """Executors that save themselves do so inside a nested workflow too, each instance on its own."""

    class Hooked(Executor):
        def __init__(self) -> None:
            super().__init__("hooked")
            self.seen: list[str] = []

        async def on_checkpoint_save(self) -> dict[str, Any]:
            return {"seen": self.seen}

        async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
            self.seen = state["seen"]

        @handler
        async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.seen.append(text)
            await ctx.yield_output(" ".join(self.seen))

    storage = InMemoryCheckpointStorage()

    def build() -> Workflow:
        inner = WorkflowBuilder(start_executor=Hooked(), name="n").build()
        return around(inner, CheckpointStorage(storage.log))

    assert (await build().run("a b")).get_outputs() == ["a", "b"]
    assert (await build().run("c d e")).get_outputs() == ["a c", "b d", "e"]


async def test_a_wrong_answer_is_refused_before_anything_changes() -> None:
    """The type of an answer is checked where it is made and where it arrives."""
    workflow = around(asking(), InMemoryCheckpointStorage(), propagate_request=True)
    await workflow.run("a")
    with pytest.raises(WorkflowRunnerException, match="must be a str, not a int"):
        await workflow.run(responses={"about a": 1})
    assert (await workflow.run(responses={"about a": "yes"})).get_outputs() == ["a: yes (1)"]


def test_what_a_nested_workflow_yields_must_fit_its_edges() -> None:
    """Types are checked through the boundary of a nested workflow when the outer one is built."""

    @executor(id="numbers")
    async def numbers(number: int, ctx: WorkflowContext[str]) -> None: ...

    inner = WorkflowExecutor(WorkflowBuilder(start_executor=Counter(), name="n").build(), "inner")
    with pytest.raises(TypeCompatibilityError, match="'inner' sends str, but 'numbers' takes int"):
        WorkflowBuilder(start_executor=inner).add_edge(inner, numbers).build()


def test_policies_belong_to_the_executors_inside() -> None:
    """A nested workflow as a whole takes no timeout: it does not run within one call."""
    with pytest.raises(WorkflowValidationError, match="give them to its executors"):
        WorkflowExecutor(asking(), "inner", timeout=1)


async def test_instances_have_keys_of_their_own() -> None:
    """The same call in two instances at once is two calls: their keys for other services differ."""
    keys: list[str] = []

    @executor(id="paying")
    async def paying(text: str, ctx: WorkflowContext[str, str]) -> None:
        keys.append(ctx.idempotency_key)
        await ctx.yield_output(str(ctx.uuid()))

    workflow = around(WorkflowBuilder(start_executor=paying, name="n").build())
    made = (await workflow.run("a b c")).get_outputs()
    assert len(set(keys)) == 3
    assert len(set(made)) == 3


async def test_the_limit_of_a_nested_workflow_begins_anew_with_each_input() -> None:
    """Many inputs, one after the other, are not one long run of the nested workflow."""
    game = WorkflowExecutor(ping_pong(), "game")

    class Again(Executor):
        @handler
        async def begin(self, rounds: int, ctx: WorkflowContext[int, str]) -> None:
            self.left = rounds
            await ctx.send_message(30)

        @handler
        async def on(self, result: str, ctx: WorkflowContext[int, str]) -> None:
            self.left -= 1
            if self.left:
                await ctx.send_message(30)
            else:
                await ctx.yield_output("done")

    again = Again("again")
    workflow = WorkflowBuilder(start_executor=again, name="o").add_edge(again, game).add_edge(game, again).build()
    assert (await workflow.run(5)).get_outputs() == ["done"]
