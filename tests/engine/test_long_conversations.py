"""What a long conversation costs, in bytes and counts."""

from typing import Any

import pytest

from agent_host import Executor, Message, WorkflowBuilder, WorkflowContext, executor, handler, state
from agent_host.engine.checkpoint import HASH_SIZE
from agent_host.engine.executors.template import Template
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.encoding import CHUNK, FANOUT, Body
from agent_host.engine.serialization.shared_values import SharedValues
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from tests.engine.graphs import CountingLog


class Chat(Executor):
    history: list[Message] = state(factory=list)

    def __init__(self) -> None:
        super().__init__("chat")
        self.seen = 0

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, int]) -> None:
        self.history.append(Message(text))
        self.history.append(Message(text[::-1], role="assistant"))
        await ctx.yield_output(len(self.history))


async def test_a_thousand_turns_cost_little_more_than_their_text() -> None:
    """Turn 1,000 writes about what turn 10 wrote, and all of them together less than twice the text."""
    log = CountingLog()
    workflow = WorkflowBuilder(start_executor=Chat(), name="chat", checkpoint_storage=CheckpointStorage(log)).build()
    sizes = []
    for turn in range(1000):
        before = len(log.written)
        result = await workflow.run(f"{turn:05}" * 200, durability="turn")
        assert result.get_outputs() == [2 * turn + 2]
        sizes.append(log.bytes_of(log.written[before:]))
    assert sum(sizes) < 4_000_000
    assert max(sizes[990:]) < 3 * max(sizes[5:15])
    unchanged = len(log.written)
    await workflow.run()
    assert len(log.written) == unchanged


async def test_large_unchanged_state_is_written_once() -> None:
    """Twenty supersteps over a megabyte that does not change write little more than that megabyte."""

    class Heavy(Executor):
        def __init__(self) -> None:
            super().__init__("heavy")
            self.load: list[Any] = []
            self.count = 0

        @handler
        async def work(self, left: int, ctx: WorkflowContext[int, int]) -> None:
            if not self.load:
                self.load = [{"n": n, "text": f"{n:04}" * 250} for n in range(1000)]
            self.count += 1
            if left:
                await ctx.send_message(left - 1)

    heavy = Heavy()
    log = CountingLog()
    builder = WorkflowBuilder(start_executor=heavy, name="heavy", checkpoint_storage=CheckpointStorage(log))
    await builder.add_edge(heavy, heavy).build().run(20)
    load = len(Codec((), SharedValues()).encode(heavy.load, split=False).reference)
    assert 1_000_000 < load < log.bytes_of(log.written) < 1_050_000


async def test_growing_state_is_written_as_it_grows() -> None:
    """Eighty supersteps over ten kilobytes that grow by one each write what they add and little more."""

    class Growing(Executor):
        def __init__(self) -> None:
            super().__init__("growing")
            self.parts = [f"{n:04}" * 250 for n in range(10)]

        @handler
        async def grow(self, left: int, ctx: WorkflowContext[int, int]) -> None:
            self.parts.append(f"{left:04}" * 250)
            if left:
                await ctx.send_message(left - 1)

    growing = Growing()
    log = CountingLog()
    builder = WorkflowBuilder(start_executor=growing, name="growing", checkpoint_storage=CheckpointStorage(log))
    await builder.add_edge(growing, growing).build().run(79)
    assert len(growing.parts) == 90
    assert 90_000 < log.bytes_of(log.written) < 150_000


async def test_a_checkpoint_costs_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With forty executors of which one works, a superstep looks at the one's attributes and writes its cells only."""
    asked: list[str] = []
    changed = Template.changed

    def counted(self: Template, *args: Any, **kwargs: Any) -> Any:
        asked.append(self.executor_id)
        return changed(self, *args, **kwargs)

    monkeypatch.setattr(Template, "changed", counted)

    class Node(Executor):
        def __init__(self, id: str) -> None:
            super().__init__(id)
            self.count = 0

        @handler
        async def take(self, left: int, ctx: WorkflowContext[int, int]) -> None:
            self.count += 1
            await ctx.send_message(left - 1, target_id=self.id if left else "none")

    nodes = [Node(f"node{n}") for n in range(40)]
    log = CountingLog()
    builder = WorkflowBuilder(start_executor=nodes[0], name="many", checkpoint_storage=CheckpointStorage(log))
    builder.add_edge(nodes[0], nodes[0])
    for node in nodes[1:]:
        builder.add_edge(nodes[0], node)
    await builder.build().run(10)
    assert asked == ["node0"] * 11
    assert {key for commit in log.written[2:-1] for key in commit.delta} == {"x/node0/count", "q/000000"}


async def test_a_message_added_to_ten_thousand_costs_a_chunk_and_the_open_index(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is written is bounded by a chunk and 64 hashes of each level, what is encoded by the items of a chunk."""
    encoded: list[Message] = []
    tree = Body.tree

    def counted(self: Body, value: Any) -> Any:
        if type(value) is Message:
            encoded.append(value)
        return tree(self, value)

    class Long(Chat):
        @handler
        async def hear(self, text: str, ctx: WorkflowContext[str, int]) -> None:
            new = 10_000 if text == "begin" else 1
            self.history += [Message(f"{len(self.history) + n:06} of many") for n in range(new)]
            await ctx.yield_output(len(self.history))

    log = CountingLog()
    workflow = WorkflowBuilder(start_executor=Long(), name="chat", checkpoint_storage=CheckpointStorage(log)).build()
    await workflow.run("begin")
    monkeypatch.setattr(Body, "tree", counted)
    in_a_chunk = CHUNK // len(Codec((), SharedValues()).encode(Message("000000 of many"), split=False).reference) + 1
    for turn in range(1, 151):
        before = len(log.written)
        encoded.clear()
        assert (await workflow.run("more", durability="turn")).get_outputs() == [10_000 + turn]
        assert len(encoded) <= in_a_chunk + 1
        [commit] = log.written[before:]
        blobs = [len(body) for body in commit.blobs.values()]
        # The last chunk, the list's body, and at the end of 64 chunks the index blob that seals them.
        assert len(blobs) <= 2 + (max(blobs) == 2 + FANOUT * HASH_SIZE) + 1
        assert sum(blobs) < 2 * CHUNK + 3 * FANOUT * HASH_SIZE + 200


async def test_equal_contents_are_stored_once() -> None:
    """The same long history in ten sessions and two executors is one set of blobs."""
    log = CountingLog()
    texts = [f"{n:04} " * 50 for n in range(200)]

    class Keeper(Executor):
        def __init__(self, id: str) -> None:
            super().__init__(id)
            self.kept: list[str] = []

        @handler
        async def keep(self, value: list[str], ctx: WorkflowContext[list[str]]) -> None:
            self.kept = value
            await ctx.send_message(value)

    @executor
    async def start(text: str, ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message(list(texts))

    chain = [start, Keeper("a"), Keeper("b")]
    builder = WorkflowBuilder(start_executor=start, name="k", checkpoint_storage=CheckpointStorage(log))
    workflow = builder.add_chain(chain).build()
    await workflow.run("x", session_id="first", durability="turn")
    stored = sum(map(len, log._blobs.values()))
    for n in range(10):
        await workflow.run("x", session_id=f"s{n}", durability="turn")
    assert sum(map(len, log._blobs.values())) == stored
    assert stored < 1.2 * sum(map(len, texts))


async def test_a_long_list_that_the_program_began_is_stored_whole_when_it_grows() -> None:
    """What the program set stands in no store; once a handler has added to it, all of it does."""

    class Growing(Executor):
        def __init__(self) -> None:
            super().__init__("growing")
            self.words = [f"{n:04} " * 50 for n in range(300)]

        @handler
        async def grow(self, word: str) -> None:
            if word:
                self.words.append(word)

    log = CountingLog()
    growing = Growing()
    words = list(growing.words)
    storage = CheckpointStorage(log)
    workflow = WorkflowBuilder(start_executor=growing, name="grow", checkpoint_storage=storage).build()
    await workflow.run("")
    assert sum(map(len, log._blobs.values())) == 0
    result = await workflow.run("new")
    assert result.checkpoint_id is not None
    alone = await CheckpointStorage(log, Codec((), SharedValues())).load(result.checkpoint_id)
    assert alone.executor_states == {"growing": {"words": [*words, "new"]}}


async def test_a_store_has_every_blob_that_its_checkpoints_need() -> None:
    """Each checkpoint can be read from the store alone, by a process that has seen nothing before."""
    words = [f"{n:04} " * 50 for n in range(300)]

    class Editor(Executor):
        def __init__(self) -> None:
            super().__init__("editor")
            self.words = list(words)
            self.kept: dict[str, list[str]] = {}

        @handler
        async def edit(self, turn: int, ctx: WorkflowContext[list[str], int]) -> None:
            if turn:
                del self.words[-20 * turn :]
                self.words.append(f"turn {turn}")
            self.kept[f"{turn}"] = self.words[turn:]
            ctx.set_state("words", [*ctx.get_state("words", words[:100]), *self.words[:turn]])
            await ctx.send_message(self.words)

    @executor
    async def end(value: list[str]) -> None: ...

    log = CountingLog()
    editor = Editor()
    builder = WorkflowBuilder(start_executor=editor, name="edit", checkpoint_storage=CheckpointStorage(log))
    workflow = builder.add_edge(editor, end).build()
    for turn, session in enumerate("aababbabaaab"):
        await workflow.run(turn, session_id=session, durability="turn" if turn % 3 else "step")
    read = 0
    for commit in log.written:
        alone = CheckpointStorage(log, Codec((), SharedValues()))
        checkpoint = await alone.load(commit.id)
        read += len(f"{checkpoint.executor_states}{checkpoint.state}{checkpoint.messages}")
    assert read > 1_000_000
