"""How a hosted agent comes up: also when the platform's storage is away, and with what it has loaded."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agent_host.server import host
from tests.foundry.stand_in import Project
from tests.foundry.tokens import Tokens

ALWAYS = 1000


@pytest.mark.parametrize("how", ["refuses", "hangs"])
async def test_an_agent_comes_up_without_its_storage(
    hosted: Any, platform: Project, how: str, fault: Any, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    """It is ready, so that the platform lets it live; the log has the remedy, and requests are answered that it fails.

    The first request after the storage is back opens it.
    """
    monkeypatch.setattr(host, "OPENING_PATIENCE", 0.5)
    if how == "refuses":
        platform.fail(403, ALWAYS)
    else:
        platform.hang(ALWAYS)
    site = await hosted()
    ready = await site.http.get("/readiness")
    assert (ready.status_code, ready.json()) == (200, {"status": "healthy"})
    [line] = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert ("Foundry User" if how == "refuses" else "it does not answer") in line
    if how == "refuses":
        refused = await site.http.post("/responses", json={"input": "x"})
        assert fault(refused) == (500, "server_error", "", "platform")
        assert "403" in refused.headers["x-platform-error-detail"]
    platform.faults.clear()
    assert (await site.say("a")).output_text == "a"


# --- The doctor, and the log --------------------------------------------------------------------------------------


DESK = f"{Path(__file__).with_name('desk.py')}:workflow"
RunCli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environment(platform: Project) -> dict[str, str]:
    """That of a sandbox, without what gives tokens."""
    return {"FOUNDRY_HOSTING_ENVIRONMENT": "hosted", "FOUNDRY_PROJECT_ENDPOINT": platform.endpoint, "PORT": "0"}


def store_line(run_cli: RunCli, environment: dict[str, str]) -> tuple[str, str]:
    """What the doctor says of the store, and the remedy below it."""
    done = run_cli("doctor", DESK, env=environment)
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    [at] = [number for number, line in enumerate(lines) if line.split()[1:2] == ["store"]]
    return lines[at], done.stderr


def test_the_doctor_looks_at_the_projects_storage(
    run_cli: RunCli, environment: dict[str, str], platform: Project, tokens: Tokens
) -> None:
    """It opens it as serve would, and says where it is."""
    line, _ = store_line(run_cli, {**environment, **tokens.environment})
    assert line.split()[0] == "ok"
    assert f"{platform.endpoint} can be used" in line


@pytest.mark.parametrize(("status", "remedy"), [(401, "az login"), (403, "Foundry User"), (0, "network")])
def test_the_doctor_says_what_to_do_about_the_projects_storage(
    run_cli: RunCli, environment: dict[str, str], platform: Project, tokens: Tokens, status: int, remedy: str
) -> None:
    """In one line, whether it refuses or is not there."""
    platform.fail(status or 401, ALWAYS)
    if not status:
        environment["FOUNDRY_PROJECT_ENDPOINT"] = "http://127.0.0.1:9/api/projects/nowhere"
    line, _ = store_line(run_cli, {**environment, **tokens.environment})
    assert line.split()[0] == "problem"
    assert remedy in line


def test_an_agent_without_an_identity_says_so_in_one_line(serve: Any, environment: dict[str, str]) -> None:
    """And not of each credential that was tried why it is none."""
    nothing = {"AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential"}
    process = serve(DESK, "--host", "127.0.0.1", store=None, env={**environment, **nothing})
    [line] = [line for line in process.log.splitlines() if " ERROR " in line or " WARNING " in line]
    assert "az login" in line
    assert len(process.log.splitlines()) <= 3
    assert httpx2.get(f"{process.base_url}/readiness").status_code == 200


@pytest.fixture
def without_aiohttp(tmp_path: Path) -> dict[str, str]:
    """Of the extra `foundry`, azure is there, but not what it sends with."""
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError(\"No module named 'aiohttp'\")\n")
    return {"PYTHONPATH": str(tmp_path)}


def test_the_doctor_names_the_extra_that_is_missing(
    run_cli: RunCli, environment: dict[str, str], without_aiohttp: dict[str, str]
) -> None:
    """Also if only a part of it is missing."""
    line, _ = store_line(run_cli, {**environment, **without_aiohttp})
    assert line.split()[0] == "problem"
    assert "aiohttp" in line and "pip install 'workflow-agent-host[foundry]'" in line


def test_an_agent_without_the_extra_says_so(
    run_cli: RunCli, environment: dict[str, str], without_aiohttp: dict[str, str]
) -> None:
    """In one line and without a traceback."""
    done = run_cli("serve", DESK, "--host", "127.0.0.1", env={**environment, **without_aiohttp})
    assert done.returncode == 1
    assert "pip install 'workflow-agent-host[foundry]'" in done.stderr and "Traceback" not in done.stderr


def test_serving_from_a_file_loads_no_client_of_the_platform() -> None:
    """Neither azure nor openai nor aiohttp: what a hosted agent needs costs nobody else anything."""
    program = (
        "import sys, asyncio, agent_host\n"
        "from tests.foundry.desk import workflow\n"
        "app = agent_host.create_app(workflow, 'sqlite://')\n"
        "asyncio.run(app.state.agent_host.open())\n"
        "print(*({name.partition('.')[0] for name in sys.modules} & {'azure', 'openai', 'aiohttp', 'msal'}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.split() == []
