"""What a state has heard: items that come again are heard once, and nothing that is new is taken for known."""

import asyncio
import json
from pathlib import Path
from typing import Any

import openai
import pytest

from agent_host import WorkflowBuilder
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


async def test_looking_back_ends_where_all_is_found(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that repeats the last exchange does not make the host read the whole chain."""
    answers: list[list[Heard]] = []
    read = site.host.store.read_heard

    async def noted(*arguments: Any) -> list[Heard]:
        answers.append(await read(*arguments))
        return answers[-1]

    monkeypatch.setattr(site.host.store, "read_heard", noted)
    response = await site.say("0")
    for number in range(1, 6):
        response = await site.say(str(number), response.id)
    assert answers == []
    given = [response.output[0].model_dump(exclude_none=True), *said("n")]
    assert await heard(site, given, previous_response_id=response.id) == "0, 1, 2, 3, 4, 5, n"
    assert [len(answer) for answer in answers] == [1]
