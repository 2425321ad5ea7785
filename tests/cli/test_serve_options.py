"""Options of `agent-host serve` that change what clients see."""

from typing import Any

import openai
import pytest
from openai.types.responses import ResponseInputParam

ASKING = """
from agent_host import Executor, WorkflowBuilder, handler, response_handler
from agent_host.messages import ApprovalRequest, ApprovalResponse

class Pay(Executor):
    @handler
    async def pay(self, text: str, ctx) -> None:
        await ctx.request_info(ApprovalRequest("pay", {"amount": 7}), ApprovalResponse)

    @response_handler
    async def decided(self, asked: ApprovalRequest, answer: ApprovalResponse, ctx) -> None:
        await ctx.yield_output("paid" if answer.approve else "not paid")

workflow = WorkflowBuilder(start_executor=Pay("pay"), name="payer").build()
"""


@pytest.fixture
def app(tmp_path: Any) -> str:
    (tmp_path / "app.py").write_text(ASKING)
    return f"{tmp_path / 'app.py'}:workflow"


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def test_without_options_a_client_sees_what_every_client_knows(serve: Any, app: str) -> None:
    """No progress, a function call for an approval, and any model."""
    response = serve(app).say("x", model="another")
    assert kinds(response) == ["function_call"]
    assert response.model == "another"


def test_progress_and_approvals(serve: Any, app: str) -> None:
    """Progress comes as messages before the answer, an approval as the item that is made for it, and can be given."""
    host = serve(app, "--progress", "commentary", "--approvals", "mcp")
    asked = host.say("x")
    assert kinds(asked)[-1] == "mcp_approval_request"
    said = [item for item in asked.output if item.type == "message"]
    assert said
    assert {item.phase for item in said} == {"commentary"}
    answer: ResponseInputParam = [
        {"type": "mcp_approval_response", "approval_request_id": asked.output[-1].id, "approve": True}
    ]
    paid = host.client.responses.create(input=answer, previous_response_id=asked.id)
    assert "mcp_call" in kinds(paid)
    assert [item.content[0].text for item in paid.output if item.type == "message" and item.phase != "commentary"] == [
        "paid"
    ]


def test_progress_as_reasoning(serve: Any, app: str) -> None:
    """The same, as summaries of reasoning."""
    assert kinds(serve(app, "--progress", "reasoning").say("x")) == ["reasoning", "function_call"]


def test_a_strict_host_knows_one_model(serve: Any, app: str) -> None:
    """Another one is not found; the workflow's name and no name at all are."""
    host = serve(app, "--strict-model")
    with pytest.raises(openai.NotFoundError) as caught:
        host.say("x", model="another")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert host.say("x", model="payer").status == "completed"
    assert host.say("x").status == "completed"


@pytest.mark.parametrize(("option", "words"), [("--progress", "commentary"), ("--approvals", "function_call")])
def test_a_word_that_an_option_does_not_know(run_cli: Any, app: str, option: str, words: str) -> None:
    """The message names the option, the word and what there is."""
    ended = run_cli("serve", app, option, "loudly")
    assert ended.returncode == 2
    for word in (option, "loudly", words):
        assert word in ended.stderr
