"""The stock clients for Node: every test below `node/` against one host in a process of its own.

The clients are installed once, in the versions of the lock file; after that no network is needed.
"""

import asyncio
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.clients.node.approvals.approving import workflow as approving
from tests.conftest import HostProcess, ServeApp

FOLDER = Path(__file__).parent / "node"
TITLE = re.compile(r"^test\(\"(.+?)\",", re.MULTILINE)
FILES = sorted(FOLDER.glob("*.test.js"))
TITLES = [title for file in FILES for title in TITLE.findall(file.read_text())]
INSTALLATION = 300
RUN = 120
ONE_TEST = 20_000


def locked(lock: Path) -> dict[str, str]:
    """The versions in a lock file by the place of the package; the clients themselves are no package."""
    packages = json.loads(lock.read_text())["packages"]
    return {place: package["version"] for place, package in packages.items() if place}


@pytest.fixture(scope="module")
def installed() -> None:
    """The clients are there, in the versions of the lock file."""
    done = FOLDER / "node_modules" / ".package-lock.json"
    if done.exists() and locked(done) == locked(FOLDER / "package-lock.json"):
        return
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    run = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=INSTALLATION, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostProcess]:
    """A host with a store of its own."""
    folder = tmp_path_factory.mktemp("node")
    arguments = [f"{FOLDER / 'served.py'}:workflow", "--port", "0", "--store", f"sqlite:///{folder}/host.db"]
    process = HostProcess(arguments, folder, {"AGENT_HOST_API_KEY": ""})
    yield process
    process.close()


def run_node(files: Iterable[Path], url: str, report: Path) -> dict[str, str]:
    """Run test files against a server; what each test has said, empty for one that has passed."""
    options = ["--test-reporter=junit", f"--test-reporter-destination={report}", f"--test-timeout={ONE_TEST}"]
    run = subprocess.run(
        ["node", "--test", *options, *files],
        cwd=FOLDER, env={**os.environ, "AGENT_HOST_URL": f"{url}/v1"},
        capture_output=True, text=True, timeout=RUN, check=False,
    )  # fmt: skip
    assert report.exists(), run.stdout + run.stderr
    return {case.attrib["name"]: _fault(case) for case in ET.parse(report).iter("testcase")}


def _fault(case: ET.Element) -> str:
    return "\n".join(found.text or found.attrib.get("message", found.tag) for found in case)


@pytest.fixture(scope="module")
def outcomes(installed: None, host: HostProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each of the tests has said."""
    return run_node(FILES, host.base_url, tmp_path_factory.mktemp("report") / "node.xml")


@pytest.mark.parametrize("title", TITLES)
def test_clients_for_node(title: str, outcomes: dict[str, str]) -> None:
    """What the title says is what the client does."""
    if outcomes[title]:
        pytest.fail(outcomes[title], pytrace=False)


def test_every_test_for_node_is_known(outcomes: dict[str, str]) -> None:
    """No test is left out because its title is written in another way, and no title stands twice."""
    assert sorted(outcomes) == sorted(TITLES)


async def test_approvals_in_the_form_of_mcp(installed: None, serve_app: ServeApp, tmp_path: Path) -> None:
    """A host that shows approvals as `mcp_approval_request` is understood by the clients that know these."""
    site = await serve_app(approving, approvals="mcp")
    files = (FOLDER / "approvals").glob("*.test.js")
    said = await asyncio.to_thread(run_node, files, site.url, tmp_path / "node.xml")
    assert len(said) == 7
    if faults := [fault for fault in said.values() if fault]:
        pytest.fail("\n".join(faults), pytrace=False)


def test_the_lock_file_names_versions_and_no_addresses() -> None:
    """Packages come from whatever registry is configured; the lock says which version, and what its hash must be."""
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    named = packages.pop("")["dependencies"]
    assert {f"node_modules/{name}": version for name, version in named.items()}.items() <= {
        place: package["version"] for place, package in packages.items()
    }.items()
    assert [place for place, package in packages.items() if "resolved" in package or "integrity" not in package] == []
