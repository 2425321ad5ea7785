"""Questions to people: what a request of the engine looks like to a client, and what an answer may look like."""

import asyncio
import enum
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Never, TypedDict

import msgspec
import openai
import pydantic
import pytest

from agent_host import Executor, Message, WorkflowBuilder, WorkflowContext, WorkflowExecutor, handler, response_handler
from agent_host.messages import ApprovalRequest, ApprovalResponse, FunctionCall
from agent_host.server.questions import match
from agent_host.stores.records import OpenCall
from agent_host.wire.input import read_items
from agent_host.wire.problems import Problem

Context = WorkflowContext[Never, str]


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Choice:
    options: list[str]


@dataclass
class Chosen:
    option: str
    count: int = 1


class Form(pydantic.BaseModel):
    title: str


class Filled(pydantic.BaseModel):
    age: int


class Typed(TypedDict):
    option: str


ASKED: dict[str, tuple[Any, Any]] = {
    "text": ("Which city?", str),
    "yes or no": (ApprovalRequest("refund", {"amount": 3}), bool),
    "approval": (ApprovalRequest("refund", {"amount": 3}), ApprovalResponse),
    "dataclass": (Choice(["a", "b"]), Chosen),
    "model": (Form(title="t"), Filled),
    "enum": (Choice(["red"]), Colour),
    "number": (Choice(["1"]), float),
    "list": (Choice(["1"]), list[int]),
    "message": (Choice(["m"]), Message),
    "money": (Choice(["m"]), Decimal),
    "typed": (Choice(["m"]), Typed),
}


class Clerk(Executor):
    """Asks what its input names, and says what it was answered."""

    def __init__(self) -> None:
        super().__init__("clerk")
        self.asked: list[str] = []

    @handler
    async def take(self, text: str, ctx: Context) -> None:
        self.asked.append(text)
        if text == "call":
            ctx.request_info(FunctionCall("get_weather", {"city": "Rome"}), str)
        for name in text.split("+"):
            if name in ASKED:
                await ctx.request_info(*ASKED[name], request_id=name)
        if not any(name in ASKED for name in text.split("+")) and text != "call":
            await ctx.yield_output(f"heard {text}")

    @response_handler
    async def text(self, asked: str, answer: str, ctx: Context) -> None:
        await ctx.yield_output(f"{asked} {answer}")

    @response_handler
    async def called(self, asked: FunctionCall, answer: str, ctx: Context) -> None:
        await ctx.yield_output(f"{asked.name}: {answer}")

    @response_handler
    async def approved(self, asked: ApprovalRequest, answer: bool, ctx: Context) -> None:
        await ctx.yield_output(f"{asked.name} {answer}")

    @response_handler
    async def judged(self, asked: ApprovalRequest, answer: ApprovalResponse, ctx: Context) -> None:
        await ctx.yield_output(f"{asked.name} {answer.approve} {answer.reason}")

    @response_handler
    async def chosen(self, asked: Choice, answer: Chosen, ctx: Context) -> None:
        await ctx.yield_output(f"{answer}")

    @response_handler
    async def coloured(self, asked: Choice, answer: Colour, ctx: Context) -> None:
        await ctx.yield_output(f"{answer}")

    @response_handler
    async def counted(self, asked: Choice, answer: float, ctx: Context) -> None:
        await ctx.yield_output(f"{answer!r}")

    @response_handler
    async def listed(self, asked: Choice, answer: list[int], ctx: Context) -> None:
        await ctx.yield_output(f"{answer}")

    @response_handler
    async def paid(self, asked: Choice, answer: Decimal, ctx: Context) -> None:
        await ctx.yield_output(f"{answer!r}")

    @response_handler
    async def typed(self, asked: Choice, answer: Typed, ctx: Context) -> None:
        await ctx.yield_output(f"{answer}")

    @response_handler
    async def filled(self, asked: Form, answer: Filled, ctx: Context) -> None:
        await ctx.yield_output(f"{asked.title} {answer.age}")


class Reader(Clerk):
    """A clerk that takes messages as answers too."""

    @response_handler
    async def message(self, asked: Choice, answer: Message, ctx: Context) -> None:
        await ctx.yield_output(f"{answer.text}")


def asking() -> Any:
    return WorkflowBuilder(start_executor=Clerk(), name="asking").build()


def output(call: Any, value: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call.call_id, "output": value}


async def ask(site: Any, name: str) -> tuple[Any, list[Any]]:
    response = await site.say(name)
    assert response.status == "completed"
    return response, [item for item in response.output if item.type in ("function_call", "mcp_approval_request")]


@pytest.mark.parametrize(
    ("name", "called", "arguments"),
    [
        ("text", "question", {"question": "Which city?"}),
        ("yes or no", "approval_request", {"name": "refund", "arguments": {"amount": 3}}),
        ("dataclass", "choice", {"options": ["a", "b"]}),
        ("model", "form", {"title": "t"}),
        ("call", "get_weather", {"city": "Rome"}),
    ],
)
async def test_a_question_is_a_call_named_after_its_type(
    serve_app: Any, name: str, called: str, arguments: dict[str, Any]
) -> None:
    """The type's name in lower case with underscores, the fields as arguments; a client's own function by its own."""
    site = await serve_app(asking())
    _, (call,) = await ask(site, name)
    assert (call.name, msgspec.json.decode(call.arguments)) == (called, arguments)
    assert call.status == "completed"
    assert call.call_id.startswith("call_")


@pytest.mark.parametrize(
    ("name", "said", "heard"),
    [
        ("text", "Rome", "Which city? Rome"),
        ("text", '{"a": 1}', 'Which city? {"a": 1}'),
        ("text", "true", "Which city? true"),
        ("yes or no", "true", "refund True"),
        ("yes or no", "No", "refund False"),
        ("approval", '{"approve": false, "reason": "late"}', "refund False late"),
        ("approval", "yes", "refund True None"),
        ("dataclass", '{"option": "a"}', "Chosen(option='a', count=1)"),
        ("enum", "red", "Colour.RED"),
        ("enum", '"blue"', "Colour.BLUE"),
        ("number", "3", "3.0"),
        ("list", "[1, 2]", "[1, 2]"),
        ("money", "12345678901234567.89", "Decimal('12345678901234567.89')"),
        ("money", '"0.10"', "Decimal('0.10')"),
        ("typed", '{"option": "a"}', "{'option': 'a'}"),
        ("model", '{"age": 7}', "t 7"),
        ("call", "sunny", "get_weather: sunny"),
    ],
)
async def test_an_answer_is_read_as_the_type_that_was_asked_for(
    serve_app: Any, name: str, said: str, heard: str
) -> None:
    """Text stays text, everything else is JSON or a plain word for it."""
    site = await serve_app(asking())
    response, (call,) = await ask(site, name)
    answered = await site.client.responses.create(previous_response_id=response.id, input=[output(call, said)])
    assert answered.output_text == heard


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yes or no", "maybe"),
        ("dataclass", "a"),
        ("dataclass", '{"count": 1}'),
        ("enum", "green"),
        ("number", "many"),
        ("list", '["x"]'),
        ("model", '{"age": "old"}'),
    ],
)
async def test_an_answer_of_another_type_is_refused_and_can_be_given_again(
    serve_app: Any, name: str, said: str
) -> None:
    """A 400 that names the place and the type; nothing has run, and the right answer still counts."""
    site = await serve_app(asking())
    response, (call,) = await ask(site, name)
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(previous_response_id=response.id, input=[output(call, said)])
    assert (caught.value.code, caught.value.param) == ("unreadable_answer", "input[0].output")
    assert "JSON schema" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("go on", response.id)
    assert caught.value.code == "missing_tool_output"


async def test_parts_of_text_are_one_answer_and_pictures_are_refused(serve_app: Any) -> None:
    """An output may come as content parts; an image is refused by name unless the answer may hold it."""
    site = await serve_app(asking())
    response, (call,) = await ask(site, "text")
    parts = [{"type": "input_text", "text": "Ro"}, {"type": "input_text", "text": "me"}]
    answered = await site.client.responses.create(
        previous_response_id=response.id, input=[{**output(call, ""), "output": parts}]
    )
    assert answered.output_text == "Which city? Rome"
    picture = [{"type": "input_image", "image_url": "https://x/y.png"}]
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(
            previous_response_id=response.id, input=[{**output(call, ""), "output": picture}]
        )
    assert "image" in caught.value.message


async def test_an_answer_may_be_a_message(serve_app: Any) -> None:
    """A response handler that takes a Message gets the output's parts as one."""
    site = await serve_app(WorkflowBuilder(start_executor=Reader(), name="reading").build())
    response, (call,) = await ask(site, "message")
    parts = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": "https://x/y.png"}]
    answered = await site.client.responses.create(
        previous_response_id=response.id, input=[{**output(call, ""), "output": parts}]
    )
    assert answered.output_text == "see"


async def test_all_questions_are_answered_at_once_in_any_order(serve_app: Any) -> None:
    """One request with both answers resumes once; the outputs come in the order of the questions."""
    site = await serve_app(asking())
    response, (first, second) = await ask(site, "text+yes or no")
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(previous_response_id=response.id, input=[output(first, "Rome")])
    assert second.call_id in caught.value.message
    answered = await site.client.responses.create(
        previous_response_id=response.id, input=[output(second, "yes"), output(first, "Rome")]
    )
    texts = [item.content[0].text for item in answered.output]
    assert texts == ["Which city? Rome", "refund True"]


async def test_two_branches_of_a_question_do_not_know_each_other(serve_app: Any) -> None:
    """The same question is answered twice with two answers, and each branch can be continued."""
    site = await serve_app(asking())
    response, (call,) = await ask(site, "text")
    branches = []
    for city in ("Rome", "Bari"):
        answered = await site.client.responses.create(previous_response_id=response.id, input=[output(call, city)])
        assert answered.output_text == f"Which city? {city}"
        branches.append(answered.id)
    for branch in branches:
        assert (await site.say("more", branch)).output_text == "heard more"


async def test_words_beside_an_answer_are_heard_after_it(serve_app: Any) -> None:
    """An answer and a message in one request: the question goes on first, then the message is taken."""
    site = await serve_app(asking())
    response, (call,) = await ask(site, "text")
    answered = await site.client.responses.create(
        previous_response_id=response.id, input=[{"role": "user", "content": "hurry"}, output(call, "Rome")]
    )
    assert [item.content[0].text for item in answered.output] == ["Which city? Rome", "heard hurry"]


async def test_a_failed_answer_leaves_the_question_open(serve_app: Any) -> None:
    """A turn that fails can be continued from its own id with the same call, as from the response that asked."""

    class Shaky(Clerk):
        @response_handler
        async def text(self, asked: str, answer: str, ctx: Context) -> None:
            if answer == "bad":
                raise ValueError("no such city")
            await ctx.yield_output(answer)

    site = await serve_app(WorkflowBuilder(start_executor=Shaky(), name="shaky").build())
    response, (call,) = await ask(site, "text")
    failed = await site.client.responses.create(previous_response_id=response.id, input=[output(call, "bad")])
    assert failed.status == "failed"
    for start in (failed.id, response.id):
        again = await site.client.responses.create(previous_response_id=start, input=[output(call, "Rome")])
        assert again.output_text == "Rome"


async def test_a_question_outlives_the_response_that_asked(serve_app: Any) -> None:
    """A response whose answering turn failed holds the question, also when the one that asked is deleted."""

    class Shaky(Clerk):
        @response_handler
        async def text(self, asked: str, answer: str, ctx: Context) -> None:
            if answer == "bad":
                raise ValueError("no such city")
            await ctx.yield_output(answer)

    site = await serve_app(WorkflowBuilder(start_executor=Shaky(), name="shaky").build())
    response, (call,) = await ask(site, "text")
    failed = await site.client.responses.create(previous_response_id=response.id, input=[output(call, "bad")])
    await site.client.responses.delete(response.id)
    again = await site.client.responses.create(previous_response_id=failed.id, input=[output(call, "Rome")])
    assert again.output_text == "Rome"
    await site.client.responses.delete(failed.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(input=[output(call, "Rome")])
    assert caught.value.code == "unknown_tool_call"


async def test_a_conversation_keeps_its_question(serve_app: Any) -> None:
    """The conversation's next turn must answer it; deleting the response that asked does not take it back."""
    site = await serve_app(asking())
    conversation = await site.client.conversations.create()
    asked = await site.client.responses.create(conversation=conversation.id, input="text")
    await site.client.responses.delete(asked.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(conversation=conversation.id, input="and?")
    assert caught.value.code == "missing_tool_output"
    answered = await site.client.responses.create(conversation=conversation.id, input=[output(asked.output[0], "Rome")])
    assert answered.output_text == "Which city? Rome"


async def test_an_answer_may_enter_its_conversation_before_the_turn(serve_app: Any) -> None:
    """As an item of the conversation it counts with the next request; one that answers nothing is no fault of it."""
    site = await serve_app(asking())
    conversation = await site.client.conversations.create()
    asked = await site.client.responses.create(conversation=conversation.id, input="text")
    stray = {"type": "function_call_output", "call_id": "call_stray", "output": "x"}
    await site.client.conversations.items.create(conversation.id, items=[stray, output(asked.output[0], "Rome")])
    answered = await site.client.responses.create(conversation=conversation.id, input="and?")
    assert [item.content[0].text for item in answered.output] == ["Which city? Rome", "heard and?"]


async def test_a_nested_workflow_asks_through_the_one_around_it(serve_app: Any) -> None:
    """A question at depth two is answered like any other."""
    inner = WorkflowBuilder(start_executor=Clerk(), name="inner").build()
    inside = WorkflowExecutor(inner, id="inside", propagate_request=True, allow_direct_output=True)
    outer = WorkflowBuilder(start_executor=inside, name="outer").build()
    site = await serve_app(outer)
    response, (call,) = await ask(site, "text")
    answered = await site.client.responses.create(previous_response_id=response.id, input=[output(call, "Rome")])
    assert answered.output_text == "Which city? Rome"


async def test_an_unstored_turn_cannot_ask(serve_app: Any) -> None:
    """It fails and says what is needed: nobody could answer it."""
    site = await serve_app(asking())
    response = await site.say("text", store=False)
    assert response.status == "failed"
    assert "store" in response.error.message
    assert response.output == []


async def test_a_question_whose_time_is_over_need_not_be_answered(serve_app: Any) -> None:
    """After it has expired an answer is refused, and a plain turn goes on."""

    class Hasty(Clerk):
        @handler
        async def take(self, text: str, ctx: Context) -> None:
            if text == "ask":
                await ctx.request_info("Quick?", str, expires_in=0.01)
            else:
                await ctx.yield_output("went on")

    site = await serve_app(WorkflowBuilder(start_executor=Hasty(), name="hasty").build())
    response = await site.say("ask")
    await asyncio.sleep(0.02)
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(previous_response_id=response.id, input=[output(response.output[0], "yes")])
    assert caught.value.code == "unknown_tool_call"
    assert (await site.say("next", response.id)).output_text == "went on"


# --- Approvals in MCP's form ---------------------------------------------------------------------------------------


def approve(request: Any, yes: bool, reason: str | None = None) -> dict[str, Any]:
    said = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": yes}
    return {**said, "reason": reason} if reason else said


async def test_approvals_in_mcp_form(serve_app: Any) -> None:
    """The request is an item of its own; approved, the call stands in the answer; denied, it does not."""
    site = await serve_app(asking(), approvals="mcp")
    response, (request,) = await ask(site, "yes or no")
    assert (request.type, request.name, request.server_label) == ("mcp_approval_request", "refund", "workflow")
    assert msgspec.json.decode(request.arguments) == {"amount": 3}
    yes = await site.client.responses.create(previous_response_id=response.id, input=[approve(request, True)])
    assert yes.output_text == "refund True"
    (call,) = [item for item in yes.output if item.type == "mcp_call"]
    assert (call.name, call.approval_request_id) == ("refund", request.id)
    no = await site.client.responses.create(previous_response_id=response.id, input=[approve(request, False)])
    assert no.output_text == "refund False"
    assert {item.type for item in no.output} == {"message"}


async def test_an_approval_may_have_a_reason(serve_app: Any) -> None:
    """A handler that takes an ApprovalResponse hears the reason too; an unknown request is a fault."""
    site = await serve_app(asking(), approvals="mcp")
    response, (request,) = await ask(site, "approval")
    no = await site.client.responses.create(previous_response_id=response.id, input=[approve(request, False, "late")])
    assert no.output_text == "refund False late"
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.create(
            previous_response_id=response.id,
            input=[{"type": "mcp_approval_response", "approval_request_id": "mcpr_x", "approve": True}],
        )
    assert caught.value.code == "unknown_tool_call"


# --- What is published ---------------------------------------------------------------------------------------------


async def test_the_questions_of_a_workflow_are_published(serve_app: Any) -> None:
    """The model's entry lists a function tool for each, with the schemas of its arguments and of its answer."""
    site = await serve_app(asking())
    model = await site.client.models.retrieve("asking")
    tools = {(tool["name"], str(tool["answer"].get("type"))): tool for tool in model.tools}
    assert tools["question", "string"]["parameters"]["required"] == ["question"]
    assert tools["approval_request", "boolean"]["description"] == "Asked by clerk; the output is bool."
    assert tools["choice", "object"]["parameters"]["properties"]["options"]["type"] == "array"
    assert tools["form", "object"]["answer"]["properties"]["age"]["type"] == "integer"
    assert not any(name == "function_call" for name, _ in tools)


# --- Matching ------------------------------------------------------------------------------------------------------

CALLS = (OpenCall("call_a", "a"), OpenCall("call_b", "b"), OpenCall("call_a2", "a"))


def said(*outputs: tuple[str, str]) -> Any:
    return read_items(
        [{"type": "function_call_output", "call_id": call, "output": text} for call, text in outputs], "input"
    )


def test_any_call_of_a_request_answers_it() -> None:
    """A request that was asked twice at one commit takes an answer to either call."""
    for call in ("call_a", "call_a2"):
        assert list(match(said((call, "x"), ("call_b", "y")), CALLS, ["a", "b"]).by_request) == ["a", "b"]


def test_one_answer_twice_is_one_answer() -> None:
    """Repeated with the same words it counts once; with other words it is a fault."""
    assert list(match(said(("call_a", "x"), ("call_a2", "x")), CALLS, ["a"]).by_request) == ["a"]
    with pytest.raises(Problem) as caught:
        match(said(("call_a", "x"), ("call_a2", "y")), CALLS, ["a"])
    assert caught.value.code == "duplicate_item"


def test_an_answered_call_beside_its_output_is_history() -> None:
    """An output whose call stands in the request is no fault even if nothing waits for it."""
    call = {"type": "function_call", "call_id": "call_old", "name": "f", "arguments": "{}"}
    items = (*read_items([call], "input"), *said(("call_old", "x"), ("call_a", "y")))
    found = match(items, CALLS, ["a"])
    assert list(found.by_request) == ["a"]
    assert len(found.others) == 2
