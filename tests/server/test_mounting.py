"""The host inside another application, without a lifespan event of its own."""

import asyncio
from typing import Any, Never

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, create_app, handler
from agent_host.errors import SettingsError
from agent_host.settings import Settings


class Notes(Executor):
    def __init__(self) -> None:
        super().__init__("notes")
        self.notes: list[str] = []

    @handler
    async def add(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.notes.append(text)
        await ctx.yield_output("|".join(self.notes))


def noting() -> Workflow:
    return WorkflowBuilder(start_executor=Notes(), name="noting").build()


def in_starlette(app: Starlette) -> Any:
    return Starlette(routes=[Mount("/agents/one", app)])


def in_fastapi(app: Starlette) -> Any:
    outer = FastAPI()
    outer.mount("/agents/one", app)
    return outer


@pytest.mark.parametrize("mounted", [in_starlette, in_fastapi])
@pytest.mark.parametrize("lifespan", ["on", "off"])
async def test_a_mounted_host_opens_with_its_first_request(
    serve_app: Any, tmp_path: Any, stored_statuses: Any, mounted: Any, lifespan: str
) -> None:
    """It needs no event of the outer application; `aclose` closes its store, and what comes later is sent away."""
    path = tmp_path / "a.db"
    app = create_app(noting(), f"sqlite:///{path}")
    site = await serve_app(mounted(app), prefix="/agents/one/v1", lifespan=lifespan)
    assert not path.exists()
    firsts = await asyncio.gather(*(site.say(f"n{number}") for number in range(8)))
    assert (await site.say("two", firsts[3].id)).output_text == "n3|two"
    assert (await site.client.responses.retrieve(firsts[3].id)).output_text == "n3"
    root = site.url.removesuffix("/v1")
    assert (await site.http.get(f"{root}/readiness")).json() == {"status": "healthy"}
    unknown = await site.http.get(f"{root}/nowhere")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "not_found"

    await app.state.agent_host.aclose()
    await app.state.agent_host.aclose()
    assert not path.with_name("a.db-wal").exists()
    assert len(stored_statuses(path)) == 9
    late = await site.http.post(f"{root}/responses", json={"input": "x"})
    assert late.status_code == 503
    assert late.json()["error"]["code"] == "shutting_down"
    assert (await site.http.get(f"{root}/readiness")).status_code == 503


async def test_a_mounted_host_asks_for_its_key(serve_app: Any, tmp_path: Any) -> None:
    """Also below a prefix the probe is open and everything else is not."""
    app = create_app(noting(), f"sqlite:///{tmp_path}/a.db", settings=Settings(api_key="right"))
    site = await serve_app(in_starlette(app), prefix="/agents/one")
    assert (await site.http.get("/readiness")).status_code == 200
    assert (await site.http.post("/responses", json={"input": "x"})).status_code == 401
    assert (await site.client.with_options(api_key="right").responses.create(input="x")).output_text == "x"
    await app.state.agent_host.aclose()


async def test_two_hosts_in_one_application_do_not_know_each_other(serve_app: Any, tmp_path: Any) -> None:
    """Each has its own store and its own workflow."""
    one, two = (create_app(noting(), f"sqlite:///{tmp_path}/{name}.db") for name in ("one", "two"))
    outer = Starlette(routes=[Mount("/one", one), Mount("/two", two)])
    site = await serve_app(outer)
    first = (await site.http.post("/one/responses", json={"input": "x"})).json()
    assert (await site.http.get(f"/one/responses/{first['id']}")).status_code == 200
    assert (await site.http.get(f"/two/responses/{first['id']}")).status_code == 404
    await one.state.agent_host.aclose()
    await two.state.agent_host.aclose()


async def test_a_host_whose_lifespan_ends_is_closed(serve_app: Any, tmp_path: Any) -> None:
    """Served alone it opens and closes with the server."""
    app = create_app(noting(), f"sqlite:///{tmp_path}/a.db")
    async with app.router.lifespan_context(app):
        assert (tmp_path / "a.db-wal").exists()
        assert "open" in repr(app.state.agent_host)
    assert not (tmp_path / "a.db-wal").exists()


def test_something_that_is_no_workflow_is_refused() -> None:
    """The error names what was given and what is wanted."""
    with pytest.raises(SettingsError, match="WorkflowBuilder"):
        create_app(WorkflowBuilder(start_executor=Notes()))  # type: ignore[arg-type]
