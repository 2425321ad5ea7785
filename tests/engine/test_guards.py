"""What must not happen between processes, storages and runs, each shown by trying it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    open_store,
    response_handler,
)
from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.errors import (
    CheckpointNotFoundError,
    UnknownRequestError,
    WorkflowBusyError,
    WorkflowConflictError,
    WorkflowException,
)
from tests.engine.graphs import CountingLog, both_ways, counting, everything_in, ping_pong


@pytest.fixture(params=["memory", "files", "sqlite"])
async def log(request: Any, tmp_path: Path) -> AsyncIterator[CommitLog]:
    if request.param == "sqlite":
        store = open_store(f"sqlite:///{tmp_path}/a.db")
        await store.open()
        yield store.commit_log("ann")
        await store.aclose()
    else:
        yield MemoryLog() if request.param == "memory" else FileLog(tmp_path)


# --- Answers -----------------------------------------------------------------------------------------------------


class Approval(Executor):
    """Asks, and counts the answers that it hears."""

    def __init__(self) -> None:
        super().__init__("approval")
        self.heard: list[bool] = []

    @handler
    async def ask(self, ids: list[str], ctx: WorkflowContext[Any, str]) -> None:
        for name in ids:
            ctx.request_info(name, bool, request_id=name)

    @response_handler
    async def hear(self, question: str, answer: bool, ctx: WorkflowContext[Any, str]) -> None:
        await asyncio.sleep(0)
        self.heard.append(answer)
        ctx.yield_output(f"{question} {answer} {len(self.heard)}")


def approving(log: CommitLog) -> Workflow:
    storage = CheckpointStorage(log)
    return WorkflowBuilder(start_executor=Approval(), name="approving", checkpoint_storage=storage).build()


async def test_of_two_processes_that_answer_one_is_heard(log: CommitLog) -> None:
    """Both saw the request open; the slower one is refused, however it learns of it, and nothing is heard twice."""
    await approving(log).run(["q"])
    answers = [approving(log).run(responses={"q": answer}) for answer in (True, False)]
    ended = await asyncio.gather(*answers, return_exceptions=True)
    won = [one for one in ended if not isinstance(one, BaseException)]
    lost = [one for one in ended if isinstance(one, BaseException)]
    assert len(won) == len(lost) == 1
    assert isinstance(lost[0], (WorkflowConflictError, UnknownRequestError))
    assert won[0].get_outputs() in (["q True 1"], ["q False 1"])
    latest = await CheckpointStorage(log, (await approving(log).definition()).codec).get_latest(
        workflow_name="approving"
    )
    assert latest is not None
    assert len(latest.executor_states["approval"]["heard"]) == 1
    assert latest.pending_request_info_events == {}


async def test_an_answer_during_a_run_is_refused(log: CommitLog) -> None:
    """The second click in the same process finds the session busy, and a later one the request answered."""
    workflow = approving(log)
    await workflow.run(["q", "r"])
    first = asyncio.ensure_future(workflow.run(responses={"q": True}))
    await asyncio.sleep(0)
    with pytest.raises(WorkflowBusyError):
        await workflow.run(responses={"q": True})
    with pytest.raises(WorkflowBusyError):
        await workflow.run(responses={"r": True})
    assert (await first).get_outputs() == ["q True 1"]
    with pytest.raises(UnknownRequestError, match="No request 'q' is open in this session; open: 'r'"):
        await workflow.run(responses={"q": True, "r": True})
    assert (await workflow.run(responses={"r": True})).get_outputs() == ["r True 2"]


async def test_an_answer_that_no_handler_takes_any_more_is_refused() -> None:
    """A new program whose handler wants another answer says so when it is given one, and the request stays open."""

    class Counting(Executor):
        @handler
        async def ask(self, ids: list[str], ctx: WorkflowContext[Any, str]) -> None: ...

        @response_handler
        async def hear(self, question: str, answer: int, ctx: WorkflowContext[Any, str]) -> None: ...

    log = MemoryLog()
    await approving(log).run(["q"])
    before = await log.head("approving", "default")
    newer = WorkflowBuilder(
        start_executor=Counting("approval"), name="approving", checkpoint_storage=CheckpointStorage(log)
    ).build()
    for answer in (True, 1):
        with pytest.raises(WorkflowException, match=r"approval.*response_handler"):
            await newer.run(responses={"q": answer})
    assert await log.head("approving", "default") == before
    assert (await approving(log).run(responses={"q": True})).get_outputs() == ["q True 1"]


# --- Storages ----------------------------------------------------------------------------------------------------


async def test_what_the_caller_hands_to_a_run_is_not_stored() -> None:
    """`turn` may hold credentials: no byte of any storage has them."""
    log = MemoryLog()
    storage = CheckpointStorage(log)

    @executor(id="x")
    async def x(text: str, ctx: WorkflowContext[str, str]) -> None:
        ctx.yield_output(f"{ctx.turn['key']}")

    workflow = WorkflowBuilder(start_executor=x, name="x", checkpoint_storage=storage).build()
    assert (await workflow.run("hi", turn={"key": "sesame"})).get_outputs() == ["sesame"]
    assert b"hi" in everything_in(log)
    assert b"sesame" not in everything_in(log)


async def test_every_storage_has_the_whole_chain() -> None:
    """A session in another storage is another session: its first commit there follows the initial state, stored too."""
    first, second = InMemoryCheckpointStorage(), InMemoryCheckpointStorage()
    workflow = counting(first)
    await workflow.run("a")
    assert (await workflow.run("b", checkpoint_storage=second)).get_outputs() == ["1: b"]
    for storage in (first, second):
        history = await workflow.history(checkpoint_storage=storage)
        assert [info.kind for info in history] == ["step", "input", "root"]
        stored = await storage.list_checkpoint_ids(workflow_name="counting")
        assert set(stored) == {info.checkpoint_id for info in history}
    head = await workflow.get_last_checkpoint_id()
    assert head is not None
    with pytest.raises(CheckpointNotFoundError):
        await workflow.run("c", checkpoint_id=head, checkpoint_storage=second)
    assert (await workflow.run("c", checkpoint_storage=second)).get_outputs() == ["2: b c"]


async def test_the_latest_checkpoint_is_where_the_session_stands(log: CommitLog) -> None:
    """Not the newest by time, nor that of another session of the same name's workflow."""
    workflow = ping_pong(storage := CheckpointStorage(log))
    await workflow.run(2)
    early = (await workflow.history())[1].checkpoint_id
    await workflow.run(1, session_id="other")
    await workflow.run(checkpoint_id=early, max_iterations=5)
    again = await workflow.get_last_checkpoint_id()
    await workflow.run(0, session_id="other")
    latest = await storage.get_latest(workflow_name="ping-pong")
    assert latest is not None
    assert (latest.checkpoint_id, latest.previous_checkpoint_id, latest.session_id) == (again, early, "default")
    await workflow.reset()
    latest = await storage.get_latest(workflow_name="ping-pong")
    assert latest is not None
    assert latest.kind == "root"
    assert await storage.get_latest(workflow_name="ping-pong", session_id="third") is None


async def test_a_superstep_is_written_as_what_it_changed() -> None:
    """Joins, queue and state: each commit names the cells that differ from its parent's, and no others."""
    log = CountingLog()
    await both_ways(CheckpointStorage(log)).run("x")
    cells: dict[str, bytes | None] = {}
    for commit in log.written:
        assert all(cells.get(key) != reference for key, reference in commit.delta.items())
        cells.update(commit.delta)
    assert {key for key, reference in cells.items() if reference is not None} == set()


# --- Processes ---------------------------------------------------------------------------------------------------

PROGRAM = """
import asyncio, json, os, sys

from agent_host import FileCheckpointStorage, WorkflowBuilder, WorkflowContext, executor


@executor(id="begin")
async def begin(text: str, ctx: WorkflowContext[str]) -> None:
    ctx.send_message(text)


@executor(id="pay")
async def pay(text: str, ctx: WorkflowContext[str, list[str]]) -> None:
    async def charge(amount: int) -> int:
        print(json.dumps("charged"), flush=True)
        return amount

    print(json.dumps([ctx.idempotency_key, str(ctx.uuid()), str(ctx.uuid()), ctx.now().isoformat()]), flush=True)
    await ctx.step("charge", charge, 7)
    if sys.argv[2] == "dies":
        os._exit(9)


storage = FileCheckpointStorage(sys.argv[1])
workflow = WorkflowBuilder(start_executor=begin, name="paying", checkpoint_storage=storage).add_edge(begin, pay).build()
asyncio.run(workflow.run(*sys.argv[3:]))
"""


def test_a_killed_process_and_its_successor_make_the_same_call(tmp_path: Path) -> None:
    """Keys, ids and time are equal, and what was charged is not charged again; the next turn has others."""
    (tmp_path / "paying.py").write_text(PROGRAM)

    def process(*arguments: str, code: int) -> list[Any]:
        command = [sys.executable, str(tmp_path / "paying.py"), str(tmp_path / "store"), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == code, ended.stderr
        return [json.loads(line) for line in ended.stdout.splitlines()]

    died = process("dies", "a", code=9)
    resumed = process("lives", code=0)
    next_turn = process("lives", "a", code=0)
    assert died == [died[0], "charged"]
    assert resumed == [died[0]]
    assert next_turn[1:] == ["charged"]
    assert not {*next_turn[0]} & {*died[0]}
    assert len({*died[0]}) == 4
