"""What clients find under `/models`."""

from typing import Any, Never

import openai
import pytest

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, executor


@executor(id="echo")
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


def named(name: str) -> Workflow:
    return WorkflowBuilder(start_executor=echo, name=name).build()


@pytest.mark.parametrize("name", ["echoing", "team/echoing"])
async def test_the_workflow_is_the_one_model(serve_app: Any, name: str) -> None:
    """It is listed and found by its name, which may then be used as `model`."""
    client = (await serve_app(named(name))).client
    (model,) = (await client.models.list()).data
    assert (model.id, model.object, model.owned_by) == (name, "model", "agent_host")
    assert await client.models.retrieve(name) == model
    assert (await client.responses.create(model=model.id, input="hi")).model == name


async def test_no_other_model_is_found(serve_app: Any) -> None:
    """Any other name is a 404 that quotes it."""
    client = (await serve_app(named("echoing"))).client
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("gpt-x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "gpt-x" in caught.value.message
