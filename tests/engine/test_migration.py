"""States of an older version, changed by a workflow's `migrate`: what it can do, and when it is called."""

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.checkpoint import Commit
from agent_host.engine.definition import Definition
from agent_host.engine.migration.compatibility import problems
from agent_host.engine.migration.graph_policy import GraphPolicy, Migrate, signature_of, version_of
from agent_host.engine.migration.migration import admit, apply, examine
from agent_host.engine.migration.salvage import StoredObject
from agent_host.engine.migration.stored_state import Migrated, StoredState
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import UnsupportedValueError, WorkflowCheckpointException, WorkflowValidationError
from tests.engine.older import NAME, chain, keeper, nested, record, sender, stop_after, stored, taker, told
from tests.engine.test_compatibility import Hooked, Question, asker, joining

Ticket = record("Ticket", device=str)
NewTicket = record("Case", device=str, urgent=bool)
Job = record("Job", number=int)


async def migrated(log: MemoryLog, now: Workflow, migrate: Migrate) -> tuple[Definition, Migrated, dict[bytes, Any]]:
    """What a migration makes of the head of the default session, and the blobs to read it with."""
    definition = await now.definition()
    view, bodies = await stored(log, definition)
    made = await apply(migrate, definition, view, bodies)
    return definition, made, {**bodies, **made.blobs}


async def afterwards(log: MemoryLog, now: Workflow, migrate: Migrate) -> StoredState:
    """The migrated state, which has no problems left."""
    definition, made, bodies = await migrated(log, now, migrate)
    assert problems(definition, made.cells, definition.codec, bodies) == []
    return StoredState.of("now", definition.signature, made.cells, definition.codec, bodies)


async def kept(*executors: Executor) -> MemoryLog:
    log = MemoryLog()
    await chain(*executors, storage=CheckpointStorage(log)).run("hello")
    return log


# --- What a migration can do -------------------------------------------------------------------------------------


async def test_an_executor_is_renamed_with_all_that_is_its() -> None:
    """State, messages from and to it and open requests go with the executor."""
    log = await kept(keeper("a", "count", 0, 7), taker("end", str))
    now = chain(keeper("b", "count", 0), taker("end", str))
    state = await afterwards(log, now, lambda old: old.rename_executor("a", "b"))
    assert (state.read("b", "count"), state.attributes("a")) == (7, [])

    log = MemoryLog()
    await stop_after(chain(sender("a", Job(1), sends=Job), taker("b", Job), storage=CheckpointStorage(log)), 1)
    for source, target in (("z", "b"), ("a", "z")):
        now = chain(sender(source, Job(1), sends=Job), taker(target, Job))
        rename = (lambda old: old.rename_executor("a", "z")) if source == "z" else lambda old: None
        (message,) = (await afterwards(log, now, rename)).messages()
        assert (message.source, message.payload) == (source, Job(1))

    state = await afterwards(await kept(asker()), chain(asker(id="b")), lambda old: old.rename_executor("a", "b"))
    (request,) = state.requests()
    assert (request.request_id, request.executor, request.data) == ("q1", "b", Question("hello"))


async def test_the_address_of_a_message_is_renamed() -> None:
    """A message that names its receiver finds it under the new id."""
    log = MemoryLog()
    old = chain(sender("a", Job(1), sends=Job, target="b"), taker("b", Job), storage=CheckpointStorage(log))
    await stop_after(old, 1)
    now = chain(sender("a", Job(1), sends=Job), taker("z", Job))
    (message,) = (await afterwards(log, now, lambda old: old.rename_executor("b", "z"))).messages()
    assert (message.source, message.target) == ("a", "z")


async def test_what_a_hook_saved_is_renamed() -> None:
    """The dict of a save hook goes with its executor."""
    log = await kept(Hooked("a"), taker("end", str))
    now = chain(Hooked("b"), taker("end", str))
    state = await afterwards(log, now, lambda old: old.rename_executor("a", "b"))
    assert state.read_saved("b") == {"kept": "hello"}


async def test_joins_follow_their_executors() -> None:
    """A join is the same join when its sources or its target are renamed, one after the other and in circles."""
    log = MemoryLog()
    await joining(sender("left", 7, sends=int), "right", storage=CheckpointStorage(log)).run("go")

    def migrate(old: StoredState) -> None:
        old.rename_executor("left", "x")
        old.rename_executor("right", "left")
        old.rename_executor("x", "right")

    now = joining(sender("right", 7, sends=int), "left")
    state = await afterwards(log, now, migrate)
    assert state.joins() == ["(right,left)->join"]
    now = joining(sender("x", 7, sends=int), "right")
    _, made, _ = await migrated(log, now, lambda old: old.rename_executor("left", "x"))
    assert set(made.cells) == {"e/(x,right)->join/x/000000"}


async def test_a_join_with_another_source_is_named_by_the_author() -> None:
    """What waited for two can wait for three, or be dropped."""
    log = MemoryLog()
    await joining(sender("left", 7, sends=int), "right", storage=CheckpointStorage(log)).run("go")
    now = joining(sender("left", 7, sends=int), "right", "middle")
    state = await afterwards(log, now, lambda old: old.rename_join("(left,right)->join", "(left,right,middle)->join"))
    assert state.joins() == ["(left,right,middle)->join"]

    def drop(old: StoredState) -> None:
        assert old.drop_join("(left,right)->join") == 1

    assert (await afterwards(log, now, drop)).joins() == []


async def test_an_executor_that_has_something_is_not_overwritten() -> None:
    """Two executors become one only if the author says whose state counts."""
    log = await kept(keeper("a", "count", 0, 1), keeper("b", "count", 0, 2), taker("end", str))
    now = chain(keeper("b", "count", 0), taker("end", str))
    with pytest.raises(WorkflowCheckpointException, match=r"old\.drop_executor\('b'\)"):
        await migrated(log, now, lambda old: old.rename_executor("a", "b"))

    def choose(old: StoredState) -> None:
        old.drop_executor("b")
        old.rename_executor("a", "b")

    assert (await afterwards(log, now, choose)).read("b", "count") == 1


async def test_an_executor_is_dropped_with_all_that_is_its() -> None:
    """Nothing of a dropped executor is left: no state, no message, no request, nothing in joins."""
    log = await kept(keeper("a", "count", 0, 1), asker(id="b"))
    now = chain(taker("z", str | Question))

    def migrate(old: StoredState) -> None:
        assert old.executors() == ["a", "b"]
        old.drop_executor("a")
        old.drop_executor("b")
        assert old.executors() == []

    _, made, _ = await migrated(log, now, migrate)
    assert dict(made.cells) == {}
    assert set(made.delta.values()) == {None}

    log = MemoryLog()
    await joining(sender("left", 7, sends=int), "right", storage=CheckpointStorage(log)).run("go")
    _, made, _ = await migrated(log, now, lambda old: old.drop_executor("left"))
    assert dict(made.cells) == {}
    for gone in "ab":
        log = MemoryLog()
        old = chain(sender("a", Job(1), sends=Job, target="b"), taker("b", Job), storage=CheckpointStorage(log))
        await stop_after(old, 1)
        _, made, _ = await migrated(log, now, lambda old, gone=gone: old.drop_executor(gone))
        assert dict(made.cells) == {}


async def test_attributes_are_read_written_renamed_and_dropped() -> None:
    """An attribute can be converted, moved and forgotten; what is not stored reads as the default."""
    log = await kept(keeper("a", "limit", 0, 5), taker("end", str))

    def migrate(old: StoredState) -> None:
        assert old.attributes("a") == ["limit"]
        assert old.read("a", "nothing", "default") == "default"
        old.rename_attribute("a", "nothing", "anything")
        old.rename_attribute("a", "limit", "limits")
        old.write("a", "limits", [old.read("a", "limits")])
        old.write("a", "extra", "x" * 1000)
        old.write("a", "too much", 1)
        old.drop_attribute("a", "too much")

    now = chain(keeper("a", "limits", [0]), taker("end", str))
    state = await afterwards(log, now, migrate)
    assert {name: state.read("a", name) for name in state.attributes("a")} == {"limits": [5], "extra": "x" * 1000}
    state = await afterwards(log, now, lambda old: old.drop_state("a"))
    assert state.attributes("a") == []


async def test_a_value_that_was_read_is_the_authors_own() -> None:
    """Changing a value changes nothing until it is written."""
    log = await kept(keeper("a", "items", [], ["one"]), taker("end", str))

    def migrate(old: StoredState) -> None:
        old.read("a", "items").append("two")

    _, made, _ = await migrated(log, chain(keeper("a", "items", []), taker("end", str)), migrate)
    assert dict(made.delta) == {}


async def test_an_object_of_a_class_that_is_gone_is_read_as_it_is_stored() -> None:
    """The author makes the new object from the fields of the old one, at any depth."""
    log = await kept(keeper("a", "tickets", [Ticket("")], [Ticket("printer"), Ticket("phone")]), taker("end", str))

    def migrate(old: StoredState) -> None:
        tickets = old.read("a", "tickets")
        assert tickets[0] == StoredObject("Ticket", 1, {"device": "printer"})
        old.write("a", "tickets", [NewTicket(urgent=False, **ticket.fields) for ticket in tickets])

    now = chain(keeper("a", "tickets", [NewTicket("", False)]), taker("end", str))
    state = await afterwards(log, now, migrate)
    assert state.read("a", "tickets") == [NewTicket("printer", False), NewTicket("phone", False)]


async def test_hooks_and_attributes_become_each_other() -> None:
    """What a hook saved can become attributes, and attributes what a hook restores."""
    log = await kept(Hooked("a"), taker("end", str))

    def to_attributes(old: StoredState) -> None:
        saved = old.read_saved("a")
        assert saved is not None
        old.drop_state("a")
        old.write("a", "kept", saved["kept"])

    now = chain(keeper("a", "kept", ""), taker("end", str))
    assert (await afterwards(log, now, to_attributes)).read("a", "kept") == "hello"

    def to_hook(old: StoredState) -> None:
        old.write_saved("a", {"kept": old.read("a", "kept")})

    log = await kept(keeper("a", "kept", "", "hello"), taker("end", str))
    state = await afterwards(log, chain(Hooked("a"), taker("end", str)), to_hook)
    assert (state.read_saved("a"), state.attributes("a")) == ({"kept": "hello"}, [])


async def test_shared_state_is_changed_by_key() -> None:
    """Values of the shared state can be read, written, renamed and dropped."""

    class Writer(Executor):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str]) -> None:
            for key in ("one", "two", "three"):
                ctx.set_state(key, text)

    def migrate(old: StoredState) -> None:
        assert old.shared() == ["one", "three", "two"]
        old.rename_shared("one", "first")
        old.write_shared("two", [old.read_shared("two"), old.read_shared("nothing", 0)])
        old.drop_shared("three")

    state = await afterwards(await kept(Writer("a")), chain(Writer("a")), migrate)
    assert {key: state.read_shared(key) for key in state.shared()} == {"first": "hello", "two": ["hello", 0]}


async def test_messages_and_requests_are_dropped_by_what_they_are() -> None:
    """Messages go by source, target or type, also of a type that is gone; requests by id, executor or type."""

    def jobs(storage: CheckpointStorage | None = None) -> Workflow:
        return chain(sender("a", Job(1), 2, Job(3), sends=Job | int), taker("b", Job | int), storage=storage)

    def drops(**which: str) -> Callable[[StoredState], None]:
        def migrate(old: StoredState) -> None:
            counts.append(old.drop_messages(**which))

        return migrate

    counts: list[int] = []
    log = MemoryLog()
    await stop_after(jobs(CheckpointStorage(log)), 1)
    without_job = chain(sender("a", 2, sends=int), taker("b", int))
    state = await afterwards(log, without_job, drops(type="Job"))
    assert [message.payload for message in state.messages()] == [2]
    everything: list[dict[str, str]] = [{"source": "b"}, {"target": "a"}, {"source": "a"}, {}]
    for which in everything:
        await migrated(log, jobs(), drops(**which))
    assert counts == [2, 0, 0, 3, 3]

    log, now = await kept(asker()), chain(asker())
    for drop, left in (
        (lambda old: old.drop_request("q1"), 0),
        (lambda old: old.drop_request("q2"), 1),
        (lambda old: old.drop_requests(executor="a"), 0),
        (lambda old: old.drop_requests(type="Job"), 1),
        (lambda old: old.drop_requests(), 0),
    ):
        state = await afterwards(log, now, lambda old, drop=drop: (drop(old), None)[1])
        assert len(state.requests()) == left


async def test_what_is_no_message_and_no_request_goes_with_all() -> None:
    """Dropping all messages or requests leaves nothing of the kind, whatever it is."""
    codec = (await chain(taker("a", str)).definition()).codec
    odd = codec.encode(7).reference
    state = StoredState.of("chk", "", {"q/000000": odd, "r/q1": odd}, codec, {})
    assert (state.messages(), state.requests(), state.executors()) == ([], [], [])
    assert (state.drop_messages(), state.drop_requests()) == (1, 1)
    assert state.changed_cells(None) == {}


async def test_a_renamed_message_keeps_a_long_content() -> None:
    """A message whose content is stored in pieces is renamed too, and its pieces are handed over."""
    words = ["word"] * 3000
    log = MemoryLog()
    await stop_after(
        chain(sender("a", words, sends=list[str]), taker("b", list[str]), storage=CheckpointStorage(log)), 1
    )
    now = chain(sender("z", words, sends=list[str]), taker("b", list[str]))
    (message,) = (await afterwards(log, now, lambda old: old.rename_executor("a", "z"))).messages()
    assert message.payload == words


async def test_nested_workflows_are_changed_at_their_depth() -> None:
    """Every instance of a nested workflow has its own state, which follows its owner's new name."""
    log = MemoryLog()
    older = nested(chain(keeper("a", "count", 0, 1), asker(id="b")), "outer", "inner", storage=CheckpointStorage(log))
    await older.run("hello")
    await older.run("again")

    def migrate(old: StoredState) -> None:
        old.rename_executor("outer", "sub")
        assert (old.nested("outer"), len(old.nested("sub"))) == ([], 2)
        for middle in old.nested("sub"):
            assert middle.executors() == ["inner"]
        for inner in old.nested("sub/inner"):
            inner.rename_executor("a", "z")
            inner.write("z", "count", inner.read("z", "count") + 1)
            (request,) = inner.requests()
            inner.drop_request(request.request_id)

    now = nested(chain(keeper("z", "count", 0), asker(id="b")), "sub", "inner")
    state = await afterwards(log, now, migrate)
    assert [inner.read("z", "count") for inner in state.nested("sub/inner")] == [2, 2]
    _, made, _ = await migrated(log, now, lambda old: old.drop_executor("outer"))
    assert dict(made.cells) == {}


async def test_joins_of_nested_workflows_follow_their_executors() -> None:
    """The join of a renamed executor is found in the graph that it stands in, also under a renamed owner."""
    log = MemoryLog()
    older = nested(joining(sender("left", 7, sends=int), "right"), "outer", storage=CheckpointStorage(log))
    await older.run("go")

    def migrate(old: StoredState) -> None:
        old.rename_executor("outer", "sub")
        for inner in old.nested("sub"):
            inner.rename_executor("left", "x")

    state = await afterwards(log, nested(joining(sender("x", 7, sends=int), "right"), "sub"), migrate)
    assert state.nested("sub")[0].joins() == ["(x,right)->join"]


async def test_finished_steps_follow_their_executor_or_are_dropped() -> None:
    """The kept results of steps belong to an executor's state."""
    codec = (await chain(taker("a", str)).definition()).codec
    step = codec.encode(["fetch", 1]).reference
    state = StoredState.of("chk", "", {"j/a/000000": step, "x/a/count": step}, codec, {})
    state.rename_executor("a", "b")
    assert set(state.changed_cells(None)) == {"j/b/000000", "x/b/count"}
    state.drop_steps("b")
    assert set(state.changed_cells(None)) == {"x/b/count"}
    state = StoredState.of("chk", "", {"j/a/000000": step, "x/a/count": step}, codec, {})
    state.drop_state("a")
    assert state.changed_cells(None) == {}


# --- How it is called --------------------------------------------------------------------------------------------


async def versions(
    log: MemoryLog, policy: GraphPolicy, now: Workflow, before: str = "1", after: str = "2"
) -> tuple[GraphPolicy, Definition, Any, dict[bytes, Any]]:
    """A policy, a definition of one version, and a view that another one has stored."""
    definition = await now.definition()
    view, bodies = await stored(log, definition)
    changed = dataclasses.replace(definition, signature=signature_of(after))
    return policy, changed, dataclasses.replace(view, signature=signature_of(before)), bodies


async def test_a_state_of_the_same_graph_is_not_looked_into() -> None:
    """Under its own signature nothing is decoded, migrated or compared."""

    def migrate(old: StoredState) -> None:
        raise AssertionError("migrate was called")

    log = await kept(keeper("a", "count", 0, 1), taker("end", str))
    now = chain(keeper("b", "count", 0), taker("end", str))
    policy, definition, view, _ = await versions(log, GraphPolicy(migrate=migrate), now, "1", "1")
    assert await admit(policy, definition, view, {}) is None


async def test_strict_refuses_every_other_graph() -> None:
    """The error names both versions and what to do; the same version goes on."""
    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("a", "count", 0))
    policy, definition, view, bodies = await versions(log, GraphPolicy("strict"), now)
    with pytest.raises(WorkflowCheckpointException, match=r"version '1'.*version '2'.*on_graph_change='compatible'"):
        await admit(policy, definition, view, bodies)
    (found,) = await examine(policy, definition, view, bodies)
    assert (found.what, found.name) == ("graph", "version '1'")
    policy, definition, view, bodies = await versions(log, GraphPolicy("strict"), now, "2", "2")
    assert await admit(policy, definition, view, bodies) is None


async def test_compatible_takes_what_it_can_continue_and_refuses_the_rest() -> None:
    """A state without problems goes on as it is stored; one with problems is refused with each of them."""
    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("a", "count", 0))
    assert await admit(*await versions(log, GraphPolicy(), now)) is None
    found = await versions(log, GraphPolicy(), chain(keeper("b", "count", 0)))
    with pytest.raises(WorkflowCheckpointException, match=r"state 'count' of 'a'.*no longer has this executor"):
        await admit(*found)
    assert told(await examine(*found)) == [("a", "state", "count")]


async def test_migrate_comes_before_the_comparison() -> None:
    """What a migration has repaired is no problem; what it has left is."""
    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("b", "count", 0))

    def migrate(old: StoredState) -> None:
        assert (old.version, old.checkpoint_id) == ("1", view.commit_id)
        old.rename_executor("a", "b")

    policy, definition, view, bodies = await versions(log, GraphPolicy(migrate=migrate), now)
    made = await admit(policy, definition, view, bodies)
    assert made is not None
    assert set(made.cells) == {"x/b/count"}
    assert dict(made.delta) == {"x/a/count": None, "x/b/count": view.cells["x/a/count"]}
    assert await examine(policy, definition, view, bodies) == []
    policy, definition, view, bodies = await versions(log, GraphPolicy(migrate=lambda old: None), now)
    with pytest.raises(WorkflowCheckpointException, match="'a'"):
        await admit(policy, definition, view, bodies)
    assert told(await examine(policy, definition, view, bodies)) == [("a", "state", "count")]


async def test_a_migration_may_wait() -> None:
    """An asynchronous migration is awaited."""

    async def migrate(old: StoredState) -> None:
        await asyncio.sleep(0)
        old.rename_executor("a", "b")

    log = await kept(keeper("a", "count", 0, 1))
    state = await afterwards(log, chain(keeper("b", "count", 0)), migrate)
    assert state.read("b", "count") == 1


async def test_a_migration_that_raises_names_the_checkpoint() -> None:
    """The author's own error is the cause, and nothing of the stored state has changed."""

    def migrate(old: StoredState) -> None:
        old.drop_executor("a")
        raise KeyError("limit")

    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("a", "count", 0))
    policy, definition, view, bodies = await versions(log, GraphPolicy(migrate=migrate), now)
    before = dict(view.cells)
    with pytest.raises(WorkflowCheckpointException, match="'limit'") as raised:
        await admit(policy, definition, view, bodies)
    assert view.commit_id in str(raised.value)
    assert isinstance(raised.value.__cause__, KeyError)
    assert dict(view.cells) == before
    (found,) = await examine(policy, definition, view, bodies)
    assert (found.what, found.name, found.why) == ("migration", "KeyError", "migrate raised: 'limit'")


async def test_a_migration_that_returns_something_is_told_that_it_changes_in_place() -> None:
    """A returned dict of cells would be ignored without a word."""
    migrate: Any = lambda old: {"a": 1}  # noqa: E731 - the shortest way to say it wrongly
    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("a", "count", 0))
    with pytest.raises(WorkflowCheckpointException, match="returned a dict"):
        await migrated(log, now, migrate)


async def test_a_value_that_cannot_be_stored_is_refused_where_it_is_written() -> None:
    """The error names the cell and the type."""
    log, now = await kept(keeper("a", "count", 0, 1)), chain(keeper("a", "count", 0))
    with pytest.raises(WorkflowCheckpointException, match=r"x/a/count.*object") as raised:
        await migrated(log, now, lambda old: old.write("a", "count", object()))
    assert isinstance(raised.value.__cause__, UnsupportedValueError)


async def test_the_difference_is_all_that_the_next_commit_needs() -> None:
    """The stored cells with the difference are the migrated ones, and every blob is stored or handed over."""
    items = [f"item {number}" for number in range(2000)]
    log = await kept(keeper("a", "items", [], items), keeper("b", "count", 0, 1), taker("end", str))
    now = chain(keeper("z", "items", []), keeper("b", "count", 0), taker("end", str))

    def migrate(old: StoredState) -> None:
        old.rename_executor("a", "z")
        old.write("b", "count", 2)
        old.write("b", "notes", "n" * 1000)

    definition, made, _ = await migrated(log, now, migrate)
    view, _ = await stored(log, definition)
    assert {key: value for key, value in {**view.cells, **made.delta}.items() if value is not None} == dict(made.cells)
    assert set(made.delta) == {"x/a/items", "x/z/items", "x/b/count", "x/b/notes"}
    assert set(made.blobs) == {made.cells["x/b/notes"][1:]}  # what was only renamed is stored already
    head = await log.head(NAME, "default")
    commit = Commit(
        id="chk_migrated", parent=head, workflow=NAME, session_id="default", kind="step", seq=view.seq + 1, step=0,
        created_at=0.0, signature="", delta=made.delta, complete=False, distance=view.distance + 1, blobs=made.blobs,
    )  # fmt: skip
    await log.commit([commit], head)
    view, bodies = await stored(log, definition)
    state = StoredState.of("", "", view.cells, definition.codec, bodies)
    assert (state.read("z", "items"), state.read("b", "count")) == (items, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_change": "lenient"}, "'strict' or 'compatible'; got 'lenient'"),
        ({"migrate": "a name"}, "takes a function"),
        ({"on_change": "strict", "migrate": print}, "never be called"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str) -> None:
    """A policy is checked when it is made, so a builder can hand it on as it was given."""
    with pytest.raises(WorkflowValidationError, match=message):
        GraphPolicy(**arguments)


def test_a_version_can_be_read_from_its_signature() -> None:
    """`migrate` goes by the version that its author gave; a hash of the structure has none."""
    assert version_of(signature_of("2025-06")) == "2025-06"
    structural = WorkflowBuilder(start_executor=taker("a", str), name=NAME).build().signature
    assert version_of(structural) is None
