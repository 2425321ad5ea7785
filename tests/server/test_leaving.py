"""A client that leaves in the middle of a turn: it is stored as cancelled, the conversation stands where it was."""

import asyncio
import json
import logging
from typing import Any, Never

import pytest

from agent_host import Executor, TextDelta, WorkflowBuilder, WorkflowContext, handler
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase


class Wait(Executor):
    """Answers at once, or begins, tells the test so, and waits to be let go."""

    def __init__(self, begun: asyncio.Event, may_end: asyncio.Event) -> None:
        super().__init__("wait")
        self.begun = begun
        self.may_end = may_end
        self.notes: list[str] = []

    @handler
    async def wait(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.notes.append(text)
        if text == "wait":
            await ctx.yield_output(TextDelta("so far"))
            self.begun.set()
            await self.may_end.wait()
        await ctx.yield_output("|".join(self.notes))


@pytest.fixture
def begun() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def site(serve_app: Any, begun: asyncio.Event) -> Any:
    workflow = WorkflowBuilder(start_executor=Wait(begun, asyncio.Event()), name="waiting").build()
    return await serve_app(workflow, max_concurrent_turns=2)


async def send(site: Any, body: Any, *, whole: bool = True) -> asyncio.StreamWriter:
    """Send a request over a connection of its own, which is returned to be closed."""
    port = int(site.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    writer.write(b"POST /responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(content))
    writer.write(content if whole else content[:-5])
    await writer.drain()
    return writer


async def leave(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_whose_client_leaves_is_stored_as_cancelled(
    site: Any, begun: asyncio.Event, stream: bool, tmp_path: Any, stored_statuses: Any, eventually: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its response says so, nothing is left in progress, and the conversation goes on from its parent or from it."""
    caplog.set_level(logging.INFO)
    one = await site.say("one")
    writer = await send(site, {"input": "wait", "stream": stream, "previous_response_id": one.id})
    await begun.wait()
    await leave(writer)
    await eventually(lambda: len(stored_statuses(tmp_path / "host.db")) == 2, "both are stored")
    statuses = stored_statuses(tmp_path / "host.db")
    assert list(statuses.values()) == ["completed", "cancelled"]
    cancelled = await site.client.responses.retrieve(list(statuses)[1])
    assert cancelled.status == "cancelled"
    assert [(item.status, item.content) for item in cancelled.output] == [("incomplete", [])]
    assert (await site.say("two", one.id)).output_text == "one|two"
    assert (await site.say("two", cancelled.id)).output_text == "one|two"
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


async def test_a_client_that_leaves_while_it_waits_for_a_place_leaves_nothing(
    site: Any, begun: asyncio.Event, tmp_path: Any, stored_statuses: Any, eventually: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Its turn never begins: nothing is stored, its place in the queue goes to the next, and the log stays calm."""
    caplog.set_level(logging.INFO)
    busy = [await send(site, {"input": "wait"}) for _ in range(2)]
    await eventually(lambda: site.host.runs.running == 2, "both places are taken")
    waiting = await send(site, {"input": "never"})
    await eventually(lambda: "1 waiting" in repr(site.host.runs), "one waits")
    await leave(waiting)
    await eventually(lambda: "0 waiting" in repr(site.host.runs), "none waits")
    for writer in busy:
        await leave(writer)
    await eventually(lambda: len(stored_statuses(tmp_path / "host.db")) == 2, "both are stored")
    assert set(stored_statuses(tmp_path / "host.db").values()) == {"cancelled"}
    assert (await site.say("one")).output_text == "one"
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


async def test_a_client_that_leaves_while_it_sends_starts_no_turn(
    site: Any, tmp_path: Any, stored_statuses: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a request is no request."""
    caplog.set_level(logging.INFO)
    await leave(await send(site, {"input": "one"}, whole=False))
    await eventually(lambda: "the client has left" in caplog.text, "a log line")
    assert stored_statuses(tmp_path / "host.db") == {}
    assert not [record for record in caplog.records if record.exc_info]


class Hesitant(SqlStore):
    """A store that takes its time to say that a turn was admitted."""

    hesitates = False

    async def admit(self, *arguments: Any, **options: Any) -> None:
        await super().admit(*arguments, **options)
        if self.hesitates:
            self.hesitates = False
            await asyncio.sleep(60)


async def test_a_client_that_leaves_while_it_is_admitted_frees_its_conversation(
    serve_app: Any, begun: asyncio.Event, tmp_path: Any, eventually: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The conversation was taken for a turn that nobody waits for: the next turn gets it."""
    caplog.set_level(logging.INFO)
    store = Hesitant(SqliteDatabase(f"{tmp_path}/slow.db"))
    site = await serve_app(WorkflowBuilder(start_executor=Wait(begun, asyncio.Event()), name="waiting").build(), store)
    conversation = await site.client.conversations.create()
    store.hesitates = True
    writer = await send(site, {"input": "lost", "conversation": conversation.id})
    await eventually(lambda: not store.hesitates, "the turn is admitted")
    await leave(writer)
    await eventually(lambda: "the client has left" in caplog.text, "the request has ended")
    response = await site.client.responses.create(input="heard", conversation=conversation.id)
    assert response.output_text == "heard"
