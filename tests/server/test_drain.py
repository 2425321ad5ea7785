"""SIGTERM under load: what was accepted is finished, here or by the next process, and every stream ends in order."""

import asyncio
import json
import re
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

TICKING = f"{Path(__file__).parent / 'ticking.py'}:workflow"
GRACE = 1.5
MANY = 50


class Load:
    """Many clients of one host at once, and what each of them has seen."""

    def __init__(self, host: Any, sse_events: Any) -> None:
        self.url = host.base_url
        self._sse_events = sse_events
        self.http = httpx2.AsyncClient(base_url=self.url, timeout=20, limits=httpx2.Limits(max_connections=1000))
        self.accepted: dict[str, str] = {}
        self.following = 0
        self.idle: list[socket.socket] = []

    async def post(self, text: str, key: str | None = None, **more: Any) -> Any:
        headers = {"idempotency-key": key} if key else {}
        return await self.http.post("/responses", json={"input": text, **more}, headers=headers)

    async def stream(self, text: str) -> list[Any]:
        """The events of a whole stream, which is not cut in a frame."""
        body = await self.post(text, stream=True)
        assert body.text.endswith("\n\n")
        events: list[Any] = self._sse_events(body.text)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return events

    async def accept(self, name: str) -> None:
        answer = (await self.post(f"{name} 8 0.3", background=True)).json()
        assert "id" in answer, answer
        self.accepted[answer["id"]] = name

    async def follow(self, response_id: str) -> str:
        async with self.http.stream("GET", f"/responses/{response_id}", params={"stream": True}) as answer:
            self.following += 1
            return (await answer.aread()).decode()

    async def over_websocket(self) -> tuple[list[str], int | None]:
        """The kinds of the frames of one turn, and the code with which the connection is closed."""
        async with connect(f"{self.url.replace('http', 'ws')}/responses") as ws:
            await ws.send(json.dumps({"type": "response.create", "input": "ws 1 60"}))
            kinds = []
            with suppress(ConnectionClosed):
                async for frame in ws:
                    kinds.append(json.loads(frame)["type"])
        return kinds, ws.close_code

    def hold_idle_connections(self, count: int) -> None:
        port = int(self.url.rpartition(":")[2])
        for _ in range(count):
            self.idle.append(socket.create_connection(("127.0.0.1", port)))
            self.idle[-1].sendall(b"GET /readiness HTTP/1.1\r\nhost: localhost\r\n\r\n")

    async def aclose(self) -> None:
        for each in self.idle:
            each.close()
        await self.http.aclose()


def told_by(text: str) -> list[str]:
    return re.findall(r"^event: (\S+)$", text, re.MULTILINE)


async def test_a_loaded_host_goes_down_in_order(
    serve: Any, tmp_path: Path, stored_statuses: Any, sse_events: Any
) -> None:
    """Within the grace and a moment; each foreground turn has an end that its client hears, each background turn goes
    on in the next process where it stood, and the log has no fault."""
    host = serve(TICKING, "--shutdown-grace", str(GRACE), env={"TICKING": str(tmp_path)})
    load = Load(host, sse_events)
    load.hold_idle_connections(20)
    await asyncio.gather(*(load.accept(f"b{number}") for number in range(MANY)))
    short = [asyncio.create_task(load.stream(f"s{number} 2 0.2")) for number in range(MANY // 2)]
    endless = [asyncio.create_task(load.stream(f"e{number} 1 60")) for number in range(MANY // 2)]
    plain = [asyncio.create_task(load.post(f"p{number} 1 60")) for number in range(10)]
    keyed = [asyncio.create_task(load.post(f"k{number} 1 60", f"key-{number}")) for number in range(10)]
    followers = [asyncio.create_task(load.follow(each)) for each in load.accepted]
    ws = asyncio.create_task(load.over_websocket())
    while len(list(tmp_path.glob("ran-*"))) < 2 * MANY + 21 or load.following < MANY:
        await asyncio.sleep(0.01)

    began = time.monotonic()
    host.process.terminate()
    for turns, expected in ((short, "response.completed"), (endless, "response.failed")):
        assert [(await turn)[-1]["type"] for turn in turns] == [expected] * len(turns)
    answers = [(await turn).json() for turn in (*plain, *keyed)]
    assert {answer["status"] for answer in answers} == {"failed"}
    kinds, code = await ws
    assert (kinds[-1], code) == ("response.failed", 1012)
    for follower in followers:
        text = await follower
        assert text.endswith("\n\n")
        assert not {"response.completed", "response.failed"} & set(told_by(text))
    assert await asyncio.to_thread(host.process.wait, 10) == 0
    assert time.monotonic() - began < GRACE + 2
    assert f"{MANY} background turns are left for the next start" in host.log
    assert not re.search("Traceback|never retrieved|ERROR|Warning|asyncio", host.log)
    await load.aclose()
    stored = stored_statuses(tmp_path / "host.db")
    assert {stored[answer["id"]] for answer in answers} == {"failed"}
    await finished_by_the_next(serve, tmp_path, load, sse_events)


async def finished_by_the_next(serve: Any, tmp_path: Path, load: Load, sse_events: Any) -> None:
    """The next process ends what was left, in one sequence of events, and runs no committed superstep again."""
    host = serve(TICKING, env={"TICKING": str(tmp_path)})
    async with httpx2.AsyncClient(base_url=host.base_url, timeout=20) as http:
        for response_id, name in load.accepted.items():
            answer = await http.get(f"/responses/{response_id}", params={"stream": True})
            events = sse_events(answer.text)
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
            assert events[-1]["type"] == "response.completed"
            said = [part["text"] for item in events[-1]["response"]["output"] for part in item["content"]]
            assert said == [f"{name}:{number}" for number in range(1, 9)]
            assert (tmp_path / f"ran-{name}").read_text().split() == list("87654321")
    host.stop()
    assert "Traceback" not in host.log


async def test_turns_that_wait_for_a_place_are_left_in_order(serve: Any, tmp_path: Path, sse_events: Any) -> None:
    """A host that goes down at once leaves all its background turns, also those that have not begun."""
    host = serve(TICKING, "--shutdown-grace", "0", "--max-concurrent-turns", "1", env={"TICKING": str(tmp_path)})
    load = Load(host, sse_events)
    for number in range(MANY):
        await load.accept(f"b{number}")
    assert await asyncio.to_thread(host.stop) < 2
    assert f"{MANY} background turns are left for the next start" in host.log
    assert not re.search("Traceback|never retrieved|ERROR|Warning|asyncio", host.log)
    await load.aclose()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_host_at_once(serve: Any, tmp_path: Path, second: signal.Signals) -> None:
    """The grace is not waited for, one line says so, and the exit code tells of the signal; nothing stored is lost."""
    host = serve(TICKING, "--shutdown-grace", "60", env={"TICKING": str(tmp_path)})
    one = host.say("one 1 0")
    response = host.client.responses.create(input="b 2 60", background=True)
    while not (tmp_path / "ran-b").exists():
        time.sleep(0.01)
    host.process.terminate()
    while "stopping" not in host.log:
        time.sleep(0.01)
    with pytest.raises(subprocess.TimeoutExpired):
        host.process.wait(0.3)
    host.process.send_signal(second)
    assert host.process.wait(2) == 128 + second
    assert host.log.splitlines()[-1].endswith("stopped at once by a second signal; the next start settles what ran")
    assert "Traceback" not in host.log
    again = serve(TICKING, env={"TICKING": str(tmp_path)})
    assert again.client.responses.retrieve(one.id) == one
    assert again.client.responses.retrieve(response.id).status in ("queued", "in_progress")
