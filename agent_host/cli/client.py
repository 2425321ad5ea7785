"""A client of the Responses API on the standard library alone, for the command line.

- Every request has a connection of its own: nothing is shared, nothing must be kept alive.
- A request is sent once. Whoever repeats it must know that the first one has not begun a turn.
- Silence has a limit. Streams carry a comment every few seconds, so a silent one is a lost one.
"""

import contextlib
import json
import re
import socket
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec

from agent_host.errors import AgentHostError
from agent_host.wire.sse import Decoder

_PIECE = 65_536
_SHOWN = 200
_REMEDY = "\nStart a server with `agent-host serve FILE:workflow`, or name its address with --url."
_EXAMPLE = "It looks like http://127.0.0.1:8088/v1."
_HOST_NAME = re.compile(r"[^\x00-\x20\x7f]+")
_CONNECTIONS: Mapping[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}

Events = Generator[dict[str, Any], None, None]


class ServerUnreachableError(AgentHostError):
    """Nothing answers at the address, or the connection ended before the answer did."""

    code = "server_unreachable"


class RequestRefusedError(AgentHostError):
    """The server answered with an error, or with something that is no answer of this API."""

    code = "request_refused"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait: for the connection, for an answer in one piece, and for the next byte of a stream."""

    connection: float = 5.0
    answer: float = 600.0
    silence: float = 60.0


class Client:
    """Requests to the server at a base URL such as `http://127.0.0.1:8088/v1`; raises `ValueError` for any other text.

    All methods raise `ServerUnreachableError` and `RequestRefusedError`; generators do so when they are read.
    """

    def __init__(self, url: str, headers: Mapping[str, str], patience: Patience | None = None) -> None:
        try:
            parts = urlsplit(url)
            self._port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is no address of a server: {error}. {_EXAMPLE}") from None
        if parts.scheme not in _CONNECTIONS or not parts.hostname or not _HOST_NAME.fullmatch(parts.hostname):
            raise ValueError(f"{url!r} is no address of a server. {_EXAMPLE}")
        if parts.username is not None:
            raise ValueError("The address names a user, which is not sent. Leave it out, and send a --header instead.")
        self._url = url
        self._connection = _CONNECTIONS[parts.scheme]
        self._host = parts.hostname
        self._path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        self._headers = dict(headers)
        self._patience = patience or Patience()

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for a response, and wait for it unless it is to be made in the background."""
        return self._whole("POST", "/responses", body)

    def create_streamed(self, body: Mapping[str, Any]) -> Events:
        """Ask for a response; its events as they come."""
        return self._events("POST", "/responses", {**body, "stream": True})

    def retrieve(self, response_id: str) -> dict[str, Any]:
        """A response as it is now."""
        return self._whole("GET", f"/responses/{quote(response_id, safe='')}", None)

    def follow(self, response_id: str, after: int) -> Events:
        """The events of a response behind a sequence number, -1 for all, those to come included."""
        behind = f"&starting_after={after}" if after >= 0 else ""
        return self._events("GET", f"/responses/{quote(response_id, safe='')}?stream=true{behind}", None)

    def _whole(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        with self._answer(method, path, body, self._patience.answer) as answer:
            text = answer.read()
        with contextlib.suppress(msgspec.DecodeError):
            response = msgspec.json.decode(text, type=dict[str, Any])
            if response.get("object") == "response":
                return response
        raise self._foreign(text)

    def _events(self, method: str, path: str, body: Mapping[str, Any] | None) -> Events:
        decoder = Decoder()
        with self._answer(method, path, body, self._patience.silence) as answer:
            if answer.headers.get_content_type() != "text/event-stream":
                raise self._foreign(answer.read())
            while piece := answer.read1(_PIECE):
                try:
                    yield from decoder.feed(piece)
                except msgspec.DecodeError:
                    raise self._foreign(piece) from None

    @contextlib.contextmanager
    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, silence: float) -> Iterator[HTTPResponse]:
        connection = self._connection(self._host, self._port, timeout=self._patience.connection)
        try:
            with self._losses("Nothing answers at", _REMEDY):
                connection.connect()
            opened: socket.socket = connection.sock
            opened.settimeout(silence)
            with self._losses("The connection was lost to"):
                sent = None if body is None else json.dumps(body).encode()
                connection.request(
                    method, self._path + path, sent, {"Content-Type": "application/json", **self._headers}
                )
                answer = connection.getresponse()
                if answer.status != 200:
                    raise self._refusal(answer.status, answer.read())
                yield answer
        finally:
            connection.close()

    @contextlib.contextmanager
    def _losses(self, what: str, remedy: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, HTTPException, UnicodeError) as error:  # the last: what no name of a host can be
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise ServerUnreachableError(f"{what} {self._url}: {why}.{remedy}") from None

    def _refusal(self, status: int, text: bytes) -> RequestRefusedError:
        try:
            message = json.loads(text)["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = text[:_SHOWN].decode("utf-8", "replace").strip() or "no reason given"
        return RequestRefusedError(f"The server refused the request ({status}): {message}", status)

    def _foreign(self, text: bytes) -> RequestRefusedError:
        shown = text[:_SHOWN].decode("utf-8", "replace").strip()
        return RequestRefusedError(
            f"What {self._url} answers is not the Responses API. Check the address; it answered: {shown}", 200
        )
