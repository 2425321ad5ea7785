"""A nested workflow behind the host: what it yields is what the workflow around it takes."""

from dataclasses import dataclass
from typing import Any, Never

import pytest

from agent_host import Executor, WorkflowBuilder, WorkflowContext, WorkflowExecutor, handler


@dataclass(frozen=True)
class Order:
    name: str


class Read(Executor):
    @handler
    async def read(self, text: str, ctx: WorkflowContext[Never, Order]) -> None:
        await ctx.yield_output(Order(text))


class Confirm(Executor):
    @handler
    async def confirm(self, order: Order, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{order.name} is confirmed")


@pytest.mark.parametrize("background", [False, True])
async def test_an_output_that_becomes_a_message_keeps_its_type(serve_app: Any, background: bool) -> None:
    """Only what leaves the whole workflow is turned into text for clients."""
    inner = WorkflowExecutor(WorkflowBuilder(start_executor=Read("read")).build(), "inner")
    workflow = WorkflowBuilder(start_executor=inner, name="orders").add_edge(inner, Confirm("confirm")).build()
    site = await serve_app(workflow)
    stream = await site.say("tea", background=background, stream=True)
    (*_, last) = [event async for event in stream]
    assert last.response.output_text == "tea is confirmed"


@pytest.mark.parametrize("background", [False, True])
async def test_an_output_that_leaves_the_workflow_is_text(serve_app: Any, background: bool) -> None:
    """A nested workflow that answers for the workflow around it answers in JSON, as that would."""
    inner = WorkflowExecutor(WorkflowBuilder(start_executor=Read("read")).build(), "inner", allow_direct_output=True)
    site = await serve_app(WorkflowBuilder(start_executor=inner, name="orders").build())
    stream = await site.say("tea", background=background, stream=True)
    (*_, last) = [event async for event in stream]
    assert last.response.output_text == '{"name":"tea"}'
