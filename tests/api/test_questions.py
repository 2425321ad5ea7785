"""Questions of a workflow to people, as function calls and as approvals, and their answers."""

import json
from collections.abc import Sequence
from typing import Any

import openai
import pytest
from openai.lib.responses_tool_runner import AsyncResponsesToolRunner

from tests.api.clerk import Clerk, office


def output(call: Any, said: Any) -> dict[str, Any]:
    """The answer to a call."""
    return {"type": "function_call_output", "call_id": call.call_id, "output": said}


def approval(request: Any, approve: bool, **more: Any) -> dict[str, Any]:
    """The answer to an approval request."""
    return {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve, **more}


async def answer(site: Any, asked: Any, *items: Any, **more: Any) -> Any:
    """A turn that continues a response with these items."""
    return await site.client.responses.create(model="any", previous_response_id=asked.id, input=list(items), **more)


async def refused(site: Any, asked: Any, items: Sequence[Any], code: str, **more: Any) -> str:
    """The message of the 400 that these items get. Nothing may have been asked for twice."""
    requests = len(site.requests)
    with pytest.raises(openai.BadRequestError) as caught:
        await answer(site, asked, *items, **more)
    assert (caught.value.param, caught.value.code) == ("input", code)
    assert len(site.requests) == requests + 1
    return str(caught.value)


# --- Function calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("background", [False, True])
async def test_a_question_is_a_function_call(site: Any, ended: Any, background: bool) -> None:
    """The turn is completed; the call has an id, a name and JSON arguments, and what is asked can be read."""
    asked = await site.say("ask Where?", background=background)
    asked = await ended(site, asked.id)
    (call,) = asked.output
    assert (asked.status, call.type, call.status, call.name) == ("completed", "function_call", "completed", "question")
    assert json.loads(call.arguments) == {"question": "Where?"}
    assert call.id.startswith("fc_")
    assert call.call_id.startswith("call_")
    assert asked.output_text == ""


@pytest.mark.parametrize("mode", [{}, {"stream": True}, {"background": True}], ids=["plain", "stream", "background"])
async def test_an_answer_goes_on_where_the_question_stood(
    site: Any, clerk: Clerk, ended: Any, mode: dict[str, Any]
) -> None:
    """The workflow does not begin again: it is told nothing anew, and does once what comes after the answer."""
    asked = await site.say("ask Where?")
    answered = await answer(site, asked, output(asked.output[0], "here"), **mode)
    if "stream" in mode:
        answered = [event async for event in answered][-1].response
    answered = await ended(site, answered.id)
    assert answered.output_text == "Where? here; turn 1"
    assert answered.previous_response_id == asked.id
    assert clerk.done == ["asked", "went on"]
    assert (await site.say("on", answered.id)).output_text == "2: ask Where?|on"


async def test_an_answer_to_nothing_is_refused(site: Any, clerk: Clerk) -> None:
    """Whether something else is asked, nothing is, or it has been answered already."""
    asked = await site.say("ask Where?")
    call = asked.output[0]
    stranger = {"type": "function_call_output", "call_id": "call_stranger", "output": "x"}
    said = await refused(site, asked, [stranger], "unknown_tool_call")
    assert "No tool call found for function call output with call_id call_stranger." in said
    assert "call_stranger" in await refused(site, asked, [output(call, "here"), stranger], "unknown_tool_call")
    assert "call_stranger" in await refused(site, await site.say("hi"), [stranger], "unknown_tool_call")
    answered = await answer(site, asked, output(call, "here"))
    assert call.call_id in await refused(site, answered, [output(call, "there")], "unknown_tool_call")
    assert clerk.done == ["asked", "went on"]


@pytest.mark.parametrize("stream", [False, True])
async def test_all_questions_are_answered_in_one_request_or_none_is(site: Any, clerk: Clerk, stream: bool) -> None:
    """The first that is missing is named, nothing has happened, and the answer can be given whole afterwards."""
    asked = await site.say("ask When?|Where?")
    when, where = asked.output
    for given, missing in ((when, where), (where, when)):
        said = await refused(site, asked, [output(given, "x")], "missing_tool_output", stream=stream)
        assert f"No tool output found for function call {missing.call_id}." in said
    assert clerk.done == ["asked"]
    for items in ([output(when, "now"), output(where, "here")], [output(where, "here"), output(when, "now")]):
        assert (await answer(site, asked, *items)).output_text == "When? now, Where? here; turn 1"
    assert clerk.done == ["asked", "went on", "went on"]


async def test_a_plain_message_is_no_answer(site: Any, clerk: Clerk) -> None:
    """While something is asked a turn without the answer is refused, naming what is open."""
    asked = await site.say("ask Where?")
    message = {"role": "user", "content": "never mind"}
    said = await refused(site, asked, [message], "missing_tool_output")
    assert asked.output[0].call_id in said
    assert clerk.done == ["asked"]


async def test_a_message_may_come_with_the_answer(site: Any, clerk: Clerk) -> None:
    """Both are taken in, in one turn."""
    asked = await site.say("ask Where?")
    both = await answer(site, asked, output(asked.output[0], "here"), {"role": "user", "content": "and on"})
    texts = sorted(item.content[0].text for item in both.output)
    assert texts[0].startswith("2: ask Where?|and on")
    assert texts[1].startswith("Where? here")
    assert clerk.done == ["asked", "went on"]


async def test_an_answer_that_is_sent_twice_is_two_branches(site: Any, clerk: Clerk) -> None:
    """Without a key the second is a turn of its own; under one key it is the first again, and nothing runs twice."""
    asked = await site.say("ask Where?")
    item = output(asked.output[0], "here")
    first, second = [await answer(site, asked, item) for _ in range(2)]
    assert first.id != second.id
    assert first.output_text == second.output_text == "Where? here; turn 1"
    assert clerk.done.count("went on") == 2
    keyed = [await answer(site, asked, item, extra_headers={"idempotency-key": "k1"}) for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert clerk.done.count("went on") == 3


async def test_an_answer_may_be_parts_of_text(site: Any) -> None:
    """They are joined; parts that the question cannot take are named."""
    asked = await site.say("ask Where?")
    parts = [{"type": "input_text", "text": "he"}, {"type": "input_text", "text": "re"}]
    assert (await answer(site, asked, output(asked.output[0], parts))).output_text == "Where? here; turn 1"
    image = [{"type": "input_image", "image_url": "data:image/png;base64,aGk=", "detail": "auto"}]
    with pytest.raises(openai.BadRequestError) as caught:
        await answer(site, asked, output(asked.output[0], image))
    assert caught.value.code == "unsupported_input"


@pytest.mark.parametrize("nulls", [False, True])
async def test_a_client_without_ids_sends_the_whole_history(site: Any, clerk: Clerk, nulls: bool) -> None:
    """The call id finds the workflow that asked, and it goes on; a history that is over begins something new."""
    asked = await site.say("ask Where?")
    history: list[Any] = [{"role": "user", "content": "ask Where?"}]
    history += [item.model_dump(exclude_none=not nulls) for item in asked.output]
    history += [output(asked.output[0], "here")]
    answered = await site.client.responses.create(model="any", input=history)
    assert answered.output_text == "Where? here; turn 1"
    assert clerk.done == ["asked", "went on"]
    history += [item.model_dump(exclude_none=not nulls) for item in answered.output]
    history += [{"role": "user", "content": "and now"}]
    over = await site.client.responses.create(model="any", input=history)
    assert over.output_text == "1: and now"
    assert clerk.done == ["asked", "went on"]


async def test_a_history_with_an_open_question_is_not_begun_anew(site: Any, clerk: Clerk) -> None:
    """A message in the place of the answer is refused, as it is behind the response that has asked."""
    asked = await site.say("ask Where?")
    history: list[Any] = [{"role": "user", "content": "ask Where?"}]
    history += [item.model_dump(exclude_none=True) for item in asked.output]
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(model="any", input=[*history, {"role": "user", "content": "never mind"}])
    assert caught.value.code == "missing_tool_output"
    assert clerk.done == ["asked"]


async def test_the_request_answers_over_what_waits(site: Any, clerk: Clerk) -> None:
    """A wrong answer that has entered the conversation does not stand in the way of a right one."""
    talk = (await site.client.conversations.create()).id
    asked = await site.say("ask Where?", conversation=talk)
    waiting = output(asked.output[0], [{"type": "input_image", "image_url": "https://x.example/y.png"}])
    await site.client.conversations.items.create(talk, items=[waiting])
    right = [output(asked.output[0], "here")]
    answered = await site.client.responses.create(model="any", conversation=talk, input=right)
    assert answered.output_text == "Where? here; turn 1"


async def test_a_call_that_nobody_here_has_made_is_history(site: Any) -> None:
    """Calls of another program stand in the input with their outputs and do no harm."""
    foreign = {"type": "function_call", "call_id": "call_foreign", "name": "f", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_foreign", "output": "42"}
    said = {"role": "user", "content": "hi"}
    assert (await site.client.responses.create(model="any", input=[foreign, result, said])).output_text == "1: hi"


async def test_a_question_has_as_many_answers_as_branches(site: Any) -> None:
    """Two answers to one response are two conversations that know nothing of each other."""
    asked = await site.say("ask Where?")
    here = await answer(site, asked, output(asked.output[0], "here"))
    there = await answer(site, asked, output(asked.output[0], "there"))
    assert (here.output_text, there.output_text) == ("Where? here; turn 1", "Where? there; turn 1")
    assert (await site.say("on", here.id)).output_text == "2: ask Where?|on"
    again = await site.say("ask Whither?", there.id)
    final = await answer(site, again, output(again.output[0], "home"))
    assert final.output_text == "Where? there, Whither? home; turn 2"


async def test_a_question_needs_to_be_stored(site: Any) -> None:
    """A response that nobody could answer fails, and says what to send instead."""
    response = await site.say("ask Where?", store=False)
    assert response.status == "failed"
    assert '"store": true' in response.error.message


# --- Functions of the client -------------------------------------------------------------------------------------


async def test_a_function_of_the_client_is_called_by_its_name(site: Any) -> None:
    """Its arguments are those that the workflow gives it, and its output comes back to the workflow."""
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}
    asked = await site.say("call Oslo", tools=[tool])
    (call,) = asked.output
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    answered = await answer(site, asked, output(call, "rain"), tools=[tool])
    assert answered.output_text == "The weather: rain"


# --- Approvals ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def till(serve_checked: Any, clerk: Clerk) -> Any:
    """The office with approvals in MCP's form."""
    return await serve_checked(office(clerk), approvals="mcp")


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_approved_is_done_once_and_shown(till: Any, clerk: Clerk, stream: bool) -> None:
    """The call that was approved is in the output, and names the request; the workflow's answer is there too."""
    asked = await till.say("refund 5")
    (request,) = asked.output
    assert (request.type, request.name, request.server_label) == ("mcp_approval_request", "refund", "till")
    assert json.loads(request.arguments) == {"amount": 5}
    assert request.id.startswith("mcpr_")
    done = await answer(till, asked, approval(request, True), stream=stream)
    if stream:
        done = [event async for event in done][-1].response
    (call,) = [item for item in done.output if item.type == "mcp_call"]
    assert (call.name, call.approval_request_id, call.status) == ("refund", request.id, "completed")
    assert done.output_text == "refunded"
    assert clerk.done == ["refund"]


async def test_what_is_not_approved_is_not_done(till: Any, clerk: Clerk) -> None:
    """There is no call in the output, and the workflow says how it goes on."""
    asked = await till.say("refund 5")
    kept = await answer(till, asked, approval(asked.output[0], False, reason="too much"))
    assert [item.type for item in kept.output] == ["message"]
    assert kept.output_text == "kept"
    assert clerk.done == []


@pytest.mark.parametrize("shown", ["all that was put out", "the call alone"])
async def test_a_history_with_an_approval_goes_on(till: Any, clerk: Clerk, shown: str) -> None:
    """What was approved is not done again when the client sends all of it with its next message."""
    history: list[Any] = [{"role": "user", "content": "refund 5"}]
    asked = await till.client.responses.create(model="any", input=history)
    history += [asked.output[0].model_dump(exclude_none=True), approval(asked.output[0], True)]
    done = await till.client.responses.create(model="any", input=history)
    assert (done.output_text, clerk.done) == ("refunded", ["refund"])
    kept = [item for item in done.output if shown == "all that was put out" or item.type == "mcp_call"]
    history += [item.model_dump(exclude_none=True) for item in kept]
    over = await till.client.responses.create(model="any", input=[*history, {"role": "user", "content": "thanks"}])
    assert (over.output_text, clerk.done) == ("1: thanks", ["refund"])


async def test_an_unknown_approval_is_refused(till: Any, clerk: Clerk) -> None:
    """So is one that was given before, on the response that it led to."""
    asked = await till.say("refund 5")
    unknown = {"type": "mcp_approval_response", "approval_request_id": "mcpr_unknown", "approve": True}
    assert "mcpr_unknown" in await refused(till, asked, [unknown], "unknown_tool_call")
    assert clerk.done == []
    done = await answer(till, asked, approval(asked.output[0], True))
    await refused(till, done, [approval(asked.output[0], True)], "unknown_tool_call")
    assert clerk.done == ["refund"]


async def test_an_approval_may_come_with_its_request(till: Any, clerk: Clerk) -> None:
    """A client that repeats what the response holds, whole or by reference, is understood; nothing is done twice."""
    asked = await till.say("refund 5")
    request = asked.output[0]
    reference, whole = {"type": "item_reference", "id": request.id}, request.model_dump()
    yes = approval(request, True)
    for number, items in enumerate(([reference, yes], [whole, yes], [whole, reference, yes], [yes, yes]), 1):
        done = await answer(till, asked, *items)
        assert [item.type for item in done.output] == ["message", "mcp_call"]
        assert done.output_text == "refunded"
        assert clerk.done == ["refund"] * number
    no = approval(request, False)
    await refused(till, asked, [yes, no], "duplicate_item")
    assert len(clerk.done) == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tool_runner_of_the_client_approves(till: Any, clerk: Clerk, stream: bool) -> None:
    """It declares the server of the approvals, asks its user, and sends the whole history with the approval."""
    asked_for = []

    async def approve(request: Any) -> bool:
        asked_for.append((request.name, request.arguments))
        return True

    server = {"type": "mcp", "server_label": "till", "server_url": "https://till.example", "require_approval": "always"}
    params = {"model": "any", "input": [{"role": "user", "content": "refund 5"}], "tools": [server]}
    final = await AsyncResponsesToolRunner().run(till.client, params, approve_mcp=approve, stream=stream)
    assert final.output_text == "refunded"
    assert asked_for == [("refund", '{"amount":5}')]
    assert clerk.done == ["refund"]


async def test_approvals_are_function_calls_unless_told_otherwise(site: Any, clerk: Clerk) -> None:
    """Every client can answer these, with a word."""
    asked = await site.say("refund 5")
    (call,) = asked.output
    assert json.loads(call.arguments) == {"name": "refund", "arguments": {"amount": 5}}
    assert (await answer(site, asked, output(call, "no"))).output_text == "kept"
    assert (await answer(site, asked, output(call, "yes"))).output_text == "refunded"
    assert clerk.done == ["refund"]
    with pytest.raises(openai.BadRequestError) as caught:
        await answer(site, asked, output(call, "perhaps"))
    assert caught.value.code == "unreadable_answer"
    assert "bool" in str(caught.value)
