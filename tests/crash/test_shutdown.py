"""SIGTERM: running turns may finish, what does not is stored as failed, and the process ends in time."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

WAITING = f"{Path(__file__).parent / 'waiting.py'}"
UNFINISHED = {"queued", "in_progress"}


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Streaming(threading.Thread):
    """A client that reads a stream to its end, in a thread of its own."""

    def __init__(self, host: Any, text: str, **more: Any) -> None:
        super().__init__()
        self._host = host
        self._request = {"input": text, "stream": True, **more}
        self.events: list[Any] = []
        self.error: Exception | None = None
        self.begun = threading.Event()
        self.start()
        assert self.begun.wait(10), host.log

    def run(self) -> None:
        try:
            for event in self._host.client.responses.create(**self._request):
                self.events.append(event)
                if event.type == "response.output_text.delta":
                    self.begun.set()
        except Exception as error:  # noqa: BLE001 - the test that waits for this thread shows it
            self.error = error
            self.begun.set()

    def ended(self) -> Any:
        """The last event, if the stream ended as streams should."""
        self.join(10)
        assert not self.is_alive()
        assert self.error is None
        assert [event.sequence_number for event in self.events] == list(range(len(self.events)))
        return self.events[-1]


def test_a_turn_that_does_not_finish_in_time_is_stored_as_failed(
    serve: Any, tmp_path: Any, stored_statuses: Any
) -> None:
    """The open stream gets `response.failed` and ends, the process ends soon after the grace, nothing is unfinished."""
    host = serve(f"{WAITING}:workflow", "--shutdown-grace", "1")
    one = host.say("one")
    reader = Streaming(host, "wait for-ever", previous_response_id=one.id)
    took = host.stop()
    assert 0.9 < took < 3
    last = reader.ended()
    assert last.type == "response.failed"
    assert last.response.status == "failed"
    assert "shut down" in last.response.error.message
    assert stored_statuses(tmp_path / "host.db") == {one.id: "completed", last.response.id: "failed"}
    assert "Traceback" not in host.log
    assert "stored as failed: 1" in host.log

    again = serve(f"{WAITING}:workflow")
    assert again.client.responses.retrieve(last.response.id) == last.response
    assert again.say("two", last.response.id).output_text == "turn 2"
    assert again.say("two", one.id).output_text == "turn 2"


def test_a_turn_that_finishes_in_time_is_completed(serve: Any, tmp_path: Any, stored_statuses: Any) -> None:
    """Within the grace a running turn ends as if nothing had happened; new ones are sent away meanwhile."""
    go = tmp_path / "go"
    host = serve(f"{WAITING}:workflow", "--shutdown-grace", "10")
    reader = Streaming(host, f"wait {go}")
    host.process.terminate()
    wait_for(lambda: "stopping" in host.log)
    with pytest.raises(httpx2.TransportError), httpx2.Client(base_url=host.base_url) as late:
        wait_for(lambda: late.get("/readiness").status_code != 503)
    go.touch()
    assert reader.ended().response.output_text == "waitingturn 1"
    assert host.process.wait(10) == 0
    assert set(stored_statuses(tmp_path / "host.db").values()) == {"completed"}


def test_a_plain_turn_that_is_cut_off_is_answered(serve: Any, tmp_path: Any, stored_statuses: Any) -> None:
    """Also a client that waits for a plain answer gets one: the failed response."""
    host = serve(f"{WAITING}:workflow", "--shutdown-grace", "0.3")
    answers: list[Any] = []
    begun = tmp_path / "begun"
    asking = threading.Thread(target=lambda: answers.append(host.say(f"begin {begun}")))
    asking.start()
    reader = Streaming(host, "wait for-ever")
    wait_for(begun.exists)
    host.stop()
    asking.join(10)
    assert [answer.status for answer in answers] == ["failed"]
    assert reader.ended().type == "response.failed"
    assert set(stored_statuses(tmp_path / "host.db").values()) == {"failed"}


@pytest.mark.parametrize(("attribute", "text"), [("workflow", "thread"), ("blocking", "x")])
def test_a_handler_that_blocks_a_thread_does_not_keep_the_process(
    serve: Any, tmp_path: Any, stored_statuses: Any, attribute: str, text: str
) -> None:
    """A thread cannot be stopped; it is left behind, the log says so, and no turn is unfinished in the store."""
    host = serve(f"{WAITING}:{attribute}", "--shutdown-grace", "0.2")
    reader = Streaming(host, text)
    assert host.stop() < 5
    reader.join(10)
    assert not reader.is_alive()
    assert "left behind" in host.log
    assert "Traceback" not in host.log
    assert not UNFINISHED & set(stored_statuses(tmp_path / "host.db").values())


def test_a_client_that_does_not_read_does_not_keep_the_process(serve: Any, tmp_path: Any, stored_statuses: Any) -> None:
    """A stream whose client has stopped reading is cut, and its turn has an end in the store."""
    host = serve(f"{WAITING}:workflow", "--shutdown-grace", "0.2")
    body = json.dumps({"input": "flood", "stream": True}).encode()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", host.port))
        raw.sendall(b"POST /responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        assert raw.recv(100).startswith(b"HTTP/1.1 200 OK")
        assert host.stop() < 4
    assert not UNFINISHED & set(stored_statuses(tmp_path / "host.db").values())
    assert "Traceback" not in host.log


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_turn(serve: Any, tmp_path: Any, stored_statuses: Any, stream: bool) -> None:
    """Also on the event loop of the command line nothing is left in progress, and the log stays calm."""
    host = serve(f"{WAITING}:workflow")
    one = host.say("one")
    begun = tmp_path / "begun"
    request = {"input": f"begin {begun}", "stream": stream, "previous_response_id": one.id}
    body = json.dumps(request).encode()
    with socket.create_connection(("127.0.0.1", host.port)) as raw:
        raw.sendall(b"POST /responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        wait_for(begun.exists)
    wait_for(lambda: len(stored_statuses(tmp_path / "host.db")) == 2)
    assert list(stored_statuses(tmp_path / "host.db").values()) == ["completed", "cancelled"]
    assert host.say("two", one.id).output_text == "turn 2"
    host.stop()
    assert "Traceback" not in host.log
    assert " ERROR " not in host.log
    assert " WARNING " not in host.log


def test_ctrl_c_ends_the_host_as_well(serve: Any) -> None:
    """SIGINT is answered like SIGTERM, without a traceback."""
    host = serve(f"{WAITING}:workflow")
    host.say("one")
    host.process.send_signal(signal.SIGINT)
    assert host.process.wait(10) == 0
    assert "Traceback" not in host.log
    assert host.log.rstrip().endswith("stopped")
