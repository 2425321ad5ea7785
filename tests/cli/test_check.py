"""`agent-host check`: which stored conversations a workflow could not continue, told before it is deployed."""

import dataclasses
import gc
import json
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from agent_host import Executor, WorkflowContext, handler, open_store
from agent_host.cli.check import Report, as_data, page, survey
from agent_host.engine.checkpoint import Commit
from agent_host.engine.migration.graph_policy import GraphPolicy
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.view import View
from agent_host.stores import ResponseRecord, SavePoint, Store
from agent_host.stores.records import Conversation, ConversationMove
from tests.engine.older import NAME, chain, keeper, record, taker

Run = Callable[..., "subprocess.CompletedProcess[str]"]

Ticket = record("Ticket", device=str)
NOW = 1_800_000_000.0
OLDER = (
    "from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler\n"
    "class Desk(Executor):\n"
    "    def __init__(self, id):\n"
    "        super().__init__(id)\n"
    "        self.{attribute} = {first}\n"
    "    @handler\n"
    "    async def hear(self, text: str, ctx: WorkflowContext) -> None:\n"
    "        self.{attribute} = text\n"
    "workflow = WorkflowBuilder(start_executor=Desk({id!r}), name='desk').build()\n"
)


def store_at(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/host.db"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store in a file."""
    opened = open_store(store_at(tmp_path))
    await opened.open()
    yield opened
    await opened.aclose()


async def talk(store: Store, *executors: Executor, session: str = "s1", user: str = "", name: str = NAME) -> str:
    """One text in a session; returns the commit."""
    workflow = chain(*executors, storage=CheckpointStorage(store.commit_log(user)), name=name)
    made = (await workflow.run("hello", session_id=session)).checkpoint_id
    assert made is not None
    return made


async def respond(store: Store, response_id: str, commit: str, *, age: float = 0.0, user: str = "") -> None:
    """A response that stands for a commit, made so many seconds ago."""
    created = int(NOW - age)
    empty = {"delta_lengths": b"", "input": b"", "body": b""}
    stored = ResponseRecord(response_id, None, commit, commit, None, "completed", created, created, **empty)
    await store.finish(user, stored, ())


async def look(store: Any, *executors: Executor, days: float = 7, policy: GraphPolicy | None = None) -> Report:
    definition = await chain(*executors).definition()
    return await survey(store, policy or GraphPolicy(), definition, NOW - days * 86_400)


def shown(report: Report, width: int = 100) -> str:
    return "\n".join(page(report, width))


# --- What is looked at -------------------------------------------------------------------------------------------


async def test_what_can_be_continued_is_one_line(store: Store) -> None:
    """With nothing wrong, the page is the number of save points."""
    commit = await talk(store, keeper("a", "count", 0, 1))
    await respond(store, "resp_1", commit)
    report = await look(store, keeper("a", "count", 0))
    assert shown(report) == "2 save points can be continued."
    assert shown(await look(store, keeper("a", "count", 0), days=-1)) == "1 save point can be continued."


async def test_sessions_of_every_user_and_responses_of_the_last_days(store: Store) -> None:
    """Session heads count however old they are, responses only within the days asked for."""
    commit = await talk(store, keeper("a", "count", 0, 1), user="alice")
    await talk(store, keeper("a", "count", 0, 1), user="bob")
    await respond(store, "resp_old", commit, age=10 * 86_400, user="alice")
    await respond(store, "resp_new", commit, age=86_400, user="alice")
    assert (await look(store, keeper("a", "count", 0))).checked == 3
    assert (await look(store, keeper("a", "count", 0), days=30)).checked == 4


async def test_a_conversation_is_looked_at_however_old_it_is(store: Store) -> None:
    """The commit that it stands at is a save point of its own; a problem there names the conversation."""
    commit = await talk(store, keeper("a", "count", 0, 1), user="alice")
    await store.create_conversation("alice", Conversation("conv_1", 0, b""), [])
    stored = ResponseRecord("resp_1", None, commit, commit, "conv_1", "completed", 0, 0, b"", b"", b"")
    await store.finish("alice", stored, (), move=ConversationMove("conv_1", None))
    report = await look(store, keeper("a", "count", 0))
    assert report.checked == 2  # the other is the head of the session
    point = (await store.save_points(NOW))[1]
    report.take([point], [], "It is damaged.")
    assert "conversation conv_1 of user alice: It is damaged." in shown(report)


async def test_problems_are_counted_by_executor_with_an_example(store: Store) -> None:
    """Equal problems are one, with the number of save points and the first; the most frequent comes first."""
    older = (keeper("a", "ticket", Ticket(""), Ticket("x")), keeper("b", "count", 0, 1), taker("end", str))
    for session in ("s1", "s2"):
        await respond(store, f"resp_{session}", await talk(store, *older, session=session))
    await talk(store, *older[:1], session="s3", user="alice")
    report = await look(store, keeper("a", "ticket", None), taker("end", str))
    assert (report.checked, report.stuck) == (5, 5)
    groups = {
        executor: [(f.problem.what, f.problem.name, f.count, f.example.name) for f in findings]
        for executor, findings in report.by_executor().items()
    }
    assert groups == {"a": [("state", "ticket", 5, "s1")], "b": [("state", "count", 4, "s1")]}
    assert shown(report, 90).splitlines() == [
        "desk: 5 of 5 save points could not be continued.",
        "",
        "a",
        "  5 x state ticket",
        "      It holds 'Ticket', a type that the workflow no longer declares.",
        "      Fix: Annotate it in a handler or a state field, call register_checkpoint_type(cls,",
        "      name='Ticket'), or replace it in migrate: old.write('a', 'ticket', ...).",
        "      For example: session s1",
        "",
        "b",
        "  4 x state count",
        "      The workflow no longer has this executor.",
        "      Fix: Keep an executor with the id 'b', or say in migrate where it went:",
        "      old.rename_executor('b', ...) or .drop_executor('b').",
        "      For example: session s1",
        "",
        "0 save points can be continued. Nothing was changed.",
    ]


async def test_the_report_as_data(store: Store) -> None:
    """Programs get the same numbers, with user and commit of each example."""
    commit = await talk(store, keeper("a", "ticket", Ticket(""), Ticket("x")), user="alice")
    data = as_data(await look(store, keeper("a", "ticket", None)))
    (problem,) = data.pop("problems")
    assert data == {"workflow": NAME, "checked": 1, "continuable": 0, "damaged": [], "other_workflows": {}}
    assert (problem["executor"], problem["what"], problem["name"], problem["count"]) == ("a", "state", "ticket", 1)
    assert problem["example"] == {
        "user": "alice", "kind": "session", "name": "s1", "workflow": NAME, "commit": commit,
    }  # fmt: skip
    assert json.loads(json.dumps(data)) == data


async def test_other_workflows_are_counted_and_left_alone(store: Store) -> None:
    """A store may hold several workflows; that this one was renamed, say, must not look like success."""
    await talk(store, keeper("a", "count", 0, 1), name="elsewhere")
    report = await look(store, keeper("b", "count", 0))
    assert shown(report).splitlines() == [
        "0 save points can be continued.",
        "Not looked at: 1 save point of another workflow, 'elsewhere'.",
    ]


async def test_damage_is_listed_and_the_rest_is_still_looked_at(store: Store, tmp_path: Path) -> None:
    """A blob that is gone and a commit that lacks an ancestor are told with what they belong to."""
    items = [f"item {number}" * 20 for number in range(100)]
    for session in ("s1", "s2", "s3"):
        await talk(store, keeper("a", "items", [], [session, *items]), session=session)
    with sqlite3.connect(tmp_path / "host.db") as connection:
        blobs = connection.execute("SELECT hash, body FROM blobs").fetchall()
        gone = next(hash_ for hash_, body in blobs if b"s1" in body)
        connection.execute("DELETE FROM blobs WHERE hash = ?", (gone,))
        connection.execute("DELETE FROM commits WHERE session_id = 's2' AND kind = 'input'")
    connection.close()
    definition = await chain(keeper("a", "items", [])).definition()
    definition.codec.shared._entries.clear()  # as in a process of its own
    report = await survey(store, GraphPolicy(), definition, NOW)
    assert (report.checked, report.stuck) == (3, 2)
    assert [point.name for point, _ in report.damaged] == ["s1", "s2"]
    text = shown(report)
    assert "Damaged in the store: 2 save points" in text
    assert gone.hex() in text
    assert "1 save point can be continued. Nothing was changed." in text


async def test_a_long_list_of_damage_is_cut(store: Store) -> None:
    """The page shows a few and says how to see the rest."""
    report = Report(NAME)
    points = [SavePoint("", "session", f"s{number}", NAME, "chk") for number in range(8)]
    report.take(points, [], "It is damaged.")
    text = shown(report)
    assert "session s4: It is damaged." in text
    assert "s5" not in text
    assert "and 3 more; --json lists them all" in text


# --- How it is looked at -----------------------------------------------------------------------------------------


class Untouched(Executor):
    """Has hooks and a handler, none of which may run on what is stored."""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext) -> None:
        raise AssertionError("a handler ran")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        raise AssertionError("a restore hook ran")


class Restored(Untouched):
    """The older version of the same executor, which ran."""

    @handler
    async def hear(self, text: str, ctx: WorkflowContext) -> None: ...

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"a": 1}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None: ...


async def test_no_handler_and_no_restore_hook_runs(store: Store) -> None:
    """Values are read; nothing is made of them."""
    await talk(store, Restored("a"))
    assert shown(await look(store, Untouched("a"))) == "1 save point can be continued."


async def test_the_workflows_policy_is_applied(store: Store) -> None:
    """`migrate` repairs what it can, what it raises is a finding, and `strict` refuses every other graph."""
    await talk(store, keeper("a", "count", 0, 1))
    now = keeper("b", "count", 0)
    assert (await look(store, now)).stuck == 1
    migrating = GraphPolicy(migrate=lambda old: old.rename_executor("a", "b"))
    assert (await look(store, now, policy=migrating)).stuck == 0
    failing = await look(store, now, policy=GraphPolicy(migrate=lambda old: [][old]))
    assert "1 x migration TypeError" in shown(failing)
    strict = await look(store, now, policy=GraphPolicy("strict"))
    assert shown(strict).splitlines()[2] == "The whole workflow"
    assert "on_graph_change='strict'" in shown(strict)


class Endless:
    """A store with as many save points as asked for, two for each commit; notes what was read and what has stayed."""

    def __init__(self, like: Commit, count: int) -> None:
        self.read: list[str] = []
        self.stayed = 0
        self._like = like
        self._count = count

    async def save_points(self, since: float) -> list[SavePoint]:
        return [
            SavePoint("", "response", f"resp_{number}", NAME, f"chk_{number // 2}") for number in range(self._count)
        ]

    async def read_chain(self, user: str, commit_id: str) -> list[Commit]:
        self.read.append(commit_id)
        if len(self.read) == self._count // 2:
            self.stayed = sum(isinstance(thing, (Commit, View)) for thing in gc.get_objects())
        return [dataclasses.replace(self._like, id=commit_id, parent=None, complete=True, distance=0)]

    async def read_blobs(self, user: str, hashes: Collection[bytes]) -> dict[bytes, bytes]:
        return {}


async def test_ten_thousand_save_points_are_read_one_by_one(store: Store) -> None:
    """A commit that several save points share is read once, and none stays in memory."""
    commit = await talk(store, keeper("a", "count", 0, 1))
    (like, *_) = await store.read_chain("", commit)
    endless = Endless(like, 10_000)
    report = await look(endless, keeper("a", "count", 0))
    assert (report.checked, report.stuck) == (10_000, 0)
    assert len(endless.read) == len(set(endless.read)) == 5_000
    assert endless.stayed < 100


# --- The command -------------------------------------------------------------------------------------------------


def write(tmp_path: Path, **workflow: str) -> str:
    path = tmp_path / "cwd" / "desk.py"
    path.write_text(OLDER.format(**{"id": "a", "attribute": "heard", "first": "''", **workflow}))
    return "desk.py:workflow"


async def test_the_command_tells_by_its_exit_code(store: Store, tmp_path: Path, run_cli: Run) -> None:
    """0 and one line if all is well, 1 and a page or JSON if not, while the store is in use."""
    commit = await talk(store, keeper("a", "heard", "", "text"))
    await respond(store, "resp_1", commit, age=NOW - time.time())
    target = write(tmp_path)
    ended = run_cli("check", target, "--store", store_at(tmp_path))
    assert (ended.returncode, ended.stdout) == (0, "2 save points can be continued.\n"), ended.stderr
    # A file of the same size, written in the same second, would be taken for the one that Python has compiled.
    target = write(tmp_path, id="another")
    ended = run_cli("check", target, "--store", store_at(tmp_path))
    assert ended.returncode == 1
    assert ended.stdout.startswith("desk: 2 of 2 save points could not be continued.\n\na\n  2 x state heard\n")
    assert ended.stderr == ""
    ended = run_cli("check", target, "--store", store_at(tmp_path), "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["problems"][0]["name"] == "heard"
    await respond(store, "resp_2", commit, age=NOW - time.time() + 86_400)
    ended = run_cli("check", write(tmp_path), "--store", store_at(tmp_path), "--days", "0.5")
    assert ended.stdout == "2 save points can be continued.\n"


def test_a_store_that_is_not_there_is_named_and_not_made(tmp_path: Path, run_cli: Run) -> None:
    """Looking makes no file; without --store the one that serve would take is looked for."""
    target = write(tmp_path)
    for options, place in (([], "desk.db"), (["--store", "sqlite:///other.db"], "other.db")):
        ended = run_cli("check", target, *options)
        assert ended.returncode == 1
        assert ended.stdout == ""
        assert place in ended.stderr
        assert "Traceback" not in ended.stderr
    assert list((tmp_path / "cwd").rglob("*.db*")) == []
