"""Servers in processes of their own: the host, the bare floor, the official host."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers on a port of this machine."""

    port: int
    pid: int

    @property
    def resident_kb(self) -> int:
        """The memory that it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


def free_port() -> int:
    """A port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    command: list[str], port: int, folder: str, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A server process that answers on `port` until the block ends."""
    log = open(Path(folder) / f"{port}.log", "wb")  # noqa: SIM115 - closed with the process below
    process = subprocess.Popen(
        command, cwd=folder, stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": str(HERE), **(environment or {})}
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 0.2).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Server(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


@contextmanager
def host(folder: str, workflow: str = "workflow", store: str = "host.db") -> Iterator[Server]:
    """agent_host with a workflow of `flow.py`, as `agent-host serve` runs it."""
    port = free_port()
    target = f"{HERE / 'flow.py'}:{workflow}"
    command = [sys.executable, "-m", "agent_host", "serve", target, "--port", str(port), "--store", store]
    with server(command, port, folder) as running:
        yield running


@contextmanager
def floor(folder: str) -> Iterator[Server]:
    """The bare endpoint."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "floor:app", "--no-access-log", "--port", str(port)]
    with server(command, port, folder) as running:
        yield running


@contextmanager
def official(folder: str, python: str, program: str) -> Iterator[Server]:
    """The official host: a program that answers `POST /responses` on PORT."""
    port = free_port()
    environment = {"FOUNDRY_AGENT_SESSION_ID": "local", "PORT": str(port), "HOME": folder}
    with server([python, program], port, folder, environment) as running:
        yield running
