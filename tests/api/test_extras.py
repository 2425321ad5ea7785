"""Beside the turns: compactions over whole turns, counting, models, and what is refused before anything happens."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import openai
import openresponses_types.types as published
import pytest
from openai import AsyncOpenAI

from agent_host.errors import WorkflowCheckpointException
from agent_host.stores.records import Compaction
from agent_host.stores.sql_store import SqlStore
from agent_host.stores.sqlite import SqliteDatabase
from tests.api.listener import Listener, audience
from tests.api.taking import MODES, refused, said, take, texts


@pytest.fixture
async def listener() -> Listener:
    return Listener()


@pytest.fixture
async def site(serve_checked: Any, listener: Listener) -> Any:
    return await serve_checked(audience(listener))


async def compacted(site: Any, **what: Any) -> list[dict[str, Any]]:
    """The output of a compaction, after the published types have seen it: messages of the user, and the item."""
    answer = await site.http.post("/responses/compact", json={"model": "any", **what})
    assert answer.status_code == 200, answer.text
    published.CompactResource.model_validate_json(answer.content)
    *messages, item = answer.json()["output"]
    assert item["type"] == "compaction"
    assert {(each["type"], each["role"]) for each in messages} <= {("message", "user")}
    return [*messages, item]


def asked(output: list[dict[str, Any]]) -> list[str]:
    """What a user has said, as the output of a compaction has it."""
    return [item["content"][0]["text"] for item in output[:-1]]


# --- Compactions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "the item alone"])
async def test_a_compaction_goes_on_where_it_was_made(site: Any, mode: str, whole: bool) -> None:
    """The workflow has its state and hears what is new, if anything is; the compaction can be used again and again."""
    two = await site.say("b", (await site.say("a")).id)
    output = await compacted(site, previous_response_id=two.id)
    assert asked(output) == ["a", "b"]
    given = output if whole else output[-1:]
    assert (await take(site, [*given, *said("c")], mode)).output_text == "a, b, c"
    silent = await take(site, given, mode)
    assert (silent.output_text, silent.previous_response_id) == ("a, b", None)
    assert (await take(site, said("d"), mode, previous_response_id=silent.id)).output_text == "a, b, d"
    assert (await take(site, said("e"), mode, previous_response_id=two.id)).output_text == "a, b, e"


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
async def test_the_stock_client_compacts_and_goes_on(site: Any) -> None:
    """Its type has no room for messages of a user, so it warns when it sends them; they arrive all the same."""
    client = AsyncOpenAI(base_url=site.url, api_key="none", http_client=site.http)
    one = await client.responses.create(model="any", input="a")
    compaction = await client.responses.compact(model="any", previous_response_id=one.id)
    assert compaction.object == "response.compaction"
    assert type(compaction.created_at) is int
    assert compaction.usage.total_tokens == 0
    given: list[Any] = [*compaction.output, *said("b")]
    assert (await client.responses.create(model="any", input=given)).output_text == "a, b"


async def test_a_long_line_is_compacted_again_and_again(site: Any) -> None:
    """Each compaction stands for all that came before, also what an earlier one stood for, and no message twice."""
    given: list[Any] = []
    known: list[str] = []
    for number in range(4):
        known += [f"{number}a", f"{number}b"]
        one = await take(site, [*given, *said(f"{number}a")])
        two = await site.say(f"{number}b", one.id)
        assert two.output_text == ", ".join(known)
        given = await compacted(site, previous_response_id=two.id)
        assert asked(given) == known


async def test_a_compaction_of_items_is_heard_as_those(site: Any) -> None:
    """Made of a history that the client has, it has no state: all that it stands for is heard, in order."""
    history = [*said("a"), {"role": "assistant", "content": "b"}, *said("c")]
    output = await compacted(site, input=history)
    assert asked(output) == ["a", "c"]
    assert (await take(site, [*output, *said("d")])).output_text == "a, assistant: b, c, d"
    assert (await take(site, [output[-1], *said("d")])).output_text == "a, assistant: b, c, d"
    assert (await take(site, output)).output_text == "a, assistant: b, c"


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
async def test_a_compaction_behind_something_else_is_heard_there(site: Any, by: str) -> None:
    """A request that names what it continues goes on there, and hears what the compaction stands for."""
    output = await compacted(site, previous_response_id=(await site.say("far")).id)
    here = (await site.say("a")).id
    if by == "conversation":
        here = (await site.client.conversations.create()).id
        await site.say("a", conversation=here)
    there = await take(site, [*output, *said("b")], **{by: here})
    assert there.output_text == "a, far, assistant: far, b"


async def test_a_compaction_behind_other_items_is_heard_with_them(site: Any) -> None:
    """Only as the first thing of a request does it bring its state along."""
    output = await compacted(site, previous_response_id=(await site.say("far")).id)
    assert (await take(site, [*said("a"), *output, *said("b")])).output_text == "a, far, assistant: far, b"


async def test_of_two_compactions_the_second_is_heard(site: Any) -> None:
    """The state is that of the first; all behind it is new, whatever it stands for."""
    here, there = [await compacted(site, previous_response_id=(await site.say(text)).id) for text in ("here", "there")]
    both = await take(site, [here[-1], *said("a"), there[-1], *said("b")])
    assert both.output_text == "here, a, there, assistant: there, b"


async def test_a_compaction_that_stands_for_another_replaces_it(site: Any) -> None:
    """A client that keeps both has said everything once, and goes on from the later one."""
    first = await compacted(site, previous_response_id=(await site.say("a")).id)
    behind = await take(site, [*first, *said("b")])
    second = await compacted(site, previous_response_id=behind.id)
    assert (await take(site, [*first, *second, *said("c")])).output_text == "a, b, c"


async def test_a_reference_to_a_compaction_is_one(site: Any) -> None:
    """An item of an input like any other, it can be brought again by its id, and goes on where it was made."""
    output = await compacted(site, previous_response_id=(await site.say("a")).id)
    await take(site, [*output, *said("b")])
    reference = {"type": "item_reference", "id": output[-1]["id"]}
    assert (await take(site, [reference, *said("c")])).output_text == "a, c"


@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "the item alone"])
async def test_a_compaction_that_was_given_already_is_not_heard_again(site: Any, by: str, whole: bool) -> None:
    """Neither the item nor anything that it stands for is new to what was continued with it."""
    output = await compacted(site, previous_response_id=(await site.say("a")).id)
    where = {"conversation": (await site.client.conversations.create()).id} if by == "conversation" else {}
    one = await take(site, [*(output if whole else output[-1:]), *said("b")], **where)
    before = "a, assistant: a, b" if where else "a, b"
    assert one.output_text == before
    again = await take(site, [*output, *said("c")], **(where or {by: one.id}))
    assert again.output_text == f"{before}, c"


async def test_a_compaction_of_a_turn_of_a_conversation_is_one_of_all_before_it(site: Any) -> None:
    """It has what the user said there until then, and the state; what comes later is not in it."""
    talk = (await site.client.conversations.create(items=said("a"))).id
    one = await site.say("b", conversation=talk)
    await site.say("later", conversation=talk)
    output = await compacted(site, previous_response_id=one.id)
    assert asked(output) == ["a", "b"]
    assert (await take(site, [*output, *said("c")])).output_text == "a, b, c"


async def test_a_compaction_stays_when_all_else_is_gone(site: Any, serve_checked: Any, listener: Listener) -> None:
    """It keeps the state it was made at, whatever is deleted, collected or started again."""
    one = await site.say("a")
    two = await site.say("b", one.id)
    output = await compacted(site, previous_response_id=two.id)
    for response in (one, two):
        await site.client.responses.delete(response.id)
    store = site.host.store
    kept, log = await store.read_compaction("", output[-1]["encrypted_content"]), store.commit_log("")
    with pytest.raises(WorkflowCheckpointException):
        await log.delete(kept.commit)
    others = [commit.id for commit in await log.commits("audience") if commit.id != kept.commit]
    assert [await log.delete(id) for id in others if id != site.host.definition.root.id] == [True]
    await log.collect()
    await site.host.aclose()
    again = await serve_checked(audience(listener))
    assert (await take(again, [output[-1], *said("c")])).output_text == "a, b, c"


@pytest.mark.parametrize("mode", MODES)
async def test_a_question_can_be_answered_behind_a_compaction(site: Any, listener: Listener, mode: str) -> None:
    """It is as open there as at the response that asked; without the answer the request is refused."""
    question = await site.say("ask Where?", (await site.say("a")).id)
    output = await compacted(site, previous_response_id=question.id)
    listener.begun.clear()
    unanswered = await refused(site, mode, [*output, *said("never mind")])
    assert (unanswered.status_code, unanswered.code) == (400, "missing_tool_output")
    assert question.output[0].call_id in unanswered.message
    assert listener.begun == []
    answer = {"type": "function_call_output", "call_id": question.output[0].call_id, "output": "here"}
    assert (await take(site, [*output, answer], mode)).output_text == "a, ask Where?, Where? here"


@pytest.mark.parametrize("mode", MODES)
async def test_a_compaction_that_is_not_ones_own_is_refused(site: Any, listener: Listener, mode: str) -> None:
    """Made up or another user's, it is the same 400 after one request, and no turn, wherever it stands."""
    foreign = Compaction("f" * 48, 0, b'[{"type":"message","role":"user","content":"secret"}]')
    await site.host.store.keep_compaction("somebody else", foreign)
    talk = (await site.client.conversations.create()).id
    one = await site.say("a")
    listener.begun.clear()
    for handle in (foreign.handle, "made up", "0" * 48):
        item = {"type": "compaction", "encrypted_content": handle}
        for fields in ({}, {"conversation": talk}, {"previous_response_id": one.id}):
            error = await refused(site, mode, [*said("b"), item], **fields)
            assert (error.status_code, error.code) == (400, "unknown_compaction")
            assert error.param == "input[1].encrypted_content"
            assert "secret" not in error.message
    assert listener.begun == []
    assert (await site.say("c", conversation=talk)).output_text == "c"


async def test_a_failed_turn_behind_a_compaction_is_continued_from_there(site: Any) -> None:
    """What the compaction stands for is not lost with the turn."""
    output = await compacted(site, previous_response_id=(await site.say("a")).id)
    failed = await take(site, [*output, *said("fail")])
    assert failed.status == "failed"
    assert (await site.say("b", failed.id)).output_text == "a, b"
    assert (await take(site, [*output, *said("c")])).output_text == "a, c"


async def test_a_compaction_is_listed_as_it_was_given(site: Any) -> None:
    """The items of a request with one are those that the client sent, each with an id."""
    output = await compacted(site, previous_response_id=(await site.say("a")).id)
    response = await take(site, [*output, *said("b")])
    listed = [item async for item in site.client.responses.input_items.list(response.id, order="asc")]
    assert [item.type for item in listed] == ["message", "compaction", "message"]
    assert listed[1].encrypted_content == output[-1]["encrypted_content"]
    assert len({item.id for item in listed}) == 3


@pytest.mark.parametrize("mode", ["background", "background stream"])
async def test_what_still_runs_is_not_compacted(site: Any, listener: Listener, eventually: Any, mode: str) -> None:
    """The answer says to wait; when the turn has ended, the compaction stands for all of it."""
    running = await site.client.responses.create(input="wait", **MODES[mode])
    id = (await anext(aiter(running))).response.id if "stream" in mode else running.id
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.compact(model="any", previous_response_id=id)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_ready")
    listener.may_go_on.set()
    while (await site.client.responses.retrieve(id)).status != "completed":
        await asyncio.sleep(0.01)
    output = await compacted(site, previous_response_id=id)
    assert (await take(site, [*output, *said("b")])).output_text == "wait, b"


# --- Counting and models -----------------------------------------------------------------------------------------


async def test_counting_tokens_takes_no_turn(
    site: Any, listener: Listener, tmp_path: Path, stored_statuses: Any
) -> None:
    """The strict client reads a number, more of it for more text, also of what a compaction stands for."""
    one = await site.say("a" * 400)
    output = await compacted(site, previous_response_id=one.id)
    listener.begun.clear()
    count = site.client.responses.input_tokens.count
    short, long = [(await count(model="any", input="x" * size)).input_tokens for size in (8, 400)]
    assert (short, long) == (2, 100)
    assert (await count(input=output)).input_tokens > 200
    assert (await count(input=output[-1:], instructions="y" * 400)).input_tokens > 300
    assert (await count(input=output[-1:])).object == "response.input_tokens"
    assert listener.begun == []
    assert list(stored_statuses(tmp_path / "host.db")) == [one.id]


async def test_what_a_turn_would_not_find_is_not_counted(site: Any) -> None:
    """An unknown compaction and an unknown item are refused as a turn with them is."""
    for item, status, code in (
        ({"type": "compaction", "encrypted_content": "made up"}, 400, "unknown_compaction"),
        ({"type": "item_reference", "id": "msg_unknown"}, 404, "item_not_found"),
    ):
        for call in (site.client.responses.input_tokens.count, site.client.responses.compact):
            with pytest.raises(openai.APIStatusError) as caught:
                await call(model="any", input=[item])
            assert (caught.value.status_code, caught.value.code) == (status, code)
        for path in ("/conversations", "/responses"):
            given = {"items" if path == "/conversations" else "input": [item]}
            answer = await site.http.post(path, json=given)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_every_model_that_is_listed_can_be_used(serve_checked: Any, listener: Listener) -> None:
    """Also by a host that takes no other, and with or without the prefix of the address."""
    site = await serve_checked(audience(listener), strict_model=True)
    models = [model async for model in site.client.models.list()]
    assert [(model.id, model.object) for model in models] == [("audience", "model")]
    assert (await site.http.get("/v1/models")).json() == (await site.http.get("/models")).json()
    for mode in MODES:
        assert (await take(site, "a", mode, model=models[0].id)).model == models[0].id
        assert (await refused(site, mode, model="another")).code == "model_not_found"


# --- One request only --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_turn_that_fails_is_asked_for_once(site: Any, listener: Listener, mode: str) -> None:
    """The failure is a response, so a client that repeats what went wrong does not repeat it."""
    assert site.client.max_retries > 0
    failed = await take(site, "fail", mode)
    assert (failed.status, failed.error.code) == ("failed", "server_error")
    assert site.requests.count("POST /responses") == 1
    assert listener.begun == ["fail"]


class Failing(SqlStore):
    """A store of which one verb raises what nobody has foreseen."""

    verb = ""

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteDatabase(str(path)))

    def __getattribute__(self, name: str) -> Any:
        if name != "verb" and name == self.verb:
            raise ZeroDivisionError
        return super().__getattribute__(name)


Call = Callable[[Any, str, str], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "resolve": lambda client, one, talk: client.responses.create(input="x", previous_response_id=one),
    "find_items": lambda client, one, talk: client.responses.create(input=[{"id": "msg_1", "type": "item_reference"}]),
    "admit": lambda client, one, talk: client.responses.create(input="x", background=True),
    "finish": lambda client, one, talk: client.responses.create(input="x", conversation=talk),
    "read_conversation": lambda client, one, talk: client.responses.create(input="x", conversation=talk, stream=True),
    "keep_compaction": lambda client, one, talk: client.responses.compact(model="any", previous_response_id=one),
    "read_response": lambda client, one, talk: client.responses.retrieve(one),
    "delete_response": lambda client, one, talk: client.responses.delete(one),
    "create_conversation": lambda client, one, talk: client.conversations.create(),
    "add_items": lambda client, one, talk: client.conversations.items.create(talk, items=said("x")),
    "delete_conversation": lambda client, one, talk: client.conversations.delete(talk),
}


@pytest.mark.parametrize("verb", CALLS)
async def test_a_fault_of_the_host_is_met_once(
    serve_checked: Any, listener: Listener, tmp_path: Path, verb: str
) -> None:
    """It is a 500 that tells the client not to try again, with the id by which the log has the cause."""
    store = Failing(tmp_path / "failing.db")
    site = await serve_checked(audience(listener), store)
    assert site.client.max_retries > 0
    one, talk = await site.say("a"), await site.client.conversations.create()
    before = len(site.requests)
    store.verb = verb
    with pytest.raises(openai.InternalServerError) as caught:
        await CALLS[verb](site.client, one.id, talk.id)
    store.verb = ""
    assert len(site.requests) == before + 1
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (500, "server_error", "server_error")
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert caught.value.response.headers["x-request-id"] in caught.value.message
    assert (await site.say("b", one.id)).output_text == "a, b"
    assert (await site.say("c", conversation=talk.id)).output_text == "c"


# --- Refused at the door -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
async def test_a_turn_too_many_is_refused_before_it_does_anything(
    serve_checked: Any, listener: Listener, tmp_path: Path, stored_statuses: Any, eventually: Any, mode: str
) -> None:
    """It is told when to come back; its conversation is not taken, its key not used, and nothing of it is stored."""
    site = await serve_checked(audience(listener), max_concurrent_turns=1, max_waiting_turns=0)
    talk = (await site.client.conversations.create(items=said("waiting"))).id
    running = asyncio.create_task(take(site, "wait"))
    await eventually(lambda: listener.begun, "a turn has the only place")
    once = {"extra_headers": {"idempotency-key": "k1"}, "conversation": talk}
    answer = await site.http.post(
        "/responses",
        json={"input": "x", "conversation": talk, **MODES[mode]},
        headers={"idempotency-key": "k1", "accept": "application/json"},
    )
    assert answer.status_code == 429
    assert answer.headers["content-type"] == "application/json"
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert answer.headers.get("x-should-retry") != "false"
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("rate_limit_exceeded", "too_many_requests", "")
    with pytest.raises(openai.RateLimitError):
        await take(Once(site), "x", mode, **once)
    assert listener.begun == ["wait"]
    listener.may_go_on.set()
    first = await running
    assert list(stored_statuses(tmp_path / "host.db")) == [first.id]
    assert (await take(site, "x", mode, **once)).output_text == "waiting, x"


class Once:
    """The same site for a client that does not try again."""

    def __init__(self, site: Any) -> None:
        self.client = site.client.with_options(max_retries=0)


DOORS = [
    ("POST", "/responses"),
    ("GET", "/responses/{one}"),
    ("GET", "/responses/{one}?stream=true"),
    ("DELETE", "/responses/{one}"),
    ("POST", "/responses/{one}/cancel"),
    ("GET", "/responses/{one}/input_items"),
    ("POST", "/responses/compact"),
    ("POST", "/responses/input_tokens"),
    ("POST", "/conversations"),
    ("GET", "/conversations/{talk}"),
    ("POST", "/conversations/{talk}"),
    ("DELETE", "/conversations/{talk}"),
    ("POST", "/conversations/{talk}/items"),
    ("GET", "/conversations/{talk}/items"),
    ("DELETE", "/conversations/{talk}/items/{item}"),
    ("GET", "/models"),
]


async def test_without_the_right_key_no_door_is_open(serve_checked: Any, listener: Listener) -> None:
    """Every address answers 401 in the shape of every error, whatever is asked, and has done nothing."""
    site = await serve_checked(audience(listener), api_key="right")
    right = site.client.with_options(api_key="right")
    one = await right.responses.create(input="a")
    talk = await right.conversations.create(items=said("b"))
    (item,) = (await right.conversations.items.list(talk.id)).data
    listener.begun.clear()
    names = {"one": one.id, "talk": talk.id, "item": item.id}
    body = {"model": "any", "input": "x", "metadata": {"a": "b"}}
    for method, path in DOORS:
        for prefix in ("", "/v1"):
            for key in ("wrong", "Right", "rightly"):
                headers = {"authorization": f"Bearer {key}"}
                answer = await site.http.request(method, prefix + path.format(**names), json=body, headers=headers)
                error = answer.json()["error"]
                assert (answer.status_code, error["code"]) == (401, "invalid_api_key"), path
                assert (error["type"], error["param"]) == ("invalid_request_error", "")
    assert listener.begun == []
    assert await right.responses.retrieve(one.id) == one
    assert await right.conversations.retrieve(talk.id) == talk
    assert texts((await right.conversations.items.list(talk.id)).data) == ["b"]


@pytest.mark.parametrize("mode", MODES)
async def test_the_stock_client_names_a_wrong_key(serve_checked: Any, listener: Listener, mode: str) -> None:
    """It raises its class for that after one request."""
    site = await serve_checked(audience(listener), api_key="right")
    error = await refused(site, mode)
    assert isinstance(error, openai.AuthenticationError)
    assert error.code == "invalid_api_key"
    assert listener.begun == []
