"""What of an executor belongs to a conversation, what to the program, and what to all conversations at once."""

import asyncio
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from queue import Queue
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    config,
    executor,
    handler,
    state,
)
from agent_host.engine.serialization.shared_values import PROCESS_WIDE
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.errors import ExecutorStateError, HandlerError, WorkflowCheckpointException, WorkflowValidationError
from tests.engine.graphs import Counter, CountingLog, counting, everything_in

STORAGES = pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])


def alone(start: Executor, storage: CheckpointStorage | None = None) -> Any:
    return WorkflowBuilder(start_executor=start, name="alone", checkpoint_storage=storage).build()


@STORAGES
async def test_plain_attributes_belong_to_the_session(storage: Any) -> None:
    """Sessions that run at the same time, interleaved, share nothing of what an executor keeps in its attributes."""
    sessions, rounds = 32, 3
    all_here = asyncio.Barrier(sessions)

    class Slow(Counter):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.count += 1
            await all_here.wait()
            self.history.append(text)
            await all_here.wait()
            await ctx.yield_output(f"{self.count}: {' '.join(self.history)}")

    workflow = alone(Slow(), storage() if storage else None)
    for turn in range(rounds):
        results = await asyncio.gather(*(workflow.run(f"{n}.{turn}", session_id=f"s{n}") for n in range(sessions)))
    expected = [f"{rounds}: " + " ".join(f"{n}.{turn}" for turn in range(rounds)) for n in range(sessions)]
    assert [output for result in results for output in result.get_outputs()] == expected


async def test_what_no_handler_changed_is_not_stored() -> None:
    """A key set in `__init__` is in no byte of the store, whatever else is stored of its executor."""

    class Client(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.api_key = "sk-secret"
            self.headers = {"authorization": ["Bearer sk-secret"] * 100}

    storage = InMemoryCheckpointStorage()
    workflow = alone(Client(), storage)
    await workflow.create_checkpoint()
    await workflow.run("a")
    await workflow.run("b", durability="turn")
    log: Any = storage.log
    assert b"history" in everything_in(log)
    assert b"secret" not in everything_in(log)
    in_memory = alone(Client())
    await in_memory.run("a")
    await in_memory.create_checkpoint()
    assert b"secret" not in everything_in(in_memory._live._pinned)


@STORAGES
async def test_what_no_handler_changed_comes_from_the_running_program(storage: Any) -> None:
    """A new value of an untouched attribute holds for old conversations; what was changed keeps its value."""

    class Limited(Counter):
        def __init__(self, limit: int) -> None:
            super().__init__()
            self.limit = limit
            self.words = ["few"] * limit
            self.raised = 0

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.raised += self.limit
            await ctx.yield_output(f"{self.limit} {len(self.words)} {self.raised}")

    if storage is None:
        workflow = alone(Limited(5))
        assert [(await workflow.run("a")).get_outputs() for _ in range(2)] == [["5 5 5"], ["5 5 10"]]
        return
    made = storage()
    assert (await alone(Limited(5), made).run("a")).get_outputs() == ["5 5 5"]
    assert (await alone(Limited(700), made).run("b")).get_outputs() == ["700 700 705"]


class Basket:
    """A class of the user's own that cannot be taken apart."""

    def __init__(self) -> None:
        self.items: list[str] = []


@pytest.mark.parametrize("inside", [lambda b: b, lambda b: [b], lambda b: {"basket": (b,)}])
async def test_an_own_object_that_cannot_be_stored_is_refused_at_start(inside: Callable[[Basket], Any]) -> None:
    """All conversations would share it: the error names executor, attribute, class and the ways out."""
    shop = Counter("shop")
    shop.basket = inside(Basket())  # type: ignore[attr-defined]
    with pytest.raises(ExecutorStateError, match=r"'shop' keeps a Basket in 'basket'.*dataclass.*config\(\)"):
        await alone(shop).definition()


class Shop(Executor):
    """Keeps a basket that cannot be stored, and stores what is in it itself; `renew` says how it restores."""

    renew: Any = config()

    def __init__(self, renew: Callable[[Any, list[str]], None]) -> None:
        super().__init__("shop")
        self.renew = renew
        self.baskets = [Basket()]

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"items": self.baskets[0].items}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.renew(self, state["items"])

    @handler
    async def buy(self, item: str, ctx: WorkflowContext[str, list[str]]) -> None:
        self.baskets[0].items.append(item)
        await ctx.yield_output(list(self.baskets[0].items))


def _replaced(shop: Any, items: list[str]) -> None:
    shop.baskets.clear()
    shop.baskets.append(Basket())
    shop.baskets[0].items = items


def _refilled(shop: Any, items: list[str]) -> None:
    shop.baskets[0].items = items


@STORAGES
async def test_an_own_object_may_be_replaced_by_the_restore_hook(storage: Any) -> None:
    """Hooks are a way out: each conversation gets a basket of its own, and the program keeps its own one."""
    shop = Shop(_replaced)
    mine = shop.baskets[0]
    workflow = alone(shop, storage() if storage else None)
    for session in ("one", "two", "one"):
        result = await workflow.run(session, session_id=session)
    assert result.get_outputs() == [["one", "one"]]
    assert (shop.baskets, mine.items) == ([mine], [])
    assert (await workflow.definition()).foreign == []


@STORAGES
async def test_an_own_object_that_the_restore_hook_keeps_is_refused(storage: Any) -> None:
    """Filling the one basket again would fill everybody's: the error names executor, attribute, class and remedy."""
    with pytest.raises(ExecutorStateError, match=r"'shop' still has the Basket in 'baskets'.*new one.*config\(\)"):
        await alone(Shop(_refilled), storage() if storage else None).run("a")


async def test_a_foreign_object_is_shared_and_listed() -> None:
    """Locks and clients are the same object in every conversation, and the definition names them."""
    seen: list[Any] = []

    class Locked(Counter):
        def __init__(self) -> None:
            super().__init__("locked")
            self.lock = threading.Lock()
            self.jobs: Queue[str] = Queue()
            self.share = Fraction(1, 3)

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            seen.append((self.lock, self.jobs))
            self.jobs.put(text)

    locked = Locked()
    workflow = alone(locked, InMemoryCheckpointStorage())
    assert sorted((await workflow.definition()).foreign) == ["locked.jobs", "locked.lock"]
    await workflow.run("a", session_id="one")
    await workflow.run("b", session_id="two")
    assert seen[0] == seen[1] == (locked.lock, locked.jobs)


@STORAGES
@pytest.mark.parametrize("how", ["rebind", "delete"])
async def test_replacing_a_foreign_object_in_a_handler_is_refused(storage: Any, how: str) -> None:
    """It would be lost for every other conversation: the error names executor, attribute and remedy."""

    class Locked(Counter):
        def __init__(self) -> None:
            super().__init__("locked")
            self.lock: Any = threading.Lock()

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            if how == "rebind":
                self.lock = threading.Lock()
            else:
                del self.lock

    with pytest.raises(ExecutorStateError, match=r"'locked'.*'lock'"):
        await alone(Locked(), storage() if storage else None).run("a")


class Tools:
    """Stands for an agent of another package: holds functions to call."""

    functions: list[Any]


Tools.__module__ = "another_package.agents"


@pytest.mark.parametrize(
    "hold",
    [
        lambda method: _holding(method),
        lambda method: [method],
        lambda method: {"tool": method},
        lambda method: functools.partial(method, "x"),
    ],
    ids=["object", "list", "dict", "partial"],
)
async def test_a_shared_object_may_not_hold_a_method_of_the_executor(hold: Callable[[Any], Any]) -> None:
    """It would act on the original in every conversation; the error names the method."""
    owner = Counter("owner")
    owner.tools = hold(owner.hear)  # type: ignore[attr-defined]
    with pytest.raises(ExecutorStateError, match=r"'tools' of executor 'owner'.*'hear'"):
        await alone(owner).definition()


def _holding(method: Any) -> Tools:
    tools = Tools()
    tools.functions = [method]
    return tools


async def test_a_bound_method_in_an_attribute_belongs_to_the_clone() -> None:
    """An attribute that is a method of the executor acts on the conversation it is called in."""

    class Choosing(Counter):
        def __init__(self) -> None:
            super().__init__()
            self.note = self.write_down

        def write_down(self, text: str) -> None:
            self.history.append(text)

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, list[str]]) -> None:
            self.note(text)
            await ctx.yield_output(list(self.history))

    workflow = alone(Choosing(), InMemoryCheckpointStorage())
    for session in ("one", "two"):
        assert (await workflow.run(session, session_id=session)).get_outputs() == [[session]]
    assert (await workflow.run("more", session_id="one")).get_outputs() == [["one", "more"]]


@dataclass
class Note:
    text: str
    tags: set[str] = field(default_factory=set)
    payload: Any = field(default=None, metadata={"transient": True})


@STORAGES
async def test_declared_state_has_a_default_and_a_type(storage: Any) -> None:
    """`state()` gives each conversation its own default; objects of the declared type come back as such."""

    class Declared(Executor):
        notes: list[Note] = state(factory=list)
        total: int = state(0)
        limit: int = config(10)
        client: Any = config()

        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.client = threading.Lock()
            self.notes.append(Note(text, {text}))
            self.total += self.limit
            await ctx.yield_output(f"{self.total} {[sorted(note.tags) for note in self.notes]}")

    workflow = alone(Declared("declared"), storage() if storage else None)
    await workflow.run("a", session_id="one")
    await workflow.run("b", session_id="two")
    assert (await workflow.run("c", session_id="one")).get_outputs() == ["20 [['a'], ['c']]"]


def test_a_mutable_default_is_refused() -> None:
    """One list for all conversations is never what was meant."""
    with pytest.raises(HandlerError, match="factory=list"):
        state([])


async def test_a_shared_class_keeps_nothing_per_conversation() -> None:
    """All attributes of an executor with `shared=True` are configuration, also those a handler adds."""

    class Lookup(Executor, shared=True):
        def __init__(self) -> None:
            super().__init__("lookup")
            self.cache: dict[str, str] = {}

        @handler
        async def find(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.cache[text] = text
            self.client = threading.Lock()
            await ctx.yield_output(" ".join(self.cache))

    storage = InMemoryCheckpointStorage()
    workflow = alone(Lookup(), storage)
    await workflow.run("a", session_id="one")
    assert (await workflow.run("b", session_id="two")).get_outputs() == ["a b"]
    latest = await storage.get_latest(workflow_name="alone", session_id="two")
    assert latest is not None
    assert latest.executor_states == {}


async def test_an_attribute_made_and_removed_by_handlers_comes_and_goes() -> None:
    """New attributes are state; deleting one removes it, but what the program set may not be deleted."""

    class Changing(Counter):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, bool]) -> None:
            if text == "make":
                self.extra = [text]
            elif text == "drop":
                del self.extra
            elif text == "break":
                del self.count
            await ctx.yield_output(hasattr(self, "extra"))

    workflow = alone(Changing(), InMemoryCheckpointStorage())
    seen = [(await workflow.run(text)).get_outputs() for text in ("look", "make", "look", "drop", "look")]
    assert seen == [[False], [True], [True], [False], [False]]
    with pytest.raises(ExecutorStateError, match="'count'"):
        await workflow.run("break")


# --- Hooks --------------------------------------------------------------------------------------------------------


class Hooked(Executor):
    """Notes when its hooks are called, for all clones."""

    def __init__(self, id: str, calls: list[str]) -> None:
        super().__init__(id)
        self.note = functools.partial(_append, calls, id)
        self.count = 0
        self.extra = "pristine"

    async def on_checkpoint_save(self) -> dict[str, Any]:
        self.note("save")
        return {"count": self.count}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.note(f"restore {state['count']} {self.extra}")
        self.count = state["count"]

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.count += 1
        self.extra = "changed"
        if text == self.id or self.id == "a":
            await ctx.send_message(text)


def _append(calls: list[str], id: str, what: str) -> None:
    calls.append(f"{id} {what}")


def hooked(calls: list[str], storage: Any) -> Any:
    a, b = Hooked("a", calls), Hooked("b", calls)
    builder = WorkflowBuilder(start_executor=a, name="hooked", checkpoint_storage=storage() if storage else None)
    return builder.add_edge(a, b, condition=lambda text: text == "both").build()


@STORAGES
async def test_only_executors_that_ran_are_asked_for_their_state(storage: Any) -> None:
    """The save hook is called for an executor that took part in the superstep, and for no other."""
    calls: list[str] = []
    workflow = hooked(calls, storage)
    await workflow.definition()
    assert calls == ["a save", "b save"]
    calls.clear()
    await workflow.run("one")
    assert [call for call in calls if call.endswith("save")] == ["a save"]
    calls.clear()
    await workflow.run("both")
    assert [call for call in calls if call.endswith("save")] == ["a save", "b save"]


@STORAGES
async def test_the_restore_hook_is_always_called_with_everything(storage: Any) -> None:
    """Each run begins with the hook of every executor, on a clone that is otherwise as the program made it."""
    calls: list[str] = []
    workflow = hooked(calls, storage)
    for text in ("one", "both", "one"):
        calls.clear()
        await workflow.run(text)
    assert [call for call in calls if "restore" in call] == ["a restore 2 pristine", "b restore 1 pristine"]


async def test_one_hook_alone_is_refused() -> None:
    """What is saved must be restored, and the other way round."""

    class Half(Counter):
        async def on_checkpoint_save(self) -> dict[str, Any]:
            return {}

    with pytest.raises(WorkflowValidationError, match="define on_checkpoint_restore too"):
        await alone(Half()).definition()


async def test_a_save_hook_must_return_a_dict() -> None:
    """Anything else is refused with the executor's name."""

    class Odd(Counter):
        async def on_checkpoint_save(self) -> dict[str, Any]:
            return [self.count]  # type: ignore[return-value]

        async def on_checkpoint_restore(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(WorkflowCheckpointException, match="'counter' returned a list"):
        await alone(Odd()).run("a")


# --- The default session is inspectable ---------------------------------------------------------------------------


@STORAGES
async def test_the_default_session_shows_in_the_executors(storage: Any) -> None:
    """After a run the program's own executors show the default session, and no other."""
    counter = Counter()
    workflow = alone(counter, storage() if storage else None)
    await workflow.run("a")
    await workflow.run("other", session_id="another")
    assert (counter.count, counter.history) == (1, ["a"])
    await workflow.run("b")
    assert (counter.count, counter.history) == (2, ["a", "b"])
    await workflow.reset()
    assert (counter.count, counter.history) == (0, [])


@STORAGES
async def test_after_a_failure_the_executors_show_the_last_boundary(storage: Any) -> None:
    """What the failed superstep did is not to be seen; what the ones before it did is."""

    class Failing(Counter):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
            self.history.append(text)
            self.count += 1
            if len(text) > 3:
                raise ValueError(text)
            await ctx.send_message(f"{text}{self.id}")

    first, second, third = Failing("1"), Failing("2"), Failing("3")
    builder = WorkflowBuilder(start_executor=first, name="f", checkpoint_storage=storage() if storage else None)
    workflow = builder.add_chain([first, second, third]).build()
    with pytest.raises(ValueError, match="ab12"):
        await workflow.run("ab")
    assert [(e.count, e.history) for e in (first, second, third)] == [(1, ["ab"]), (1, ["ab1"]), (0, [])]


# --- Shared state -------------------------------------------------------------------------------------------------


@STORAGES
async def test_shared_state_is_read_as_of_the_beginning_of_the_superstep(storage: Any) -> None:
    """An executor sees its own writes at once, those of its siblings only in the next superstep; always as copies."""
    written = asyncio.Event()

    @executor
    async def split(text: str, ctx: WorkflowContext[str]) -> None:
        ctx.set_state("key", ["split"])
        await ctx.send_message(text)

    @executor
    async def writer(text: str, ctx: WorkflowContext[str, str]) -> None:
        ctx.set_state("key", ["writer"])
        ctx.get_state("key").append("in a copy")
        written.set()
        await ctx.send_message(f"writer saw {ctx.get_state('key')}")

    @executor
    async def reader(text: str, ctx: WorkflowContext[str, str]) -> None:
        await written.wait()
        await ctx.send_message(f"reader saw {ctx.get_state('key')} {ctx.get_state('none', 'nothing')}")

    @executor
    async def after(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        await ctx.yield_output(f"{' and '.join(texts)}; then {ctx.get_state('key')}")

    builder = WorkflowBuilder(start_executor=split, name="s", checkpoint_storage=storage() if storage else None)
    builder.add_fan_out_edges(split, [writer, reader]).add_fan_in_edges([writer, reader], after)
    result = await builder.build().run("x")
    assert result.get_outputs() == ["writer saw ['writer'] and reader saw ['split'] nothing; then ['writer']"]


async def test_shared_state_without_a_storage_lives_as_long_as_the_workflow() -> None:
    """A large value is not lost when the process's cache forgets it."""

    @executor
    async def keep(text: str, ctx: WorkflowContext[str, int]) -> None:
        ctx.set_state("all", [*ctx.get_state("all", []), text * 5000])
        await ctx.yield_output(len(ctx.get_state("all")))

    workflow = WorkflowBuilder(start_executor=keep).build()
    for turn in range(1, 4):
        assert (await workflow.run("a")).get_outputs() == [turn]
        megabyte = bytes(2**20)
        for number in range(65):
            PROCESS_WIDE.add_body(f"{turn:08}{number:08}".encode(), megabyte)


async def test_appending_to_shared_state_writes_the_end_only() -> None:
    """A long list in shared state that grows by one item costs a few chunks, not the list."""

    @executor
    async def keep(text: str, ctx: WorkflowContext[str, int]) -> None:
        ctx.set_state("all", [*ctx.get_state("all", []), text])

    log = CountingLog()
    workflow = WorkflowBuilder(start_executor=keep, name="k", checkpoint_storage=CheckpointStorage(log)).build()
    sizes = []
    for turn in range(200):
        before = len(log.written)
        await workflow.run(f"{turn}" * 100)
        sizes.append(log.bytes_of(log.written[before:]))
    assert sizes[-1] < 4000


async def test_what_one_conversation_leaves_in_memory_is_bytes() -> None:
    """Without a storage a session at rest is held as encoded cells, so that no clone and no message survives a run."""
    workflow = counting()
    await workflow.run("a", session_id="s")
    session = workflow._live._standing["s"]
    assert session.unfinished is not None and not any(session.unfinished.values())
    assert all(isinstance(reference, bytes) for reference in session.view.cells.values())


@pytest.mark.parametrize("durability", ["step", "turn"])
async def test_what_a_handler_does_to_its_input_stays_with_it(durability: Any) -> None:
    """Neither the caller's object nor an event, a second attempt or a run from the input's checkpoint shows it."""
    fails = [True]

    class Spoiling(Executor):
        @handler
        async def take(self, words: list[list[str]], ctx: WorkflowContext[Any, str]) -> None:
            await ctx.yield_output(f"{words}")
            words[0].append("spoiled")
            words.clear()
            if fails and fails.pop():
                raise LookupError

    storage = InMemoryCheckpointStorage()
    workflow = alone(Spoiling("spoiling"), storage)
    given = [["word"]]
    with pytest.raises(LookupError):
        await workflow.run(given, durability=durability)
    attempt = workflow.run(stream=True) if durability == "step" else workflow.run(given, stream=True)
    events = [event async for event in attempt]
    assert [event.data for event in events if event.type == "output"] == ["[['word']]"]
    assert [event.data for event in events if event.type.startswith("executor_")] == [[["word"]], ["[['word']]"]]
    assert given == [["word"]]
    taken = [c for c in await storage.list_checkpoints(workflow_name="alone") if c.kind == "input"]
    again = await workflow.run(checkpoint_id=taken[-1].checkpoint_id)
    assert again.get_outputs() == ["[['word']]"]
