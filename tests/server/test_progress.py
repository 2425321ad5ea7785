"""What the executors do, shown to clients: as messages on the way, as reasoning, or as events of the workflow."""

from typing import Any, Never

import pytest

from agent_host import CustomEvent, Executor, WorkflowBuilder, WorkflowContext, handler


class Writer(Executor):
    """Sends its text on."""

    @handler
    async def write(self, text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.add_event(CustomEvent("progress", "half of it"))
        await ctx.add_event(CustomEvent("figures", {"not": "text"}))
        await ctx.send_message(f"{text}!")


class Printer(Executor):
    """Says what it is sent."""

    @handler
    async def show(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(text)


def pipeline() -> Any:
    writer, printer = Writer("writer"), Printer("printer")
    return WorkflowBuilder(start_executor=writer, name="pipeline").add_edge(writer, printer).build()


SAID = ["Running writer.", "writer: half of it", "Running printer."]


async def test_progress_is_off_unless_asked_for(serve_app: Any) -> None:
    """A response holds the answer alone."""
    site = await serve_app(pipeline())
    response = await site.say("x")
    assert [item.type for item in response.output] == ["message"]


@pytest.mark.parametrize("background", [False, True])
async def test_progress_as_commentary(serve_app: Any, background: bool, eventually: Any) -> None:
    """Each step and what an executor says of itself is a message of the phase commentary, before the answer."""
    site = await serve_app(pipeline(), progress="commentary")
    response = await site.say("x", background=background)
    while response.status in ("queued", "in_progress"):
        response = await site.client.responses.retrieve(response.id)
    phases = [item.phase for item in response.output]
    assert [item.content[0].text for item in response.output] == [*SAID, "x!"]
    assert phases == ["commentary"] * 3 + ["final_answer"]


async def test_progress_as_reasoning(serve_app: Any) -> None:
    """The same as summaries of reasoning, which clients show apart and leave out of the answer's text."""
    site = await serve_app(pipeline(), progress="reasoning")
    response = await site.say("x")
    assert [item.summary[0].text for item in response.output[:3]] == SAID
    assert response.output_text == "x!"


async def test_a_client_asks_for_summaries(serve_app: Any) -> None:
    """`reasoning.summary` in a request shows the progress of that one."""
    site = await serve_app(pipeline())
    response = await site.say("x", reasoning={"summary": "auto"})
    assert [item.type for item in response.output] == ["reasoning"] * 3 + ["message"]
    assert [item.type for item in (await site.say("x")).output] == ["message"]


async def test_progress_is_told_while_it_happens(serve_app: Any) -> None:
    """The items come in a stream in order, with nothing of the response out of place, and replay the same."""
    site = await serve_app(pipeline(), progress="reasoning")
    events = [event async for event in await site.client.responses.create(input="x", stream=True)]
    added = [event.item.type for event in events if event.type == "response.output_item.added"]
    assert added == ["reasoning"] * 3 + ["message"]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    replayed = [event async for event in await site.client.responses.retrieve(events[0].response.id, stream=True)]
    assert replayed == events


async def test_workflow_events_for_those_who_ask(serve_app: Any) -> None:
    """With the header they come between the events of the response, without a number, and are not replayed."""
    site = await serve_app(pipeline())
    async with site.http.stream(
        "POST", "/v1/responses", json={"input": "x", "stream": True}, headers={"x-workflow-events": "1"}
    ) as answer:
        kinds = [line.removeprefix("event: ") async for line in answer.aiter_lines() if line.startswith("event: ")]
    shown = [kind for kind in kinds if kind.startswith("workflow.")]
    assert {"workflow.executor_invoked", "workflow.progress", "workflow.figures"} <= set(shown)
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    plain = [event.type async for event in await site.client.responses.create(input="x", stream=True)]
    assert [kind for kind in kinds if kind not in shown] == plain
