"""`agent-host doctor`: find out what would make a deployed agent silent, before it is deployed."""

import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit

import click

from agent_host.cli.deploy import open_agents
from agent_host.cli.screen import harmless
from agent_host.cli.target import load_workflow
from agent_host.deploy.doctor import Attempt, Facts, examine
from agent_host.errors import AgentHostError, SettingsError
from agent_host.server.app import default_store, store_at
from agent_host.settings import Settings, project_endpoint
from agent_host.stores import PROJECT, Store, open_store

PATIENCE = 60.0
_EACH = 0.1
_LINES = 8
_EXTRA = ("aiohttp", "azure-ai-projects", "azure-core", "azure-identity", "openai")


@click.command()
@click.argument("target", metavar="[MODULE_OR_FILE:ATTR]", required=False)
@click.option("--store", "store_url", metavar="URL", help="Where responses live, as given to serve.")
@click.option("--json", "as_json", is_flag=True, help="Write what was found as JSON.")
def doctor(target: str | None, store_url: str | None, as_json: bool) -> None:
    """Find out what would make a deployed agent silent, for example: agent-host doctor app.py:workflow

    Starts the workflow with an empty store, and looks at the Dockerfile and azure.yaml in this folder or in infra/.
    Where FOUNDRY_PROJECT_ENDPOINT is set, it also signs in. Ends with 1 if there is a problem.
    """
    findings = examine(_facts(target, store_url))
    if as_json:
        click.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(harmless(f"{finding.outcome:8} {finding.check:11} {finding.says}"))
            if finding.remedy:
                click.echo(f"{'':20} {finding.remedy}")
    if any(finding.outcome == "problem" for finding in findings):
        sys.exit(1)


def _facts(target: str | None, store_url: str | None) -> Facts:
    credential, skew = _project()
    port = _port()
    workflow, address = _workflow(target)
    readiness, seconds = None, 0.0
    if target and workflow and not (workflow.error or port.error):
        readiness, seconds = _readiness(target, int(port.detail))
    return Facts(
        environment=dict(os.environ),
        machine=platform.machine(),
        dockerfile=_text("Dockerfile"),
        manifest=_text("azure.yaml"),
        workflow=workflow,
        port=port,
        readiness=readiness,
        seconds=seconds,
        home=_home(),
        store=_store(store_url or address) if store_url or address else None,
        credential=credential,
        skew=skew,
        missing=tuple(name for name in _EXTRA if not _is_installed(name)),
    )


def _is_installed(distribution: str) -> bool:
    try:
        return bool(version(distribution))
    except PackageNotFoundError:
        return False


def _text(name: str) -> str | None:
    found = next((path for path in (Path(name), Path("infra") / name) if path.is_file()), None)
    return found.read_text(errors="replace") if found else None


def _workflow(target: str | None) -> tuple[Attempt | None, str]:
    if target is None:
        return None, ""
    try:
        workflow = load_workflow(target)
    except AgentHostError as error:
        return Attempt(str(error)), ""
    return Attempt(detail=workflow.name), default_store(workflow, Settings.from_environment())


def _port() -> Attempt:
    try:
        port = Settings.from_environment().port
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(("0.0.0.0", port))
            return Attempt(detail=str(bound.getsockname()[1]))
    except SettingsError as error:
        return Attempt(str(error))
    except OSError as error:
        return Attempt(f"port {port} cannot be listened on: {error.strerror}")


def _readiness(target: str, port: int) -> tuple[Attempt, float]:
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+b") as log:
        command = [sys.executable, "-m", "agent_host", "serve", target, "--port", str(port)]
        began = time.monotonic()
        server = subprocess.Popen([*command, "--store", f"sqlite:///{folder}/doctor.db"], stdout=log, stderr=log)
        try:
            while time.monotonic() - began < PATIENCE and server.poll() is None:
                if _status(port) == 200:
                    seconds = time.monotonic() - began
                    return Attempt(detail=f"GET /readiness answers after {seconds:.1f} s"), seconds
                time.sleep(_EACH)
        finally:
            server.terminate()
            server.wait()
        log.seek(0)
        written = log.read().decode("utf-8", "replace").splitlines()[-_LINES:]
    return Attempt("\n".join(["GET /readiness was not answered with 200; the last that was written:", *written])), 0.0


def _status(port: int) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", "/readiness")
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def _home() -> Attempt:
    try:
        home = Path.home()
    except RuntimeError:
        return Attempt("there is none: HOME is not set, and the user of the process has no entry in /etc/passwd")
    try:
        with tempfile.TemporaryFile(dir=home):
            return Attempt(detail=str(home))
    except OSError as error:
        return Attempt(f"{home} cannot be written to: {error.strerror}")


def _store(address: str) -> Attempt:
    file = Path(address.partition("sqlite:///")[2] or address)
    try:
        if address.startswith(PROJECT):
            asyncio.run(_read(store_at(address)))
            return Attempt(detail=f"{address.removeprefix(PROJECT)} can be used")
        store = open_store(address, read_only=file.is_file())
        if file.is_file():
            asyncio.run(_read(store))
            return Attempt(detail=f"{file} can be read")
    except AgentHostError as error:
        return Attempt(str(error))
    folder = next(parent for parent in file.absolute().parents if parent.is_dir())
    if not os.access(folder, os.W_OK):
        return Attempt(f"{file} is to be made, but {folder} cannot be written to. Name another one with --store.")
    return Attempt(detail=f"{file} can be made")


async def _read(store: Store) -> None:
    try:
        await store.open()
    finally:
        await store.aclose()


def _project() -> tuple[Attempt | None, float | None]:
    """What comes of signing in, and the skew of the clock; None where no project is named."""
    try:
        endpoint = project_endpoint()
    except SettingsError as error:
        return Attempt(str(error)) if os.environ.get("FOUNDRY_PROJECT_ENDPOINT") else None, None
    return _credential(endpoint), _skew(endpoint)


def _credential(endpoint: str) -> Attempt:
    try:
        with open_agents(endpoint) as agents:
            agents.reach()
    except AgentHostError as error:
        return Attempt(str(error))
    return Attempt(detail=f"signed in to {endpoint}")


def _skew(endpoint: str) -> float | None:
    connection = HTTPSConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request("HEAD", "/")
        told = connection.getresponse().headers.get("date", "")
        return time.time() - parsedate_to_datetime(told).timestamp()
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
