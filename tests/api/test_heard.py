"""What a state has heard: items that come again are heard once, and nothing that is new is taken for known."""

import asyncio
import json
from pathlib import Path
from typing import Any, Never

import openai
import pytest

from agent_host import Message, WorkflowBuilder, WorkflowContext, executor
from agent_host.stores.records import Heard
from tests.api.listener import Listener, audience
from tests.api.taking import said, take


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def site(serve_checked: Any, listener: Listener) -> Any:
    return await serve_checked(audience(listener))


def mine(text: str, id: str) -> dict[str, Any]:
    """A message with an id of the client's."""
    return {**said(text)[0], "id": id}


async def compacted(site: Any, **fields: Any) -> list[dict[str, Any]]:
    answer = await site.http.post("/responses/compact", json={"model": "m", **fields})
    assert answer.status_code == 200, answer.text
    output: list[dict[str, Any]] = answer.json()["output"]
    return output


async def heard(site: Any, given: Any, **fields: Any) -> str:
    """What the workflow has heard, by its own words, after a turn."""
    return str((await take(site, given, **fields)).output_text)


# --- Compactions -------------------------------------------------------------------------------------------------


async def test_what_is_compacted_beside_a_response_is_new(site: Any) -> None:
    """The state behind a compaction has not heard the messages that came with the request to compact."""
    one = await site.say("one")
    output = await compacted(site, previous_response_id=one.id, input="two")
    assert await heard(site, [*output, *said("three")]) == "one, two, three"


async def test_a_history_that_is_compacted_twice_is_heard_whole(site: Any) -> None:
    """A client that keeps its own history may compact it again with what was said since."""
    one = await site.say("one")
    first = await compacted(site, previous_response_id=one.id)
    history = [*first, *said("my name is Ann")]
    answer = await take(site, history, store=False)
    history += [answer.output[0].model_dump(exclude_none=True)]
    again = await compacted(site, input=history)
    told = await heard(site, [*again, *said("who am I?")], store=False)
    assert told.startswith("one, my name is Ann, ")
    assert told.endswith(", who am I?")


async def test_a_handle_may_come_many_times(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read once, and stands for its items once."""
    output = await compacted(site, previous_response_id=(await site.say("one")).id)
    reads: list[str] = []
    read = site.host.store.read_compaction

    async def counted(user: str, handle: str) -> Any:
        reads.append(handle)
        return await read(user, handle)

    monkeypatch.setattr(site.host.store, "read_compaction", counted)
    assert await heard(site, [*output[-1:] * 50, *said("two")]) == "one, two"
    assert len(reads) == 1


async def test_a_compaction_of_another_workflow_is_heard_as_items(serve_checked: Any, tmp_path: Path) -> None:
    """Its state cannot be continued here, so its items are all new."""
    other = await serve_checked(audience(Listener()), store=f"sqlite:///{tmp_path}/shared.db")
    output = await compacted(other, previous_response_id=(await other.say("one")).id)
    await other.host.aclose()
    another = WorkflowBuilder(start_executor=Listener(), name="another").build()
    site = await serve_checked(another, store=f"sqlite:///{tmp_path}/shared.db")
    assert await heard(site, [*output, *said("two")]) == "one, assistant: one, two"


# --- Conversations -----------------------------------------------------------------------------------------------


async def test_a_branch_knows_only_what_came_before_it(site: Any) -> None:
    """What a conversation has heard later is new to who goes on from one of its earlier turns, failed or not."""
    talk = (await site.client.conversations.create()).id
    first = await take(site, [mine("first", "msg_1")], conversation=talk)
    failed = await take(site, [mine("fail", "msg_2")], conversation=talk)
    assert await heard(site, [mine("later", "msg_3")], conversation=talk) == "first, later"
    for before in (first, failed):
        given = [mine("first", "msg_1"), mine("later", "msg_3"), *said("n")]
        assert await heard(site, given, previous_response_id=before.id) == "first, later, n"
        output = await compacted(site, previous_response_id=before.id)
        assert [item["content"][0]["text"] for item in output[:-1]] == ["first"]
        assert await heard(site, [*output, *said("n")]) == "first, n"


async def test_what_came_into_a_conversation_meanwhile_is_new_to_a_branch(
    site: Any, listener: Listener, eventually: Any
) -> None:
    """An item that was added while a turn ran is heard by the next one, and by a branch that brings it."""
    talk = (await site.client.conversations.create()).id
    running = await site.client.responses.create(input="wait", conversation=talk, background=True)
    await eventually(lambda: "wait" in listener.begun, "the turn waits")
    await site.client.conversations.items.create(talk, items=[mine("x", "msg_x")])
    listener.may_go_on.set()
    while (await site.client.responses.retrieve(running.id)).status != "completed":
        await asyncio.sleep(0.01)
    assert await heard(site, "y", conversation=talk) == "wait, x, y"
    given = [mine("x", "msg_x"), *said("z")]
    assert await heard(site, given, previous_response_id=running.id) == "wait, x, z"


async def test_a_waiting_item_that_a_failed_turn_has_met_is_new(site: Any) -> None:
    """It waits on in its conversation, and a branch from the failed turn may bring it."""
    talk = (await site.client.conversations.create(items=[mine("w", "msg_w")])).id
    failed = await take(site, "fail", conversation=talk)
    assert await heard(site, [mine("w", "msg_w"), *said("n")], previous_response_id=failed.id) == "w, n"
    assert await heard(site, "m", conversation=talk) == "w, m"
    assert await heard(site, [mine("w", "msg_w"), *said("o")], conversation=talk) == "w, m, o"


async def test_what_was_heard_stays_known_when_its_response_is_deleted(site: Any) -> None:
    """The state has heard it, whatever becomes of the record; and a conversation's deleted items likewise."""
    one = await take(site, [mine("one", "msg_1")])
    two = await site.say("two", one.id)
    await site.client.responses.delete(one.id)
    given = [mine("one", "msg_1"), two.output[0].model_dump(exclude_none=True), *said("n")]
    assert await heard(site, given, previous_response_id=two.id) == "one, two, n"


# --- The same item, and another one under its id -------------------------------------------------------------------


@pytest.mark.parametrize("named", ["previous_response_id", "conversation"])
async def test_something_else_under_a_known_id_is_refused(site: Any, listener: Listener, named: str) -> None:
    """It is neither dropped nor heard: the client is told which id it has used twice."""
    talk = (await site.client.conversations.create()).id
    one = await take(site, [mine("one", "msg_1")], **({"conversation": talk} if named == "conversation" else {}))
    target = {named: talk if named == "conversation" else one.id}
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(input=[mine("two", "msg_1")], **target)
    assert "msg_1" in caught.value.message
    assert "Duplicate item" in caught.value.message
    assert await heard(site, [mine("one", "msg_1"), *said("n")], **target) == "one, n"


async def test_an_item_is_the_same_however_it_is_written(site: Any) -> None:
    """A string or parts, with a status or without, as the client likes."""
    one = await take(site, [mine("one", "msg_1")])
    spoken = one.output[0]
    given = [
        {"id": "msg_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "one"}]},
        {"id": spoken.id, "role": "assistant", "content": spoken.content[0].text, "phase": "final_answer"},
        *said("n"),
    ]
    assert await heard(site, given, previous_response_id=one.id) == "one, n"


async def test_what_comes_twice_in_an_added_list_is_named(site: Any) -> None:
    """Also if it stands inside of a compaction, which has no id of its own."""
    one = await take(site, [mine("one", "msg_1")])
    output = await compacted(site, previous_response_id=one.id)
    talk = (await site.client.conversations.create(items=[mine("one", "msg_1")])).id
    answer = await site.http.post(f"/conversations/{talk}/items", json={"items": output[-1:]})
    assert (answer.status_code, "msg_1" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize("mode", ["chain", "conversation"])
async def test_an_id_may_be_used_for_something_else_elsewhere(site: Any, mode: str) -> None:
    """Clients number their messages for each chat: what counts is what was heard under the id here."""
    talks = [(await site.client.conversations.create()).id for _ in range(2)] if mode == "conversation" else [None] * 2
    targets = []
    for talk, text in zip(talks, ("one", "zwei"), strict=True):
        response = await take(site, [mine(text, "msg_1")], **({"conversation": talk} if talk else {}))
        targets.append({"conversation": talk} if talk else {"previous_response_id": response.id})
    assert await heard(site, [mine("zwei", "msg_1"), *said("n")], **targets[1]) == "zwei, n"
    assert await heard(site, [mine("one", "msg_1"), *said("n")], **targets[0]) == "one, n"
    with pytest.raises(openai.BadRequestError, match="Duplicate item"):
        await site.client.responses.create(input=[mine("one", "msg_1"), *said("n")], **targets[1])


@pytest.mark.parametrize("place", ["before a compaction", "behind a compaction", "behind a reference"])
async def test_something_else_under_an_id_of_the_same_request_is_refused(site: Any, place: str) -> None:
    """It is not swallowed by what the id stands for already."""
    one = await take(site, [mine("one", "msg_1")])
    output = await compacted(site, previous_response_id=one.id)
    other, reference = mine("zwei", "msg_1"), {"type": "item_reference", "id": "msg_1"}
    given = {
        "before a compaction": [other, output[-1]],
        "behind a compaction": [output[-1], other],
        "behind a reference": [reference, other],
    }[place]
    with pytest.raises(openai.BadRequestError, match="Duplicate item"):
        await site.client.responses.create(input=[*given, *said("n")])


async def test_a_message_of_ones_own_may_stand_beside_its_compaction(site: Any) -> None:
    """A string and the same text in parts are one message, also in two pieces."""
    one = await take(site, [mine("one", "msg_1")])
    output = await compacted(site, previous_response_id=one.id)
    parts = [{"type": "input_text", "text": piece} for piece in ("o", "ne")]
    pieces = {"id": "msg_1", "role": "user", "content": parts}
    assert await heard(site, [mine("one", "msg_1"), pieces, *output, *said("n")]) == "one, n"


@executor(id="echo")
async def echo(said: list[Message], ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output("|".join(f"{message.role} {message.text}" for message in said))


@pytest.mark.parametrize("mode", ["previous_response_id", "conversation"])
async def test_a_turn_that_changes_no_state_is_heard_too(serve_checked: Any, mode: str) -> None:
    """A workflow without state is told only what is new, and a compaction of its turns holds all of them."""
    site = await serve_checked(WorkflowBuilder(start_executor=echo, name="echoing").build())
    talk = (await site.client.conversations.create()).id
    one = await take(site, [mine("hi", "msg_1")], **({"conversation": talk} if mode == "conversation" else {}))
    target = {"conversation": talk} if mode == "conversation" else {"previous_response_id": one.id}
    repeated = [mine("hi", "msg_1"), one.output[0].model_dump(exclude_none=True), *said("n")]
    two = await take(site, repeated, **target)
    assert two.output_text == "user n"
    output = await compacted(site, previous_response_id=two.id)
    assert [item["content"][0]["text"] for item in output[:-1]] == ["hi", "n"]


async def test_a_question_and_its_answer_may_be_repeated(site: Any) -> None:
    """They stand in the history that a client sends with its next message, though they were heard."""
    asked = await site.say("ask Where?")
    call = asked.output[0]
    answer = {"type": "function_call_output", "call_id": call.call_id, "output": "here"}
    answered = await take(site, [answer], previous_response_id=asked.id)
    assert answered.output_text == "ask Where?, Where? here"
    repeated = [call.model_dump(exclude_none=True), answer, *said("n")]
    told = await heard(site, repeated, previous_response_id=answered.id)
    assert told.startswith("ask Where?, Where? here")
    assert told.endswith("n")


# --- Cost ----------------------------------------------------------------------------------------------------------


async def test_what_holds_many_items_is_read_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many references a request has, each record behind them is decoded once."""
    many = [mine(f"text {number}", f"msg_{number}") for number in range(300)]
    await take(site, many)
    decoded: list[int] = []
    decode = json.loads
    monkeypatch.setattr("agent_host.server.references._decode", lambda part: decoded.append(len(part)) or decode(part))
    given = [{"type": "item_reference", "id": item["id"]} for item in many]
    assert (await heard(site, given)).endswith("text 299")
    assert len(decoded) == 2


async def test_a_client_with_ids_of_its_own_costs_no_looking_back(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a line of turns has heard is read once, and then carried on from turn to turn."""
    reads: list[str] = []
    read = site.host.store.read_heard

    async def noted(user: str, commit_id: str) -> list[Heard]:
        reads.append(commit_id)
        turns: list[Heard] = await read(user, commit_id)
        return turns

    monkeypatch.setattr(site.host.store, "read_heard", noted)
    one = await site.say("0")
    two = await site.say("1", one.id)
    assert reads == []
    for number in range(2, 6):
        two = await take(site, [mine("0", "msg_0"), mine(str(number), f"msg_{number}")], previous_response_id=two.id)
    assert two.output_text == "0, 1, 0, 2, 3, 4, 5"
    assert len(reads) == 1
    assert await heard(site, [mine("2", "msg_2"), *said("n")], previous_response_id=one.id) == "0, 2, n"
