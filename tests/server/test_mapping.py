"""What a request carries becomes the start executor's input; what executors yield becomes messages of the response."""

import dataclasses
import json
from typing import Any, Never

import openai
import pydantic
import pytest

from agent_host import Executor, Message, Workflow, WorkflowBuilder, WorkflowContext, executor, handler
from agent_host.messages import FilePart, ImagePart, TextPart


@dataclasses.dataclass
class Order:
    item: str
    count: int = 1


class Booking(pydantic.BaseModel):
    city: str
    nights: int


def shows(kind: Any) -> Workflow:
    """A workflow that takes one type and shows what it was given."""

    class Show(Executor):
        @handler(input=kind, workflow_output=str)
        async def show(self, value: Any, ctx: WorkflowContext[Any, Any]) -> None:
            await ctx.yield_output(repr(value))

    return WorkflowBuilder(start_executor=Show("show"), name="shows").build()


TEXT = {"type": "input_text", "text": "see"}
IMAGE = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
FILE = {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,aGk="}
CHAT = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answered"},
    {"role": "user", "content": [{"type": "input_text", "text": "se"}, {"type": "input_text", "text": "cond"}]},
    {"type": "message", "role": "user", "content": "third"},
]

EXCHANGE = [
    {"role": "user", "content": "x"},
    {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c", "output": "x"},
]


@pytest.mark.parametrize(
    ("kind", "given", "shown"),
    [
        (str, "hello", "hello"),
        (str, CHAT, "second\n\nthird"),
        (str, [*EXCHANGE, {"role": "user", "content": "y"}], "y"),
        (Message, "hello", Message("hello")),
        (Message, CHAT, Message("third")),
        (
            Message,
            [{"role": "user", "content": [{"type": "input_text", "text": "see"}, IMAGE, FILE]}],
            Message(
                [
                    TextPart("see"),
                    ImagePart(url="https://x/y.png", detail="low"),
                    FilePart("a.txt", "data:text/plain;base64,aGk="),
                ]
            ),
        ),
        (list[Message], "hello", [Message("hello")]),
        (
            list[Message],
            CHAT,
            [
                Message("be kind", "system"),
                Message("first"),
                Message("answered", "assistant"),
                Message([TextPart("se"), TextPart("cond")]),
                Message("third"),
            ],
        ),
        (Order, '{"item": "tea", "count": 2}', Order("tea", 2)),
        (Order, '{"item": "tea"}', Order("tea")),
        (Booking, '{"city": "Rome", "nights": 3}', Booking(city="Rome", nights=3)),
        (Order | str, '{"item": "tea"}', Order("tea")),
        (Message | str, "hello", Message("hello")),
    ],
)
async def test_the_start_executor_gets_what_it_takes(serve_app: Any, kind: Any, given: Any, shown: Any) -> None:
    """All messages, the last user message, a model or dataclass from JSON, or the text since the last answer."""
    site = await serve_app(shows(kind))
    assert (await site.say(given)).output_text == repr(shown)


@pytest.mark.parametrize(
    ("kind", "given", "param", "words"),
    [
        (str, [{"role": "user", "content": [TEXT, IMAGE]}], "input[0].content[1]", "image"),
        (str, [{"role": "user", "content": [FILE]}], "input[0].content[0]", "file"),
        (str, [{"role": "assistant", "content": "x"}], "input[0]", "user"),
        (Message, [{"role": "system", "content": "x"}], "input[0]", "user"),
        (Order, "tea", "input", "JSON"),
        (Order, '{"count": 2}', "input", "item"),
        (Order, '{"item": "tea", "count": "many"}', "input", "count"),
        (Booking, [{"role": "user", "content": '{"city": "Rome"}'}], "input[0]", "nights"),
    ],
)
async def test_an_input_the_workflow_cannot_take_is_refused(
    serve_app: Any, kind: Any, given: Any, param: str, words: str
) -> None:
    """The refusal names the part of the input, and what is wrong with it."""
    site = await serve_app(shows(kind))
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say(given)
    assert caught.value.param == param
    assert words in caught.value.message


def test_a_workflow_that_no_request_can_reach_is_refused_at_start(run_cli: Any, tmp_path: Any) -> None:
    """A start executor that takes neither text nor messages is an error when the host starts, with the remedy."""
    app = tmp_path / "app.py"
    app.write_text(
        "from agent_host import WorkflowBuilder, WorkflowContext, executor\n"
        "@executor\nasync def number(value: int, ctx: WorkflowContext) -> None: ...\n"
        "workflow = WorkflowBuilder(start_executor=number).build()\n"
    )
    ended = run_cli("serve", f"{app}:workflow")
    assert ended.returncode == 1
    assert "'number'" in ended.stderr
    assert "int" in ended.stderr
    assert "handler for str" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- Outputs -----------------------------------------------------------------------------------------------------


def yields(*values: Any) -> Workflow:
    @executor
    async def show(
        text: str, ctx: WorkflowContext[Never, str | Message | Order | Booking | dict | list | float]
    ) -> None:
        for value in values:
            await ctx.yield_output(value)

    return WorkflowBuilder(start_executor=show, name="yields").build()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("text", "text"),
        ("", ""),
        (Message("said", "assistant"), "said"),
        (Order("tea", 2), {"item": "tea", "count": 2}),
        (Booking(city="Rome", nights=3), {"city": "Rome", "nights": 3}),
        ({"a": [1, None]}, {"a": [1, None]}),
        ([Order("tea"), Booking(city="Rome", nights=3)], [{"item": "tea", "count": 1}, {"city": "Rome", "nights": 3}]),
        (7, 7),
        (1.5, 1.5),
        (True, True),
    ],
)
async def test_an_output_is_shown_as_text_or_as_json(serve_app: Any, value: Any, shown: Any) -> None:
    """Text and messages as they are, everything else as JSON text."""
    site = await serve_app(yields(value))
    response = await site.say("x")
    assert response.status == "completed", response.error
    [item] = response.output
    assert (item.role, item.status, item.phase) == ("assistant", "completed", "final_answer")
    text = item.content[0].text
    assert (text if isinstance(shown, str) else json.loads(text)) == shown


async def test_each_output_is_a_message_of_its_own(serve_app: Any) -> None:
    """Several outputs keep their order."""
    site = await serve_app(yields("a", 1, "b"))
    assert [item.content[0].text for item in (await site.say("x")).output] == ["a", "1", "b"]


@pytest.mark.parametrize("value", [object(), {"a": object()}, ["x", {1, object()}]])
async def test_an_output_that_cannot_be_shown_fails_where_it_is_yielded(serve_app: Any, value: Any) -> None:
    """The error names the executor and the type; outputs before it are not shown either."""
    site = await serve_app(yields("before", value))
    response = await site.say("x")
    assert response.status == "failed"
    assert "'show'" in response.error.message
    assert "object" in response.error.message or type(value).__name__ in response.error.message
    assert response.output == []


# --- What else a request and a response say ----------------------------------------------------------------------


class Counting(Executor):
    """Counts tokens, and shows what it is told of the request."""

    @handler
    async def count(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        ctx.add_usage(input_tokens=10, output_tokens=5, cached_tokens=4)
        await ctx.send_message(text)


class Telling(Executor):
    @handler
    async def tell(self, text: str, ctx: WorkflowContext[Never, Any]) -> None:
        ctx.add_usage(input_tokens=1, output_tokens=2, reasoning_tokens=1)
        if text == "fail":
            raise RuntimeError
        turn = ctx.turn
        await ctx.yield_output(
            {
                "response_id": turn.response_id,
                "previous": turn.previous_response_id,
                "model": turn.model,
                "instructions": turn.instructions,
                "metadata": dict(turn.metadata),
                "headers": dict(turn.client_headers),
                "streaming": ctx.is_streaming(),
            }
        )


def telling() -> Workflow:
    counting, telling = Counting("counting"), Telling("telling")
    return WorkflowBuilder(start_executor=counting, name="telling").add_edge(counting, telling).build()


async def test_handlers_see_what_the_request_says(serve_app: Any) -> None:
    """`ctx.turn` has model, instructions, metadata, ids and the headers meant for the workflow, and no others."""
    site = await serve_app(telling())
    one = await site.say("x")
    two = await site.say(
        "x", one.id, model="large", instructions="be brief", metadata={"a": "b"},
        extra_headers={"x-client-tenant": "t1", "x-other": "no"},
    )  # fmt: skip
    assert json.loads(two.output_text) == {
        "response_id": two.id,
        "previous": one.id,
        "model": "large",
        "instructions": "be brief",
        "metadata": {"a": "b"},
        "headers": {"x-client-tenant": "t1"},
        "streaming": False,
    }
    told = json.loads(one.output_text)
    assert (told["model"], told["instructions"], told["metadata"], told["headers"]) == (None, None, {}, {})


async def test_a_model_is_optional_and_repeated_by_the_response(serve_app: Any) -> None:
    """Any model may be named; without one the response names the workflow."""
    site = await serve_app(telling())
    assert (await site.say("x", model="anything")).model == "anything"
    assert (await site.say("x")).model == "telling"


async def test_tokens_that_handlers_count_are_the_usage_of_the_response(serve_app: Any) -> None:
    """What several executors add is summed, also for a turn that failed; the response read back says the same."""
    site = await serve_app(telling())
    response = await site.say("x")
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (11, 7, 18)
    assert usage.input_tokens_details.cached_tokens == 4
    assert usage.output_tokens_details.reasoning_tokens == 1
    assert (await site.client.responses.retrieve(response.id)).usage == usage
    failed = await site.say("fail")
    assert failed.status == "failed"
    assert failed.usage.input_tokens == 10


@pytest.mark.parametrize("stream", [False, True])
async def test_a_turn_that_is_not_to_be_stored_leaves_nothing(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, stream: bool
) -> None:
    """With `store: false` the answer is complete, but it can neither be read back nor continued."""
    site = await serve_app(telling())
    one = await site.say("x")
    answer = await site.say("x", one.id, store=False, stream=stream)
    two = [event async for event in answer][-1].response if stream else answer
    assert two.status == "completed"
    assert two.store is False
    assert json.loads(two.output_text)["previous"] == one.id
    with pytest.raises(openai.NotFoundError):
        await site.client.responses.retrieve(two.id)
    with pytest.raises(openai.BadRequestError) as caught:
        await site.say("x", two.id)
    assert caught.value.code == "previous_response_not_found"
    assert list(stored_statuses(tmp_path / "host.db")) == [one.id]
