"""A thousand conversations that wait at once on one workflow object: each costs little, and they are served in order.

The application is called without a server here, so that only the memory of the host itself is counted.
"""

import asyncio
import gc
import json
import linecache
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any, Never
from unittest.mock import patch

import pytest

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, config, create_app, handler
from agent_host.settings import Settings

MANY = 1000
MOST_EACH = 30_000
"""Bytes."""


class Slow(Executor):
    """Each turn but a quick one notes that it has begun and waits until all may end."""

    begun: list[str] = config()
    may_end: asyncio.Event = config()

    def __init__(self, begun: list[str], may_end: asyncio.Event) -> None:
        super().__init__("slow")
        self.begun = begun
        self.may_end = may_end
        self.turns = 0

    @handler
    async def wait(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.turns += 1
        self.begun.append(text)
        if text != "quick":
            await self.may_end.wait()
        await ctx.yield_output(f"{text}, turn {self.turns}")


class Client:
    """Calls the application as a server would, without one."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.host = app.state.agent_host

    async def request(self, method: str, path: str, body: Any = None, *, query: str = "") -> bytes:
        """The body of the answer."""
        sent: list[bytes] = []
        content = [json.dumps(body).encode()] if body is not None else [b""]

        async def receive() -> dict[str, Any]:
            if content:
                return {"type": "http.request", "body": content.pop()}
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it never comes

        async def send(message: dict[str, Any]) -> None:
            sent.append(message.get("body", b""))

        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(), "root_path": "",
            "query_string": query.encode(), "headers": [(b"host", b"127.0.0.1")], "scheme": "http",
            "http_version": "1.1", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
        }  # fmt: skip
        await self._app(scope, receive, send)
        return b"".join(sent)

    async def say(self, text: str, **more: Any) -> Any:
        answer = json.loads(await self.request("POST", "/responses", {"input": text, **more}))
        assert "id" in answer, answer
        return answer


@pytest.fixture
def begun() -> list[str]:
    return []


@pytest.fixture
def may_end() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def workflow(begun: list[str], may_end: asyncio.Event) -> Workflow:
    return WorkflowBuilder(start_executor=Slow(begun, may_end), name="slow").build()


@pytest.fixture
async def client(workflow: Workflow, tmp_path: Any, may_end: asyncio.Event) -> AsyncIterator[Client]:
    settings = Settings(max_concurrent_turns=MANY, max_waiting_turns=10)
    client = Client(create_app(workflow, f"sqlite:///{tmp_path}/host.db", settings=settings))
    for _ in range(3):
        await client.say("quick")
    yield client
    may_end.set()
    await client.host.aclose()


async def each_costs(begin: Callable[[], Any]) -> float:
    """The bytes that are kept for each of those who wait, after `begin` has let them all come; not those of clients."""
    others = [tracemalloc.Filter(False, name) for name in (__file__, linecache.__file__)]
    gc.collect()
    tracemalloc.start()
    try:
        await begin()
        gc.collect()
        kept = tracemalloc.take_snapshot().filter_traces(others).statistics("filename")
        return sum(statistic.size for statistic in kept) / MANY
    finally:
        tracemalloc.stop()


def texts(answer: Any) -> list[str]:
    return [part["text"] for item in answer["output"] for part in item["content"]]


async def test_a_thousand_conversations_wait_at_once(
    client: Client, begun: list[str], may_end: asyncio.Event, eventually: Any
) -> None:
    """All run side by side for at most 30 kB each; the next ones wait in line, and a quick one is not kept by them."""
    begun.clear()
    turns: list[asyncio.Task[Any]] = []

    async def begin() -> None:
        turns.extend(asyncio.create_task(client.say(f"n{number}")) for number in range(MANY - 1))
        await eventually(lambda: len(begun) == MANY - 1, "all have begun")

    assert await each_costs(begin) < MOST_EACH
    for _ in range(20):
        assert texts(await client.say("quick")) == ["quick, turn 1"]
    del begun[MANY - 1 :]
    late = [asyncio.create_task(client.say(f"late{number}")) for number in range(5)]
    await eventually(lambda: f"{MANY} running, 4 waiting" in repr(client.host.runs), "the others wait")
    assert begun[MANY - 1 :] == ["late0"]
    may_end.set()
    answers = await asyncio.gather(*turns, *late)
    assert [texts(answer) for answer in answers[:-5]] == [[f"n{number}, turn 1"] for number in range(MANY - 1)]
    assert begun[MANY - 1 :] == [f"late{number}" for number in range(5)]


async def test_a_thousand_background_turns_run_at_once(
    client: Client, begun: list[str], may_end: asyncio.Event, eventually: Any
) -> None:
    """They cost no more than others, though their clients have gone, and all of them are finished."""
    begun.clear()
    accepted: list[Any] = []

    async def begin() -> None:
        for first in range(0, MANY, 100):
            answers = [client.say(f"n{number}", background=True) for number in range(first, first + 100)]
            accepted.extend(answer["id"] for answer in await asyncio.gather(*answers))
        await eventually(lambda: len(begun) == MANY, "all have begun")

    assert await each_costs(begin) < MOST_EACH
    may_end.set()
    await eventually(lambda: len(client.host.background) == 0, "all have ended")
    for number, response_id in enumerate(accepted):
        answer = json.loads(await client.request("GET", f"/responses/{response_id}"))
        assert texts(answer) == [f"n{number}, turn 1"]


async def test_a_thousand_followers_wait_for_one_turn(
    client: Client, begun: list[str], may_end: asyncio.Event, eventually: Any
) -> None:
    """While nothing happens they cost little memory and no reads, and then all of them are told the same."""
    begun.clear()
    response_id = (await client.say("one", background=True))["id"]
    await eventually(lambda: begun, "the turn runs")
    followers: list[asyncio.Task[bytes]] = []
    waiting = client.host.events.bells

    async def begin() -> None:
        path = f"/responses/{response_id}"
        followers.extend(asyncio.create_task(client.request("GET", path, query="stream=true")) for _ in range(MANY))
        await eventually(lambda: repr(waiting) == f"<Bells for {MANY} listeners>", "all listen")

    assert await each_costs(begin) < MOST_EACH
    await asyncio.sleep(0.5)  # the last of them have read what there is
    with patch.object(client.host.store, "read_events", wraps=client.host.store.read_events) as read_events:
        await asyncio.sleep(1)
        assert read_events.call_count == 0
    may_end.set()
    streams = await asyncio.gather(*followers)
    assert len(set(streams)) == 1
    assert b"event: response.completed\n" in streams[0]
