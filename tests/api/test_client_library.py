"""The conveniences of the stock client: its stream helper, its parsing, its tool runner."""

import json
import typing
from typing import Any, Never

import openai
import pydantic
import pytest
from openai.lib.responses_tool_runner import AsyncRegisteredFunction, AsyncResponsesToolRunner
from openai.types.responses import ResponseStreamEvent

from agent_host import Executor, RetryPolicy, TextDelta, WorkflowBuilder, WorkflowContext, config, handler
from tests.api.clerk import Clerk

COMMON = {"model": "any"}


class Place(pydantic.BaseModel):
    city: str


def official_types() -> set[str]:
    """The event types that the client library's union knows."""
    union = typing.get_args(ResponseStreamEvent)[0]
    return {kind for event in typing.get_args(union) for kind in typing.get_args(event.model_fields["type"].annotation)}


@pytest.mark.parametrize("text", ["hi", "count 3", "think hi", "ask Where?", "refund 5"])
async def test_the_stream_helper_ends_with_the_final_response(site: Any, text: str) -> None:
    """Iterated to its end it has put together what is stored; whatever the workflow does, it does not complain."""
    async with site.client.responses.stream(**COMMON, input=text) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()
    assert events[-1].type == "response.completed"
    stored = await site.client.responses.retrieve(final.id)
    assert final.output_text == stored.output_text
    assert [item.id for item in final.output] == [item.id for item in stored.output]


@pytest.mark.parametrize("background", [False, True])
async def test_a_stream_has_only_the_types_that_clients_know(site: Any, told: Any, background: bool) -> None:
    """A client in another language stops at an event of a type that it does not know, so none is sent by default."""
    known = official_types()
    assert len(known) > 50
    for text in ("hi", "count 3", "think hi", "ask Where?", "refund 5", "fail so far"):
        events = await told(site, {"input": text, "background": background, "reasoning": {"summary": "auto"}})
        assert {event["type"] for event in events} <= known


async def test_the_helper_reports_a_failed_response(site: Any) -> None:
    """Its iteration ends with the failure, whose response is there with its error."""
    async with site.client.responses.stream(**COMMON, input="fail so far") as stream:
        events = [event async for event in stream]
        with pytest.raises(RuntimeError):
            await stream.get_final_response()
    assert events[-1].type == "response.failed"
    assert "kettle" in events[-1].response.error.message


@pytest.mark.parametrize("text", ["object Oslo", "think object Oslo"])
async def test_an_answer_is_parsed_beside_plain_thoughts(site: Any, text: str) -> None:
    """What is said on the way is marked as commentary, so that only the answer is read as the type asked for."""
    parsed = await site.client.responses.parse(**COMMON, input=text, text_format=Place)
    assert parsed.output_parsed == Place(city="Oslo")
    async with site.client.responses.stream(**COMMON, input=text, text_format=Place) as stream:
        async for event in stream:
            assert event.type != "error"
        final = await stream.get_final_response()
    assert final.output_parsed == Place(city="Oslo")
    assert [item.phase for item in final.output[:-1]] == ["commentary"] * (len(final.output) - 1)


class Flaky(Executor):
    """Breaks off in the middle of a text, and says it whole when it is tried again."""

    attempts: list[str] = config()

    def __init__(self) -> None:
        super().__init__("flaky", retry=RetryPolicy(max_attempts=2, delay=0))
        self.attempts = []

    @handler
    async def say(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.attempts.append(text)
        await ctx.yield_output(TextDelta('{"city": '))
        if len(self.attempts) % 2:
            raise ConnectionError("gone")
        await ctx.yield_output(TextDelta('"Oslo"}'))


@pytest.mark.parametrize("background", [False, True])
async def test_what_was_taken_back_does_not_confuse_the_helper(serve_checked: Any, background: bool) -> None:
    """The text of a failed attempt stays an empty item, which is neither part of the text nor parsed."""
    flaky = Flaky()
    site = await serve_checked(WorkflowBuilder(start_executor=flaky, name="flaky").build())
    async with site.client.responses.stream(**COMMON, input="x", text_format=Place, background=background) as stream:
        async for _ in stream:
            pass
        final = await stream.get_final_response()
    assert len(flaky.attempts) == 2
    assert [(item.status, item.phase) for item in final.output] == [
        ("incomplete", "commentary"), ("completed", "final_answer"),
    ]  # fmt: skip
    assert final.output_parsed == Place(city="Oslo")
    assert (await site.client.responses.retrieve(final.id)).output_text == '{"city": "Oslo"}'


async def test_a_call_of_a_function_that_nobody_declared_is_returned(site: Any) -> None:
    """Plain, parsed and streamed, the client gets the question of a workflow though it declared no tools."""
    created = await site.say("ask Where?")
    parsed = await site.client.responses.parse(**COMMON, input="ask Where?")
    async with site.client.responses.stream(**COMMON, input="ask Where?") as stream:
        done = [event async for event in stream if event.type == "response.function_call_arguments.done"]
        streamed = await stream.get_final_response()
    for response in (created, parsed, streamed):
        (call,) = response.output
        assert (call.type, call.name, json.loads(call.arguments)) == (
            "function_call",
            "question",
            {"question": "Where?"},
        )
    assert [event.arguments for event in done] == [streamed.output[0].arguments]


async def test_the_helper_reads_a_finished_response_again(site: Any) -> None:
    """Given an id it replays all events and skips those before the place it was given."""
    first = await site.say("count 5", stream=True, background=True)
    events = [event async for event in first]
    async with site.client.responses.stream(response_id=events[0].response.id, starting_after=3) as stream:
        again = [event async for event in stream]
        final = await stream.get_final_response()
    assert [event.sequence_number for event in again] == list(range(4, len(events)))
    assert [event.type for event in again] == [event.type for event in events[4:]]
    assert final.output_text == "0 1 2 3 4 "


class Question(pydantic.BaseModel):
    question: str


@pytest.mark.parametrize("stream", [False, True])
async def test_the_tool_runner_answers_questions_by_itself(site: Any, clerk: Clerk, stream: bool) -> None:
    """It declares the question as a tool and sends the whole history and no id; the workflow goes on as it stood."""

    async def answer(asked: Question) -> str:
        return f"{asked.question[:-1].lower()} it is"

    tool = openai.pydantic_responses_function_tool(Question, name="question")
    runner = AsyncResponsesToolRunner(functions=[AsyncRegisteredFunction.from_tool(tool, execute=answer)])
    history: list[Any] = [{"role": "user", "content": "ask Here?|Now?"}]
    final = await runner.run(site.client, {**COMMON, "input": history}, stream=stream)
    assert final.output_text == "Here? here it is, Now? now it is; turn 1"
    assert clerk.done == ["asked", "went on"]
