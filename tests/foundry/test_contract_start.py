"""How a hosted agent starts and stops: what it reads of its environment, where it listens, how it goes down."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agent_host import create_app
from agent_host.errors import SettingsError
from agent_host.foundry.emulation import CALLER_NAMED, as_passed_on
from agent_host.settings import Platform, Settings

TICKING = f"{Path(__file__).parents[1] / 'server' / 'ticking.py'}:workflow"
HOSTED = {"FOUNDRY_HOSTING_ENVIRONMENT": "hosted"}
CALL = {"x-agent-foundry-call-id": "call-1", "x-agent-user-id": "ann"}


def test_outside_of_a_platform_nothing_of_it_is_read() -> None:
    """An endpoint of a project alone, which other programs need too, makes no hosted agent."""
    settings = Settings.from_environment({"FOUNDRY_PROJECT_ENDPOINT": "https://x", "FOUNDRY_AGENT_SESSION_GUID": "XYZ"})
    assert settings == Settings()


def test_a_hosted_agent_has_its_own_defaults() -> None:
    """It listens on every interface at the platform's port, ends in 25 seconds, and tells clients no causes."""
    settings = Settings.from_environment(HOSTED)
    assert (settings.host, settings.port, settings.shutdown_grace) == ("0.0.0.0", 8088, 25.0)
    assert (settings.expose_errors, settings.keep_alive) == (False, 15.0)
    assert settings.platform == Platform()
    assert Settings.from_environment({**HOSTED, "PORT": "9000"}, shutdown_grace=3.0).port == 9000


def test_the_platforms_variables_are_read_at_the_start() -> None:
    """What it says of project, agent and session."""
    told = {
        "FOUNDRY_PROJECT_ENDPOINT": "https://x", "FOUNDRY_PROJECT_ARM_ID": "/p", "FOUNDRY_AGENT_NAME": "desk",
        "FOUNDRY_AGENT_VERSION": "3", "FOUNDRY_AGENT_ID": "a", "FOUNDRY_AGENT_BLUEPRINT_CLIENT_ID": "b",
        "FOUNDRY_AGENT_TENANT_ID": "t", "FOUNDRY_AGENT_SESSION_ID": "E", "FOUNDRY_AGENT_SESSION_GUID": "0a" * 16,
    }  # fmt: skip
    expected = Platform("https://x", "/p", "desk", "3", "a", "b", "t", "E")
    assert Settings.from_environment({**HOSTED, **told}).platform == expected


@pytest.mark.parametrize(("variable", "value"), [
    ("FOUNDRY_AGENT_SESSION_GUID", "XYZ"), ("FOUNDRY_AGENT_SESSION_GUID", "0A" * 16), ("PORT", "x"),
    ("SSE_KEEPALIVE_INTERVAL", "1.5"), ("AGENT_HOST_API_KEY", "key"),
])  # fmt: skip
def test_a_variable_that_cannot_be_used_ends_the_start(
    run_cli: Callable[..., "subprocess.CompletedProcess[str]"], variable: str, value: str
) -> None:
    """With one line that names it; no platform can serve with it."""
    done = run_cli("serve", TICKING, env={**HOSTED, variable: value})
    assert done.returncode == 1
    assert done.stderr.startswith(f"Error: {variable} ")
    assert done.stderr.count("\n") == 1


def test_an_application_made_by_a_program_is_hosted_too(
    monkeypatch: pytest.MonkeyPatch, desk: Any, tmp_path: Any
) -> None:
    """`create_app` without settings reads the same variables."""
    monkeypatch.setenv("FOUNDRY_HOSTING_ENVIRONMENT", "hosted")
    assert create_app(desk, f"sqlite:///{tmp_path}/x.db").state.agent_host.hosting.response_prefix == "caresp"
    monkeypatch.setenv("AGENT_HOST_API_KEY", "key")
    with pytest.raises(SettingsError, match="Remove the variable"):
        create_app(desk, f"sqlite:///{tmp_path}/x.db")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


def test_it_listens_on_every_interface_without_a_key(serve: Any, tmp_path: Path) -> None:
    """At the port that the platform names. Causes of errors stay in the log."""
    host = serve(TICKING, env=HOSTED)
    assert host.base_url.startswith("http://0.0.0.0:")
    failed = httpx2.post(f"http://127.0.0.1:{host.port}/responses", json={"input": "no number"}, headers=CALL)
    assert failed.json()["status"] == "failed"
    assert "The log has the cause" in failed.json()["error"]["message"]


def test_the_platform_chooses_the_port(tmp_path: Path) -> None:
    """`PORT` is where the host listens."""
    port = free_port()
    command = [sys.executable, "-m", "agent_host", "serve", TICKING, "--store", f"sqlite:///{tmp_path}/p.db"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, **HOSTED, "PORT": str(port)}, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 20
        while True:
            try:
                assert httpx2.get(f"http://127.0.0.1:{port}/readiness").json() == {"status": "healthy"}
                break
            except httpx2.ConnectError:
                assert time.monotonic() < end, "the host does not serve"
                time.sleep(0.05)
    finally:
        process.kill()
        process.wait()


def test_it_goes_down_in_order(serve: Any) -> None:
    """After SIGTERM nobody connects any more, and the process ends in its time. On purpose a background turn is
    neither lost nor failed: the next start goes on with it."""
    host = serve(
        TICKING,
        env={**HOSTED},
    )
    url = f"http://127.0.0.1:{host.port}"
    made = httpx2.post(f"{url}/responses", json={"input": "x 30 0.1", "background": True}, headers=CALL).json()
    assert host.stop() < 25
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/readiness")
    again = serve(TICKING, env=HOSTED)
    url = f"http://127.0.0.1:{again.port}"
    end = time.monotonic() + 20
    while (seen := httpx2.get(f"{url}/responses/{made['id']}", headers=CALL).json())["status"] != "completed":
        assert time.monotonic() < end, seen
        time.sleep(0.05)


async def test_what_still_gets_in_while_it_goes_down_is_refused(site: Any, post: Any, fault: Any) -> None:
    """As the platform's affair, with the time after which to try again; readiness says so too."""
    await site.host.drain()
    assert fault(await post(input="x")) == (503, "shutting_down", "", "platform")
    assert (await site.http.get("/readiness")).status_code == 503


# --- The platform on one's own machine ---------------------------------------------------------------------------


def test_users_are_apart_on_ones_own_machine(serve: Any) -> None:
    """`--emulate-foundry` names the user as a trusted caller does; a stranger's header is none of the platform's."""
    host = serve(TICKING, "--emulate-foundry")
    assert host.base_url.startswith("http://127.0.0.1:")
    assert "x-ms-user-identity" in host.log
    url = f"{host.base_url}/responses"

    def get(response_id: str, **headers: str) -> int:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx2.get(f"{url}/{response_id}", headers=given).status_code

    made = httpx2.post(url, json={"input": "x 1 0"}, headers={"x-ms-user-identity": "ann"})
    assert (made.status_code, made.headers["x-agent-session-id"]) == (200, "local-session")
    response_id = made.json()["id"]
    assert response_id.startswith("caresp_")
    assert get(response_id, x_ms_user_identity="ann") == 200
    assert get(response_id, x_ms_user_identity="bob") == 404
    assert get(response_id) == 404
    assert get(response_id, x_agent_user_id="ann") == 404


def test_a_gateway_passes_on_what_it_knows() -> None:
    """Neither keys nor cookies nor what only the platform may say; users have opaque names, requests each a call id."""
    given = [
        (b"authorization", b"Bearer key"), (b"cookie", b"c"), (b"idempotency-key", b"k"), (b"x-agent-user-id", b"ann"),
        (b"x-agent-foundry-call-id", b"mine"), (b"x-agent-response-id", b"r"), (b"x-ms-user-identity", b"ann"),
        (b"x-client-team", b"blue"), (b"content-type", b"application/json"), (b"traceparent", b"t"),
    ]  # fmt: skip
    passed = as_passed_on(given, lambda: "call-1")
    assert passed[:-2] == given[-3:]
    (user_header, user), call = passed[-2:]
    assert (user_header, call) == (b"x-agent-user-id", (b"x-agent-foundry-call-id", b"call-1"))
    assert re.fullmatch(b"[0-9a-f]{32}", user)
    users = [as_passed_on([(CALLER_NAMED, name)], str)[-2][1] for name in (b"ann", b"bob", b"")]
    assert users[0] == user
    assert len(set(users)) == 3


def test_pages_of_strangers_stay_out_of_an_emulated_platform(serve: Any) -> None:
    """The gateway drops most headers, but not those that tell a stranger's page."""
    host = serve(TICKING, "--emulate-foundry")
    answer = httpx2.post(f"{host.base_url}/responses", json={"input": "x"}, headers={"origin": "https://evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign_origin")
