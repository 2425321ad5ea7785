"""The end of a turn, whatever else happens in that moment: it is stored once, told once, and nothing stays locked."""

import asyncio
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent_host import Executor, WorkflowBuilder, WorkflowContext, crash_points, handler
from agent_host.errors import StoreError
from agent_host.server import background, event_log, following
from agent_host.server.failures import failure
from agent_host.stores.records import Guard
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from tests.server.unsteady import Told, UnsteadyStore, heard, telling, to_raise


@pytest.fixture
async def told() -> Told:
    return Told()


@pytest.fixture
async def store(tmp_path: Any) -> UnsteadyStore:
    return UnsteadyStore(tmp_path / "unsteady.db")


@pytest.fixture
async def site(serve_app: Any, told: Told, store: UnsteadyStore) -> Any:
    return await serve_app(telling(told), store)


@pytest.fixture
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "LEASE", 0.2)
    monkeypatch.setattr(background, "RENEW_EVERY", 0.02)


async def ended(site: Any, response_id: str) -> Any:
    async with asyncio.timeout(10):
        while (found := await site.client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
    return found


async def events_of(site: Any, response_id: str) -> list[Any]:
    events = [event async for event in await site.client.responses.retrieve(response_id, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return events


async def send(site: Any, body: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a request over a connection of its own."""
    _, writer = await asyncio.open_connection("127.0.0.1", int(site.url.rpartition(":")[2]))
    content = json.dumps(body).encode()
    writer.write(
        b"POST /responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n%b" % (len(content), content)
    )
    await writer.drain()
    return writer


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


# --- Cancelled in the moment in which it ends ----------------------------------------------------------------------


@pytest.mark.parametrize(("text", "status"), [("wait", "cancelled"), ("wait raise", "failed")])
async def test_a_turn_that_is_cancelled_while_it_ends_has_one_end(
    site: Any, told: Told, store: UnsteadyStore, eventually: Any, text: str, status: str
) -> None:
    """Its end waits for events that are being written when it is cancelled, and once more: both hear how it ended,
    its stream has one last event, and it never runs again."""
    gate = store.hold("append")
    made = await site.say(text, background=True)
    await gate.reached.wait()
    await eventually(lambda: heard == [text], "it runs")
    path = f"/responses/{made.id}/cancel"
    if status == "failed":
        told.may_go_on.set()
        await asyncio.sleep(0.05)  # it has raised, and waits to be stored
    work = site.host.background.work_of(("", made.id))
    cancels = [asyncio.create_task(site.http.post(path))]
    await eventually(lambda: work.cancelled_by_client, "the first has come")
    await asyncio.sleep(0.05)
    cancels.append(asyncio.create_task(site.http.post(path)))
    await asyncio.sleep(0.05)
    gate.open()
    answers = [await cancel for cancel in cancels]
    assert [(answer.status_code, answer.json().get("status")) for answer in answers] == [(200, status)] * 2
    kinds = [event.type for event in await events_of(site, made.id)]
    assert kinds.count("response.failed") == 1
    assert heard == [text]


class Full(UnsteadyStore):
    """A store whose disk turns out to be full while a turn is written, after a while."""

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self.is_full = False
        self.writing = threading.Event()
        self.may_fail = threading.Event()

    async def finish(self, *arguments: Any, **options: Any) -> None:
        def fails(connection: Any) -> None:
            self.writing.set()
            self.may_fail.wait(10)
            raise StoreError("The disk is full.")

        if self.is_full:
            await self._database.write(fails)
        await super().finish(*arguments, **options)


async def test_a_client_that_leaves_while_its_turn_cannot_be_stored_locks_nothing(
    serve_app: Any, told: Told, tmp_path: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the turn is kept, and the host knows it: its conversation and all others go on."""
    store = Full(tmp_path / "full.db")
    site = await serve_app(telling(told), store)
    talk = (await site.client.conversations.create()).id
    store.is_full = True
    writer = await send(site, {"input": "lost", "conversation": talk})
    await eventually(store.writing.is_set, "the turn is written")
    await leave(writer)
    await asyncio.sleep(0.1)  # until it is watched for that
    store.may_fail.set()
    await eventually(lambda: "could not be stored" in caplog.text, "the log says so")
    store.is_full = False
    assert (await site.say("next", conversation=talk)).status == "completed"
    assert (await site.say("other")).status == "completed"


# --- What handlers raise -------------------------------------------------------------------------------------------


class PanicError(BaseException):
    """What libraries in other languages raise when they give up."""


class OddError(Exception):
    """An error whose status code cannot be looked up."""

    def __init__(self) -> None:
        self.status_code = {"a": 1}


class SilentError(Exception):
    """An error that has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def noted(error: BaseException, *notes: Any) -> BaseException:
    error.__notes__ = list(notes)
    return error


RAISED = {
    "not an Exception": PanicError("index out of bounds"),
    "a generator's end": GeneratorExit(),
    "a group with a cancellation": BaseExceptionGroup("many", [ValueError("x"), asyncio.CancelledError()]),
    "a status that cannot be looked up": OddError(),
    "a note that is no text": noted(ValueError("x"), 1),
}


@pytest.mark.parametrize("name", RAISED)
async def test_whatever_a_handler_raises_fails_one_turn(site: Any, name: str) -> None:
    """Plain, as a stream and in the background the turn ends as failed at once, and its conversation goes on."""
    to_raise[:] = [RAISED[name]]
    talk = (await site.client.conversations.create()).id
    for more in ({}, {"stream": True}, {"background": True}):
        answer = await site.http.post("/responses", json={"input": "raise", "conversation": talk, **more})
        assert answer.status_code == 200, answer.text
        if "stream" in more:
            assert answer.text.count("event: response.failed") == 1
        else:
            failed = await ended(site, answer.json()["id"])
            assert failed.status == "failed"
            assert type(RAISED[name]).__name__ in failed.error.message
        assert (await site.say("next", conversation=talk)).status == "completed"


def test_an_error_without_a_text_is_told_by_its_name() -> None:
    """What goes wrong in telling an error does not hide it."""
    assert failure(SilentError(), "request 1", expose=True)["message"] == "SilentError"


@pytest.fixture
def broken_host() -> Iterator[None]:
    """A host with a fault of its own behind the admission of a turn."""

    def fail(point: crash_points.CrashPoint) -> None:
        if point is crash_points.CrashPoint.ADMITTED:
            crash_points.watch(None)
            raise ZeroDivisionError

    crash_points.watch(fail)
    yield
    crash_points.watch(None)


async def test_a_fault_of_the_host_gives_up_what_was_admitted(site: Any, broken_host: None) -> None:
    """The client is told of a fault, and the conversation of its turn is free."""
    talk = (await site.client.conversations.create()).id
    answer = await site.http.post("/responses", json={"input": "x", "conversation": talk})
    assert answer.status_code == 500
    assert (await site.say("next", conversation=talk)).status == "completed"


# --- What cannot be stored -----------------------------------------------------------------------------------------


async def test_a_stream_that_cannot_be_stored_nor_taken_back_has_an_end(site: Any, store: UnsteadyStore) -> None:
    """Its last event is response.failed."""
    store.failures.update(finish=1, release=1)
    events = [event async for event in await site.say("x", stream=True)]
    assert events[-1].type == "response.failed"
    assert store.called["release"] == 1


async def test_a_conversation_in_use_is_refused_without_a_write(site: Any, told: Told, store: UnsteadyStore) -> None:
    """What the store has refused it need not take back."""
    talk = (await site.client.conversations.create()).id
    first = asyncio.create_task(site.say("wait", conversation=talk))
    while not heard:
        await asyncio.sleep(0.005)
    answer = await site.http.post("/responses", json={"input": "x", "conversation": talk})
    assert answer.json()["error"]["code"] == "conversation_locked"
    assert store.called["release"] == 0
    told.may_go_on.set()
    assert (await first).status == "completed"


class Refusing(UnsteadyStore):
    """A store that never stores the end of a turn that went well."""

    async def finish(self, user: str, record: Any, *arguments: Any, **options: Any) -> None:
        if record.status == "completed":
            raise StoreError("The text is too long.")
        await super().finish(user, record, *arguments, **options)


@pytest.mark.parametrize("text", ["too long", "leave"])
async def test_a_background_turn_that_never_comes_to_a_stored_end_fails_after_three_attempts(
    serve_app: Any, told: Told, tmp_path: Any, short_leases: None, text: str
) -> None:
    """Whether its end cannot be stored or its handler cancels its own task: it says why, and its conversation is
    free."""
    site = await serve_app(telling(told), Refusing(tmp_path / "refusing.db"))
    talk = (await site.client.conversations.create()).id
    made = await site.say(text, background=True, conversation=talk)
    failed = await ended(site, made.id)
    assert failed.status == "failed"
    assert "it was begun 3 times" in failed.error.message
    assert heard == [text] * (3 if text == "leave" else 1)
    assert [event.type for event in await events_of(site, made.id)].count("response.failed") == 1
    answer = await site.http.post("/responses", json={"input": "raise", "conversation": talk})
    assert answer.json()["status"] == "failed"


class Narrow(SqliteDatabase):
    """A database that holds nothing that is larger than a million bytes."""

    def _connection(self, path: str) -> sqlite3.Connection:
        connection = super()._connection(path)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        return connection


async def test_an_output_that_is_too_large_for_the_store_fails_its_turn(
    serve_app: Any, told: Told, tmp_path: Any, short_leases: None
) -> None:
    """Nobody waits for the store to have more room; the conversation of the turn is free afterwards."""
    site = await serve_app(telling(told), SqlStore(Narrow(str(tmp_path / "narrow.db"))))
    talk = (await site.client.conversations.create()).id
    made = await site.say("large", background=True, conversation=talk)
    failed = await ended(site, made.id)
    assert failed.status == "failed"
    assert (await site.say("next", conversation=talk)).status == "completed"


async def test_a_background_turn_whose_end_could_not_be_stored_ends_later(
    site: Any, store: UnsteadyStore, short_leases: None
) -> None:
    """When its lease has lapsed it goes on where it stood: what had finished does not run again."""
    store.failures.update(finish=1)
    made = await site.say("x", background=True)
    response = await ended(site, made.id)
    assert (response.status, response.output_text) == ("completed", "x")
    assert heard == ["x"]


async def test_events_that_could_not_be_written_are_written_soon(
    site: Any, told: Told, store: UnsteadyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower sees them while the handler is silent."""
    monkeypatch.setattr(event_log, "AGAIN_AFTER", 0.01)
    store.failures.update(append=2)
    async with asyncio.timeout(5), await site.say("wait", background=True, stream=True) as stream:
        async for event in stream:
            if event.type == "response.output_text.delta":
                break
    assert not told.may_go_on.is_set()
    told.may_go_on.set()


async def test_a_log_that_is_closed_writes_nothing_more(store: UnsteadyStore) -> None:
    """What an attempt that was left has told is tried once, and does not get between the events of the next later."""
    events = event_log.EventLog(store)
    turn = events.open_turn("", Guard("resp_1", "me"))
    turn.tell([{"type": "response.created"}])
    await turn.close()
    await events.aclose()
    assert store.called["append"] == 1


# --- Accepted ------------------------------------------------------------------------------------------------------


async def test_an_accepted_turn_does_not_need_its_client(site: Any, store: UnsteadyStore, eventually: Any) -> None:
    """A client that leaves while its turn is taken leaves it to its work, at once."""
    gate = store.hold("take")
    writer = await send(site, {"input": "x", "background": True})
    await gate.reached.wait()
    await leave(writer)
    await asyncio.sleep(0.1)  # until it is watched for that
    gate.open()
    async with asyncio.timeout(2):
        await eventually(lambda: heard == ["x"], "it runs")


async def test_a_turn_that_could_not_be_taken_is_accepted_all_the_same(
    site: Any, store: UnsteadyStore, short_leases: None
) -> None:
    """It is the host's business to begin with it a little later."""
    store.failures.update(take=1)
    made = await site.say("x", background=True)
    assert made.status == "queued"
    assert (await ended(site, made.id)).output_text == "x"


async def test_followers_do_not_read_the_request(
    serve_app: Any, site: Any, told: Told, store: UnsteadyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large it is: whoever waits for a silent turn of another host looks only whether there still is one."""
    monkeypatch.setattr(following, "POLL", 0.01)
    other = await serve_app(telling(told), store)
    made = await site.say("wait", background=True)
    reader = asyncio.create_task(events_of(other, made.id))
    while store.called["read_events"] < 20:
        await asyncio.sleep(0.01)
    assert store.called["read_turn"] <= 1
    told.may_go_on.set()
    assert (await reader)[-1].type == "response.completed"


# --- Two hosts on one store ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["finish", "read_events"])
@pytest.mark.parametrize("second", [0, 1])
async def test_a_turn_is_cancelled_from_several_hosts_at_once(
    serve_app: Any, told: Told, store: UnsteadyStore, verb: str, second: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever comes first, all are answered with the cancelled response, and the log has no fault."""
    sites = [await serve_app(telling(told), store, shutdown_grace=0) for _ in range(2)]
    made = await sites[0].say("wait", background=True)
    while not heard:
        await asyncio.sleep(0.005)
    gate = store.hold(verb)
    path = f"/responses/{made.id}/cancel"
    first = asyncio.create_task(sites[1].http.post(path))
    await gate.reached.wait()
    answers = [await sites[second].http.post(path)]
    gate.open()
    answers.append(await first)
    assert [(answer.status_code, answer.json().get("status")) for answer in answers] == [(200, "cancelled")] * 2
    kinds = [event.type for event in await events_of(sites[0], made.id)]
    assert kinds.count("response.failed") == 1
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- Fair ----------------------------------------------------------------------------------------------------------


class Spinning(Executor):
    """Sends itself messages, and waits for nothing, until somebody has let it go."""

    may_end = False

    @handler
    async def begin(self, text: str, ctx: WorkflowContext[int, str]) -> None:
        await ctx.send_message(0)

    @handler
    async def again(self, number: int, ctx: WorkflowContext[int, str]) -> None:
        if Spinning.may_end:
            await ctx.yield_output("let go")
        else:
            await ctx.send_message(number + 1)


async def test_supersteps_that_wait_for_nothing_keep_nobody_waiting(serve_app: Any) -> None:
    """Another request is answered while a foreground turn goes from superstep to superstep."""
    spinning = Spinning("spinning")
    builder = WorkflowBuilder(start_executor=spinning, name="spinning", max_iterations=20_000)
    site = await serve_app(builder.add_edge(spinning, spinning).build())
    Spinning.may_end = False
    turn = asyncio.create_task(site.say("x"))
    while not site.host.runs.running:
        await asyncio.sleep(0.001)
    assert (await site.http.get("/readiness")).status_code == 200
    Spinning.may_end = True
    assert (await turn).output_text == "let go"
