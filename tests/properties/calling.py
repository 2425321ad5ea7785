"""A host in this process without a socket: its requests, its streams, its restarts and its crashes."""

import asyncio
import contextlib
import json
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette

from agent_host import create_app
from agent_host.server.host import Host
from agent_host.settings import Settings
from tests.properties.talking import Gates, talking

PATIENCE = 5.0


@dataclass
class Call:
    """One request on its way: what has come back of it so far. `leave` is the client that goes away."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    task: "asyncio.Task[None]" = field(init=False, repr=False)
    left: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    is_cut_off: bool = False
    """Whether its host has ended before it did; what that one says from then on is not heard."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of the error that was answered, None for an answer that is none."""
        return self.json["error"]["code"] if self.status >= 400 else None

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that have arrived whole."""
        return events_in(self.body)

    @property
    def ended(self) -> bool:
        return self.task.done()

    async def leave(self) -> None:
        self.left.set()
        await self.task


def events_in(stream: bytes) -> list[dict[str, Any]]:
    """The events that stand whole in these bytes of a stream."""
    frames = stream.split(b"\n\n")[:-1]
    data = [line[6:] for frame in frames for line in frame.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(each) for each in data]


class Site:
    """One host on one file, started anew as often as wanted: in order, or on a copy of what a crash would leave."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started = 0
        self.path = folder / "first.db"
        self.gates = Gates()
        self.app: Starlette
        self._calls: list[Call] = []

    @property
    def host(self) -> Host:
        host: Host = self.app.state.agent_host
        return host

    async def start(self) -> None:
        self.gates = Gates()
        settings = Settings(shutdown_grace=0, keep_alive=0)
        self.app = create_app(talking(self.gates), f"sqlite:///{self.path}", settings=settings)
        await self.host.open()
        self._calls.clear()
        self.started += 1

    async def stop(self) -> None:
        await self.host.aclose()

    async def restart(self) -> None:
        """End the host in order, and start it again."""
        await self.stop()
        await self.start()

    async def crash(self) -> None:
        """Start a host on the file as it is at this moment; what the old one does from now on counts nowhere."""
        after = self.folder / f"{self.started}.db"
        with contextlib.closing(self.connect()) as source, contextlib.closing(sqlite3.connect(after)) as copy:
            source.backup(copy)
        for call in self._calls:
            call.is_cut_off = True
        await self.stop()
        self.path = after
        await self.start()

    def connect(self) -> sqlite3.Connection:
        """The tables, past the host."""
        return sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)

    # --- Requests ---

    def begin(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Call:
        """Send a request without waiting for its answer."""
        where, _, query = path.partition("?")
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": where, "raw_path": where.encode(),
            "query_string": query.encode(), "root_path": "", "scheme": "http", "server": ("test", 80),
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        }  # fmt: skip
        call = Call()
        self._calls.append(call)
        sent = b"" if body is None else json.dumps(body).encode()
        parts = [{"type": "http.request", "body": sent, "more_body": False}]

        async def receive() -> Any:
            if parts:
                return parts.pop()
            await call.left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if call.left.is_set():
                raise OSError("the client has left")
            if call.is_cut_off:
                return
            if message["type"] == "http.response.start":
                assert not call.status, "an answer begins once"
                call.status = message["status"]
                call.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                call.body += message.get("body", b"")

        call.task = asyncio.get_running_loop().create_task(self.app(scope, receive, send))
        return call

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Call:
        """Send a request and wait for its whole answer."""
        call = self.begin(method, path, body, headers)
        async with asyncio.timeout(PATIENCE):
            await call.task
        return call

    # --- Waiting ---

    async def until(self, holds: Any, what: str) -> None:
        """Wait until something holds; fail naming it if it takes too long."""
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end, f"never: {what}"
            await asyncio.sleep(0.001)

    async def ended(self, response_id: str) -> dict[str, Any]:
        """A background response once it has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            call = await self.ask("GET", f"/responses/{response_id}")
            if call.status != 200 or call.json["status"] not in ("queued", "in_progress"):
                return call.json
            assert time.monotonic() < end, f"{response_id} never ends"
            await asyncio.sleep(0.002)
