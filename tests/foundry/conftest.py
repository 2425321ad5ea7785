"""What the tests of a hosted agent share: a workflow with memory and faults, and hosts that the platform calls."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, Never

import httpx2
import pytest

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.workflow import Workflow
from agent_host.foundry.calls import call_headers
from agent_host.messages import TextDelta
from agent_host.server.stored import shown
from agent_host.settings import Platform
from tests.foundry.platform_store import platform_store
from tests.foundry.stand_in import Project, StandIn
from tests.foundry.tokens import Tokens

CALL = "x-agent-foundry-call-id"
USER = "x-agent-user-id"
PLATFORM = Platform(project_id="/project", agent_name="desk", agent_version="3", agent_id="a-1", tenant_id="t-1")


class Desk(Executor):
    """Remembers what it was told, and does what the text says: fails, waits, or tells how it would call."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.told: list[str] = []

    @handler
    async def hear(self, text: str, ctx: WorkflowContext[Never, str | TextDelta]) -> None:
        self.told.append(text)
        word, _, rest = text.partition(" ")
        if word == "fail":
            raise RuntimeError("the desk is on fire")
        if word == "wait":
            for _ in range(int(rest)):
                await asyncio.sleep(0.1)
                await ctx.yield_output(TextDelta("."))
        if word == "call":
            await asyncio.sleep(0.05)
            await ctx.yield_output(f"{call_headers()}")
        else:
            await ctx.yield_output(", ".join(self.told))


@pytest.fixture
def desk() -> Workflow:
    return WorkflowBuilder(start_executor=Desk("desk"), name="desk").build()


Hosted = Callable[..., Awaitable[Any]]


@pytest.fixture
async def hosted(platform: Project, serve_app: Any, desk: Workflow) -> AsyncIterator[Hosted]:
    """Serves the desk as the platform does: every request has a call id and comes from the user `ann`.

    What is stored is in the project `platform` unless a store is given.
    """

    async def start(session_id: str = "", **more: Any) -> Any:
        told = replace(PLATFORM, session_id=session_id)
        store = more.pop("store", None) or platform_store(platform, session=session_id, show=shown)
        site = await serve_app(more.pop("workflow", desk), store, platform=told, **more)
        site.http.headers.update({CALL: "call-1", USER: "ann"})
        return site

    yield start


@pytest.fixture
async def site(hosted: Hosted) -> Any:
    """A hosted agent of its own for one test, in no session."""
    return await hosted()


Post = Callable[..., Awaitable[httpx2.Response]]


@pytest.fixture
def post(site: Any) -> Post:
    """Sends a body to `/responses`: `await post(input="x", headers={...})`."""

    async def send(body: Any = None, *, headers: dict[str, str] | None = None, **fields: Any) -> httpx2.Response:
        answer: httpx2.Response = await (
            site.http.post("/responses", content=body, headers=headers)
            if isinstance(body, bytes)
            else site.http.post("/responses", json=body if body is not None else fields, headers=headers)
        )
        return answer

    return send


def fault(answer: Any) -> tuple[int, str, str, str]:
    """Status, code, param and source of an error."""
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"], answer.headers["x-platform-error-source"]


@pytest.fixture(name="fault")
def fault_fixture() -> Callable[[Any], tuple[int, str, str, str]]:
    return fault


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def stand_in() -> Iterator[StandIn]:
    """The storage of the platform, for projects of any name."""
    with StandIn() as server:
        yield server


@pytest.fixture
def platform(stand_in: StandIn) -> Iterator[Project]:
    """A project of the platform for one test, which fails at its end if the storage was called in a wrong way."""
    with stand_in.checked_project(f"desk-{next(_numbers)}") as project:
        yield project


@pytest.fixture(scope="session")
def tokens() -> Iterator[Tokens]:
    """What gives the processes of an agent their tokens."""
    with Tokens() as endpoint:
        yield endpoint
