"""A local server in the place of the storage of Foundry projects: it answers alike, and checks what it is sent.

with StandIn() as server:
    project = server.project("desk")
    ...  # a client of project.endpoint with TOKEN
    assert project.violations == []
"""

import asyncio
import base64
import contextlib
import functools
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as WebRoute

from tests.foundry.platform_records import (
    ROUTES,
    Call,
    NewItem,
    NewResponse,
    Records,
    Refusal,
    Reply,
    Route,
    error,
    path_name,
    response_id,
)

TOKEN = "token-of-the-test"
"""The only bearer token that a stand-in takes."""
CALL_ID = "x-agent-foundry-call-id"
_JSON = "application/json; charset=utf-8"
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_PATIENCE = 10.0
_UNKNOWN = Route("", "(no call of the service)", lambda records, call: Reply(404))


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request as it came, and its end; times are those of `time.monotonic()`.

    `template` is the path below `storage/`, as in `state_stores/{store}/items/{key}`. `store` and `key` are decoded;
    the key is that of an item or the id of a response, in the path or in the body, "" where a call is about neither.
    `size` is the bytes of the body. `status` is 0 for a request that got no answer.
    """

    method: str
    template: str
    store: str
    key: str
    call_id: str
    user_agent: str
    size: int
    started: float
    ended: float = math.inf
    status: int = 0


When = Callable[[Recorded], bool]


def always(request: Recorded) -> bool:
    """Every request."""
    return True


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next `times` requests that `when` holds for; without a reply there is no answer."""

    when: When
    times: int
    reply: Reply | None = None
    carried_out: bool = False
    hangs: bool = False


@dataclass(slots=True)
class Clock:
    """The time, moved `ahead` by seconds."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@dataclass(slots=True)
class Project:
    """One project: what it keeps, what it was asked, and how it is to behave.

    `endpoint` is what `FOUNDRY_PROJECT_ENDPOINT` would be. Items end by `clock`. Every answer takes `latency` seconds
    longer. `users` tells the user of a call id; a call id that it does not know belongs to the agent itself, "".
    With `needs_call_id` a request without one is a violation.
    """

    endpoint: str
    clock: Clock = field(default_factory=Clock)
    latency: float = 0.0
    users: dict[str, str] = field(default_factory=dict)
    needs_call_id: bool = False
    requests: list[Recorded] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    records: Records = field(default_factory=Records)

    def fail(self, status: int, times: int = 1, when: When = always, retry_after: int | None = None) -> None:
        """Answer the next requests with an error; they are not carried out."""
        headers = {"Retry-After": str(retry_after)} if retry_after is not None else {}
        self.faults.append(Fault(when, times, error(status, "The test wants this to fail.", headers=headers)))

    def cut(self, times: int = 1, when: When = always, *, carried_out: bool = True) -> None:
        """Break the connections of the next requests instead of answering, after they are carried out or before."""
        self.faults.append(Fault(when, times, carried_out=carried_out))

    def hang(self, times: int = 1, when: When = always, *, carried_out: bool = False) -> None:
        """Never answer the next requests."""
        self.faults.append(Fault(when, times, carried_out=carried_out, hangs=True))

    def clear(self) -> None:
        """Forget the requests so far, not what they stored."""
        self.requests.clear()

    def rounds(self, since: float = 0.0, until: float = math.inf) -> int:
        """How many round trips one after the other the requests between two times took at least.

        It is the longest chain of requests that each began when the one before had ended. Without some `latency`,
        requests that were sent together may be answered one after the other and count as a chain.
        """
        chain, free = 0, since
        for each in sorted(self.requests, key=lambda request: request.ended):
            if each.started >= free and each.ended <= until:
                chain, free = chain + 1, each.ended
        return chain

    def add_to_conversation(self, conversation_id: str, items: Sequence[dict[str, Any]], user: str = "") -> None:
        """Put items into a conversation as somebody else than the agent does."""
        self.records.add_to_conversation(conversation_id, items, user)

    def items(self, store: str, user: str = "") -> dict[str, Any]:
        """The living values of a state store by key, oldest first; empty for a store that is not there."""
        found = self.records.stores.get(store)
        living = found.living(self.clock()) if found else {}
        return {key: msgspec.json.decode(item.value) for (owner, key), item in living.items() if owner == user}

    def sizes(self) -> dict[tuple[str, str], int]:
        """The bytes of every living value by store and key, those of all users added up."""
        sizes: dict[tuple[str, str], int] = {}
        for name, store in list(self.records.stores.items()):
            for (_, key), item in store.living(self.clock()).items():
                sizes[name, key] = sizes.get((name, key), 0) + len(item.value)
        return sizes

    def read(self, route: Route, request: Request, body: bytes) -> Call:
        """The call that a request is; raises Refusal if its shape is wrong."""
        if route is _UNKNOWN:
            raise Refusal(400, f"The storage does not know {request.url.path}.")
        call_id = request.headers.get(CALL_ID)
        if self.needs_call_id and not call_id:
            raise Refusal(400, f"The header {CALL_ID} is missing.", CALL_ID)
        _check_headers(request.headers, route)
        path, read = request.path_params, _read_body(body, request.headers.get("content-type", ""), route)
        return Call(
            store=_path_segment(path["store"], "name") if "store" in path else "",
            key=_key(path, read),
            query=_read_query(request.url.query, route),
            body=read,
            if_match=request.headers.get("if-match"),
            user=self.users.get(call_id or "", ""),
            now=self.clock(),
        )

    def next_fault(self, request: Recorded) -> Fault | None:
        """What goes wrong with this request, if anything."""
        for fault in self.faults:
            if fault.times > 0 and fault.when(request):
                fault.times -= 1
                return fault
        return None


# --- The shape of requests ---------------------------------------------------------------------------------------


def _check_headers(headers: Mapping[str, str], route: Route) -> None:
    if headers.get("authorization") != f"Bearer {TOKEN}":
        raise Refusal(401, "The token is missing or is not the one of the tests.")
    if "x-agent-user-id" in headers:
        raise Refusal(400, "The user's id does not leave the container.", "x-agent-user-id")
    if "if-match" in headers and route.method not in ("PUT", "DELETE"):
        raise Refusal(400, "Only an item is written or deleted under a condition.", "If-Match")


def _read_query(text: str, route: Route) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if query.pop("api-version", None) != "v1":
        raise Refusal(400, "The query needs api-version=v1.", "api-version")
    if len(pairs) > len(query) + 1:
        raise Refusal(400, "A name comes twice in the query.")
    for name in query:
        if name not in route.query - {"tags"} and not ("tags" in route.query and re.match(r"tags\..", name)):
            raise Refusal(400, f"{route.method} {route.template} takes no {name!r}.", name)
    return query


def _read_body(body: bytes, content_type: str, route: Route) -> Any:
    if route.body is None:
        if body:
            raise Refusal(400, f"{route.method} {route.template} takes no body.")
        return None
    if content_type.lower() != _JSON:
        raise Refusal(400, f"The content type is {content_type!r}, not {_JSON!r}.", "Content-Type")
    try:
        return msgspec.json.decode(body, type=route.body)
    except msgspec.DecodeError as wrong:
        raise Refusal(400, f"The body is wrong: {wrong}", "body") from wrong


def _path_segment(segment: str, what: str) -> str:
    try:
        text = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode()
    except ValueError:
        text = ""
    if base64.urlsafe_b64encode(text.encode()).decode().rstrip("=") != segment:
        raise Refusal(400, f"{segment!r} in the path is not UTF-8 as base64url without padding.", what)
    return path_name(text, what)


def _key(path: Mapping[str, str], body: Any) -> str:
    match body:
        case NewItem(key=key):
            return key
        case NewResponse(response={"id": str(identifier)}):
            return identifier
    if "id" in path:
        return response_id(path["id"], "id")
    return _path_segment(path["key"], "key") if "key" in path else ""


# --- The server --------------------------------------------------------------------------------------------------


class StandIn:
    """The server, in a thread with an event loop of its own; a project is there from its first use on."""

    def __init__(self) -> None:
        # Named as TCP, so that the event loop switches off the delay of small packets.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self._projects: dict[str, Project] = {}
        prefix = "/api/projects/{project}/storage/"
        routes = [
            WebRoute(prefix + each.template, functools.partial(self._serve, each), methods=[each.method])
            for each in ROUTES
        ]
        routes.append(WebRoute(prefix + "{rest:path}", functools.partial(self._serve, _UNKNOWN), methods=_METHODS))
        config = uvicorn.Config(
            Starlette(routes=routes), log_config=None, access_log=False, lifespan="off", backlog=2048,
            timeout_keep_alive=600,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="stand-in", daemon=True)

    def __enter__(self) -> "StandIn":
        self._thread.start()
        end = time.monotonic() + _PATIENCE
        while not self._server.started:
            assert self._thread.is_alive() and time.monotonic() < end, "the stand-in does not start"
            time.sleep(0.005)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive(), "the stand-in does not end"

    def project(self, name: str) -> Project:
        """The project of this name; it is made if it is new."""
        port = self._socket.getsockname()[1]
        return self._projects.setdefault(name, Project(f"http://127.0.0.1:{port}/api/projects/{name}"))

    @contextlib.contextmanager
    def checked_project(self, name: str) -> Iterator[Project]:
        """A project for the length of a block, whose end fails if the storage was called in a wrong way."""
        project = self.project(name)
        try:
            yield project
        finally:
            del self._projects[name]
        assert not project.violations, "\n".join(["The storage was called in a wrong way:", *project.violations])

    async def _serve(self, route: Route, request: Request) -> Response:
        project = self.project(request.path_params["project"])
        headers, started = request.headers, time.monotonic()
        body = await request.body()
        recorded = Recorded(
            request.method, route.template, "", "", headers.get(CALL_ID, ""), headers.get("user-agent", ""),
            len(body), started,
        )  # fmt: skip
        fault = None
        try:
            call = project.read(route, request, body)
            recorded = replace(recorded, store=call.store, key=call.key)
            fault = project.next_fault(recorded)
            reply = fault.reply if fault else None
            if fault is None or fault.carried_out:
                reply = route.carry_out(project.records, call)
        except Refusal as refusal:
            reply = refusal.reply
            if refusal.is_violation:
                project.violations.append(f"{request.method} {request.url.path}: {refusal}")
        await asyncio.sleep(project.latency)
        silent = fault is not None and fault.reply is None
        if silent:
            await self._end_silently(request, waits=fault is not None and fault.hangs)
        status = 0 if silent or reply is None else reply.status
        project.requests.append(replace(recorded, ended=time.monotonic(), status=status))
        if reply is None:
            return Response()
        return Response(msgspec.json.encode(reply.body), reply.status, reply.headers, media_type=_JSON)

    async def _end_silently(self, request: Request, *, waits: bool) -> None:
        gone = asyncio.ensure_future(request.receive())
        while waits and not gone.done() and not self._server.should_exit:
            await asyncio.wait([gone], timeout=0.05)
        # uvicorn has no other way to end a connection without an answer.
        request.receive.__self__.transport.abort()  # type: ignore[attr-defined]  # a method of uvicorn's request cycle
        await gone
