"""Turns that continue something: a response, an old one, a conversation, in every mode in which a turn is asked for."""

import asyncio
import json
from typing import Any

import openai
import pytest

from agent_host.errors import WorkflowCheckpointException
from tests.api.listener import Listener, audience
from tests.api.taking import MODES, refused, said, take, texts

NOWHERE = "conv_" + "0" * 48


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def site(serve_checked: Any, listener: Listener) -> Any:
    return await serve_checked(audience(listener))


@pytest.fixture
def waits(listener: Listener, eventually: Any) -> Any:
    """Waits until a turn that is to wait does."""

    async def wait() -> None:
        await eventually(lambda: "wait" in listener.begun, "a turn waits")
        listener.begun.clear()

    return wait


async def conversation(site: Any, *items: str) -> str:
    """A new conversation that holds what a user has said."""
    created = await site.client.conversations.create(items=said(*items) if items else None)
    return str(created.id)


async def transcript(site: Any, id: str) -> list[str]:
    """What a conversation shows: the texts of its items, oldest first."""
    listed = [item async for item in site.client.conversations.items.list(id, order="asc")]
    assert all(item.status == "completed" for item in listed)
    return texts(listed)


# --- From response to response -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_turn_knows_what_came_before_it(site: Any, mode: str) -> None:
    """The input of earlier turns and what was answered to them, in whatever way each was asked for."""
    one = await take(site, "a", mode)
    two = await take(site, "b", mode, previous_response_id=one.id)
    assert two.output_text == "a, b"
    assert (two.previous_response_id, two.conversation) == (one.id, None)
    assert (await take(site, "repeat", mode, previous_response_id=two.id)).output_text == "a, b"
    assert (await take(site, "new", mode)).output_text == "new"


async def test_a_response_has_as_many_continuations_as_are_asked_for(site: Any) -> None:
    """In every mode and at the same moment, they succeed and know nothing of each other."""
    one = await site.say("a")
    children = await asyncio.gather(*(take(site, mode, mode, previous_response_id=one.id) for mode in MODES))
    assert [child.output_text for child in children] == [f"a, {mode}" for mode in MODES]
    for mode, child in zip(MODES, children, strict=True):
        assert (await site.say("on", child.id)).output_text == f"a, {mode}, on"
    assert await site.client.responses.retrieve(one.id) == one


@pytest.mark.parametrize("mode", MODES)
async def test_an_old_response_goes_on_from_what_was_known_then(site: Any, mode: str) -> None:
    """However long the line behind it has become."""
    line = [await site.say("0")]
    for number in range(1, 6):
        line.append(await site.say(str(number), line[-1].id))
    for number in (0, 2, 4):
        branch = await take(site, "x", mode, previous_response_id=line[number].id)
        assert branch.output_text == ", ".join([*map(str, range(number + 1)), "x"])
    assert (await site.say("end", line[-1].id)).output_text == "0, 1, 2, 3, 4, 5, end"


FORGOTTEN: dict[str, Any] = {
    "instructions": "be brief",
    "tools": [{"type": "function", "name": "look", "parameters": {}, "strict": False}],
    "tool_choice": "required",
    "text": {"format": {"type": "json_object"}, "verbosity": "low"},
    "reasoning": {"effort": "low"},
    "metadata": {"a": "b"},
    "temperature": 0.5,
    "max_output_tokens": 50,
    "max_tool_calls": 3,
    "parallel_tool_calls": False,
    "truncation": "auto",
    "user": "anna",
    "safety_identifier": "s1",
    "prompt_cache_key": "k1",
}
OWN = {"id", "created_at", "completed_at", "output", "previous_response_id", "conversation", "background"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_what_a_request_says_holds_for_its_own_turn(site: Any, mode: str, by: str) -> None:
    """Instructions, tools, metadata and all other settings are neither applied to the next turn nor repeated by it."""
    fresh = await take(site, "turn", mode)
    where = {by: await conversation(site)} if by == "conversation" else {}
    headers = {"x-client-tenant": "t1"}
    one = await take(site, "turn", mode, model="large", **FORGOTTEN, **where, extra_headers=headers)
    given = json.loads(one.output_text)
    assert (given["instructions"], given["tools"], given["tool_choice"]) == ("be brief", ["look"], "required")
    assert (given["metadata"], given["model"], given["headers"]) == ({"a": "b"}, "large", {"x-client-tenant": "t1"})
    two = await take(site, "turn", mode, **(where or {by: one.id}))
    assert json.loads(two.output_text) == {
        "instructions": None,
        "tools": [],
        "tool_choice": "auto",
        "metadata": {},
        "model": None,
        "headers": {},
        "previous": None if where else one.id,
        "conversation": where.get("conversation"),
    }
    assert two.model_dump(exclude=OWN) == fresh.model_dump(exclude=OWN)


@pytest.mark.parametrize("mode", MODES)
async def test_what_cannot_be_continued_is_told_once(site: Any, listener: Listener, mode: str) -> None:
    """An unknown response, two things at once, an unknown conversation: one request, one answer, no turn."""
    one, talk = await site.say("a"), await conversation(site)
    listener.begun.clear()
    unknown = await refused(site, mode, previous_response_id="resp_unknown")
    assert (unknown.status_code, unknown.param, unknown.code) == (
        400, "previous_response_id", "previous_response_not_found",
    )  # fmt: skip
    assert "Previous response with id 'resp_unknown' not found." in unknown.message
    both = await refused(site, mode, previous_response_id=one.id, conversation=talk)
    assert (both.status_code, both.param, both.code) == (400, "", "mutually_exclusive_parameters")
    nowhere = await refused(site, mode, conversation=NOWHERE)
    assert (nowhere.status_code, nowhere.param, nowhere.code) == (404, "conversation", "conversation_not_found")
    assert NOWHERE in nowhere.message
    with pytest.raises(openai.NotFoundError):
        await site.client.conversations.retrieve(NOWHERE)
    assert listener.begun == []
    assert await transcript(site, talk) == []


# --- Conversations -----------------------------------------------------------------------------------------------


async def test_a_conversation_begins_with_twenty_items_at_most(site: Any) -> None:
    """One more is refused, and nothing is made."""
    numbers = [str(number) for number in range(21)]
    assert await transcript(site, await conversation(site, *numbers[:20])) == numbers[:20]
    with pytest.raises(openai.BadRequestError) as caught:
        await conversation(site, *numbers)
    assert (caught.value.param, caught.value.code) == ("items", "array_above_max_length")


@pytest.mark.parametrize("mode", MODES)
async def test_a_conversation_grows_when_a_turn_has_ended(site: Any, listener: Listener, waits: Any, mode: str) -> None:
    """While it runs the items are as before; then its input and its output are there at once, in order."""
    talk = await conversation(site)
    one = await take(site, "a", mode, conversation=talk)
    assert (one.conversation.id, one.previous_response_id) == (talk, None)
    running = asyncio.create_task(take(site, said("b", "wait here"), mode, conversation={"id": talk}))
    await waits()
    assert await transcript(site, talk) == ["a", "a"]
    listener.may_go_on.set()
    two = await running
    assert await transcript(site, talk) == ["a", "a", "b", "wait here", "waiting ", "a, b, wait here"]
    listed = [item.id async for item in site.client.conversations.items.list(talk, order="asc")]
    given = [item.id async for item in site.client.responses.input_items.list(two.id, order="asc")]
    assert listed[2:] == [*given, *(item.id for item in two.output)]
    assert len(set(listed)) == len(listed)


@pytest.mark.parametrize("mode", MODES)
async def test_a_response_of_a_conversation_can_be_continued_beside_it(site: Any, mode: str) -> None:
    """The branch is no part of the conversation, neither of its items nor of what its next turn knows."""
    talk = await conversation(site)
    one = await site.say("a", conversation=talk)
    await site.say("b", conversation=talk)
    branch = await take(site, "x", mode, previous_response_id=one.id)
    assert (branch.output_text, branch.conversation) == ("a, x", None)
    assert await transcript(site, talk) == ["a", "a", "b", "a, b"]
    assert (await site.say("c", conversation=talk)).output_text == "a, b, c"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("holder", MODES)
async def test_a_conversation_has_one_turn_at_a_time(
    site: Any, listener: Listener, waits: Any, holder: str, mode: str
) -> None:
    """The second is refused after exactly one request, and the first goes on as if it had not been there."""
    talk = await conversation(site)
    running = asyncio.create_task(take(site, "wait", holder, conversation=talk))
    await waits()
    locked = await refused(site, mode, conversation=talk)
    assert (locked.status_code, locked.param, locked.code) == (400, "conversation", "conversation_locked")
    assert listener.begun == []
    listener.may_go_on.set()
    assert (await running).status == "completed"
    assert (await take(site, "on", mode, conversation=talk)).output_text == "wait, on"


async def test_of_many_turns_at_the_same_moment_one_gets_the_conversation(site: Any, listener: Listener) -> None:
    """All others are told that it is taken; what was refused has left nothing."""
    talk = await conversation(site)
    once = site.client.with_options(max_retries=0)
    asked = [once.responses.create(input=f"wait {n}", conversation=talk, background=n % 2 == 0) for n in range(8)]
    ready = asyncio.gather(*asked, return_exceptions=True)
    await asyncio.sleep(0.1)
    listener.may_go_on.set()
    outcomes = await ready
    (won,) = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    codes = [outcome.code for outcome in outcomes if isinstance(outcome, openai.BadRequestError)]
    assert codes == ["conversation_locked"] * 7
    while (await once.responses.retrieve(won.id)).status != "completed":
        await asyncio.sleep(0.01)
    assert len(await transcript(site, talk)) == 3


@pytest.mark.parametrize("mode", ["stream", "background stream"])
async def test_a_conversation_is_free_the_moment_a_stream_ends(site: Any, mode: str) -> None:
    """Who reads the last event can take the next turn at once, a hundred times over."""
    talk = await conversation(site)
    former = None
    for number in range(100):
        events = aiter(await site.client.responses.create(input=str(number), conversation=talk, **MODES[mode]))
        while (event := await anext(events)).type != "response.completed":
            pass
        assert event.response.output_text.endswith(str(number))
        assert former is None or [event async for event in former] == []
        former = events
    assert former is not None
    assert [event async for event in former] == []
    assert event.response.output_text == ", ".join(map(str, range(100)))


@pytest.mark.parametrize("mode", ["plain", "stream"])
async def test_a_turn_that_is_not_stored_does_not_touch_its_conversation(site: Any, mode: str) -> None:
    """It knows the conversation and what waits there; the conversation does not know it, and the same still waits."""
    talk = await conversation(site)
    await site.say("a", conversation=talk)
    await site.client.conversations.items.create(talk, items=said("waiting"))
    passing = await take(site, "x", mode, conversation=talk, store=False)
    assert passing.output_text == "a, waiting, x"
    assert await transcript(site, talk) == ["a", "a", "waiting"]
    with pytest.raises(openai.NotFoundError):
        await site.client.responses.retrieve(passing.id)
    assert (await site.say("b", conversation=talk)).output_text == "a, waiting, b"


async def _fails(site: Any, talk: str, mode: str) -> None:
    assert (await take(site, "fail", mode, conversation=talk)).status == "failed"


async def _is_cancelled(site: Any, talk: str, mode: str) -> None:
    running = await site.client.responses.create(input="wait", conversation=talk, **MODES[mode])
    id = (await anext(aiter(running))).response.id if "stream" in mode else running.id
    assert (await site.client.responses.cancel(id)).status == "cancelled"


async def _is_left(site: Any, talk: str, mode: str) -> None:
    asked = asyncio.create_task(take(site, "wait", mode, conversation=talk))
    while not site.host.runs.running:
        await asyncio.sleep(0.005)
    asked.cancel()
    await asyncio.wait([asked])
    while site.host.runs.running:
        await asyncio.sleep(0.005)


ENDS = [
    *((_fails, mode) for mode in MODES),
    *((_is_cancelled, mode) for mode in ("background", "background stream")),
    *((_is_left, mode) for mode in ("plain", "stream")),
]


@pytest.mark.parametrize(("ends", "mode"), ENDS, ids=lambda value: getattr(value, "__name__", value).strip("_"))
async def test_a_turn_without_success_leaves_its_conversation_usable(site: Any, ends: Any, mode: str) -> None:
    """It is free at once, holds nothing of the turn, and what waited in it before is heard by the next turn, once."""
    talk = await conversation(site)
    await site.say("a", conversation=talk)
    await site.client.conversations.items.create(talk, items=said("waiting"))
    await ends(site, talk, mode)
    assert await transcript(site, talk) == ["a", "a", "waiting"]
    assert (await site.say("b", conversation=talk)).output_text == "a, waiting, b"
    assert await transcript(site, talk) == ["a", "a", "waiting", "b", "a, waiting, b"]
    assert (await site.say("c", conversation=talk)).output_text == "a, waiting, b, c"


# --- What entered a conversation outside of a turn ---------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_put_into_a_conversation_is_heard_by_its_next_turn(site: Any, mode: str) -> None:
    """Before that turn's own input, in the order in which it came, and never again."""
    talk = await conversation(site, "1", "2")
    await site.client.conversations.items.create(talk, items=said("3"))
    assistant = {"role": "assistant", "content": "4"}
    await site.client.conversations.items.create(talk, items=[assistant, *said("5")])
    assert (await take(site, "a", mode, conversation=talk)).output_text == "1, 2, 3, assistant: 4, 5, a"
    await site.client.conversations.items.create(talk, items=said("6"))
    known = "1, 2, 3, assistant: 4, 5, a, 6, b"
    assert (await take(site, "b", mode, conversation=talk)).output_text == known
    assert (await take(site, "c", mode, conversation=talk)).output_text == f"{known}, c"


@pytest.mark.parametrize("mode", MODES)
async def test_what_comes_while_a_turn_runs_is_for_the_next(
    site: Any, listener: Listener, waits: Any, mode: str
) -> None:
    """The turn that runs does not hear it, and does not use it up."""
    talk = await conversation(site)
    running = asyncio.create_task(take(site, "wait", mode, conversation=talk))
    await waits()
    await site.client.conversations.items.create(talk, items=said("meanwhile"))
    listener.may_go_on.set()
    assert (await running).output[-1].content[0].text == "wait"
    assert (await site.say("on", conversation=talk)).output_text == "wait, meanwhile, on"
    assert (await site.say("end", conversation=talk)).output_text == "wait, meanwhile, on, end"


async def test_a_deleted_item_is_gone_from_the_list_and_not_from_the_state(site: Any) -> None:
    """What a turn has heard it has heard; only what still waits is never heard once it is deleted."""
    talk = await conversation(site)
    await site.say("a", conversation=talk)
    await site.client.conversations.items.create(talk, items=said("never", "soon"))
    soon, never, answer, asked = [item.id async for item in site.client.conversations.items.list(talk)]
    for id in (asked, never):
        await site.client.conversations.items.delete(id, conversation_id=talk)
    assert await transcript(site, talk) == ["a", "soon"]
    assert (await site.say("b", conversation=talk)).output_text == "a, soon, b"
    assert await transcript(site, talk) == ["a", "soon", "b", "a, soon, b"]
    for id in (answer, soon):
        await site.client.conversations.items.delete(id, conversation_id=talk)
    assert (await site.say("c", conversation=talk)).output_text == "a, soon, b, c"


# --- What a conversation stands on -------------------------------------------------------------------------------


async def test_a_conversation_goes_on_however_old_it_is(site: Any, serve_checked: Any, listener: Listener) -> None:
    """No deletion, collection or restart takes the state from under it, though its responses are all gone."""
    talk = await conversation(site)
    for text in "abc":
        response = await site.say(text, conversation=talk)
        await site.client.responses.delete(response.id)
    store = site.host.store
    head, log = (await store.read_conversation("", talk)).head, store.commit_log("")
    with pytest.raises(WorkflowCheckpointException):
        await log.delete(head)
    others = [commit.id for commit in await log.commits("audience") if commit.id != head and commit.kind != "root"]
    assert [await log.delete(id) for id in others] == [True, True]
    await store.forget_events(float("inf"), 1_000)
    await log.collect()
    await site.host.aclose()
    again = await serve_checked(audience(listener))
    assert (await again.say("d", conversation=talk)).output_text == "a, b, c, d"
    assert await transcript(again, talk) == ["a", "a", "b", "a, b", "c", "a, b, c", "d", "a, b, c, d"]


async def test_responses_stay_when_their_conversation_is_deleted(site: Any) -> None:
    """They can be read and continued; the conversation cannot."""
    talk = await conversation(site)
    one = await site.say("a", conversation=talk)
    await site.client.conversations.delete(talk)
    assert await site.client.responses.retrieve(one.id) == one
    await site.host.store.commit_log("").collect()
    assert (await site.say("b", one.id)).output_text == "a, b"
    assert (await refused(site, "plain", conversation=talk)).code == "conversation_not_found"


@pytest.mark.parametrize("mode", MODES)
async def test_a_conversation_that_is_deleted_under_a_turn(
    site: Any, listener: Listener, waits: Any, mode: str
) -> None:
    """The turn ends as failed and is not run again; nothing hangs, and the conversation stays deleted."""
    talk = await conversation(site)
    running = asyncio.create_task(take(site, "wait", mode, conversation=talk))
    await waits()
    await site.client.conversations.delete(talk)
    listener.may_go_on.set()
    async with asyncio.timeout(10):
        outcome = await running
    assert (outcome.status, outcome.error.code) == ("failed", "server_error")
    assert await site.client.responses.retrieve(outcome.id) == outcome
    assert listener.begun == []
    assert (await refused(site, mode, conversation=talk)).code == "conversation_not_found"


# --- Items by reference ------------------------------------------------------------------------------------------


async def _of_a_response(site: Any) -> Any:
    return (await site.say("far")).output[0].id


async def _of_an_input(site: Any) -> Any:
    response = await site.say("far")
    return (await site.client.responses.input_items.list(response.id)).data[0].id


async def _of_a_background_stream(site: Any) -> Any:
    return (await take(site, "far", "background stream")).output[0].id


async def _of_an_earlier_turn(site: Any) -> Any:
    one = await site.say("far")
    await site.say("later", one.id)
    return one.output[0].id


async def _of_a_turn_of_another_conversation(site: Any) -> Any:
    return (await site.say("far", conversation=await conversation(site))).output[0].id


async def _of_another_conversation(site: Any) -> Any:
    return (await site.client.conversations.items.list(await conversation(site, "far"))).data[0].id


SOURCES = {
    _of_a_response: "assistant: far",
    _of_an_input: "far",
    _of_a_background_stream: "assistant: far",
    _of_an_earlier_turn: "assistant: far",
    _of_a_turn_of_another_conversation: "assistant: far",
    _of_another_conversation: "far",
}


@pytest.mark.parametrize("where", ["nowhere", "response", "conversation"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__.strip("_"))
async def test_a_reference_stands_for_any_stored_item(site: Any, source: Any, where: str) -> None:
    """The item may be of any response or conversation; the turn hears it in its place, wherever it goes on."""
    id = await source(site)
    context, fields = "", {}
    if where == "response":
        context, fields = "a, ", {"previous_response_id": (await site.say("a")).id}
    elif where == "conversation":
        context, fields = "a, ", {"conversation": await conversation(site, "a")}
    for reference in ({"type": "item_reference", "id": id}, {"id": id}):
        response = await site.client.responses.create(input=[*said("b"), reference, *said("c")], store=False, **fields)
        assert response.output_text == f"{context}b, {SOURCES[source]}, c"


@pytest.mark.parametrize("mode", MODES)
async def test_a_reference_to_what_is_not_stored_is_not_found(site: Any, listener: Listener, mode: str) -> None:
    """Unknown, never stored, or deleted: one request, a 404 that quotes the id, and no turn."""
    passing = await site.say("a", store=False)
    deleted = await site.say("a")
    await site.client.responses.delete(deleted.id)
    talk = await conversation(site)
    listener.begun.clear()
    for id in ("msg_unknown", passing.output[0].id, deleted.output[0].id):
        for fields in ({}, {"conversation": talk}):
            reference = [{"type": "item_reference", "id": id}]
            unknown = await refused(site, mode, [*reference, *said("b")], **fields)
            assert (unknown.status_code, unknown.param, unknown.code) == (404, "input", "item_not_found")
            assert f"Item with id '{id}' not found." in unknown.message
    assert listener.begun == []
    assert (await site.say("c", conversation=talk)).output_text == "c"


async def test_an_item_is_found_as_long_as_something_holds_it(site: Any) -> None:
    """A turn of a conversation leaves its items to the response and to the conversation; either is enough."""
    talk = await conversation(site)
    one, two = await site.say("a", conversation=talk), await site.say("b", conversation=talk)
    await site.client.responses.delete(one.id)
    of_one, of_two = [{"type": "item_reference", "id": response.output[0].id} for response in (one, two)]
    heard = await site.client.responses.create(input=[of_one, *said("c")])
    assert heard.output_text == "assistant: a, c"
    await site.client.conversations.delete(talk)
    assert (await refused(site, "plain", [of_one, *said("c")])).code == "item_not_found"
    heard = await site.client.responses.create(input=[of_two, *said("c")])
    assert heard.output_text == "assistant: a, b, c"


async def test_what_a_turn_was_given_by_reference_is_in_its_conversation(site: Any) -> None:
    """The item itself stands there, as it was heard; one that the conversation had before keeps its place."""
    far = (await site.say("far")).output[0].id
    talk = await conversation(site)
    reference = {"type": "item_reference", "id": far}
    assert (await take(site, [reference, *said("a")], conversation=talk)).output_text == "assistant: far, a"
    assert await transcript(site, talk) == ["far", "a", "assistant: far, a"]
    await take(site, [reference, *said("b")], conversation=talk)
    assert (await transcript(site, talk))[:4] == ["far", "a", "assistant: far, a", "b"]


async def test_what_waits_is_not_heard_again_by_reference(site: Any) -> None:
    """A turn that refers to an item that waits in its conversation hears it once, where it stands there."""
    item = {**said("waiting")[0], "id": "msg_waiting"}
    talk = (await site.client.conversations.create(items=[item, *said("behind")])).id
    given = [*said("a"), {"type": "item_reference", "id": "msg_waiting"}, *said("b")]
    assert (await take(site, given, conversation=talk)).output_text == "waiting, behind, a, b"


async def test_what_a_response_holds_already_is_not_heard_again(site: Any) -> None:
    """A client that repeats items of the response it continues, whole or by reference, adds only what is new."""
    one = await site.say("a")
    (given,) = (await site.client.responses.input_items.list(one.id)).data
    whole = [given.model_dump(exclude_none=True), one.output[0].model_dump(exclude_none=True)]
    for repeated in (whole, [{"type": "item_reference", "id": item["id"]} for item in whole]):
        two = await site.client.responses.create(previous_response_id=one.id, input=[*repeated, *said("b")])
        assert two.output_text == "a, b"


@pytest.mark.parametrize("ends", ["fail", "wait"])
async def test_what_was_never_heard_can_be_given_again(site: Any, ends: str) -> None:
    """The input of a turn that has failed or was cancelled is new to those who continue it, also under its own id."""
    one = await site.say("a")
    given = [{**said(ends)[0], "id": "msg_mine"}]
    two = await site.client.responses.create(previous_response_id=one.id, input=given, background=True)
    if ends == "wait":
        await site.client.responses.cancel(two.id)
    while (await site.client.responses.retrieve(two.id)).status in ("queued", "in_progress"):
        await asyncio.sleep(0.01)
    for again in ({"role": "user", "content": "b", "id": "msg_mine"}, {"type": "item_reference", "id": "msg_mine"}):
        three = await site.client.responses.create(previous_response_id=two.id, input=[again, *said("c")])
        assert three.output_text == f"a, {'b' if 'content' in again else ends}, c"
