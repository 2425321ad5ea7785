"""Any sequence of runs, forks, resets, crashes, races and removals, against a simulation in plain Python."""

import asyncio
import operator
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agent_host import (
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    executor,
    handler,
    open_store,
    response_handler,
)
from agent_host.engine.checkpoint import Commit
from agent_host.engine.ports import CommitLog
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage
from agent_host.engine.storage.file_log import FileLog
from agent_host.engine.storage.memory_log import MemoryLog
from agent_host.engine.storage.workflow_checkpoint import WorkflowCheckpoint
from agent_host.errors import (
    CheckpointNotFoundError,
    UnknownRequestError,
    WorkflowCheckpointException,
    WorkflowConflictError,
)
from tests.engine.graphs import Stopped

T = TypeVar("T")
NAME = "talking"
SESSIONS = ("default", "ann", "bob")


# --- The workflow ------------------------------------------------------------------------------------------------


class Teller(Executor):
    """Keeps what was said, and asks back when told to."""

    def __init__(self) -> None:
        super().__init__("teller")
        self.said: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.said.append(text)
        if text == "ask":
            ctx.request_info(text, str, request_id=f"q{len(self.said):03d}")
        else:
            ctx.send_message(text.upper())

    @response_handler
    async def learn(self, question: str, answer: str, ctx: WorkflowContext[str, str]) -> None:
        self.said.append(answer)


def talking(log: CommitLog) -> Workflow:
    """`teller`, then `left` and `right` side by side, `longer` behind `left`, and all joined; each adds to a total."""

    async def add(text: str, ctx: WorkflowContext[str]) -> None:
        ctx.set_state("total", 1)
        ctx.send_message(text)

    left, right, longer = (executor(add, id=name) for name in ("left", "right", "longer"))

    @executor(id="join")
    async def join(texts: list[str], ctx: WorkflowContext[str, str]) -> None:
        ctx.yield_output(f"{texts} {ctx.get_state('total')}")

    teller = Teller()
    builder = WorkflowBuilder(
        start_executor=teller, name=NAME, checkpoint_storage=CheckpointStorage(log), state={"total": operator.add}
    )
    builder.add_fan_out_edges(teller, [left, right]).add_edge(left, longer).add_fan_in_edges([longer, right], join)
    return builder.build()


# --- The simulation ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """What a checkpoint holds. `queued` names what runs next, None at rest; `text` is what travels."""

    said: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    total: int = 0
    queued: str | None = None
    text: str = ""

    def hears(self, text: str) -> "State":
        return replace(self, queued="input", text=text)

    def answered(self, request_id: str, text: str) -> "State":
        return replace(self.without(request_id), queued="answer", text=text)

    def without(self, request_id: str) -> "State":
        return replace(self, asked=tuple(name for name in self.asked if name != request_id))

    def next(self) -> "State":
        """The state after one superstep."""
        match self.queued:
            case "input" if self.text == "ask":
                said = (*self.said, "ask")
                return replace(self.at_rest(), said=said, asked=(*self.asked, f"q{len(said):03d}"))
            case "input":
                return replace(self, said=(*self.said, self.text), queued="left right", text=self.text.upper())
            case "left right":
                return replace(self, total=self.total + 2, queued="longer")
            case "longer":
                return replace(self, total=self.total + 1, queued="join")
            case "answer":
                return replace(self.at_rest(), said=(*self.said, self.text))
        return self.at_rest()

    def at_rest(self) -> "State":
        return replace(self, queued=None, text="")

    def to_rest(self) -> "list[tuple[str, State]]":
        """The commits of a run from here, by kind."""
        found, state = [], self
        while state.queued:
            state = state.next()
            found.append(("step", state))
        return found

    def messages(self) -> tuple[dict[str, list[Any]], bool]:
        """What is queued, by source, and whether something waits in the join."""
        match self.queued:
            case "input" | "left right":
                return {"teller": [self.text]}, False
            case "longer":
                return {"left": [self.text]}, True
            case "join":
                return {"longer": [self.text]}, True
            case "answer":
                return {"teller": [("ask", self.text)]}, False
        return {}, False


def assert_holds(checkpoint: WorkflowCheckpoint, state: State) -> None:
    """The checkpoint is what the simulation says it is."""
    messages, joining = state.messages()
    assert tuple(checkpoint.executor_states.get("teller", {}).get("said", [])) == state.said
    assert tuple(checkpoint.pending_request_info_events) == state.asked
    assert checkpoint.state.get("total", 0) == state.total
    if state.queued == "longer":  # what `right` has sent is on its way into the join
        assert checkpoint.messages == {"left": [state.text], "right": [state.text]}
    else:
        assert (checkpoint.messages, bool(checkpoint.waiting_in_joins)) == (messages, joining)


# --- Processes ---------------------------------------------------------------------------------------------------


class Interference:
    """A process's way to the store: it may die at a commit, or meet another process there.

    `left`: at which commit the process dies, from 1; `loses` whether that commit is lost too. `turn` is
    awaited before the next commit.
    """

    def __init__(self, log: CommitLog) -> None:
        self.log = log
        self.left: int | None = None
        self.loses = False
        self.turn: Callable[[], Coroutine[Any, Any, None]] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.log, name)

    async def commit(self, commits: Sequence[Commit], expected_head: str | None) -> None:
        if self.turn is not None:
            turn, self.turn = self.turn, None
            await turn()
        if self.left is not None:
            self.left -= 1
        if self.left == 0 and self.loses:
            raise Stopped
        await self.log.commit(commits, expected_head)
        if self.left == 0:
            raise Stopped


class Process:
    """One process that serves the workflow."""

    def __init__(self, log: CommitLog) -> None:
        self.log = Interference(log)
        self.workflow = talking(self.log)


class Sessions(RuleBasedStateMachine):
    """Two processes on one store, and what each session must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.open()
        self.processes = [Process(self.connect()) for _ in range(2)]
        self.storage = CheckpointStorage(self.connect())
        self.heads: dict[str, str | None] = dict.fromkeys(SESSIONS)
        self.commits: dict[str, State] = {}
        self.cells: dict[str, dict[str, bytes]] = {}
        self.owners: dict[str, str] = {}
        self.removed: set[str] = set()
        self.root = ""

    def open(self) -> None:
        self.memory: CommitLog = MemoryLog()

    def connect(self) -> CommitLog:
        return self.memory

    def teardown(self) -> None:
        self.loop.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    @initialize()
    def begin(self) -> None:
        definition = self.do(self.processes[0].workflow.definition())
        self.root = definition.root.id
        self.storage.bind(definition.codec)

    # --- What is known ---

    def state(self, session: str) -> State:
        head = self.heads[session]
        return State() if head is None else self.commits[head]

    def chosen(self, number: int) -> str | None:
        """Any checkpoint there ever was."""
        return list(self.commits)[number % len(self.commits)] if self.commits else None

    def moved(self, session: str, base: str | None, expected: "list[tuple[str, State]]") -> None:
        """The session went from a checkpoint over exactly these commits, each on the one before."""
        head = self.do(self.storage.log.head(NAME, session))
        found: list[Commit] = []
        while head is not None and head not in self.commits:
            (commit, *_) = self.do(self.storage.log.chain(head))
            found.append(commit)
            if commit.kind == "root":
                break
            head = commit.parent
        for commit in reversed(found):
            self.cells[commit.id] = dict(self.do(self.storage.load(commit.id))._cells)
            self.owners[commit.id] = commit.session_id
        if found and found[-1].kind == "root":
            self.commits[found.pop().id] = State()
        own = list(reversed(found))
        assert [commit.kind for commit in own] == [kind for kind, _ in expected]
        for commit, parent in zip(own, [base or self.root, *(commit.id for commit in own)], strict=False):
            assert commit.parent == parent
            assert commit.session_id == session
            (before, *_) = self.do(self.storage.log.chain(parent)) or [commit]
            if before.id == parent:
                assert (commit.seq, commit.step) == (before.seq + 1, before.step + (commit.kind == "step"))
        self.commits |= {commit.id: state for commit, (_, state) in zip(own, expected, strict=True)}
        if own:
            self.heads[session] = own[-1].id

    def run(self, process: int, session: str, **options: Any) -> Any:
        return self.do(self.processes[process].workflow.run(session_id=session, **options))

    # --- What happens ---

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS), text=st.sampled_from(["hi", "yo", "ask"]))
    def talk(self, process: int, session: str, text: str) -> None:
        """An input at the session's head; what a crash has left queued there makes way."""
        base, state = self.heads[session], self.state(session).hears(text)
        result = self.run(process, session, message=text)
        self.moved(session, base, [("input", state), *state.to_rest()])
        dropped = [event for event in result if event.type == "warning" and "dropped" in event.data]
        assert bool(dropped) == bool(base and self.commits[base].queued)

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS))
    def go_on(self, process: int, session: str) -> None:
        """What is queued runs; at rest nothing is written."""
        base, state = self.heads[session], self.state(session)
        self.run(process, session)
        self.moved(session, base, state.to_rest())

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS), at=st.integers(0, 99))
    def answer(self, process: int, session: str, at: int) -> None:
        """One of the open requests is answered; a second answer to it finds nothing open."""
        self.go_on(process, session)
        base, state = self.heads[session], self.state(session)
        if not state.asked:
            with pytest.raises(UnknownRequestError):
                self.run(process, session, responses={"q000": "so"})
            return
        request = state.asked[at % len(state.asked)]
        state = state.answered(request, "so")
        self.run(process, session, responses={request: "so"})
        self.moved(session, base, [("response", state), *state.to_rest()])
        with pytest.raises(UnknownRequestError):
            self.run(1 - process, session, responses={request: "so"})

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS))
    def cancel(self, process: int, session: str) -> None:
        """All open requests are dropped in one commit."""
        base, state = self.heads[session], self.state(session)
        work = self.processes[process].workflow.cancel_pending_requests(session_id=session)
        assert tuple(self.do(work)) == state.asked
        self.moved(session, base, [("response", replace(state, asked=()))] if state.asked else [])

    @rule(process=st.integers(0, 1), at=st.integers(0, 9999), session=st.sampled_from(SESSIONS))
    def fork(self, process: int, at: int, session: str) -> None:
        """A session begins at any checkpoint, unless there is one of that name, or the checkpoint is gone."""
        checkpoint = self.chosen(at)
        if checkpoint is None:
            return
        work = self.processes[process].workflow.fork(checkpoint, session)
        if checkpoint in self.removed:
            with pytest.raises(CheckpointNotFoundError):
                self.do(work)
        elif self.heads[session] is not None:
            with pytest.raises(WorkflowConflictError):
                self.do(work)
        else:
            self.do(work)
            self.heads[session] = checkpoint

    @rule(
        process=st.integers(0, 1),
        at=st.integers(0, 9999),
        session=st.sampled_from(SESSIONS),
        text=st.sampled_from(["hi", None]),
    )
    def run_from(self, process: int, at: int, session: str, text: str | None) -> None:
        """A run from any checkpoint, of whatever session, becomes the session's present."""
        checkpoint = self.chosen(at)
        if checkpoint is None:
            return
        options: dict[str, Any] = {"checkpoint_id": checkpoint}
        if checkpoint in self.removed:
            with pytest.raises(CheckpointNotFoundError):
                self.run(process, session, **options)
            return
        state = self.commits[checkpoint]
        if text:
            options["message"] = text
        expected = [("input", state.hears(text)), *state.hears(text).to_rest()] if text else state.to_rest()
        self.run(process, session, **options)
        self.moved(session, checkpoint, expected)
        if not expected:
            self.heads[session] = checkpoint

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS))
    def reset(self, process: int, session: str) -> None:
        """The session is as new; a session that never was stays unknown."""
        self.do(self.processes[process].workflow.reset(session))
        if self.heads[session] is not None:
            self.heads[session] = self.root

    @rule(process=st.integers(0, 1), session=st.sampled_from(SESSIONS))
    def create_checkpoint(self, process: int, session: str) -> None:
        """At rest it is the head; with something queued it is refused."""
        work = self.processes[process].workflow.create_checkpoint(session)
        if self.state(session).queued:
            with pytest.raises(WorkflowCheckpointException):
                self.do(work)
            return
        assert self.do(work) == (self.heads[session] or self.root)
        if self.heads[session] is None:
            self.heads[session] = self.root
            self.moved(session, None, [])

    # --- What goes wrong ---

    @rule(
        process=st.integers(0, 1),
        session=st.sampled_from(SESSIONS),
        text=st.sampled_from(["hi", "ask", None]),
        at=st.integers(1, 5),
        loses=st.booleans(),
    )
    def crash(self, process: int, session: str, text: str | None, at: int, loses: bool) -> None:
        """A process dies at one of the commits of a run, before or after it is made; what was committed stands."""
        base, state = self.heads[session], self.state(session)
        expected = [("input", state.hears(text)), *state.hears(text).to_rest()] if text else state.to_rest()
        log = self.processes[process].log
        log.left, log.loses = at, loses
        if at <= len(expected):
            with pytest.raises(Stopped):
                self.run(process, session, **({"message": text} if text else {}))
            expected = expected[: at - 1 if loses else at]
        else:
            self.run(process, session, **({"message": text} if text else {}))
        self.processes[process] = Process(self.connect())
        self.moved(session, base, expected)

    @rule(session=st.sampled_from(SESSIONS), first=st.integers(0, 1), answers=st.booleans())
    def race(self, session: str, first: int, answers: bool) -> None:
        """Two processes start from one head; whoever commits first wins, and the other changes nothing."""
        base, state = self.heads[session], self.state(session)
        request = state.asked[0] if answers and state.asked and not state.queued else None
        options: list[dict[str, Any]] = [{"message": "hi"}, {"message": "yo"}]
        if request:
            options = [{"responses": {request: "so"}}, {"responses": {request: "no"}}]
        results = self.do(self._race(session, first, options))
        assert isinstance(results[1 - first], WorkflowConflictError)
        assert not isinstance(results[first], BaseException)
        (value,) = options[first].values()
        won = state.answered(request, value[request]) if request else state.hears(value)
        self.moved(session, base, [("response" if request else "input", won), *won.to_rest()])

    async def _race(self, session: str, first: int, options: list[dict[str, Any]]) -> list[Any]:
        """Both come to their first commit; the winner ends its whole run before the other goes on."""
        arrived = [asyncio.Event(), asyncio.Event()]
        go_on = asyncio.Event()

        def turn(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
            async def wait() -> None:
                arrived[number].set()
                await arrived[1 - number].wait()
                if number != first:
                    await go_on.wait()

            return wait

        runs = []
        for number, process in enumerate(self.processes):
            process.log.turn = turn(number)
            runs.append(asyncio.ensure_future(process.workflow.run(session_id=session, **options[number])))
        await asyncio.wait([runs[first]])
        go_on.set()
        return await asyncio.gather(*runs, return_exceptions=True)

    # --- What is removed ---

    @rule(at=st.integers(0, 9999))
    def delete(self, at: int) -> None:
        """Any checkpoint but a head and the initial state can be removed."""
        checkpoint = self.chosen(at)
        if checkpoint is None:
            return
        if checkpoint == self.root or checkpoint in self.heads.values():
            with pytest.raises(WorkflowCheckpointException):
                self.do(self.storage.delete(checkpoint))
        else:
            assert self.do(self.storage.delete(checkpoint)) == (checkpoint not in self.removed)
            self.removed.add(checkpoint)

    @rule(session=st.sampled_from([*SESSIONS, None]), keep_last=st.integers(0, 6), keep_pauses=st.booleans())
    def prune(self, session: str | None, keep_last: int, keep_pauses: bool) -> None:
        """Of each session goes all but its newest, the heads, and pauses if they are to stay."""
        expected = set()
        for owner in SESSIONS if session is None else [session]:
            alive = [name for name, of in self.owners.items() if of == owner and name not in self.removed]
            expected |= set(alive[: max(len(alive) - keep_last, 0)])
        expected -= {*self.heads.values()}
        expected -= {name for name, state in self.commits.items() if keep_pauses and state.asked}
        work = self.storage.prune(NAME, session_id=session, keep_last=keep_last, keep_pauses=keep_pauses)
        assert set(self.do(work)) == expected
        self.removed |= expected

    # --- What always holds ---

    @invariant()
    def every_session_is_what_the_simulation_says(self) -> None:
        for session, head in self.heads.items():
            assert self.do(self.storage.log.head(NAME, session)) == head

    @invariant()
    def every_checkpoint_is_what_it_was_when_it_was_made(self) -> None:
        for checkpoint, state in self.commits.items():
            if checkpoint in self.removed:
                assert self.do(self.storage.log.chain(checkpoint)) == []
                continue
            loaded = self.do(self.storage.load(checkpoint))
            assert dict(loaded._cells) == self.cells[checkpoint]
            assert_holds(loaded, state)


class SessionsInFiles(Sessions):
    """Each process opens the files for itself."""

    def open(self) -> None:
        self.directory = tempfile.TemporaryDirectory()

    def connect(self) -> CommitLog:
        return FileLog(self.directory.name)

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


class SessionsInSQLite(Sessions):
    """The processes share one database."""

    def open(self) -> None:
        self.store = open_store("sqlite://")
        self.do(self.store.open())

    def connect(self) -> CommitLog:
        return self.store.commit_log("ann")

    def teardown(self) -> None:
        self.do(self.store.aclose())
        super().teardown()


PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

TestSessions = Sessions.TestCase
TestSessions.settings = settings(PATIENT, max_examples=60, stateful_step_count=30)
TestSessionsInFiles = SessionsInFiles.TestCase
TestSessionsInFiles.settings = settings(PATIENT, max_examples=10, stateful_step_count=25)
TestSessionsInSQLite = SessionsInSQLite.TestCase
TestSessionsInSQLite.settings = settings(PATIENT, max_examples=10, stateful_step_count=25)
