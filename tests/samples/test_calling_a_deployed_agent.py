"""The sample that calls a deployed agent, against a project that answers as the platform does."""

import json
import runpy
from collections.abc import Callable
from typing import Any

import pytest
import respx

from agent_host.foundry import project
from tests.docs.pages import ROOT
from tests.foundry.service import ENDPOINT, Credential

AGENT = f"{ENDPOINT}/agents/help-desk/endpoint/protocols/openai"


def test_the_deployed_agent_is_called_at_its_address_and_continued(
    httpx2_mock: respx.Router, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two turns continue the first response, two more name the conversation, and each is signed in."""
    monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", ENDPOINT)
    monkeypatch.setattr(project, "_default_credential", Credential)
    answer = {
        "id": "caresp_1", "object": "response", "created_at": 1, "status": "completed", "model": "help-desk",
        "output": [], "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
    }  # fmt: skip
    query = {"api-version": "v1"}
    responses = httpx2_mock.post(f"{AGENT}/responses", params=query).respond(json=answer)
    created = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {}}
    httpx2_mock.post(f"{AGENT}/conversations", params=query).respond(json=created)
    sample = runpy.run_path(str(ROOT / "samples/03_calling_a_deployed_agent/app.py"))
    call: Callable[[Any], None]
    with sample["connect"](None) as agent:
        for call in (sample["by_response"], sample["by_conversation"]):
            call(agent)
    bodies = [json.loads(each.request.content) for each in responses.calls]
    continued = [body.get("previous_response_id") for body in bodies]
    assert continued == [None, "caresp_1", "caresp_1", None, None]
    assert [body.get("conversation") for body in bodies] == [None, None, None, "conv_1", "conv_1"]
    assert {each.request.headers["authorization"] for each in responses.calls} == {"Bearer token-of-the-test"}
