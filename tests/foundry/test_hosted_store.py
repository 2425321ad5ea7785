"""A hosted agent over the platform's storage: every kind of turn, also where the next process goes on with it."""

import asyncio
import base64
import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent_host import create_app
from agent_host.foundry.identity import CALL, USER
from agent_host.server import background
from agent_host.server.host import Sources
from agent_host.server.stored import shown
from agent_host.settings import Settings
from agent_host.stores.foundry.changes import Changes
from agent_host.stores.foundry.head import Head
from tests.foundry.conftest import PLATFORM
from tests.foundry.desk import made
from tests.foundry.platform_store import platform_store
from tests.foundry.stand_in import Project, Recorded

PATIENCE = 10.0


@pytest.fixture
def process(hosted: Any) -> Callable[..., Any]:
    """Another process of the agent, with nothing but the storage in common with those before it."""

    async def start(session: str = "S") -> Any:
        return await hosted(session, workflow=made())

    return start


def is_shown(request: Recorded) -> bool:
    return (request.method, request.template) == ("POST", "responses")


def message(id: str, text: str) -> dict[str, Any]:
    return {"id": id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


async def ended(site: Any, response_id: str) -> Any:
    async with asyncio.timeout(PATIENCE):
        while (response := await site.client.responses.retrieve(response_id)).status in ("queued", "in_progress"):
            await asyncio.sleep(0.02)
    return response


# --- Turns, one process after the other ---------------------------------------------------------------------------


async def test_a_chain_goes_on_and_branches_in_any_process(process: Any) -> None:
    """Every response is a point from which any number of processes may continue."""
    one, other = await process(), await process("T")
    first = await one.say("a")
    second = await other.say("b", first.id)
    branch = await one.say("c", first.id)
    third = await one.say("d", second.id)
    assert [each.output_text for each in (second, branch, third)] == ["a, b", "a, c", "a, b, d"]


async def test_a_conversation_goes_on_in_any_process(process: Any) -> None:
    """Each finds what the one before it has left."""
    said = [(await (await process(session)).say(session, conversation="conv_1")).output_text for session in "STU"]
    assert said == ["S", "S, T", "S, T, U"]


@pytest.mark.parametrize("processes", [1, 2])
async def test_what_others_put_into_a_conversation_is_heard_once_and_in_order(
    process: Any, platform: Project, processes: int
) -> None:
    """Before the input of the next turn, whichever process takes that."""
    sites = [await process(f"session {number}") for number in range(processes)] * 3
    platform.add_to_conversation("conv_1", [message("msg_a", "A"), message("msg_b", "B")])
    said = [await sites[0].say("1", conversation="conv_1")]
    platform.add_to_conversation("conv_1", [message("msg_c", "C")])
    said += [await sites[1].say("2", conversation="conv_1"), await sites[2].say("3", conversation="conv_1")]
    assert said[-1].output_text.replace("\n\n", ", ") == "A, B, 1, C, 2, 3"
    shown = [platform.records.responses["", each.id] for each in said]
    own = [each.own_ids for each in shown]
    assert [each.history for each in shown] == [
        ["msg_a", "msg_b"],
        ["msg_a", "msg_b", *own[0], "msg_c"],
        ["msg_a", "msg_b", *own[0], "msg_c", *own[1]],
    ]


async def test_a_conversation_goes_on_once_at_a_time(process: Any) -> None:
    """Of two turns that two processes take at once one is stored as failed; a background turn keeps others out."""
    one, other = await process(), await process("T")
    turns = [site.say(f"tick 2 0.{number}", conversation="conv_1") for number, site in ((1, one), (2, other))]
    first, second = await asyncio.gather(*turns)
    assert (first.status, second.status) == ("completed", "failed")
    assert "went on elsewhere" in second.error.message
    assert (await other.say("a", conversation="conv_1")).output_text == "tick 2 0.1, a"
    running = await one.say("tick 5 0.1", conversation="conv_1", background=True)
    refused = await other.http.post("/responses", json={"input": "x", "conversation": "conv_1"})
    assert refused.json()["error"]["code"] == "conversation_locked"
    assert (await ended(one, running.id)).status == "completed"


async def test_what_a_failed_turn_was_told_is_nobodys_input(process: Any, platform: Project) -> None:
    """The platform lists it in the conversation, but it was no part of what others have put there."""
    one, other = await process(), await process("T")
    assert (await one.say("tick x", conversation="conv_1")).status == "failed"
    assert len(platform.records.responses) == 1
    assert (await other.say("a", conversation="conv_1")).output_text == "a"


async def test_what_ends_elsewhere_while_a_conversation_is_looked_up_is_no_news(
    process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The items of a turn that another process stores in that moment are not taken for those of a stranger."""
    one, other = await process(), await process("T")
    await one.say("a", conversation="conv_1")
    storage = one.host.store._storage
    listed = storage.items_in

    async def late(conversation_id: str) -> list[str]:
        await asyncio.sleep(0.2)
        assert (await other.say("tick x", conversation="conv_1")).status == "failed"
        items: list[str] = await listed(conversation_id)
        return items

    monkeypatch.setattr(storage, "items_in", late)
    assert (await one.say("b", conversation="conv_1")).output_text == "a, b"


async def test_a_question_is_answered_in_another_process(process: Any) -> None:
    """By the response that asks, in a conversation, and by its call alone."""
    asking, answering = await process(), await process("T")
    for named in ({"conversation": "conv_1"}, {"previous_response_id": ""}, {}):
        conversation = {"conversation": "conv_1"} if "conversation" in named else {}
        asked = await asking.say("ask", **conversation)
        [call] = asked.output
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "yes"}
        if "previous_response_id" in named:
            named = {"previous_response_id": asked.id}
        items = [output] if named else [call.model_dump(), output]
        answered = await answering.client.responses.create(input=items, **named)
        assert answered.output_text == "ask, yes"


async def test_a_background_turn_is_followed_from_another_process(process: Any) -> None:
    """While it runs, and from any event on."""
    running, other = await process(), await process("T")
    made = await running.say("tick 3 0.2", background=True)
    stream = await other.client.responses.retrieve(made.id, stream=True)
    seen = [event async for event in stream]
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    again = await other.client.responses.retrieve(made.id, stream=True, starting_after=3)
    assert [event async for event in again] == seen[4:]
    assert (await other.say("x", made.id)).output_text == "tick 3 0.2, x"


async def test_a_background_turn_is_cancelled_by_another_process(process: Any, eventually: Any) -> None:
    """The one that works on it hears of that and stops."""
    running, other = await process(), await process("T")
    made = await running.say("tick 100 0.1", background=True)
    await asyncio.sleep(0.3)
    assert (await other.client.responses.cancel(made.id)).status == "cancelled"
    await eventually(lambda: len(running.host.background) == 0, "the work on it ends")
    assert (await running.client.responses.retrieve(made.id)).status == "cancelled"


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_a_deleted_response_is_gone_everywhere(process: Any, platform: Project, by: str) -> None:
    """From every process, and from what the platform shows; what continues it stays."""
    one, other = await process(), await process("T")
    named = {"conversation": "conv_1"} if by == "conversation" else {}
    first = await one.say("a", **named)
    second = await one.say("b", None if named else first.id, **named)
    await other.client.responses.delete(first.id)
    await asyncio.sleep(0.6)
    for site in (one, other):
        assert (await site.http.get(f"/responses/{first.id}")).status_code == 404
        assert (await site.http.get(f"/responses/{second.id}")).json()["status"] == "completed"
    assert [id for _, id in platform.records.responses] == [second.id]
    assert (await one.say("c", second.id)).output_text == "a, b, c"


async def test_a_compaction_stands_for_its_state_in_another_process(process: Any) -> None:
    """Whoever brings its handle goes on from there."""
    one, other = await process(), await process("T")
    first = await one.say("a")
    compacted = (
        await one.http.post("/responses/compact", json={"model": "m", "previous_response_id": first.id})
    ).json()
    given = [*compacted["output"], {"role": "user", "content": "b"}]
    assert (await other.client.responses.create(input=given)).output_text == "a, b"


async def test_an_idempotency_key_holds_in_every_process(process: Any) -> None:
    """A repeated request gets the first response, also while that one still runs elsewhere."""
    one, other = await process(), await process("T")

    async def send(site: Any, text: str, key: str) -> Any:
        return await site.http.post("/responses", json={"input": text}, headers={"idempotency-key": key})

    first = await send(one, "a", "k")
    assert (await send(other, "a", "k")).json() == first.json()
    running = asyncio.create_task(send(one, "tick 3 0.1", "k2"))
    await asyncio.sleep(0.1)
    again = await send(other, "tick 3 0.1", "k2")
    assert again.json() == (await running).json()


# --- What the platform shows --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"background": True}, {"stream": True}], ids=str)
async def test_the_platform_shows_what_the_agent_answers(
    process: Any, platform: Project, sse_events: Any, more: dict[str, Any]
) -> None:
    """Each response with its input, and with the ids of all that was said before."""
    site, previous, said_before = await process(), None, []
    for text in ("a", "b", "c"):
        named = {"previous_response_id": previous} if previous else {}
        answer = await site.http.post("/responses", json={"input": text, "metadata": {"n": text}, **named, **more})
        previous = sse_events(answer.text)[0]["response"]["id"] if "stream" in more else answer.json()["id"]
        await ended(site, previous)
        stored = (await site.http.get(f"/responses/{previous}")).json()
        items = (await site.http.get(f"/responses/{previous}/input_items?order=asc")).json()["data"]
        shown = platform.records.responses["", previous]
        assert shown.response == stored
        assert [platform.records.items["", id] for id in shown.input_ids] == items
        assert shown.history == said_before
        said_before += shown.own_ids
    assert len(said_before) == 6


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_what_could_not_be_shown_is_shown_by_whoever_comes_next(
    process: Any, platform: Project, by: str, eventually: Any
) -> None:
    """The process that has stored it may be gone."""
    one, other = await process(), await process("T")
    named = {"conversation": "conv_1"} if by == "conversation" else {}
    platform.fail(500, 5, is_shown)
    first = await one.say("a", **named)
    assert platform.records.responses == {}
    second = await other.say("b", None if named else first.id, **named)
    await eventually(lambda: len(platform.records.responses) == 2, "both are shown")
    assert platform.records.responses["", first.id].response["output"][0]["content"][0]["text"] == "a"
    await other.say("c", None if named else second.id, **named)
    assert first.id not in heads(platform)[0].unshown


async def test_first_turns_may_come_together(process: Any) -> None:
    """The initial state is stored with each of them, however many begin before the first has ended."""
    site = await process()
    answers = await asyncio.gather(
        *(
            site.http.post("/responses", json={"input": f"{number}"}, headers={USER: f"user-{number}"})
            for number in range(24)
        )
    )
    assert [answer.status_code for answer in answers] == [200] * 24


@pytest.mark.parametrize("more", [{}, {"background": True}, {"conversation": "conv_1"}])
async def test_a_connection_that_dies_as_a_conversation_begins_costs_nothing(
    process: Any, platform: Project, more: dict[str, Any], eventually: Any
) -> None:
    """The platform's client repeats what replaces a value, but not what makes one: that is tried once more."""
    site = await process()
    platform.cut(1, lambda request: request.method == "POST" and request.key.startswith("f/"), carried_out=False)
    begun = await site.say("a", **more)
    await ended(site, begun.id)
    assert (await site.say("b", begun.id)).output_text == "a, b"


async def test_what_the_platform_never_takes_is_not_shown_again_and_again(
    process: Any, platform: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so; the response is stored, and the next write of its conversation forgets to show it."""
    site = await process()
    platform.fail(400, 1, is_shown)
    first = await site.say("a")
    assert "the platform does not show it" in caplog.text
    second = await site.say("b", first.id)
    assert [head.unshown for head in heads(platform)] == [(second.id,)]
    assert list(platform.records.responses) == [("", second.id)]


def heads(platform: Project) -> list[Head]:
    """The heads of all families with records of users."""
    return [
        Head.from_value(value, key, value["schema"])
        for key, value in platform.items("agent_host").items()
        if key.startswith("f/")
    ]


# --- Whose calls they are -----------------------------------------------------------------------------------------


async def test_what_is_done_in_between_is_done_for_the_turn(
    process: Any, platform: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases are renewed and events written by tasks of the process, for the turns of several users."""
    monkeypatch.setattr(background, "RENEW_EVERY", 0.1)
    site = await process()
    platform.needs_call_id = True
    platform.users = {"call-a": "a", "call-b": "b"}

    async def turn(user: str) -> str:
        headers = {CALL: f"call-{user}", USER: user}
        body = {"input": "tick 5 0.1", "background": True}
        made = (await site.http.post("/responses", json=body, headers=headers)).json()
        while made["status"] != "completed":
            await asyncio.sleep(0.1)
            made = (await site.http.get(f"/responses/{made['id']}", headers=headers)).json()
        return str(made["id"])

    platform.clear()
    ids = await asyncio.gather(turn("a"), turn("b"))
    assert set(platform.records.responses) == set(zip("ab", ids, strict=True))
    assert {request.call_id for request in platform.requests} == {"call-a", "call-b"}
    families = {request.key: request.call_id for request in platform.requests if request.key.startswith("f/")}
    assert all(families[each.key] == each.call_id for each in platform.requests if each.key in families)


async def test_a_call_id_is_kept_in_the_record_of_its_turn_alone(
    process: Any, platform: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """In no other value, and in no line of the log, at whatever level."""
    caplog.set_level(logging.DEBUG, "agent_host")
    secret = "call-of-a-test-that-is-searched-for"
    site = await process()
    site.http.headers[CALL] = secret
    first = await site.say("a", extra_headers={"idempotency-key": "k"})
    await site.say(random.Random(1).randbytes(100_000).hex(), first.id)  # too much for a head
    await site.say("c", conversation="conv_1")
    running = await site.say("tick 30 0.1", background=True)
    await asyncio.sleep(0.5)
    values = everything(platform)
    assert {key[0] for key in values} == {"f", "s", "k", "t"}
    [kept] = [key for key, data in values.items() if secret.encode() in data]
    assert kept.endswith(running.id.partition("_")[2][:18])
    await site.client.responses.cancel(running.id)
    assert secret not in caplog.text
    assert secret not in json.dumps([each.response for each in platform.records.responses.values()])


def everything(platform: Project) -> dict[str, bytes]:
    """All values of the state store by key, with what is packed in them unpacked."""
    values = platform.items("agent_host")
    found = {key: json.dumps(value).encode() for key, value in values.items()}
    for key, value in values.items():
        if key.startswith("f/"):
            packed = [base64.b64decode(entry["changes"]) for entry in value["tail"]]
            found[key] += repr([Changes.from_bytes(data).rows for data in packed]).encode()
        elif key.startswith("s/"):
            found[key] += repr(Changes.from_bytes(base64.b64decode(value["data"])).rows).encode()  # in one part here
    return found


# --- Storage that fails in between --------------------------------------------------------------------------------


async def test_a_family_that_cannot_be_written_costs_no_other_turn_its_place(
    process: Any, platform: Project, eventually: Any
) -> None:
    """Events of many turns are written together; those that are stored are not told again."""
    site = await process()
    ids = [(await site.say("tick 8 0.2", background=True)).id for _ in range(2)]
    broken = ids[1].partition("_")[2][:18]
    platform.fail(500, 15, lambda request: request.method == "PUT" and request.key.endswith(broken))
    done = await asyncio.gather(*(ended(site, id) for id in ids))
    assert [response.status for response in done] == ["completed", "completed"]
    assert all("tick 8" not in response.output_text for response in done)


# --- Turns that were left behind ----------------------------------------------------------------------------------


async def test_who_asks_for_a_turn_that_was_left_behind_goes_on_with_it(
    process: Any, serve_app: Any, platform: Project, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    """Also in another session, once nobody has renewed its lease; its calls stay those of its own request."""
    dead = await process()
    running = await dead.say("tick 20 0.1", background=True)
    await asyncio.sleep(0.5)
    await dead.host.background.aclose()
    for work in dead.host.background._works.values():
        work.task.cancel()
    store = platform_store(platform, session="T", show=shown)
    later = Sources(clock=lambda: time.time() + background.LEASE + 1)
    settings = Settings(platform=replace(PLATFORM, session_id="T"))
    site = await serve_app(create_app(made(), store, settings=settings, sources=later))
    site.http.headers.update({CALL: "call-of-who-asks", USER: "ann"})
    await site.http.get("/readiness")
    platform.clear()
    found = await site.client.responses.retrieve(running.id)
    assert found.status == "in_progress"
    asked = len(platform.requests)
    await eventually(lambda: len(platform.records.responses) == 1, "it comes to its end")
    assert {request.call_id for request in platform.requests if request.method != "GET"} == {"call-1"}
    assert asked
