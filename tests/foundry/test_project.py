"""Clients of a Foundry project: where they call, as whom, and for which request."""

import asyncio
import subprocess
import sys
from typing import Any, Never

import pytest
import respx

from agent_host import WorkflowBuilder, WorkflowContext, executor
from agent_host.errors import SettingsError
from agent_host.foundry.calls import call_headers, on_behalf_of
from agent_host.foundry.identity import CALL
from agent_host.foundry.project import openai_client, project_client, sync_openai_client
from tests.foundry.service import ENDPOINT, Answer, Credential, Service

RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": [],
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip


def test_importing_the_clients_loads_neither_azure_nor_openai() -> None:
    """The package, and the module that makes the clients, cost no client library until one is made."""
    program = (
        "import sys, agent_host, agent_host.foundry.project; "
        "print(*({name.partition('.')[0] for name in sys.modules} & {'azure', 'openai', 'msal', 'requests'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("address", [None, "", "desk.services.ai.azure.com", "https://desk.services.ai.azure.com"])
def test_a_missing_or_strange_address_is_an_error_that_says_what_it_looks_like(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the address of a project no client is made, and the message shows one."""
    monkeypatch.delenv("FOUNDRY_PROJECT_ENDPOINT", raising=False)
    if address is not None:
        monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", address)
    with pytest.raises(SettingsError, match="/api/projects/PROJECT"):
        project_client(credential=Credential())


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the client libraries are not installed, the message is the command that installs them."""
    monkeypatch.setitem(sys.modules, "azure.ai.projects", None)
    monkeypatch.setitem(sys.modules, "azure.identity", None)
    for make in (project_client, openai_client, sync_openai_client):
        with pytest.raises(SettingsError, match=r"pip install 'workflow-agent-host\[foundry\]'"):
            make(ENDPOINT, Credential())


def test_the_project_is_that_of_the_environment_and_is_called_for_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Calls of azure's client go to the named project, and carry the call id of the block that they are made in."""
    monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", f"{ENDPOINT}/")
    service = Service({"DELETE /agents/desk/endpoint/sessions/s1": [Answer(204, b"")]})
    with project_client(credential=Credential(), transport=service) as project:
        with on_behalf_of("c1"):
            project.agents.delete_session("desk", "s1")
        project.agents.delete_session("desk", "s1")
    assert [call.headers.get(CALL) for call in service.calls] == ["c1", None]
    assert service.calls[0].headers["Authorization"] == "Bearer token-of-the-test"


async def test_one_client_sends_each_request_its_own_call_id(httpx2_mock: respx.Router) -> None:
    """Two requests that are served at the same time share a client, and each of their calls says for whom it is."""
    route = httpx2_mock.post(f"{ENDPOINT}/openai/v1/responses").respond(json=RESPONSE)
    client = openai_client(ENDPOINT, Credential())

    async def served(call_id: str) -> None:
        with on_behalf_of(call_id):
            await asyncio.gather(*(client.responses.create(input=call_id, model="m", store=False) for _ in range(2)))

    await asyncio.gather(served("c1"), served("c2"))
    await client.responses.create(input="None", model="m", store=False)
    sent = [(str(call.request.headers.get(CALL)), call.request.content) for call in route.calls]
    assert len(sent) == 5
    assert all(f'"input":"{call_id}"'.encode() in body for call_id, body in sent)
    assert {call.request.headers["authorization"] for call in route.calls} == {"Bearer token-of-the-test"}
    await client.close()


async def test_a_handler_in_a_thread_calls_for_its_request(httpx2_mock: respx.Router) -> None:
    """The client for handlers without an event loop says for whom it calls too, in two turns at the same time."""
    route = httpx2_mock.post(f"{ENDPOINT}/openai/v1/responses").respond(json=RESPONSE)
    with sync_openai_client(ENDPOINT, Credential()) as client:

        @executor
        def ask(text: str, ctx: WorkflowContext[Never, str]) -> None:
            ctx.yield_output(client.responses.create(input=text, model="m", store=False).id)

        workflow = WorkflowBuilder(start_executor=ask, name="asks").build()

        async def run(call_id: str) -> None:
            with on_behalf_of(call_id):
                await workflow.run(call_id, session_id=call_id)

        await asyncio.gather(run("c1"), run("c2"))
    sent = [(str(call.request.headers.get(CALL)), call.request.content) for call in route.calls]
    assert len(sent) == 2
    assert all(f'"input":"{call_id}"'.encode() in body for call_id, body in sent)
    assert {call.request.headers["authorization"] for call in route.calls} == {"Bearer token-of-the-test"}


async def test_an_executor_calls_for_the_request_that_it_works_for() -> None:
    """Two runs of one workflow at the same time each see their own call id, also in handlers that run in threads."""

    @executor
    async def ask(text: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(call_headers()[CALL])

    @executor
    def tell(heard: str, ctx: WorkflowContext[Never, str]) -> None:
        ctx.yield_output(f"{heard} {call_headers()[CALL]}")

    workflow = WorkflowBuilder(start_executor=ask, name="calls").add_edge(ask, tell).build()

    async def run(call_id: str) -> list[Any]:
        with on_behalf_of(call_id):
            return (await workflow.run("go", session_id=call_id)).get_outputs()

    assert await asyncio.gather(run("c1"), run("c2")) == [["c1 c1"], ["c2 c2"]]


async def test_a_deployed_agent_is_called_at_its_own_address(httpx2_mock: respx.Router) -> None:
    """Naming an agent gives the client of that agent, with the version of the API that its address needs."""
    path = "/agents/help-desk/endpoint/protocols/openai/responses"
    route = httpx2_mock.post(f"{ENDPOINT}{path}", params={"api-version": "v1"}).respond(json=RESPONSE)
    async with openai_client(ENDPOINT, Credential(), agent_name="help-desk") as client:
        await client.responses.create(input="hello")
    assert route.call_count == 1


@pytest.mark.parametrize("make", [openai_client, sync_openai_client])
def test_both_clients_of_an_agent_call_the_same_address(make: Any) -> None:
    """Our clients and the one that azure's library gives agree on address and query."""
    with project_client(ENDPOINT, Credential(), transport=Service({})) as project:
        for name in (None, "help-desk"):
            theirs = project.get_openai_client(agent_name=name) if name else project.get_openai_client()
            ours = make(ENDPOINT, Credential(), agent_name=name)
            assert (ours.base_url, ours.default_query) == (theirs.base_url, theirs.default_query)
