"""A server that answers as it is told, and keeps what it was asked; and the responses that it tells."""

import contextlib
import http.server
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_host.wire import sse
from agent_host.wire.events import Event
from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript

PATIENCE = 20.0

Handler = http.server.BaseHTTPRequestHandler
Reply = Callable[[Handler], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: Any
    all_headers: list[str]
    """The names as often as they came, in lower case."""


@dataclass(slots=True)
class Scripted:
    """Replies are given in order, one for each request."""

    replies: list[Reply]
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    def until_asked(self, times: int) -> None:
        """Wait until so many requests have arrived."""
        end = time.monotonic() + PATIENCE
        while len(self.asked) < times:
            assert time.monotonic() < end, f"only {len(self.asked)} requests arrived"
            time.sleep(0.01)


@contextlib.contextmanager
def scripted(*replies: Reply) -> Iterator[Scripted]:
    """A server on a free port with these replies; each of them must be used."""
    script = Scripted(list(replies))

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            names = [name.lower() for name in self.headers]
            script.asked.append(Asked(f"{self.command} {self.path}", headers, json.loads(text or "null"), names))
            self.close_connection = True
            script.replies.pop(0)(self)

        do_GET = do_POST = _answer

        def log_message(self, *arguments: Any) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield script
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert script.replies == []


def answer(body: Any, status: int = 200) -> Reply:
    """One answer in JSON, or in text as it is."""
    text = (body if isinstance(body, str) else json.dumps(body)).encode()

    def give(to: Handler) -> None:
        to.send_response(status)
        to.send_header("Content-Length", str(len(text)))
        to.end_headers()
        to.wfile.write(text)

    return give


def refusal(status: int, message: str) -> Reply:
    """An error as the API has them."""
    return answer(
        {"error": {"message": message, "type": "invalid_request_error", "param": "input", "code": "x"}}, status
    )


def dropped() -> Reply:
    """No answer: the connection ends."""
    return lambda to: None


def stream(
    events: Sequence[Event], *, pause: float = 0.0, comments: int = 0, whole: bool = True, then: float = 0.0
) -> Reply:
    """A stream of events, before each one so many comments; `then` seconds of silence. Unless it is whole, it breaks
    off at the end."""

    def give(to: Handler) -> None:
        to.send_response(200)
        to.send_header("Content-Type", sse.CONTENT_TYPE)
        to.send_header("Transfer-Encoding", "chunked")
        to.end_headers()
        for event in events:
            for _ in range(comments):
                time.sleep(pause)
                _chunk(to, sse.KEEP_ALIVE)
            _chunk(to, sse.encode(event))
        time.sleep(then)
        if whole:
            with contextlib.suppress(OSError):  # whoever was interrupted reads no more
                _chunk(to, b"")

    return give


def _chunk(to: Handler, data: bytes) -> None:
    to.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
    to.wfile.flush()


# --- What is told ------------------------------------------------------------------------------------------------


class Telling:
    """A response in the making: its events so far."""

    def __init__(self, id: str = "resp_1", **facts: Any) -> None:
        numbers = itertools.count()
        self.transcript = Transcript(ResponseFacts(id, 1, "m", **facts), lambda prefix: f"{prefix}_{next(numbers)}")
        self.events = self.transcript.created()
        if facts.get("background"):
            self.events += self.transcript.queued()
        self.events += self.transcript.in_progress()

    def completed(self) -> dict[str, Any]:
        """End it; returns the response."""
        self.events += self.transcript.completed(None, 2)
        return self.transcript.final_response()


def spoken(*texts: str, id: str = "resp_1", **facts: Any) -> Telling:
    """A complete response of messages; those in brackets are said on the way."""
    told = Telling(id, **facts)
    for text in texts:
        told.events += told.transcript.message(text, "commentary" if text.startswith("[") else "final_answer")
    told.completed()
    return told


def asking(*questions: str, id: str = "resp_1", **facts: Any) -> Telling:
    """A complete response that asks `call_0`, `call_1` and so on."""
    told = Telling(id, **facts)
    for number, question in enumerate(questions):
        arguments = question if question.startswith("{") else json.dumps({"question": question})
        told.events += told.transcript.function_call(f"call_{number}", "question", arguments)
    told.completed()
    return told


def final(told: Telling) -> Any:
    """The response that a telling ends with."""
    return told.transcript.final_response()
