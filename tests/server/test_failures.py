"""A failed turn costs one turn: what the client is told, what is stored, and what the log says."""

import asyncio
import logging
from typing import Any, Never

import httpx2
import openai
import pytest

from agent_host import Executor, TextDelta, Workflow, WorkflowBuilder, WorkflowContext, handler
from agent_host.errors import StoreError
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase


class RateLimited(Exception):
    """What model libraries raise, as far as the host looks at it."""

    status_code = 429


class Notes(Executor):
    def __init__(self) -> None:
        super().__init__("notes")
        self.notes: list[str] = []

    @handler
    async def add(self, text: str, ctx: WorkflowContext[str]) -> None:
        self.notes.append(text)
        ctx.set_state("last", text)
        await ctx.send_message("|".join(self.notes))


class Judge(Executor):
    @handler
    async def judge(self, notes: str, ctx: WorkflowContext[Never, str]) -> None:
        last = ctx.get_state("last")
        if last == "fail":
            raise KeyError("no such thing")
        if last == "fail late":
            await ctx.yield_output("never shown")
            await ctx.yield_output(TextDelta("half a "))
            await ctx.yield_output(TextDelta("sentence"))
            raise KeyError("no such thing")
        if last == "rate":
            raise RateLimited("slow down")
        if last == "cancelled":
            raise asyncio.CancelledError
        await ctx.yield_output(notes)


def judging() -> Workflow:
    notes, judge = Notes(), Judge("judge")
    return WorkflowBuilder(start_executor=notes, name="judging").add_edge(notes, judge).build()


async def test_an_exception_in_an_executor_is_a_failed_response(
    serve_app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The turn ends as an answer, not as an HTTP error; it names the executor and the cause, the log has the rest."""
    caplog.set_level(logging.INFO, "agent_host")
    site = await serve_app(judging())
    response = await site.say("fail")
    assert response.status == "failed"
    assert response.error.code == "server_error"
    assert "KeyError: 'no such thing'" in response.error.message
    assert "'judge'" in response.error.message
    assert response.output == []
    assert len(site.requests) == 1
    assert await site.client.responses.retrieve(response.id) == response
    tracebacks = [record for record in caplog.records if record.exc_info]
    assert len(tracebacks) == 1
    assert response.id in tracebacks[0].getMessage()
    assert caplog.text.count('raise KeyError("no such thing")') == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_the_next_turn_goes_on_from_the_failed_response_or_from_its_parent(serve_app: Any, stream: bool) -> None:
    """Both ids lead to where the failed turn began, and of the failed turn there is no trace."""
    site = await serve_app(judging())
    one = await site.say("one")
    if stream:
        events = [e async for e in await site.say("fail late", one.id, stream=True)]
        failed = events[-1].response
    else:
        failed = await site.say("fail late", one.id)
    assert failed.status == "failed"
    again = await site.say("two", failed.id)
    assert again.output_text == "one|two"
    assert (await site.say("two", one.id)).output_text == "one|two"
    assert (await site.say("three", again.id)).output_text == "one|two|three"


async def test_a_first_turn_that_failed_can_be_continued(serve_app: Any) -> None:
    """Also the response of a failed first turn is a save point: the initial state."""
    site = await serve_app(judging())
    failed = await site.say("fail")
    assert (await site.say("one", failed.id)).output_text == "one"


async def test_a_failed_stream_ends_with_response_failed(serve_app: Any) -> None:
    """The stream ends in order, with the one terminal event that carries the error."""
    site = await serve_app(judging())
    events = [event async for event in await site.say("fail", stream=True)]
    assert [event.type for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1].response.status == "failed"
    assert "'judge'" in events[-1].response.error.message


async def test_text_that_was_shown_by_a_failed_turn_is_taken_back(serve_app: Any) -> None:
    """The open item is closed by its `done` event alone, incomplete and empty; a whole output never appears."""
    site = await serve_app(judging())
    events = [event async for event in await site.say("fail late", stream=True)]
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_item.done",
        "response.failed",
    ]
    done, failed = events[-2], events[-1]
    assert done.item.status == "incomplete"
    assert done.item.content == []
    assert done.item.phase == "commentary"
    assert failed.response.output == [done.item]
    assert await site.client.responses.retrieve(failed.response.id) == failed.response


async def test_a_model_that_refuses_by_rate_limit_is_told_as_such(serve_app: Any) -> None:
    """An error that carries the HTTP status 429 becomes `rate_limit_exceeded`, inside the response."""
    site = await serve_app(judging())
    response = await site.say("rate")
    assert response.status == "failed"
    assert response.error.code == "rate_limit_exceeded"
    assert len(site.requests) == 1


async def test_a_cancellation_that_nobody_asked_for_is_a_failure(serve_app: Any) -> None:
    """An executor whose own library gives up with CancelledError fails; only a client that leaves cancels."""
    site = await serve_app(judging())
    response = await site.say("cancelled")
    assert response.status == "failed"
    assert "'judge'" in response.error.message


async def test_the_cause_can_be_kept_from_clients(serve_app: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In production the client gets a safe text and the request's id, under which the log has the cause."""
    site = await serve_app(judging(), expose_errors=False)
    response = await site.client.responses.create(input="fail", extra_headers={"x-request-id": "req-4711"})
    assert "req-4711" in response.error.message
    assert "KeyError" not in response.error.message
    assert "judge" not in response.error.message
    assert any("req-4711" in record.getMessage() and record.exc_info for record in caplog.records)


# --- The store fails ---------------------------------------------------------------------------------------------


class Forgetful(SqlStore):
    """A store that cannot finish a turn as long as `broken`; it counts how often that was tried."""

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(SqliteDatabase(path))
        self.error = error
        self.broken = True
        self.tried = 0

    async def finish(self, *args: Any, **options: Any) -> None:
        self.tried += 1
        if self.broken:
            raise self.error
        await super().finish(*args, **options)


ERRORS = [StoreError("No space is left."), RuntimeError("A bug in a store of somebody's own.")]


@pytest.mark.parametrize("error", ERRORS, ids=["full", "bug"])
async def test_a_turn_that_cannot_be_stored_is_an_http_error_that_is_not_retried(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """Nothing is stored, the client asks once only, and the log names the turn and the cause, once."""
    store = Forgetful(str(tmp_path / "a.db"), error)
    site = await serve_app(judging(), store)
    with pytest.raises(openai.InternalServerError) as caught:
        await site.say("one")
    assert caught.value.status_code == 500
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert str(error) not in str(caught.value)
    request_id = caught.value.response.headers["x-request-id"]
    assert request_id in caught.value.message
    assert site.requests == ["POST /responses"]
    assert store.tried == 1
    assert stored_statuses(tmp_path / "a.db") == {}
    told = [record for record in caplog.records if request_id in record.getMessage()]
    assert len(told) == 1
    assert "could not be stored" in told[0].getMessage()
    assert str(error) in caplog.text

    store.broken = False
    assert (await site.say("two")).output_text == "two"


@pytest.mark.parametrize("error", ERRORS, ids=["full", "bug"])
async def test_a_stream_that_cannot_be_stored_ends_with_response_failed(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """The open stream is told that nothing was kept, and the response of its events is indeed unknown."""
    site = await serve_app(judging(), Forgetful(str(tmp_path / "a.db"), error))
    events = [event async for event in await site.say("one", stream=True)]
    assert events[-1].type == "response.failed"
    assert [event.type for event in events].count("response.failed") == 1
    assert "could not be stored" in events[-1].response.error.message
    assert str(error) not in events[-1].response.error.message
    assert stored_statuses(tmp_path / "a.db") == {}
    with pytest.raises(openai.NotFoundError):
        await site.client.responses.retrieve(events[-1].response.id)
    assert sum("could not be stored" in record.getMessage() for record in caplog.records) == 1
    assert str(error) in caplog.text


class Picky(Executor):
    """Cannot take up again what it saved, if that says so."""

    def __init__(self) -> None:
        super().__init__("picky")
        self.last = ""

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"last": self.last}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        if state["last"] == "poison":
            raise LookupError("unreadable")
        self.last = state["last"]

    @handler
    async def take(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.last = text
        await ctx.yield_output(text)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_state_that_cannot_be_restored_fails_one_turn(serve_app: Any, stream: bool) -> None:
    """It is the end of that turn, as an answer; other conversations go on."""
    site = await serve_app(WorkflowBuilder(start_executor=Picky()).build())
    one = await site.say("poison")
    answer = await site.say("two", one.id, stream=stream)
    response = [event async for event in answer][-1].response if stream else answer
    assert response.status == "failed"
    assert "unreadable" in response.error.message
    assert (await site.say("new")).output_text == "new"


async def test_a_fault_of_the_host_itself_is_one_answer_in_the_common_shape(serve_app: Any, tmp_path: Any) -> None:
    """Even what nobody has foreseen is answered as JSON with the request's id, and not retried."""

    class Broken(SqlStore):
        async def resolve(self, user: str, response_id: str) -> Any:
            raise ZeroDivisionError

    site = await serve_app(judging(), Broken(SqliteDatabase(str(tmp_path / "a.db"))))
    answer = await site.http.post("/responses", json={"input": "x", "previous_response_id": "resp_1"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "server_error"
    assert answer.headers["x-should-retry"] == "false"
    assert isinstance(answer, httpx2.Response)
