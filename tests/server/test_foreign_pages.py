"""Pages of other sites: browsers let them talk to a host on this machine, and without a key it must not listen."""

import json
from typing import Any, Never

import httpx2
import pytest

from agent_host import WorkflowBuilder, WorkflowContext, create_app, executor
from agent_host.settings import Settings


@executor
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


WORKFLOW = WorkflowBuilder(start_executor=echo, name="echo").build()


async def post(site: Any, *, path: str = "/responses", **headers: str) -> Any:
    """What a page can send without asking first: a body that says it is plain text."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return await site.http.post(path, content=b'{"input": "x"}', headers={"content-type": "text/plain", **given})


def code(answer: Any) -> str:
    return "" if answer.status_code == 200 else str(answer.json()["error"]["code"])


@pytest.mark.parametrize("origin", ["https://evil.example", "http://127.0.0.1:1", "null", "http://[", "x"])
async def test_a_page_of_another_site_runs_nothing(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, origin: str
) -> None:
    """It gets 403 with the remedies, and nothing is stored; a page of the host's own address is served."""
    site = await serve_app(WORKFLOW)
    refused = await post(site, origin=origin)
    assert (refused.status_code, code(refused)) == (403, "foreign_origin")
    assert "--trust-host" in refused.json()["error"]["message"]
    assert stored_statuses(tmp_path / "host.db") == {}
    assert code(await post(site, origin=site.url)) == ""


@pytest.mark.parametrize(
    "host", ["evil.example", "EVIL.example:18741", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_a_name_that_somebody_points_to_this_machine_leads_nowhere(serve_app: Any, host: str) -> None:
    """A page whose own name resolves to this machine has the origin that the request names, and is refused too."""
    site = await serve_app(WORKFLOW)
    refused = await post(site, host=host, origin=f"http://{host}")
    assert (refused.status_code, code(refused)) == (403, "untrusted_host")
    assert "--trust-host" in refused.json()["error"]["message"]
    assert code(await post(site, host=host)) == "untrusted_host"
    assert (await site.http.get("/readiness", headers={"host": host})).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8088", "127.0.0.1", "192.0.2.7:80", "[::1]", "[::1]:8088"])
async def test_an_address_and_the_name_of_this_machine_lead_here(serve_app: Any, host: str) -> None:
    """Nobody can point these elsewhere, whatever way the request has taken."""
    site = await serve_app(WORKFLOW)
    assert code(await post(site, host=host)) == ""


async def test_a_trusted_name_passes_with_its_pages(serve_app: Any) -> None:
    """Behind a proxy the host has another name; a page that is developed may have another port."""
    site = await serve_app(WORKFLOW, trusted_hosts=("App.example", "localhost"))
    assert code(await post(site, host="app.example")) == ""
    assert code(await post(site, origin="https://app.example:444")) == ""
    assert code(await post(site, origin="http://localhost:3000")) == ""
    assert code(await post(site, origin="http://app.example.evil.example")) == "foreign_origin"
    assert code(await post(site, host="evil.example")) == "untrusted_host"


async def test_with_a_key_no_page_can_do_harm(serve_app: Any) -> None:
    """A browser does not send the key by itself, so whoever sends it may come from anywhere."""
    site = await serve_app(WORKFLOW, api_key="right")
    from_page = {"host": "evil.example", "origin": "https://evil.example"}
    assert code(await post(site, **from_page)) == "invalid_api_key"
    assert code(await post(site, **from_page, authorization="Bearer right")) == ""


@pytest.mark.parametrize(
    ("settings", "arrived_at", "status"),
    [
        (Settings(), "127.0.0.1", 403),
        (Settings(), "::1", 403),
        (Settings(), "192.0.2.7", 200),
        (Settings(), "agent", 200),
        (Settings(host="0.0.0.0"), "127.0.0.1", 200),
    ],
)
async def test_only_what_arrives_at_a_loopback_address_must_name_one(
    tmp_path: Any, settings: Settings, arrived_at: str, status: int
) -> None:
    """In a container, in a test and behind whatever checks who calls, the host may be called by any name."""
    app = create_app(WORKFLOW, f"sqlite:///{tmp_path}/a.db", settings=settings)
    base = f"http://[{arrived_at}]" if ":" in arrived_at else f"http://{arrived_at}"
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=base) as http:
        answer = await http.post("/responses", content=json.dumps({"input": "x"}), headers={"host": "agent.example"})
    await app.state.agent_host.aclose()
    assert answer.status_code == status


def test_serve_trusts_the_names_that_it_is_given(serve: Any, tmp_path: Any) -> None:
    """The option may be given more than once."""
    (tmp_path / "app.py").write_text(
        "from agent_host import WorkflowBuilder, executor\n"
        "@executor\nasync def echo(text: str, ctx) -> None:\n    await ctx.yield_output(text)\n"
        "workflow = WorkflowBuilder(start_executor=echo, name='echo').build()\n"
    )
    host = serve(f"{tmp_path / 'app.py'}:workflow", "--trust-host", "a.example", "--trust-host", "b.example")
    for name, status in (("a.example", 200), ("b.example", 200), ("c.example", 403)):
        assert httpx2.get(f"{host.base_url}/readiness", headers={"host": name}).status_code == status
