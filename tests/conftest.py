"""What all tests share: asyncio, an environment without settings, and hosts behind real sockets.

`serve_app` serves an application from the test's own event loop, so that its executors can wait for the test.
`serve` starts `python -m agent_host serve` as a process of its own, to be stopped, killed and started again.
"""

import asyncio
import contextlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette

from agent_host import create_app
from agent_host.engine.workflow import Workflow
from agent_host.server.host import Host
from agent_host.settings import Settings

PATIENCE = 20.0
_SETTINGS = re.compile(r"PORT|AGENT_HOST_.*|OPENAI_.*|FOUNDRY_.*|SSE_KEEPALIVE_INTERVAL|OTEL_.*|APPLICATIONINSIGHTS_.*")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the developer has set for other programs changes a test."""
    for name in list(os.environ):
        if _SETTINGS.fullmatch(name):
            monkeypatch.delenv(name)


async def eventually(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds, and return it; fail naming it if it takes too long."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.005)
    return found


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[[Callable[[], Any], str], Awaitable[Any]]:
    return eventually


# --- In the test's own event loop -------------------------------------------------------------------------------


class QuietServer(uvicorn.Server):
    """uvicorn that leaves the signals to pytest and notices at once that it is to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:
            await asyncio.sleep(0.005)
        await self.lifespan.shutdown()


@dataclass
class Served:
    """An application behind a real socket, and the clients to talk to it."""

    app: Any
    url: str
    client: AsyncOpenAI
    http: httpx2.AsyncClient
    requests: list[str] = field(default_factory=list)

    @property
    def host(self) -> Host:
        """The host inside the application."""
        host: Host = self.app.state.agent_host
        return host

    async def say(self, text: str, previous: str | None = None, **more: Any) -> Any:
        """One plain turn."""
        if previous is not None:
            more["previous_response_id"] = previous
        return await self.client.responses.create(input=text, **more)


def listening() -> socket.socket:
    """A socket that listens on a free port of this machine."""
    # Named as TCP, so that the event loop switches off the delay of small packets.
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", 0))
    bound.listen(2048)
    bound.setblocking(False)
    return bound


async def run_server(server: uvicorn.Server, bound: socket.socket) -> None:
    with bound:
        try:
            await server.serve(sockets=[bound])
        except SystemExit:
            raise RuntimeError("The application did not start; the log has the reason.") from None


@contextlib.asynccontextmanager
async def served(app: Any, *, prefix: str = "", lifespan: str = "on") -> AsyncIterator[Served]:
    """Serve an application until the block ends. `prefix` is where the host is mounted in it."""
    bound = listening()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}{prefix}"
    requests: list[str] = []

    async def note(request: httpx2.Request) -> None:
        requests.append(f"{request.method} {request.url.path}")

    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan=lifespan, ws="websockets-sansio")  # type: ignore[arg-type]
    server = QuietServer(config)
    running = asyncio.create_task(run_server(server, bound))
    limits = httpx2.Limits(max_connections=2000)
    http = httpx2.AsyncClient(base_url=url, event_hooks={"request": [note]}, timeout=PATIENCE, limits=limits)
    try:
        while not server.started:
            if running.done():
                await running
            await asyncio.sleep(0.005)
        client = AsyncOpenAI(
            base_url=url, api_key="none", http_client=http, timeout=PATIENCE, _strict_response_validation=True
        )
        yield Served(app, url, client, http, requests)
    finally:
        await http.aclose()
        server.should_exit = True
        await running


ServeApp = Callable[..., Awaitable[Served]]


@pytest.fixture
async def serve_app(tmp_path: Path) -> AsyncIterator[ServeApp]:
    """Serves workflows and applications; a workflow gets a store of its own in a file unless one is given."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(
            what: Workflow | Any, store: Any = None, *, prefix: str = "", lifespan: str = "on", **settings: Any
        ) -> Served:
            app = what
            if isinstance(what, Workflow):
                app = create_app(what, store or f"sqlite:///{tmp_path}/host.db", settings=Settings(**settings))
            assert isinstance(app, Starlette)
            return await stack.enter_async_context(served(app, prefix=prefix, lifespan=lifespan))

        yield start


# --- In a process of its own ------------------------------------------------------------------------------------


class HostProcess:
    """A host started from the command line."""

    def __init__(self, arguments: list[str], cwd: Path, environment: dict[str, str]) -> None:
        self._log_path = cwd / f"host-{time.monotonic_ns()}.log"
        with self._log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent_host", "serve", *arguments],
                stdout=log, stderr=log, cwd=cwd, env={**os.environ, **environment},
            )  # fmt: skip
        self.base_url = self._wait_until_serving()
        self.client = OpenAI(
            base_url=self.base_url, api_key="none", timeout=PATIENCE, max_retries=0,
            _strict_response_validation=True,
        )  # fmt: skip

    def _wait_until_serving(self) -> str:
        end = time.monotonic() + PATIENCE
        while True:
            found = re.search(r"serving .* on (http://\S+), stored in", self.log)
            if found:
                return found[1]
            assert self.process.poll() is None, f"the host has ended:\n{self.log}"
            assert time.monotonic() < end, f"the host does not serve:\n{self.log}"
            time.sleep(0.01)

    @property
    def log(self) -> str:
        """What the process has written so far."""
        return self._log_path.read_text()

    @property
    def port(self) -> int:
        return int(self.base_url.rpartition(":")[2])

    def say(self, text: str, previous: str | None = None, **more: Any) -> Any:
        """One plain turn."""
        if previous is not None:
            more["previous_response_id"] = previous
        return self.client.responses.create(input=text, **more)

    def stop(self) -> float:
        """SIGTERM; returns how many seconds the process took to end."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(PATIENCE)
        assert code == 0, f"exit code {code}:\n{self.log}"
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.kill()


Serve = Callable[..., HostProcess]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts hosts as processes: `serve("FILE:ATTR", "--shutdown-grace", "1", store=path, env={...})`."""
    started: list[HostProcess] = []

    def start(
        target: str, *options: str, store: Path | None = tmp_path / "host.db", env: dict[str, str] | None = None
    ) -> HostProcess:
        stored = ["--store", f"sqlite:///{store}"] if store is not None else []
        arguments = [target, "--port", "0", *stored, *options]
        started.append(HostProcess(arguments, tmp_path, env or {}))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def run_cli(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs `python -m agent_host ...` to its end, in an empty directory of its own."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def run(*arguments: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "agent_host", *arguments],
            cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip

    return run


# --- Looking ----------------------------------------------------------------------------------------------------


def stored_statuses(path: Path) -> dict[str, str]:
    """The responses in a store's file with their statuses, oldest first, read past the host."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT id, status FROM responses ORDER BY rowid").fetchall())


@pytest.fixture(name="stored_statuses")
def stored_statuses_fixture() -> Callable[[Path], dict[str, str]]:
    return stored_statuses


def sse_events(text: str) -> list[dict[str, Any]]:
    """The events of a whole stream."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(each) for each in data]


@pytest.fixture(name="sse_events")
def sse_events_fixture() -> Callable[[str], list[dict[str, Any]]]:
    return sse_events
