"""What of a stored state a changed workflow could not continue: each kind is found, named, and told with a remedy."""

import enum
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent_host import (
    Case,
    Default,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    config,
    handler,
    register_checkpoint_type,
    response_handler,
    state,
)
from agent_host.engine.migration.compatibility import Incompatibility, problems, refuse
from agent_host.engine.serialization import stored_types
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import WorkflowCheckpointException
from tests.engine.graphs import both_ways, counting, ping_pong
from tests.engine.older import NAME, chain, found_by, keeper, nested, record, sender, stop_after, stored, taker, told

OldTicket = record("Ticket", device=str)
Job = record("Job", number=int)
Order = record("Order", number=int)


async def kept(*executors: Executor) -> MemoryLog:
    """What a chain of executors has stored after one text."""
    log = MemoryLog()
    await chain(*executors, storage=CheckpointStorage(log)).run("hello")
    return log


async def queued(workflow: Callable[[CheckpointStorage], Workflow], steps: int = 1) -> MemoryLog:
    """What a workflow has stored that was stopped after some supersteps."""
    log = MemoryLog()
    await stop_after(workflow(CheckpointStorage(log)), steps)
    return log


# --- State -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [counting, ping_pong, both_ways])
async def test_the_workflow_that_stored_a_state_has_no_problem_with_it(build: Any) -> None:
    """A state at rest is compatible with the program that made it, whatever graph it has."""
    log = MemoryLog()
    workflow = build(CheckpointStorage(log))
    await workflow.run(3 if build is ping_pong else "a text")
    assert await found_by(build(), log) == []


async def test_state_of_an_executor_that_is_gone() -> None:
    """Stored state without an executor is a problem that names the executor and each attribute."""
    log = await kept(keeper("a", "count", 0, 1), keeper("b", "count", 0, 2), taker("end", str))
    found = await found_by(chain(keeper("a", "count", 0), taker("end", str)), log)
    assert told(found) == [("b", "state", "count")]
    assert "no longer has this executor" in found[0].why
    assert "old.rename_executor('b', ...)" in found[0].remedy


async def test_an_executor_that_stored_nothing_may_go() -> None:
    """An executor that no handler has changed and nothing waits for is not missed."""
    log = await kept(keeper("a", "count", 0, 1), keeper("b", "count", 0, 0), taker("end", str))
    assert await found_by(chain(keeper("a", "count", 0), taker("end", str)), log) == []


async def test_an_attribute_that_the_class_no_longer_mentions_is_kept() -> None:
    """A stored attribute without a place in today's class stops nobody."""
    log = await kept(keeper("a", "kept", "", "text"), taker("end", str))
    assert await found_by(chain(keeper("a", "other", 1), taker("end", str)), log) == []


async def test_an_attribute_that_is_a_foreign_object_now_is_not_even_read() -> None:
    """What a clone passes over on purpose may be of a type that is gone."""
    log = await kept(keeper("a", "kept", OldTicket(""), OldTicket("printer")), taker("end", str))
    assert await found_by(chain(keeper("a", "kept", threading.Lock()), taker("end", str)), log) == []


class Configured(Executor):
    kept: Any = config(None)

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str]) -> None: ...


async def test_an_attribute_that_is_configuration_now_is_not_even_read() -> None:
    """A value that conversations no longer own may be of a type that is gone."""
    log = await kept(keeper("a", "kept", OldTicket(""), OldTicket("printer")), taker("end", str))
    assert await found_by(chain(Configured("a"), taker("end", str)), log) == []


async def test_a_type_that_the_workflow_no_longer_declares() -> None:
    """The problem names the attribute and the type, also where the type is deep inside the value."""
    value = {"tickets": [OldTicket("printer")]}
    log = await kept(keeper("a", "kept", [OldTicket("")], value), taker("end", str))
    found = await found_by(chain(keeper("a", "kept", None), taker("end", str)), log)
    assert told(found) == [("a", "state", "kept")]
    assert found[0].why == "It holds 'Ticket', a type that the workflow no longer declares."
    assert "register_checkpoint_type(cls, name='Ticket')" in found[0].remedy
    assert "or replace it in migrate: old.write('a', 'kept', ...)." in found[0].remedy


class OldColour(enum.Enum):
    RED = 1
    BLUE = 2


class Colour(enum.Enum):
    RED = 1


OldColour.__qualname__ = "Colour"


@pytest.mark.parametrize(
    ("stored_value", "now", "why"),
    [
        (OldTicket("printer"), record("Ticket", name=str)(""), "has the field 'device'"),
        (OldTicket("printer"), record("Ticket", device=str, since=str)("", ""), "lacks the field 'since'"),
        (OldTicket("printer"), record("Ticket", device=int)(0), "has a str in the field 'device'"),
        (OldColour.BLUE, Colour.RED, "2 is not a valid"),
    ],
    ids=["a field is gone", "a field is new", "a field is of another type", "an enum value is gone"],
)
async def test_a_class_whose_stored_fields_no_longer_fit(stored_value: Any, now: Any, why: str) -> None:
    """A class under the same name that cannot take the stored fields is a problem that says which field."""
    log = await kept(keeper("a", "kept", [stored_value], stored_value), taker("end", str))
    found = await found_by(chain(keeper("a", "kept", now), taker("end", str)), log)
    assert told(found) == [("a", "state", "kept")]
    assert why in found[0].why


async def test_the_innermost_cause_is_told() -> None:
    """If an object does not fit because of one that it holds, the problem names the inner one."""
    old_inner = record("Inner", old=int)
    old_outer, new_outer = record("Outer", inner=old_inner), record("Outer", inner=record("Inner", new=int))
    log = await kept(keeper("a", "kept", None, old_outer(old_inner(1))), keeper("b", "kept", old_outer(old_inner(0))))
    now = chain(keeper("a", "kept", None), keeper("b", "kept", new_outer(None)))
    found = await found_by(now, log)
    assert told(found) == [("a", "state", "kept")]
    assert "A stored 'Inner' has the field 'old'" in found[0].why


async def test_a_migration_of_a_type_that_raises_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a registered type's own `migrate` raises is told as it is, whatever it is."""

    def fail(fields: dict[str, Any], version: int) -> dict[str, Any]:
        raise RuntimeError(f"cannot read version {version}")

    log = await kept(keeper("a", "kept", OldTicket(""), OldTicket("printer")), taker("end", str))
    newer = record("Ticket", device=str)
    monkeypatch.setattr(stored_types, "_registered", {})
    register_checkpoint_type(newer, version=2, migrate=fail)
    found = await found_by(chain(keeper("a", "kept", newer("")), taker("end", str)), log)
    assert [(problem.name, problem.why) for problem in found] == [("kept", "RuntimeError: cannot read version 1")]


class Declared(Executor):
    """Declares what it keeps."""

    kept: dict[str, int] = state(factory=dict)

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str]) -> None: ...


async def test_a_value_that_does_not_fit_its_declaration() -> None:
    """A declared attribute must be of the declared type; an undeclared one may be what it is."""
    log = await kept(keeper("a", "kept", None, ["a list"]), taker("end", str))
    found = await found_by(chain(Declared("a"), taker("end", str)), log)
    assert told(found) == [("a", "state", "kept")]
    assert found[0].why == "It is of type list; the class declares dict[str, int] now."
    fitting = await kept(keeper("a", "kept", None, {"a": 1}), taker("end", str))
    assert await found_by(chain(Declared("a"), taker("end", str)), fitting) == []

    class Annotated(Executor):
        kept: dict[str, int]

        def __init__(self, id: str) -> None:
            super().__init__(id)
            self.kept = {}

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str]) -> None: ...

    assert await found_by(chain(Annotated("a"), taker("end", str)), log) == []


class Hooked(Executor):
    """Saves itself."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.kept = ""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str]) -> None:
        self.kept = text

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"kept": self.kept}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]


async def test_hooks_that_come_or_go() -> None:
    """Attributes mean nothing to hooks, nor what a hook saved to attributes: both would be lost without a word."""
    attributes, hooks = keeper("a", "kept", "", "text"), Hooked("a")
    came = await found_by(chain(hooks, taker("end", str)), await kept(attributes, taker("end", str)))
    went = await found_by(chain(attributes, taker("end", str)), await kept(hooks, taker("end", str)))
    assert told(came) == [("a", "state", "kept")]
    assert "write_saved('a', {...})" in came[0].remedy
    assert told(went) == [("a", "state", "on_checkpoint_save")]
    assert "read_saved('a')" in went[0].remedy


async def test_what_a_hook_saved_in_a_type_that_is_gone() -> None:
    """The dict of a save hook is read like every other value."""

    class Other(Hooked):
        async def on_checkpoint_save(self) -> dict[str, Any]:
            return {"kept": OldTicket(self.kept)}

        extra: Any = OldTicket("")

    log = await kept(Other("a"), taker("end", str))
    assert told(await found_by(chain(Hooked("a"), taker("end", str)), log)) == [("a", "state", "on_checkpoint_save")]


async def test_shared_state_in_a_type_that_is_gone() -> None:
    """A value of the shared state belongs to no executor; its key names it."""

    class Writer(Executor):
        example = state(OldTicket(""))

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str]) -> None:
            ctx.set_state("ticket", OldTicket(text))
            ctx.set_state("count", 1)

    log = await kept(Writer("a"), taker("end", str))
    found = await found_by(chain(keeper("a", "example", None), taker("end", str)), log)
    assert told(found) == [("", "shared state", "ticket"), ("a", "state", "example")]


# --- Queued messages ---------------------------------------------------------------------------------------------


def passing_on(job: Any, taken: Any = None, target: str | None = None) -> Callable[..., Workflow]:
    """`a` sends a job to `b`."""

    def build(storage: CheckpointStorage | None = None) -> Workflow:
        return chain(sender("a", job, sends=type(job), target=target), taker("b", taken or type(job)), storage=storage)

    return build


async def test_a_queued_message_that_still_arrives() -> None:
    """A message whose source, edge and receiver are as they were is no problem, addressed or not."""
    for target in (None, "b"):
        log = await queued(passing_on(Job(1), target=target))
        assert await found_by(passing_on(Job(1))(), log) == []


async def test_a_queued_message_for_an_executor_that_is_gone() -> None:
    """An addressed message names its receiver; one without address is lost with its source."""
    addressed = await queued(passing_on(Job(1), target="b"))
    without_b = chain(sender("a", Job(1), sends=Job), taker("c", Job))
    found = await found_by(without_b, addressed)
    assert told(found) == [("b", "queued message", "Job")]
    without_a = chain(sender("z", Job(1), sends=Job), taker("b", Job))
    for target in (None, "b"):
        found = await found_by(without_a, await queued(passing_on(Job(1), target=target)))
        assert told(found) == [("a", "queued message", "Job")]


async def test_a_queued_message_that_its_receiver_no_longer_takes() -> None:
    """If none of those whom the edges reach takes the type, the problem names receiver and type."""
    found = await found_by(passing_on(Order(1), taken=Order | int)(), await queued(passing_on(7, taken=int)))
    assert found == []

    def build(*takes: Any) -> Workflow:
        start = sender("a", 7, sends=Job | int)
        builder = WorkflowBuilder(start_executor=start, name=NAME)
        for number, type_ in enumerate(takes):
            builder.add_edge(start, taker(f"b{number}", type_))
        return builder.build()

    log = await queued(passing_on(7, taken=int))
    assert await found_by(build(Job, int), log) == []
    found = await found_by(chain(sender("a", 7, sends=Job), taker("b", Job)), log)
    assert told(found) == [("b", "queued message", "int")]
    assert found[0].why == "Sent by 'a'; 'b' takes no int any more."
    assert "or drop the message in migrate: old.drop_messages(type='int')." in found[0].remedy


async def test_a_queued_message_that_no_edge_carries() -> None:
    """A message from an executor that leads nowhere now would be lost."""
    start, loop = sender("z", "", sends=str), sender("a", Job(1), sends=Job)
    now = WorkflowBuilder(start_executor=start, name=NAME).add_edge(start, loop).build()
    found = await found_by(now, await queued(passing_on(Job(1))))
    assert told(found) == [("a", "queued message", "Job")]
    assert "no edge leads to anybody" in found[0].why


async def test_conditions_are_not_asked() -> None:
    """Whether a message passes is not known before it runs; a switch is good enough if one of its targets takes it."""

    def never(message: Any) -> bool:
        raise AssertionError("a condition was asked")

    start, b, c = sender("a", Job(1), sends=Job), taker("b", Job), taker("c", Job | str)
    branches = [Case(never, b), Default(c)]
    now = WorkflowBuilder(start_executor=start, name=NAME).add_switch_case_edge_group(start, branches).build()
    assert await found_by(now, await queued(passing_on(Job(1)))) == []


async def test_an_input_that_the_start_executor_no_longer_takes() -> None:
    """The input that waits is checked against the executor that it was given to."""

    def taking(type_: Any, storage: CheckpointStorage | None = None) -> Workflow:
        return WorkflowBuilder(start_executor=taker("a", type_), name=NAME, checkpoint_storage=storage).build()

    log = MemoryLog()
    workflow = taking(Job, CheckpointStorage(log))
    await workflow.run(Job(1))
    latest = await log.commits(NAME, "default")
    definition = await taking(Order | Job).definition()
    view, bodies = await stored(log, definition, latest[0].id)
    assert latest[0].kind == "input"
    assert problems(definition, view.cells, definition.codec, bodies) == []
    definition = await taking(Order).definition()
    definition.codec.allow([Job])
    view, bodies = await stored(log, definition, latest[0].id)
    found = problems(definition, view.cells, definition.codec, bodies)
    assert told(found) == [("a", "queued message", "Job")]
    assert found[0].why == "The executor takes no Job any more."


async def test_a_queued_message_of_a_type_that_is_gone() -> None:
    """Source, receiver and type of a message are told even if its content cannot be read, however long it is."""
    for job in (Job(1), record("Long", text=str)("x" * 10_000)):
        log = await queued(passing_on(job, target="b"))
        found = await found_by(chain(sender("a", "", sends=str), taker("b", str)), log)
        assert told(found) == [("b", "queued message", type(job).__name__)]
        assert "no longer declares" in found[0].why


# --- Requests and answers ----------------------------------------------------------------------------------------

Question = record("Question", text=str)
Riddle = record("Riddle", text=str)


def asker(answers: Any = bool, asks: Any = Question, id: str = "a") -> Executor:
    """Asks something, and takes answers of a type."""

    class Asker(Executor):
        @handler
        async def ask(self, text: str, ctx: WorkflowContext[Any, str]) -> None:
            await ctx.request_info(asks(text), answers, request_id="q2" if text == "again" else "q1")

        @response_handler(request=asks, response=answers, output=Any, workflow_output=str)
        async def hear(self, question: Any, answer: Any, ctx: WorkflowContext[Any, str]) -> None: ...

    return Asker(id)


async def test_an_open_request_that_can_still_be_answered() -> None:
    """A request whose executor still has the response handler is no problem."""
    log = await kept(asker())
    assert await found_by(chain(asker()), log) == []


@pytest.mark.parametrize(
    ("now", "executor", "why"),
    [
        (taker("b", str | Question), "a", "no longer has this executor"),
        (asker(answers=int), "a", "takes Question answered by bool any more"),
        (asker(asks=Riddle), "a", "no longer declares"),
        (taker("a", str | Question), "a", "takes Question answered by bool any more"),
    ],
    ids=["executor gone", "another answer", "question's type gone", "handler gone"],
)
async def test_an_open_request_that_nobody_could_answer(now: Executor, executor: str, why: str) -> None:
    """The problem names the executor that asked and the type of the question."""
    found = await found_by(chain(now), await kept(asker()))
    assert told(found) == [(executor, "open request", "Question")]
    assert why in found[0].why
    assert "drop" in found[0].remedy


async def test_an_open_request_for_an_answer_of_a_type_that_is_gone() -> None:
    """Nobody can give such an answer, even if the handler would take anything."""
    log = await kept(asker(answers=record("Reply", text=str)))
    found = await found_by(chain(asker(answers=Any)), log)
    assert told(found) == [("a", "open request", "Question")]
    assert "answered by Reply" in found[0].why


async def test_an_answer_on_its_way_without_a_handler() -> None:
    """An answer that was accepted but not yet heard needs the response handler too."""
    log = MemoryLog()
    workflow = chain(asker(), storage=CheckpointStorage(log))
    await workflow.run("go")
    await workflow.run(responses={"q1": True})
    (answered,) = [commit for commit in await log.commits(NAME, "default") if commit.kind == "response"]
    for now, expected in ((asker(), []), (taker("a", str | Question), [("a", "queued message", "Question")])):
        definition = await chain(now).definition()
        view, bodies = await stored(log, definition, answered.id)
        assert told(problems(definition, view.cells, definition.codec, bodies)) == expected


# --- Joins -------------------------------------------------------------------------------------------------------


def joining(left: Any, *others: str, takes: Any = list[int], storage: CheckpointStorage | None = None) -> Workflow:
    """`left` is heard by the join at once; the others never send."""
    start = sender("start", "go", sends=str)
    sources = [left, *(sender(name, sends=int) for name in others)]
    builder = WorkflowBuilder(start_executor=start, name=NAME, checkpoint_storage=storage)
    return builder.add_fan_out_edges(start, sources).add_fan_in_edges(sources, taker("join", takes)).build()


async def test_a_join_that_has_changed() -> None:
    """What waits in a join needs the join with the same sources, and a target that takes its type."""
    log = MemoryLog()
    await joining(sender("left", 7, sends=int), "right", storage=CheckpointStorage(log)).run("go")
    assert await found_by(joining(sender("left", 7, sends=int), "right"), log) == []
    found = await found_by(joining(sender("left", 7, sends=int), "right", "middle"), log)
    assert told(found) == [("left", "join", "(left,right)->join")]
    assert "old.rename_join('(left,right)->join', ...)" in found[0].remedy
    start = sender("start", "go", sends=str)
    left, right = sender("left", sends=str), sender("right", sends=str)
    builder = WorkflowBuilder(start_executor=start, name=NAME).add_fan_out_edges(start, [left, right])
    found = await found_by(builder.add_fan_in_edges([left, right], taker("join", list[str])).build(), log)
    assert told(found) == [("join", "join", "int")]
    assert found[0].why == "The executor takes no list of int from its join any more."


async def test_a_queued_message_on_its_way_into_a_join() -> None:
    """A join delivers lists, so its target is asked about a list of the message."""

    def build(takes: Any, storage: CheckpointStorage | None = None) -> Workflow:
        return joining(sender("left", 7, sends=int), "right", takes=takes, storage=storage)

    log = MemoryLog()
    await stop_after(build(list[int], CheckpointStorage(log)), 2)
    assert await found_by(build(list[int]), log) == []
    found = await found_by(build(list[int] | list[str]), log)
    assert found == []
    start, left, right = sender("start", "go", sends=str), sender("left", sends=str), sender("right", sends=str)
    builder = WorkflowBuilder(start_executor=start, name=NAME).add_fan_out_edges(start, [left, right])
    found = await found_by(builder.add_fan_in_edges([left, right], taker("join", list[str])).build(), log)
    assert told(found) == [("join", "queued message", "int")]


async def test_a_join_that_holds_a_type_that_is_gone() -> None:
    """A message that waits in a join is read like every other."""
    log = MemoryLog()
    old = joining(sender("left", Job(1), sends=Job), "right", takes=list[Job | int], storage=CheckpointStorage(log))
    await old.run("go")
    found = await found_by(joining(sender("left", 7, sends=int), "right"), log)
    assert told(found) == [("join", "join", "Job")]
    assert "no longer declares" in found[0].why


# --- Nested workflows and steps ----------------------------------------------------------------------------------


async def deep(*inner: Executor) -> MemoryLog:
    """What a workflow two levels down has stored."""
    log = MemoryLog()
    await nested(chain(*inner), "outer", "inner", storage=CheckpointStorage(log)).run("hello")
    return log


async def test_state_and_requests_of_nested_workflows() -> None:
    """What is stored at any depth is compared with the graph at that depth, and named from outside."""
    log = await deep(keeper("a", "count", 0, 1), asker(id="b"))
    assert await found_by(nested(chain(keeper("a", "count", 0), asker(id="b")), "outer", "inner"), log) == []
    found = await found_by(nested(chain(keeper("z", "count", 0), asker(id="b", answers=int)), "outer", "inner"), log)
    assert told(found) == [("outer/inner/b", "open request", "Question"), ("outer/inner/a", "state", "count")]
    assert found[1].remedy.endswith(
        "inner.rename_executor('a', ...) or .drop_executor('a') for every inner in old.nested('outer/inner')."
    )


async def test_a_nested_workflow_that_is_gone() -> None:
    """All that a nested workflow has stored is one problem, under the executor that stood for it."""
    log = await deep(keeper("a", "count", 0, 1), keeper("b", "count", 0, 1), asker(id="c"))
    found = await found_by(nested(asking_for_everything(), "outer"), log)
    assert told(found) == [("outer/inner", "nested workflow", "inner")]
    found = await found_by(chain(keeper("start", "count", 0)), log)
    assert told(found) == [("outer", "nested workflow", "outer")]


def asking_for_everything() -> Workflow:
    """Declares the types of the questions above, and nests nothing."""
    return chain(keeper("start", "count", 0), asker(id="inner"))


async def test_a_queued_message_of_a_nested_workflow() -> None:
    """A message on its way inside a nested workflow is compared with the edges there."""
    log = MemoryLog()
    await nested(passing_on(Job(1))(), "outer", storage=CheckpointStorage(log)).run("go")
    *_, sent, _ = await log.commits(NAME, "default")
    for now, expected in ((Job(1), []), (Order(1), [("outer/a", "queued message", "Job")])):
        definition = await nested(passing_on(now)(), "outer").definition()
        view, bodies = await stored(log, definition, sent.id)
        assert list(view.cells) == ["w/outer/1/q/000000"]
        assert told(problems(definition, view.cells, definition.codec, bodies)) == expected


async def test_finished_steps_of_a_function_that_waits() -> None:
    """The kept results of steps need their executor, and types that can be read."""
    codec = (await chain(sender("a", Job(1), sends=Job), taker("b", Job)).definition()).codec
    cells = {"j/a/000000": codec.encode(["fetch", Job(1)]).reference}
    for now, expected in (
        (chain(sender("a", Job(1), sends=Job), taker("b", Job)), []),
        (chain(sender("a", "", sends=str), taker("b", str)), [("a", "state", "finished steps")]),
        (chain(sender("z", Job(1), sends=Job), taker("b", Job)), [("a", "state", "finished steps")]),
    ):
        definition = await now.definition()
        assert told(problems(definition, cells, definition.codec, {})) == expected


# --- As a whole --------------------------------------------------------------------------------------------------


async def test_nothing_of_the_users_runs() -> None:
    """No handler, no hook and no constructor of an executor is called to find problems."""
    log = await kept(Hooked("a"), taker("end", str))
    workflow = chain(Hooked("a"), taker("end", str))
    definition = await workflow.definition()
    view, bodies = await stored(log, definition)

    def called(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something of the user's was called")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("__init__", "on_checkpoint_save", "on_checkpoint_restore", "hear"):
            patch.setattr(Hooked, name, called)
        assert problems(definition, view.cells, definition.codec, bodies) == []


async def test_everything_is_found_at_once() -> None:
    """One look tells all problems; equal ones of several messages are told once."""
    start = sender("a", Job(1), Job(2), Order(3), sends=Job | Order)
    builder = WorkflowBuilder(start_executor=start, name=NAME)

    def build(storage: CheckpointStorage) -> Workflow:
        builder._storage = storage
        return builder.add_edge(start, taker("b", Job | Order)).build()

    found = await found_by(chain(sender("a", "", sends=str), taker("b", str)), await queued(build))
    assert told(found) == [("a", "queued message", "Job"), ("a", "queued message", "Order")]


@pytest.mark.parametrize(("key", "what"), [("q/000000", "queued message"), ("r/q1", "open request")])
async def test_a_cell_that_holds_something_else(key: str, what: str) -> None:
    """Whatever stands where a message or a request belongs is told, and stops nothing else from being told."""
    definition = await chain(taker("a", str)).definition()
    for value in (7, [1, 2, 3, 4, 5, 6], ["a", "a", "response", "q1", "bool", 7][: 6 if what[0] == "q" else 3]):
        found = problems(definition, {key: definition.codec.encode(value).reference}, definition.codec, {})
        assert [(problem.what, problem.executor) for problem in found] == [(what, "")]


def test_a_refusal_lists_the_first_problems_and_counts_the_rest() -> None:
    """The error names the checkpoint, a few problems with their remedies, and how many more there are."""
    refuse("chk_1", [])
    found = [Incompatibility("a", "state", f"field{n}", "Why.", "Remedy.") for n in range(8)]
    with pytest.raises(WorkflowCheckpointException) as raised:
        refuse("chk_1", found)
    lines = str(raised.value).splitlines()
    assert "'chk_1'" in lines[0]
    assert lines[1] == "- state 'field0' of 'a': Why. Remedy."
    assert lines[-1] == "- and 3 more"
    assert len(lines) == 7
