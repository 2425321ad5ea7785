"""A real host on a SQLite file that is killed, stopped and started again, and a folder with all that belongs to it."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai
from openai import OpenAI

from agent_host.testing.crash_points import Trap

WORKING = f"{Path(__file__).parent / 'working.py'}:workflow"
REPOSITORY = str(Path(__file__).parents[2])
"""Where the processes find the package: beside the tests that kill them, whatever is installed."""
PATIENCE = 20.0


def wait_for(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds, and return it."""
    end = time.monotonic() + PATIENCE
    while not (found := holds()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)
    return found


class MortalHost:
    """`agent-host serve` in a process of its own, which a trap may kill. `client` always talks to the living one."""

    def __init__(self, folder: Path, workflow: str = WORKING, **environment: str) -> None:
        self.folder = folder
        self.store = folder / "host.db"
        self.trap = folder / "trap"
        self.traces = folder / "traces"
        self.traces.mkdir(parents=True)
        self.starts = 0
        self._workflow = workflow
        self._environment = {**os.environ, "PYTHONPATH": REPOSITORY, "TRACES": str(self.traces), **environment}
        self.process: subprocess.Popen[bytes]
        self.client = OpenAI(
            base_url="http://127.0.0.1:1", api_key="none", max_retries=0, timeout=PATIENCE,
            _strict_response_validation=True,
        )  # fmt: skip

    @property
    def log(self) -> str:
        """What the newest process has written so far."""
        return "" if not self.starts else (self.folder / f"log-{self.starts}").read_text()

    def spawn(self, *options: str) -> None:
        """Begin a process, which may die before it serves. The one before it has ended, or is about to."""
        if self.starts:
            self.process.wait(PATIENCE)
        self.starts += 1
        arguments = [str(self.trap), "serve", self._workflow, "--port", "0", "--store", f"sqlite:///{self.store}"]
        with (self.folder / f"log-{self.starts}").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent_host.testing.crash_points", *arguments, *options],
                stdout=log, stderr=log, cwd=self.folder, env=self._environment,
            )  # fmt: skip

    def serves(self) -> bool:
        """Wait until the process serves; False if it has died instead."""
        begun = wait_for(lambda: self._address() or self.process.poll() is not None, f"it serves\n{self.log}")
        if begun is True:
            return False
        self.client.base_url = begun
        return True

    def _address(self) -> str | None:
        found = re.search(r"serving .* on (http://\S+), stored in", self.log)
        return found[1] if found else None

    def start(self, *options: str) -> None:
        self.spawn(*options)
        assert self.serves(), self.log

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def has_died(self, within: float = 0.0) -> bool:
        """Whether a trap has killed the process, which is seen a moment after its connections have ended."""
        try:
            return self.process.wait(within) == -signal.SIGKILL
        except subprocess.TimeoutExpired:
            return False

    def close(self) -> None:
        self.client.close()
        self.trap.unlink(missing_ok=True)
        if self.starts and self.process.poll() is None:
            self.kill()

    def set(self, trap: Trap) -> None:
        trap.write(self.trap)

    def ended(self, response_id: str) -> Any:
        """The response once it has ended."""

        def look() -> Any:
            response = self.client.responses.retrieve(response_id)
            return None if response.status in ("queued", "in_progress") else response

        return wait_for(look, f"{response_id} ends\n{self.log}")

    def effects(self, name: str) -> list[str]:
        """The side effects of the turn of this name, once for every time."""
        path = self.traces / name
        return path.read_text().splitlines() if path.exists() else []

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read the store past the host."""
        if not self.store.exists():
            return []
        with closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as connection:
            known = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'turns'").fetchone()
            return connection.execute(sql, values).fetchall() if known else []

    def events(self, response_id: str) -> list[dict[str, Any]]:
        """The event log of a response."""
        found = self.query("SELECT bodies FROM events WHERE response_id = ? ORDER BY last_sequence", response_id)
        return [msgspec.json.decode(event) for (bodies,) in found for event in msgspec.msgpack.decode(bodies)]


LOST = (openai.APIConnectionError, httpx2.TransportError)
"""What a client meets whose server has died, before or in the middle of an answer."""
