"""In debug mode a handler that changes what all conversations share is reported, and nobody else is."""

import asyncio
import functools
import logging
import os
import queue
import subprocess
import sys
import threading
from collections import UserDict, deque
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agent_host import Executor, InMemoryCheckpointStorage, WorkflowBuilder, WorkflowContext, config, handler
from agent_host.engine.executors import template
from agent_host.engine.executors.fingerprint import Fingerprint


class Agent:
    """Stands for an object of another package, with everything such objects have."""

    __slots__ = ("__dict__", "label")

    def __init__(self) -> None:
        self.label = "new"
        self.history: list[Any] = ["one"]
        self.memory: dict[str, Any] = {"notes": ["a"], "user": "nobody"}
        self.tags = {"x"}
        self.raw = bytearray(b"raw")
        self.inner = SimpleNamespace(never="seen")
        self.shelf = UserDict({"a": ["book"]})
        self.queue: queue.Queue[str] = queue.Queue()
        self.inbox: asyncio.Queue[str] = asyncio.Queue()
        self.calls = 0
        self.limits = {"left": 10}
        self.session: Any = None
        self._pool = ["connection"]
        self.log = logging.getLogger("another_package")
        self.below: Any = None
        self.recent: deque[str] = deque(["r"], maxlen=5)

    @functools.cached_property
    def chat(self) -> Any:
        return ["made at first use"]


Agent.__module__ = "another_package.agents"


@pytest.fixture
async def debug_mode() -> AsyncIterator[None]:
    asyncio.get_running_loop().set_debug(True)
    yield
    asyncio.get_running_loop().set_debug(False)


class Holder(Executor):
    """Does to its agent what the test says."""

    settled: Any = config()
    change: Any = config()

    def __init__(self, change: Callable[[Any], Any], agent: Any = None) -> None:
        super().__init__("holder")
        self.agent = agent if agent is not None else Agent()
        self.settled = Agent()
        self.change = change

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.change(self)


def built(change: Callable[[Any], Any], storage: Any = None, agent: Any = None) -> Any:
    return WorkflowBuilder(start_executor=Holder(change, agent), name="held", checkpoint_storage=storage).build()


def nested_agent() -> Agent:
    agent = Agent()
    agent.below = Agent()
    return agent


CHANGES: dict[str, Callable[[Any], Any]] = {
    "agent.history": lambda e: e.agent.history.append("two"),
    "agent.memory['notes']": lambda e: e.agent.memory["notes"].append("b"),
    "agent.memory": lambda e: e.agent.memory.update(user="Ada"),
    "agent.tags": lambda e: e.agent.tags.add("y"),
    "agent.raw": lambda e: e.agent.raw.extend(b"more"),
    "agent.shelf.data": lambda e: e.agent.shelf.update(b="c"),
    "agent.queue.queue": lambda e: e.agent.queue.put("job"),
    "agent.inbox._queue": lambda e: e.agent.inbox.put_nowait("job"),
    "agent.label": lambda e: setattr(e.agent, "label", "other"),
    "agent.recent": lambda e: e.agent.recent.append("s"),
    "agent.answer": lambda e: setattr(e.agent, "answer", "text"),
    "agent.session": lambda e: setattr(e.agent, "session", "of a user"),
    "agent.below.history": lambda e: e.agent.below.history.clear(),
}


@pytest.mark.parametrize("place", CHANGES)
@pytest.mark.parametrize("storage", [None, InMemoryCheckpointStorage], ids=["no storage", "in memory"])
async def test_a_change_in_place_is_reported_with_its_place(
    place: str, storage: Any, debug_mode: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning names executor, attribute, place and the ways out; it comes once, however often it happens."""
    workflow = built(CHANGES[place], storage() if storage else None, nested_agent())
    for session in ("one", "one", "two"):
        await workflow.run("a", session_id=session)
    [record] = [record for record in caplog.records if record.name == "agent_host.engine"]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"A handler of executor 'holder' changed {place} in place.")
    for remedy in ("dataclass", "checkpoint hooks", "`agent = config()`"):
        assert remedy in record.getMessage()


HARMLESS: dict[str, Callable[[Any], Any]] = {
    "nothing": lambda e: None,
    "a number": lambda e: setattr(e.agent, "calls", e.agent.calls + 1),
    "a number in a dict": lambda e: e.agent.limits.update(left=9),
    "a private attribute": lambda e: e.agent._pool.append("connection"),
    "a private attribute replaced": lambda e: setattr(e.agent, "_token", "secret"),
    "a cached property": lambda e: e.agent.chat,
    "an object made at first use": lambda e: setattr(e.agent, "session", Agent()),
    "a log level": lambda e: e.agent.log.setLevel(logging.INFO),
    "another log": lambda e: logging.getLogger(f"another_package.{os.urandom(4).hex()}"),
    "an equal replacement": lambda e: setattr(e.agent, "history", list(e.agent.history)),
    "a declared attribute": lambda e: e.settled.history.append("shared on purpose"),
    "a lock": lambda e: setattr(e.agent, "lock", threading.Lock()),
}


@pytest.mark.parametrize("what", HARMLESS)
async def test_what_a_client_does_for_itself_is_not_reported(
    what: str, debug_mode: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Counters, pools, caches of properties and connections are no one's conversation."""
    workflow = built(HARMLESS[what])
    await workflow.run("a")
    await workflow.run("b")
    assert [record.getMessage() for record in caplog.records if record.name == "agent_host.engine"] == []


async def test_outside_debug_mode_nothing_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one fingerprint is made; in debug mode it is one before the handlers and one after, of each attribute."""
    made: list[str] = []

    class Counted(Fingerprint):
        @classmethod
        def of(cls, value: Any, name: str) -> Fingerprint:
            made.append(name)
            return Fingerprint.of(value, name)

    monkeypatch.setattr(template, "Fingerprint", Counted)
    workflow = built(CHANGES["agent.history"])
    await workflow.run("a")
    assert (made, caplog.records) == ([], [])
    asyncio.get_running_loop().set_debug(True)
    try:
        await workflow.run("a", session_id="watched")
        assert made == ["agent", "agent"]
        await workflow.run("a", session_id="reported already")
        assert made == ["agent", "agent"]
    finally:
        asyncio.get_running_loop().set_debug(False)


def test_a_fingerprint_is_bounded() -> None:
    """Neither a huge list, nor a deep one, nor objects that hold each other make it long."""
    one, two = Agent(), Agent()
    one.below, two.below = two, one
    one.history = [["x"] for _ in range(50_000)]
    one.memory = {"a": {"b": {"c": {"d": {}}}}}
    assert len(Fingerprint.of(one, "one").marks) <= 2_000
    assert max(place.count("[") for place in Fingerprint.of({"x": one.memory}, "deep").marks) == 3


SCRIPT = """
import asyncio, sys
sys.path.insert(0, {root!r})
from tests.engine.test_development_check import CHANGES, built
asyncio.run(built(CHANGES["agent.history"]).run("a"))
"""


@pytest.mark.parametrize(("options", "reported"), [([], False), (["-X", "dev", "-W", "ignore"], True)])
def test_the_development_mode_of_python_switches_it_on(options: list[str], reported: bool) -> None:
    """`python -X dev` is enough, and without it nothing is said."""
    command = [sys.executable, *options, "-c", SCRIPT.format(root=os.getcwd())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("changed agent.history in place" in done.stderr) is reported
