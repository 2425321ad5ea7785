"""`agent-host doctor`: what it says of each thing that makes a deployed agent silent."""

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent_host.cli import deploy, main
from agent_host.cli import doctor as command
from agent_host.deploy.doctor import Attempt, Facts, Finding, examine
from agent_host.foundry.project import project_client
from agent_host.stores import open_store
from tests.docs.pages import ROOT
from tests.foundry.service import ENDPOINT, Answer, Credential, Service, refusal

MANIFEST = """
services:
  desk:
    protocols:
      - protocol: responses
        version: "2.0.0"
    env:
      TONE: calm
    container: {}
"""
GOOD = Facts(
    dockerfile="FROM python:3.13-slim\nENV TONE=calm\n", manifest=MANIFEST, workflow=Attempt(detail="desk"),
    port=Attempt(detail="8088"), readiness=Attempt(detail="soon"), seconds=1.0, home=Attempt(detail="there"),
    store=Attempt(detail="there"), credential=Attempt(detail="signed in"), skew=1.0,
)  # fmt: skip
TARGET = str(ROOT / "samples/01_help_desk/app.py:workflow")


def test_a_healthy_agent_has_nothing_to_remedy() -> None:
    """Where all is well, every check says so, and the order is that in which a container comes up."""
    findings = examine(GOOD)
    assert {finding.outcome for finding in findings} == {"ok"}
    assert {finding.remedy for finding in findings} == {""}
    assert [finding.check for finding in findings] == [
        "workflow", "port", "readiness", "extra", "image", "protocol", "variables", "home", "store", "credential",
        "clock",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "check", "says", "remedy"),
    [
        ({"workflow": Attempt("No module named 'pandas'")}, "workflow", "pandas", "requirements.txt"),
        ({"port": Attempt("port 8088 is taken")}, "port", "8088", "unset PORT"),
        ({"readiness": Attempt("was not answered")}, "readiness", "not answered", "agent-host serve"),
        ({"dockerfile": "FROM --platform=linux/arm64 python:3.13\n"}, "image", "linux/arm64", "--platform linux/amd64"),
        ({"manifest": MANIFEST.replace("2.0.0", "1.0.0")}, "protocol", "responses 1.0.0", "version: '2.0.0'"),
        ({"manifest": "services: {}"}, "protocol", "no protocol", "protocol: responses"),
        ({"manifest": MANIFEST.replace("TONE", "AGENT_TONE")}, "variables", "AGENT_TONE", "Rename"),
        ({"dockerfile": "FROM x\nENV A=1 \\\n    PORT=80\n"}, "variables", "PORT", "Rename"),
        ({"dockerfile": "FROM x\nENV PORT 80\n"}, "variables", "PORT", "Rename"),
        ({"dockerfile": "FROM x\n  env A=1 \\ \n AGENT_B=2\n"}, "variables", "AGENT_B", "Rename"),
        ({"dockerfile": 'FROM x\nENV A=1 PORT="80\n'}, "variables", "PORT", "Rename"),
        (
            {"manifest": MANIFEST.replace("env:\n      TONE: calm", "env: {FOUNDRY_Q: 1}")},
            "variables",
            "FOUNDRY_Q",
            "Re",
        ),
        ({"manifest": "services: {desk: ["}, "protocol", "cannot be read", "Mend"),
        ({"manifest": "services: [desk]"}, "protocol", "no protocol", "protocol: responses"),
        ({"manifest": "no mapping"}, "protocol", "no protocol", "protocol: responses"),
        ({"environment": {"FOUNDRY_AGENT_SESSION_GUID": "XYZ"}}, "variables", "XYZ", "32 hexadecimal"),
        ({"environment": {"FOUNDRY_HOSTING_ENVIRONMENT": "1"}}, "variables", "no FOUNDRY_PROJECT_ENDPOINT", "Unset"),
        ({"home": Attempt("cannot be written")}, "home", "cannot", "useradd --create-home"),
        ({"store": Attempt("no store. Name another one.")}, "store", "no store", ""),
        ({"credential": Attempt("Sign in: az login.")}, "credential", "az login", ""),
        ({"skew": 400.0}, "clock", "400 s ahead", "NTP"),
        ({"skew": -400.0}, "clock", "400 s behind", "NTP"),
    ],
)
def test_a_problem_is_told_with_its_remedy(wrong: dict[str, Any], check: str, says: str, remedy: str) -> None:
    """What would make an agent silent is a problem of its check alone, and says what to do."""
    problems = [finding for finding in examine(replace(GOOD, **wrong)) if finding.outcome != "ok"]
    (found,) = problems
    assert (found.check, found.outcome) == (check, "problem")
    assert says in found.says and remedy in found.remedy


@pytest.mark.parametrize(
    "files",
    [
        {"manifest": "services: {desk: {protocols: [{version: 2.0.0, protocol: responses}], env: {TONE: calm}}}"},
        {"manifest": MANIFEST.replace("- protocol: responses\n        version", "- version: 2.0.0\n        protocol")
         .replace('protocol: "2.0.0"', "protocol: responses")},
        {"manifest": "services: {desk: {protocols: [{protocol: responses, version: '2.0.0'}], env: }}"},
        {"dockerfile": 'FROM x\nENV TONE="calm PORT=80"\nENV TONE PORT=80\n# ENV PORT=1\n'},
    ],
)  # fmt: skip
def test_a_form_of_writing_is_no_problem(files: dict[str, str]) -> None:
    """The order of keys, flow style and quotation marks make no difference."""
    assert {finding.outcome for finding in examine(replace(GOOD, **files))} == {"ok"}


@pytest.mark.parametrize(
    ("doubtful", "check"),
    [({"machine": "arm64"}, "image"), ({"seconds": 45.0}, "readiness"), ({"missing": ("aiohttp",)}, "extra")],
)
def test_a_doubt_is_a_warning(doubtful: dict[str, Any], check: str) -> None:
    """What may work, but often does not, is told without failing."""
    (found,) = [finding for finding in examine(replace(GOOD, **doubtful)) if finding.outcome != "ok"]
    assert (found.check, found.outcome) == (check, "warning") and found.remedy


def test_what_cannot_be_tried_is_skipped() -> None:
    """Without a workflow, files and a project the checks that need them say so instead of passing."""
    skipped = {finding.check for finding in examine(Facts()) if finding.outcome == "skipped"}
    assert skipped == {"workflow", "readiness", "image", "protocol", "store", "credential", "clock"}


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        found: int = bound.getsockname()[1]
        return found


Run = Callable[..., tuple[Result, dict[str, Finding]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: int) -> Run:
    """Runs `agent-host doctor` in an empty folder, on a free port, with a home of its own and no project."""
    home = tmp_path / "there"
    home.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PORT", str(port))
    monkeypatch.delenv("FOUNDRY_PROJECT_ENDPOINT", raising=False)

    def invoke(*arguments: str) -> tuple[Result, dict[str, Finding]]:
        result = CliRunner().invoke(main, ["doctor", "--json", *arguments])
        return result, {found["check"]: Finding(**found) for found in json.loads(result.stdout)}

    return invoke


def test_a_workflow_is_started_and_asked(run: Run, tmp_path: Path) -> None:
    """A workflow that serves is ready, and the diagnosis leaves nothing behind."""
    result, found = run(TARGET)
    assert result.exit_code == 0, result.output
    assert found["workflow"].says == "help-desk"
    assert "GET /readiness answers after" in found["readiness"].says
    assert found["store"] == Finding("store", "ok", ".agent_host/help-desk.db can be made")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_workflow_that_cannot_be_loaded_is_not_started(run: Run, tmp_path: Path) -> None:
    """An import that fails is told with its cause."""
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    result, found = run("broken.py:workflow")
    assert result.exit_code == 1
    assert "no_such_library" in found["workflow"].says
    assert found["readiness"].outcome == "skipped"


def test_a_process_that_ends_is_told_with_its_last_words(run: Run, tmp_path: Path) -> None:
    """A program that loads here but not in a process of its own is not ready, and says why."""
    (tmp_path / "fickle.py").write_text(
        "import os, sys\n"
        "if 'serve' in sys.argv: sys.exit('no licence')\n"
        f"sys.path.insert(0, {str(ROOT / 'samples/01_help_desk')!r})\n"
        "from app import workflow\n"
    )
    result, found = run("fickle.py:workflow")
    assert result.exit_code == 1
    assert "was not answered" in found["readiness"].says and "no licence" in found["readiness"].says


def test_a_taken_port_is_told(run: Run, port: int) -> None:
    """Another program on the port is found before the workflow is started in vain."""
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))
        taken.listen()
        result, found = run(TARGET)
    assert result.exit_code == 1
    assert found["port"].outcome == "problem" and str(port) in found["port"].says
    assert found["readiness"].outcome == "skipped"


def test_a_port_that_is_no_number_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """PORT must be a number."""
    monkeypatch.setenv("PORT", "http")
    result, found = run()
    assert result.exit_code == 1 and "'http'" in found["port"].says


def test_a_home_that_is_not_there_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home that cannot be written to is a problem."""
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    result, found = run()
    assert result.exit_code == 1 and found["home"].outcome == "problem" and "nowhere" in found["home"].says


def test_no_home_at_all_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the image does not know, without HOME, has none."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    result, found = run()
    assert result.exit_code == 1 and found["home"].outcome == "problem" and "HOME is not set" in found["home"].says


def test_a_project_that_is_no_address_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FOUNDRY_PROJECT_ENDPOINT that names no project is a problem, and not taken for one that is not set."""
    monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", "desk.services.ai.azure.com")
    result, found = run()
    assert result.exit_code == 1 and found["credential"].outcome == "problem"
    assert "'desk.services.ai.azure.com'" in found["credential"].says


def test_a_missing_extra_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the libraries of the platform are not installed, it is said which, and that a deployed agent needs them."""

    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(command, "version", none)
    result, found = run()
    assert result.exit_code == 0 and found["extra"].outcome == "warning"
    assert "azure-identity" in found["extra"].says and "[foundry]" in found["extra"].remedy


@pytest.mark.parametrize("store", ["mysql://x", "notes.txt"])
def test_a_store_that_cannot_be_used_is_told(run: Run, tmp_path: Path, store: str) -> None:
    """An address of another kind, and a file that is no store, are problems."""
    (tmp_path / "notes.txt").write_text("no database " * 200)
    result, found = run("--store", store)
    assert result.exit_code == 1 and found["store"].outcome == "problem"


def test_a_store_in_use_can_be_looked_at(run: Run) -> None:
    """A store is read beside the server that uses it."""
    with asyncio.Runner() as loop:
        store = open_store("sqlite:///kept.db")
        loop.run(store.open())
        result, found = run(TARGET, "--store", "sqlite:///kept.db")
        loop.run(store.aclose())
    assert result.exit_code == 0, result.output
    assert found["store"].says == "kept.db can be read"


def test_the_files_of_this_folder_are_looked_at(run: Run, tmp_path: Path) -> None:
    """A Dockerfile here and an azure.yaml in infra/ are found."""
    (tmp_path / "Dockerfile").write_text("FROM --platform=linux/arm64 python\n")
    (tmp_path / "infra").mkdir()
    (tmp_path / "infra/azure.yaml").write_text(MANIFEST.replace("2.0.0", "1.0.0"))
    _, found = run()
    assert (found["image"].outcome, found["protocol"].outcome) == ("problem", "problem")


class _Server:
    """The project's web server, whose clock is an hour behind."""

    def __init__(self, host: str, timeout: float) -> None:
        assert host == "desk.services.ai.azure.com"
        self.headers = {"date": formatdate(time.time() - 3600)}

    def request(self, method: str, path: str) -> None:
        assert (method, path) == ("HEAD", "/")

    def getresponse(self) -> "_Server":
        return self

    def close(self) -> None:
        """There is nothing to close."""


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """Sets up a project that gives an answer when its agents are listed."""

    def answering(answer: Answer) -> None:
        made = project_client(ENDPOINT, Credential(), transport=Service({"GET /agents": [answer]}), retry_total=0)
        monkeypatch.setenv("FOUNDRY_PROJECT_ENDPOINT", ENDPOINT)
        monkeypatch.setattr(deploy, "project_client", lambda endpoint: made)
        monkeypatch.setattr(command, "HTTPSConnection", _Server)

    return answering


def test_a_project_is_signed_in_to_and_its_clock_compared(run: Run, project: Callable[[Answer], None]) -> None:
    """With a project, the credential is tried and the clock held against that of its server."""
    project(Answer(200, {"data": [], "has_more": False}))
    result, found = run()
    assert result.exit_code == 1
    assert found["credential"] == Finding("credential", "ok", f"signed in to {ENDPOINT}")
    assert found["clock"].outcome == "problem" and found["clock"].says.startswith("the clock is 360")


def test_a_missing_role_is_told(run: Run, project: Callable[[Answer], None]) -> None:
    """Who is signed in but may not use the project learns which role to get."""
    project(refusal(403, "Forbidden", "No permission."))
    result, found = run()
    assert result.exit_code == 1 and "--role 'Foundry User'" in found["credential"].says


def test_the_page_for_people_has_a_line_for_each_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --json each check is a line, and a remedy stands below its problem."""
    monkeypatch.setenv("PORT", "http")
    result = CliRunner().invoke(main, ["doctor"])
    lines = result.stdout.splitlines()
    assert result.exit_code == 1 and len(lines) == 12
    assert lines[1].startswith("problem  port ") and lines[2].strip().startswith("Stop what listens there")
