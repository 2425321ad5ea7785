"""Questions to the outside and their answers."""

from dataclasses import dataclass
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowRunState,
    executor,
    handler,
    response_handler,
)
from agent_host.errors import UnknownRequestError, UnsupportedValueError, WorkflowException, WorkflowRunnerException

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


@dataclass
class Question:
    text: str


@dataclass
class Hard(Question):
    pass


@dataclass
class Base:
    text: str


@dataclass
class Special(Base):
    pass


@dataclass
class Unknown(Base):
    pass


class Asker(Executor):
    """Asks what its input says: pairs of an id and the kind of question."""

    def __init__(self) -> None:
        super().__init__("asker")
        self.heard: list[str] = []

    @handler
    async def ask(self, ids: list[str] | Special, ctx: WorkflowContext[Any, str]) -> None:
        assert isinstance(ids, list)
        for name in ids:
            if name.startswith("unknown"):
                await ctx.request_info({name}, globals()["Unknown"], request_id=name)
            elif name.startswith("hard"):
                await ctx.request_info(Hard(name), bool, request_id=name)
            elif name.startswith("any"):
                await ctx.request_info([name], str, request_id=name)
            elif name.startswith("special"):
                await ctx.request_info({name}, Special, request_id=name)
            elif name.startswith("no handler"):
                await ctx.request_info(5, bool, request_id=name)
            else:
                await ctx.request_info(Question(name), bool, request_id=name)

    @response_handler
    async def question(self, request: Question, answer: bool, ctx: WorkflowContext[Any, str]) -> None:
        await self._heard(f"question {request.text} {answer} {ctx.request_id}", ctx)

    @response_handler
    async def hard(self, request: Hard, answer: bool | None, ctx: WorkflowContext[Any, str]) -> None:
        await self._heard(f"hard {request.text} {answer}", ctx)

    @response_handler
    async def anything(self, request: list[str], answer: Any, ctx: WorkflowContext[Any, str]) -> None:
        await self._heard(f"any {answer!r}", ctx)

    @response_handler
    async def base(self, request: set[str], answer: Base, ctx: WorkflowContext[Any, str]) -> None:
        await self._heard(f"base {answer!r}", ctx)

    async def _heard(self, what: str, ctx: WorkflowContext[Any, str]) -> None:
        self.heard.append(what)
        await ctx.yield_output(what)


def asking(storage: Any) -> Any:
    return WorkflowBuilder(start_executor=Asker(), name="asking", checkpoint_storage=storage).build()


def ids(result: Any) -> list[str]:
    return [event.request_id for event in result.get_request_info_events()]


@STORAGES
async def test_an_answer_reaches_the_executor_that_asked(storage: Any) -> None:
    """The request ends the run as pending; its answer is heard once, with the request and its id."""
    made = storage() if storage else None
    workflow = asking(made)
    result = await workflow.run(["a"])
    assert result.get_final_state() is WorkflowRunState.IDLE_WITH_PENDING_REQUESTS
    event = result.get_request_info_events()[0]
    assert (event.request_id, event.data, event.response_type) == ("a", Question("a"), bool)
    assert (event.executor_id, event.source_executor_id) == ("asker", "asker")
    if made:
        assert event.checkpoint_id == result.checkpoint_id
        workflow = asking(made)
    answered = await workflow.run(responses={"a": True})
    assert answered.get_outputs() == ["question a True a"]
    assert answered.get_final_state() is WorkflowRunState.IDLE
    with pytest.raises(UnknownRequestError, match="'a' is open"):
        await workflow.run(responses={"a": True})


@STORAGES
async def test_some_answers_leave_the_others_open(storage: Any) -> None:
    """What was not answered stays open, over further inputs and runs, and is told by a run that continues."""
    made = storage() if storage else None
    workflow = asking(made)
    await workflow.run(["a", "b", "c"])
    assert (await workflow.run(responses={"b": False})).get_outputs() == ["question b False b"]
    assert ids(await workflow.run(["d"])) == ["d"]
    if made:
        workflow = asking(made)
    open_now = await workflow.run()
    assert ids(open_now) == ["a", "c", "d"]
    assert [event.response_type for event in open_now.get_request_info_events()] == [bool] * 3
    both = await workflow.run(responses={"c": True, "a": True})
    assert both.get_outputs() == ["question c True c", "question a True a"]
    assert ids(await workflow.run()) == ["d"]


@STORAGES
@pytest.mark.parametrize("wrong", ["yes", 1, None])
async def test_a_wrong_answer_is_refused_before_anything_is_taken(storage: Any, wrong: Any) -> None:
    """Of several answers none is consumed if one is wrong or unknown; an int is no bool."""
    made = storage() if storage else None
    workflow = asking(made)
    await workflow.run(["a", "b"])
    head = await workflow.get_last_checkpoint_id()
    with pytest.raises(WorkflowRunnerException, match="'b' must be a bool, not a"):
        await workflow.run(responses={"a": True, "b": wrong})
    with pytest.raises(UnknownRequestError, match=r"'x' is open in this session; open: 'a', 'b'"):
        await workflow.run(responses={"a": True, "x": True})
    assert workflow.status is WorkflowRunState.FAILED
    assert await workflow.get_last_checkpoint_id() == head
    result = await workflow.run(responses={"a": True, "b": True})
    assert result.get_outputs() == ["question a True a", "question b True b"]


@STORAGES
async def test_an_id_that_is_open_cannot_be_asked_again(storage: Any) -> None:
    """In one handler, in one superstep, or while an earlier request is open: an error, and the first one stays."""
    workflow = asking(storage() if storage else None)
    with pytest.raises(WorkflowException, match="'a' is open already"):
        await workflow.run(["a", "a"])
    await workflow.run(["a"])
    with pytest.raises(WorkflowException, match="'a' is open already"):
        await workflow.run(["a"])
    answered = await workflow.run(responses={"a": True})  # and goes on with the input that could not be taken before
    assert answered.get_outputs() == ["question a True a"]
    assert ids(answered) == ["a"]


@STORAGES
async def test_siblings_cannot_ask_under_one_id(storage: Any) -> None:
    """Two executors of one superstep that take the same id are an error that names it, and nothing is asked."""

    @executor(id="split")
    async def split(names: list[str], ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message(names)

    class Other(Asker):
        def __init__(self, id: str) -> None:
            super().__init__()
            self.id = id

    builder = WorkflowBuilder(start_executor=split, name="asking", checkpoint_storage=storage() if storage else None)
    workflow = builder.add_fan_out_edges(split, [Other("left"), Other("right")]).build()
    with pytest.raises(WorkflowException, match="Two requests of one superstep have the id 'a'"):
        await workflow.run(["a"])
    with pytest.raises(UnknownRequestError):
        await workflow.run(responses={"a": True})


@STORAGES
async def test_the_most_specific_response_handler_hears_the_answer(storage: Any) -> None:
    """By the type of the request, with the type that was asked for; wider declarations of the answer work too."""
    made = storage() if storage else None
    workflow = asking(made)
    await workflow.run(["hard", "any", "special"])
    if made:
        workflow = asking(made)
    with pytest.raises(WorkflowRunnerException, match="must be a str"):
        await workflow.run(responses={"any": 5})
    result = await workflow.run(responses={"hard": True, "any": "text", "special": Special("x")})
    assert result.get_outputs() == ["hard hard True", "any 'text'", "base Special(text='x')"]


async def test_asking_without_a_handler_for_the_answer_is_refused_at_once() -> None:
    """The error names the executor and the pair of types."""
    with pytest.raises(WorkflowRunnerException, match="'asker' asks with a int for a bool, but has no @response_hand"):
        await asking(None).run(["no handler"])


async def test_asking_for_what_could_not_be_stored_is_refused_at_once() -> None:
    """An answer of a type that no annotation names could not be restored; the error says so before it is asked for."""
    with pytest.raises(UnsupportedValueError, match=r"'asker'.*Unknown"):
        await asking(InMemoryCheckpointStorage()).run(["unknown"])
    workflow = asking(None)
    await workflow.run(["unknown"])
    assert (await workflow.run(responses={"unknown": Unknown("x")})).get_outputs() == ["base Unknown(text='x')"]


def test_a_message_and_answers_exclude_each_other() -> None:
    """One run takes the one or the other."""
    with pytest.raises(ValueError, match="not both"):
        asking(None).run(["a"], responses={"a": True})


@STORAGES
async def test_the_questions_of_a_failed_superstep_are_not_asked(storage: Any) -> None:
    """A request is told only when the superstep that asks it has merged."""

    class Failing(Asker):
        @handler
        async def ask(self, ids: list[str], ctx: WorkflowContext[Any, str]) -> None:
            await ctx.request_info(Question("a"), bool, request_id="a")
            raise ValueError("no")

    made = storage() if storage else None
    workflow = WorkflowBuilder(start_executor=Failing(), name="f", checkpoint_storage=made).build()
    events = []
    with pytest.raises(ValueError, match="no"):
        async for event in workflow.run(["x"], stream=True):
            events.append(event)
    assert not [event for event in events if event.type == "request_info"]
    with pytest.raises(UnknownRequestError):
        await workflow.run(responses={"a": True})


async def test_restoring_tells_nothing_of_earlier_runs() -> None:
    """A run from a checkpoint emits its own events, numbered from zero, and those of requests still open."""
    storage = InMemoryCheckpointStorage()
    workflow = asking(storage)
    saved = (await workflow.run(["a", "b"])).checkpoint_id
    result = await workflow.run(responses={"a": True}, checkpoint_id=saved)
    told = [(event.type, event.request_id) for event in result if event.type in ("output", "request_info")]
    assert told == [("request_info", "b"), ("output", None)]
    stream = workflow.run(stream=True, checkpoint_id=saved)
    events = [event async for event in stream]
    assert [event.sequence for event in events] == list(range(len(events)))
    assert [event.type for event in events] == ["started", "status", "request_info", "request_info", "status"]
    assert {event.checkpoint_id for event in events[1:]} == {saved}
