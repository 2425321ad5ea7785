"""The WebSocket mode of a process that `agent-host serve` has started: its end, its limits, its log."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

WAITING = f"{Path(__file__).parents[1] / 'crash' / 'waiting.py'}:workflow"


def dial(host: Any, **more: Any) -> ClientConnection:
    return connect(host.base_url.replace("http://", "ws://") + "/v1/responses", proxy=None, **more)


def until(socket: ClientConnection, *types: str) -> dict[str, Any]:
    while True:
        event: dict[str, Any] = json.loads(socket.recv(20))
        if event["type"] in types:
            return event


def create(socket: ClientConnection, text: str, **more: Any) -> None:
    socket.send(json.dumps({"type": "response.create", "input": text, **more}))


def test_sigterm_lets_a_turn_end_and_closes_the_connection(serve: Any, tmp_path: Path, stored_statuses: Any) -> None:
    """The turn ends as any other within the grace, then comes the close frame, and the process is gone."""
    host = serve(WAITING, "--shutdown-grace", "10")
    go = tmp_path / "go"
    with dial(host) as socket, dial(host) as idle:
        create(socket, f"wait {go}")
        until(socket, "response.output_text.delta")
        stopping = threading.Thread(target=host.stop)
        stopping.start()
        with pytest.raises(ConnectionClosed) as closed:
            idle.recv(20)
        time.sleep(0.5)
        go.touch()
        assert until(socket, "response.completed", "response.failed")["type"] == "response.completed"
        with pytest.raises(ConnectionClosed) as after:
            socket.recv(20)
        stopping.join(20)
    for each in (closed, after):
        assert each.value.rcvd is not None
        assert each.value.rcvd.code == 1012
    assert host.process.returncode == 0
    assert list(stored_statuses(tmp_path / "host.db").values()) == ["completed"]
    assert "Traceback" not in host.log


def test_sigterm_does_not_wait_for_a_client_that_is_silent(serve: Any) -> None:
    """One that neither reads nor answers the close frame holds up the process no longer than the grace."""
    host = serve(WAITING, "--shutdown-grace", "0.5")
    with dial(host, max_queue=1, max_size=None) as socket:
        create(socket, "flood")
        json.loads(socket.recv(20))
        assert host.stop() < 5
        socket.socket.close()
    assert "Traceback" not in host.log


def test_a_process_refuses_upgrades_with_one_line(serve: Any) -> None:
    """The status is that of a request, and the log has one line for it and no complaint."""
    host = serve(WAITING, env={"AGENT_HOST_API_KEY": "secret"})
    with pytest.raises(InvalidStatus) as refused:
        dial(host)
    assert refused.value.response.status_code == 401
    with dial(host, additional_headers={"authorization": "Bearer secret"}) as socket:
        create(socket, "one")
        until(socket, "response.completed")
    host.stop()
    lines = [line for line in host.log.splitlines() if "responses" in line]
    assert len(lines) == 2
    assert "GET /v1/responses 401" in lines[0]
    assert "WS /v1/responses 200" in lines[1]
    assert "ASGI" not in host.log


def test_a_message_beyond_the_limit_ends_its_connection(serve: Any) -> None:
    """It is not read to its end: the close frame says that it was too big, and the host goes on."""
    host = serve(WAITING)
    with dial(host) as socket, pytest.raises(ConnectionClosed) as closed:
        create(socket, "x" * (32 * 1024 * 1024))
        socket.recv(20)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert host.say("one").status == "completed"
    assert "Traceback" not in host.log
