"""`python -m tests.bench`: the host beside the bare floor, and beside the official host if its Python is named.

Every figure is a ratio within one run: the machine's own speed cancels out.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import uvloop

from tests.bench.load import load

HERE = Path(__file__).parent


def free_port() -> int:
    """A port nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(command: list[str], port: int, folder: str, environment: dict[str, str] | None = None) -> Iterator[int]:
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
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


def chain(port: int, turns: int) -> list[float]:
    """Seconds per turn of one conversation, 2 KB each, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    previous: str | None = None
    took = []
    for turn in range(turns):
        body = {"model": "m", "input": f"{turn} " + "x" * 2000}
        if previous:
            body["previous_response_id"] = previous
        began = time.perf_counter()
        connection.request("POST", "/responses", json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        took.append(time.perf_counter() - began)
        assert answer["status"] == "completed", answer
        previous = answer["id"]
    connection.close()
    return took


def row(name: str, figure: str, target: str = "") -> None:
    print(f"{name:<58} {figure:>24}  {target}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", type=int, default=1000, help="length of the long conversation")
    parser.add_argument("--official", nargs=2, metavar=("PYTHON", "FILE"), help="the official host: its Python and app")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        python = sys.executable
        floor = stack.enter_context(
            server(
                [python, "-m", "uvicorn", "floor:app", "--no-access-log", "--port", str(port := free_port())],
                port,
                folder,
            )
        )
        flow = f"{HERE / 'flow.py'}:workflow"
        host = stack.enter_context(
            server([python, "-m", "agent_host", "serve", flow, "--port", str(port := free_port())], port, folder)
        )
        official = None
        if options.official:
            port = free_port()
            environment = {"FOUNDRY_AGENT_SESSION_ID": "local", "PORT": str(port), "HOME": folder}
            official = stack.enter_context(server(options.official, port, folder, environment))
        rates: dict[str, list[float]] = {}
        for _ in range(options.rounds):
            for name, at in (("floor", floor), ("host", host), ("official", official)):
                if at is not None:
                    tally = uvloop.run(load(at, seconds=options.seconds))
                    assert not tally.faults, f"{name}: {tally.faults} of {tally.answers} answers were wrong"
                    rates.setdefault(name, []).append(tally.answers / options.seconds)
        median = {name: statistics.median(values) for name, values in rates.items()}
        row("new conversations, 8 connections: floor", f"{median['floor']:.0f}/s")
        row("new conversations, 8 connections: agent_host", f"{median['host']:.0f}/s")
        row("  of the floor", f"1/{median['floor'] / median['host']:.1f}", "target 1/5")
        if official is not None:
            row("new conversations, 8 connections: official host", f"{median['official']:.0f}/s")
            row("  agent_host over the official host", f"{median['host'] / median['official']:.0f}x", "target 50x")
        took = chain(host, options.turns)
        early, late = statistics.median(took[5:25]), statistics.median(took[-20:])
        row("one conversation, ms per turn around turn 10", f"{early * 1e3:.2f}")
        row(f"one conversation, ms per turn around turn {options.turns}", f"{late * 1e3:.2f}")
        row("  late over early", f"{late / early:.2f}x", "target 1.2x")
        if official is not None:
            short = chain(official, 60)
            row("official host, ms per turn at turn 10 and 60", f"{short[9] * 1e3:.0f} and {short[-1] * 1e3:.0f}")


if __name__ == "__main__":
    main()
