"""`agent-host deploy` against a project that answers as the service does."""

import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import respx
from azure.core.exceptions import ServiceRequestError
from azure.identity import CredentialUnavailableError
from click.testing import CliRunner, Result

from agent_host.cli import deploy as command
from agent_host.cli import main
from agent_host.deploy.deploy import Agents, Clock, Watch, log_lines
from agent_host.foundry.project import project_client
from tests.docs.pages import ROOT
from tests.foundry.service import ENDPOINT, Answer, Credential, Service, refusal

TARGET = str(ROOT / "samples/01_help_desk/app.py:workflow")
IMAGE = ("--image", "registry.azurecr.io/desk:42", "--name", "desk")
VERSIONS, VERSION = "POST /agents/desk/versions", "GET /agents/desk/versions/7"
SESSIONS = "/agents/desk/endpoint/sessions"
RESPONSES = f"{ENDPOINT}/agents/desk/endpoint/protocols/openai/responses"


def version(status: str, **more: Any) -> Answer:
    """A version as the service shows it."""
    return Answer(
        200,
        {
            "object": "agent.version", "id": "desk:7", "name": "desk", "version": "7", "created_at": 1763740800,
            "metadata": {}, "status": status, "definition": {"kind": "hosted", "cpu": "1", "memory": "2Gi"}, **more,
        },
    )  # fmt: skip


SESSION = {
    "agent_session_id": "s1", "version_indicator": {"type": "version_ref", "agent_version": "7"}, "status": "idle",
    "created_at": 1763740800, "last_accessed_at": 1763740800, "expires_at": 1766332800,
}  # fmt: skip

GOOD: Mapping[str, list[Answer]] = {
    VERSIONS: [version("creating")],
    VERSION: [version("creating"), version("active")],
    f"POST {SESSIONS}": [Answer(201, SESSION)],
    f"GET {SESSIONS}": [Answer(200, {"data": [SESSION], "has_more": False})],
    f"GET {SESSIONS}/s1": [Answer(200, SESSION)],
    f"DELETE {SESSIONS}/s1": [Answer(204, b"")],
    f"POST {SESSIONS}/s1:stop": [Answer(204, b"")],
}


def response(status: str = "completed", **more: Any) -> dict[str, Any]:
    """A response as the agent gives it."""
    part = {"type": "output_text", "text": "Hello, I am the desk.", "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    return {
        "id": "caresp_1", "object": "response", "created_at": 1, "status": status, "model": "desk", "output": [item],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "agent_session_id": "s1", **more,
    }  # fmt: skip


class Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


Run = Callable[..., tuple[Result, Service]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `agent-host deploy` against a service that answers well but where told otherwise."""

    def invoke(*arguments: str, answers: Mapping[str, list[Answer]] | None = None) -> tuple[Result, Service]:
        service, clock = Service({**GOOD, **(answers or {})}), Time()

        @contextmanager
        def agents(endpoint: str | None) -> Iterator[Agents]:
            with project_client(ENDPOINT, Credential(), transport=service, retry_total=0) as project:
                yield Agents(project, Clock(lambda: clock.now, clock.sleep), command.note)

        monkeypatch.setattr(command, "open_agents", agents)
        return CliRunner().invoke(main, ["deploy", *arguments]), service

    return invoke


def test_a_deployment_creates_waits_and_speaks(run: Run, httpx2_mock: respx.Router) -> None:
    """A version is created, seen active twice, spoken to in a session of that version, and the session is deleted."""
    route = httpx2_mock.post(RESPONSES).respond(json=response())
    result, service = run(TARGET, *IMAGE, "--env", "TONE=calm", "--say", "Who are you?")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Hello, I am the desk.\n"
    assert result.stderr.splitlines() == [
        "created version 7 of desk", "version 7 is creating", "version 7 is active",
        "desk is deployed. Call it with get_openai_client(agent_name='desk').",
    ]  # fmt: skip
    assert service.asked == [VERSIONS, VERSION, VERSION, VERSION, f"POST {SESSIONS}", f"DELETE {SESSIONS}/s1"]
    definition = service.calls[0].body["definition"]
    assert definition["container_configuration"] == {"image": "registry.azurecr.io/desk:42"}
    assert definition["environment_variables"] == {"TONE": "calm"}
    assert service.calls[-2].body == {"version_indicator": {"type": "version_ref", "agent_version": "7"}}
    assert {call.query["api-version"][0] for call in service.calls} == {"v1"}
    assert not [call for call in service.calls if "Foundry-Features" in call.headers]
    assert json.loads(route.calls[0].request.content) == {"input": "Who are you?", "agent_session_id": "s1"}


def test_code_is_sent_as_an_archive_with_its_hash(run: Run) -> None:
    """Without an image the folder of the program is uploaded, and the file is what starts there."""
    result, service = run(TARGET, "--name", "desk", "--say", "")
    assert result.exit_code == 0, result.output
    parts = dict(service.calls[0].body)
    file_name, file, _ = parts["code"]
    content = file.getvalue()
    assert file_name == "agent.zip"
    assert {"app.py", "requirements.txt"} <= set(zipfile.ZipFile(io.BytesIO(content)).namelist())
    assert service.calls[0].headers["x-ms-code-zip-sha256"] == hashlib.sha256(content).hexdigest()
    code = json.loads(parts["metadata"][1])["definition"]["code_configuration"]
    start = "python -m agent_host serve app.py:workflow"
    assert code["entry_point"] == start.split()
    assert f"POST {SESSIONS}" not in service.asked


def test_a_dry_run_needs_neither_network_nor_azure() -> None:
    """The plan is shown by a process in which azure and openai cannot be imported."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['azure', 'openai', 'requests']));"
        "from agent_host.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "deploy", TARGET, *IMAGE, "--dry-run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "project  (FOUNDRY_PROJECT_ENDPOINT is not set)"
    assert '    "image": "registry.azurecr.io/desk:42"' in lines
    assert lines[-2:] == [
        "wait     until it is active, at most 600 s",
        "say      'hello' to it, in a session of its own",
    ]


def test_the_options_may_stand_before_the_workflow(run: Run) -> None:
    """The workflow takes the place of a command wherever it stands."""
    result, service = run("--dry-run", *IMAGE, TARGET)
    assert result.exit_code == 0, result.output
    assert service.asked == []


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ({VERSIONS: [refusal(401, "Unauthorized", "Access denied.")]}, "HTTP 401, Unauthorized.*az login"),
        (
            {VERSIONS: [refusal(403, "Forbidden", "No permission agents/write.")]},
            "No permission agents/write.*--role 'Foundry User'",
        ),
        ({VERSIONS: [refusal(404, "NotFound", "No project.")]}, "FOUNDRY_PROJECT_ENDPOINT"),
        ({VERSIONS: [refusal(400, "image_pull_failed", "Cannot pull.")]}, "linux/amd64.*Container Registry Repository"),
        ({VERSIONS: [refusal(403, "UnauthorizedAcrPull", "Denied.")]}, "may not read the registry"),
        ({VERSIONS: [refusal(500, "InternalError", "Oops.")]}, "HTTP 500, InternalError.*status.azure.com"),
        ({VERSIONS: [Answer(502, b"<html>Bad gateway</html>")]}, "HTTP 502.*Try again"),
        (
            {VERSION: [version("failed", error={"code": "image_pull_failed", "message": "manifest unknown"})]},
            "manifest unknown.*linux/amd64",
        ),
        ({VERSION: [version("failed")]}, "Version 7 of desk failed.*no reason"),
        ({VERSION: [version("creating"), version("deleted")]}, "was deleted meanwhile"),
        ({VERSION: [version("creating")]}, "still creating after 600 s.*--wait"),
        ({f"POST {SESSIONS}": [refusal(424, "session_not_ready", "Not ready.")]}, "agent-host doctor"),
        ({f"POST {SESSIONS}": [refusal(429, "QuotaExceeded", "Too many.")]}, "larger quota"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_failure_says_what_to_do(run: Run, answers: Mapping[str, list[Answer]], says: str) -> None:
    """What the service refuses ends the command with its own words and a remedy, and without a traceback."""
    result, _ = run(TARGET, *IMAGE, answers=answers)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert re.search(f"(?s){says}", result.stderr), result.stderr


def test_nobody_signed_in_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any credential the command says how to sign in, and no token was asked of the service."""

    class Nobody:
        def get_token(self, *scopes: str, **options: Any) -> Any:
            raise CredentialUnavailableError(message="No credential was found.\nOne: no.\nAnother: no.")

    service = Service(GOOD)
    made = project_client(ENDPOINT, Nobody(), transport=service)
    monkeypatch.setattr(command, "project_client", lambda endpoint: made)
    result = CliRunner().invoke(main, ["deploy", TARGET, *IMAGE])
    assert result.exit_code == 1
    assert "(not_signed_in): No credential was found. Sign in: az login" in result.stderr
    assert service.asked == []


def test_a_service_that_is_not_reached_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an answer the command says where it looked for one, and what may lie between."""

    class Unplugged(Service):
        def send(self, request: Any, **options: Any) -> Any:
            raise ServiceRequestError("Name or service not known")

    made = project_client(ENDPOINT, Credential(), transport=Unplugged({}), retry_total=0)
    monkeypatch.setattr(command, "project_client", lambda endpoint: made)
    result = CliRunner().invoke(main, ["deploy", TARGET, *IMAGE])
    assert result.exit_code == 1
    assert "Creating a version of desk failed: Name or service not known." in result.stderr
    assert "HTTPS_PROXY" in result.stderr


def test_a_passing_failure_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer that the service is busy ends no deployment."""
    busy = Answer(503, b"busy", {"Retry-After": "0"})
    service, clock = Service({VERSION: [version("creating"), busy, version("active")]}), Time()
    with project_client(ENDPOINT, Credential(), transport=service) as project:
        Agents(project, Clock(lambda: clock.now, clock.sleep)).wait_until_active("desk", "7", 60)
    assert len(service.asked) == 4
    assert clock.now == 20


def test_an_agent_that_fails_leaves_its_session_for_the_logs(run: Run, httpx2_mock: respx.Router) -> None:
    """A response that is not complete is an error that names the cause and the command that shows the logs."""
    error = {"code": "server_error", "message": "KeyError: 'TONE'"}
    httpx2_mock.post(RESPONSES).respond(json=response("failed", output=[], error=error))
    result, service = run(TARGET, *IMAGE)
    assert result.exit_code == 1
    assert (
        "caresp_1 is failed: KeyError: 'TONE'. What it wrote meanwhile: agent-host deploy logs desk s1" in result.stderr
    )
    assert f"DELETE {SESSIONS}/s1" not in service.asked


def test_an_agent_that_does_not_start_is_told_with_its_logs(run: Run, httpx2_mock: respx.Router) -> None:
    """A container that is never ready is explained, and its session can be looked into."""
    error = {"error": {"code": "session_not_ready", "message": "The session is not ready."}}
    httpx2_mock.post(RESPONSES).respond(424, json=error)
    result, _ = run(TARGET, *IMAGE)
    assert result.exit_code == 1
    assert "agent-host doctor" in result.stderr and "agent-host deploy logs desk s1" in result.stderr


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (["creating"], "wait"), (["active"], "wait"), (["active", "active"], "ready"), (["something new"], "wait"),
        (["active", "creating", "active"], "wait"), (["active", "failed"], "failed"), (["deleting"], "gone"),
    ],
)  # fmt: skip
def test_a_version_counts_as_active_when_it_stays_so(seen: list[str], verdict: str) -> None:
    """Two looks in a row must find it active; a state that is not known is waited for."""
    watch = Watch()
    for status in seen:
        watch = watch.seen(status)
    assert watch.verdict == verdict


def test_sessions_are_listed_stopped_and_deleted(run: Run) -> None:
    """The sessions of an agent are shown for people and for programs, and each can be ended."""
    result, _ = run("sessions", "desk")
    assert result.stdout == "s1  idle      version 7\n"
    result, _ = run("sessions", "desk", "--json")
    assert json.loads(result.stdout)[0]["agent_session_id"] == "s1"
    _, service = run("sessions", "desk", "--stop", "s1", "--delete", "s1")
    assert service.asked == [f"POST {SESSIONS}/s1:stop", f"DELETE {SESSIONS}/s1"]


def test_logs_are_shown_line_by_line(run: Run) -> None:
    """What the container writes is shown with its time, read from the version that the session runs."""
    lines = [{"timestamp": "09:33:17", "stream": "stdout", "message": "serving ä"}, "plain"]
    stream = "".join(
        f"event: log\ndata: {json.dumps(line, ensure_ascii=False) if isinstance(line, dict) else line}\n\n"
        for line in lines
    )
    route = "GET /agents/desk/versions/7/sessions/s1:logstream"
    answers = {route: [Answer(200, stream.encode(), {"content-type": "text/event-stream"})]}
    result, service = run("logs", "desk", "s1", answers=answers)
    assert result.stdout == "09:33:17 stdout serving ä\nplain\n"
    assert service.asked[-1] == route


def test_a_log_line_may_arrive_in_pieces() -> None:
    """A line is shown when it is whole, wherever the network has cut it."""
    assert list(log_lines(iter([b"event: log\nda", b"ta: [1]\r", b"\n\ndata: x"]))) == ["[1]"]


def test_deleting_asks_first(run: Run) -> None:
    """Nothing is deleted before somebody has said yes."""
    result, service = run("delete", "desk")
    assert result.exit_code == 1 and service.asked == []


@pytest.mark.parametrize(
    ("options", "route", "query"),
    [
        ([], "DELETE /agents/desk", ["false"]),
        (["--version", "7", "--force"], "DELETE /agents/desk/versions/7", ["true"]),
    ],
)
def test_an_agent_or_a_version_is_deleted(run: Run, options: list[str], route: str, query: list[str]) -> None:
    """A version goes alone, the agent with all of them; sessions in use are only overruled when asked to."""
    gone = {"object": "agent.deleted", "name": "desk", "version": "7", "deleted": True}
    result, service = run("delete", "desk", "--yes", *options, answers={route: [Answer(200, gone)]})
    assert result.exit_code == 0, result.output
    assert service.asked == [route]
    assert service.calls[0].query["force"] == query


def test_an_agent_in_use_is_not_deleted(run: Run) -> None:
    """The platform's refusal is told with the option that overrules it."""
    route = "DELETE /agents/desk"
    result, _ = run("delete", "desk", "--yes", answers={route: [refusal(409, "Conflict", "There are sessions.")]})
    assert result.exit_code == 1 and "--force" in result.stderr


def test_a_program_outside_the_archive_is_refused(run: Run, tmp_path: Path) -> None:
    """A file that would not be in the archive cannot be what starts there."""
    result, service = run(TARGET, "--folder", str(tmp_path))
    assert result.exit_code == 1 and "--folder" in result.stderr and service.asked == []
