"""The rows that are measured over HTTP."""

import asyncio
import http.client
import json
import multiprocessing
import random
import statistics
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import uvloop

from tests.bench import servers
from tests.bench.load import load
from tests.bench.servers import Server
from tests.bench.table import Row

TURN_BYTES = 2000
_RANDOM = random.Random(1)


def throughput(floor: Server, host: Server, official: Server | None, *, seconds: float, rounds: int) -> Iterator[Row]:
    """Turns of new conversations on 8 connections. Each round asks everyone, so that all see the same machine."""
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, asked in (("floor", floor), ("agent_host", host), ("official host", official)):
            if asked is not None:
                tally = uvloop.run(load(asked.port, seconds=seconds))
                assert not tally.faults, f"{name}: {tally.faults} of {tally.answers} answers were wrong"
                rates.setdefault(name, []).append(tally.answers / seconds)
    median = {name: statistics.median(values) for name, values in rates.items()}
    for name, rate in median.items():
        yield Row(f"new conversations on 8 connections: {name}", rate, "/s")
    yield Row("  the floor is so many times agent_host", median["floor"] / median["agent_host"], "times", 5)
    if official is not None:
        ratio = median["agent_host"] / median["official host"]
        yield Row("  agent_host is so many times the official host", ratio, "times", 50, at_least=True)


def chain(port: int, turns: int) -> list[float]:
    """Seconds per turn of one chain of responses, 2 KB of random text each, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    previous: str | None = None
    took = []
    for _ in range(turns):
        body = {"model": "m", "input": "".join(_RANDOM.choices(string.ascii_letters, k=TURN_BYTES))}
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


def long_chain(workflow: str, turns: int) -> Iterator[Row]:
    """Turn 1,000 against turn 10 of one chain, a cold start there, and the bytes on disk."""
    with tempfile.TemporaryDirectory() as folder:
        with servers.host(folder, workflow, "chain.db") as host:
            took = chain(host.port, turns)
        size = sum(file.stat().st_size for file in Path(folder).glob("chain.db*"))
        early, late = statistics.median(took[5:25]), statistics.median(took[-20:])
        name = f"over HTTP, {workflow}: turn"
        yield Row(f"{name} 10", early * 1e3, "ms")
        yield Row(f"{name} {turns} over turn 10 ({late * 1e3:.2f} ms)", late / early, "times", 1.2)
        yield Row(f"{turns} turns of 2 KB on disk, {workflow}", size / 1e6, "MB", 10 * turns / 1000)
        command = [sys.executable, "-m", "tests.bench.cold_start", f"{folder}/chain.db", workflow]
        best = min(float(subprocess.check_output(command, text=True)) for _ in range(5))
        yield Row(f"cold start of turn {turns}, {workflow}: the state is read", best * 1e3, "ms", 6)


def first_event(floor: Server, host: Server) -> Iterator[Row]:
    """How much later than the floor's answer a stream's first event comes: idle, and beside a load on 8 connections."""
    idle = _first_byte(host.port, stream=True) - _first_byte(floor.port, stream=False)
    yield Row("first stream event over the floor, idle", idle * 1e3, "ms", 0.5)
    waits = {}
    for name, asked in (("host", host), ("floor", floor)):
        pressing = multiprocessing.get_context("spawn").Process(target=_press, args=(asked.port,))
        pressing.start()
        time.sleep(1.5)
        waits[name] = _first_byte(asked.port, stream=name == "host", requests=60)
        pressing.join()
    yield Row(
        "first stream event over the floor, beside 8 busy connections", (waits["host"] - waits["floor"]) * 1e3, "ms"
    )


def _press(port: int) -> None:
    uvloop.run(load(port, seconds=4))


def _first_byte(port: int, *, stream: bool, requests: int = 200) -> float:
    """Median seconds until the head of an answer and the first line of its body have come."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps({"model": "m", "input": "hello there", "stream": stream})
    took = []
    for _ in range(requests):
        began = time.perf_counter()
        connection.request("POST", "/responses", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.readline()
        took.append(time.perf_counter() - began)
        answer.read()
    connection.close()
    return statistics.median(took)


def idle_process(host: Server) -> Iterator[Row]:
    """Import of the server, and memory of a host that has served nothing yet."""
    yield Row(
        "import of the server",
        min(_seconds_to("import agent_host.server.app") for _ in range(5)) - min(_seconds_to("pass") for _ in range(5)),
        "s",
        0.35,
    )
    yield Row("resident memory of an idle host", host.resident_kb / 1024, "MB", 55)


def _seconds_to(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - began


def waiting(conversations: int) -> Iterator[Row]:
    """Memory of each of many short conversations that wait on a slow executor at once."""
    with tempfile.TemporaryDirectory() as folder, servers.host(folder, "slow") as host:
        asyncio.run(_ask_together(host, 50))
        before, during, answers = asyncio.run(_ask_together(host, conversations))
    assert answers == conversations, f"{answers} of {conversations} were answered"
    yield Row(
        f"{conversations} conversations wait at once: memory of each", (during - before) / conversations, "kB", 30
    )


async def _ask_together(host: Server, conversations: int) -> tuple[int, int, int]:
    """Memory in kB before and while they wait, and how many were answered well."""
    before = host.resident_kb
    body = b'{"model":"m","input":"hello there"}'
    head = b"POST /responses HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    streams = [await asyncio.open_connection("127.0.0.1", host.port) for _ in range(conversations)]
    for _, writer in streams:
        writer.write(head + body)
    await asyncio.sleep(3)
    during = host.resident_kb
    answers = await asyncio.gather(*(reader.read() for reader, _ in streams))
    for _, writer in streams:
        writer.close()
    return before, during, sum(b'"completed"' in answer for answer in answers)
