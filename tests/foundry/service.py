"""A Foundry project that answers from a script, below azure-core's pipeline: its policies and models are the real ones.

A route is a method and the end of a path. Each call takes the route's next answer; the last one stays.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import HttpTransport
from azure.core.rest import HttpRequest, HttpResponse

ENDPOINT = "https://desk.services.ai.azure.com/api/projects/support"


@dataclass(frozen=True)
class Answer:
    """One answer of the service; `body` is JSON unless it is bytes."""

    status: int
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)


def refusal(status: int, code: str, message: str) -> Answer:
    """An error as the service words it."""
    error = {"code": code, "message": message, "param": None, "type": "invalid_request_error", "details": []}
    return Answer(status, {"error": error})


class Credential:
    """Always has a token."""

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        assert scopes == ("https://ai.azure.com/.default",)
        return AccessToken("token-of-the-test", 4_000_000_000)


class _Response(HttpResponse):
    def __init__(self, request: HttpRequest, answer: Answer) -> None:
        self._request, self._status = request, answer.status
        self._bytes = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        self._headers = {"content-type": "application/json", **answer.headers}

    @property
    def request(self) -> HttpRequest:
        return self._request

    @property
    def status_code(self) -> int:
        return self._status

    @property
    def headers(self) -> Any:
        return self._headers

    @property
    def reason(self) -> str:
        return ""

    @property
    def content_type(self) -> str | None:
        return self._headers["content-type"]

    @property
    def is_closed(self) -> bool:
        return True

    @property
    def is_stream_consumed(self) -> bool:
        return True

    @property
    def encoding(self) -> str | None:
        return "utf-8"

    @encoding.setter
    def encoding(self, value: str | None) -> None:
        raise AttributeError("The service speaks UTF-8.")

    @property
    def url(self) -> str:
        return self._request.url

    @property
    def content(self) -> bytes:
        return self._bytes

    def text(self, encoding: str | None = None) -> str:
        return self._bytes.decode()

    def json(self) -> Any:
        return json.loads(self._bytes)

    def read(self) -> bytes:
        return self._bytes

    def iter_bytes(self, **options: Any) -> Iterator[bytes]:
        # In pieces that keep to no line, as a network delivers them.
        return (self._bytes[start : start + 7] for start in range(0, len(self._bytes), 7))

    iter_raw = iter_bytes

    def raise_for_status(self) -> None:
        raise AssertionError("The clients look at the status themselves.")

    def close(self) -> None:
        """There is nothing to close."""

    def __enter__(self) -> "_Response":
        return self

    def __exit__(self, *error: object) -> None:
        """There is nothing to close."""


@dataclass(frozen=True)
class Call:
    """What the service was asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    query: Mapping[str, list[str]]


class Service(HttpTransport[HttpRequest, HttpResponse]):
    """The scripted project, and what it was asked."""

    def __init__(self, routes: Mapping[str, list[Answer]]) -> None:
        self._routes = {route: list(answers) for route, answers in routes.items()}
        self.calls: list[Call] = []

    def send(self, request: HttpRequest, **options: Any) -> HttpResponse:
        parts = urlsplit(request.url)
        assert request.url.startswith(ENDPOINT), request.url
        path = parts.path.removeprefix(urlsplit(ENDPOINT).path)
        content = request.content
        body = json.loads(content) if isinstance(content, str) else content
        self.calls.append(Call(request.method, path, dict(request.headers), body, parse_qs(parts.query)))
        answers = self._routes[f"{request.method} {path}"]
        return _Response(request, answers.pop(0) if len(answers) > 1 else answers[0])

    @property
    def asked(self) -> list[str]:
        """Every call as its method and path."""
        return [f"{call.method} {call.path}" for call in self.calls]

    def open(self) -> None:
        """There is nothing to open."""

    def close(self) -> None:
        """There is nothing to close."""

    def __exit__(self, *error: object) -> None:
        """There is nothing to close."""
