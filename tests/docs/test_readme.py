"""What the README says is what happens."""

import inspect
import re
import subprocess
from pathlib import Path
from typing import Any, Never

import pytest

import agent_host
from agent_host import WorkflowBuilder, WorkflowContext, executor
from tests.docs.generated import GENERATED, settings_rows
from tests.docs.pages import ROOT, blocks, marked, run_page

README = (ROOT / "README.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one of its rank."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README.md has no section {title!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a table, without its head."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def test_the_quick_start_gives_the_output_it_shows(tmp_path: Path) -> None:
    """Whoever follows the README to the letter sees what it shows."""
    done = run_page("README.md", tmp_path)
    assert len(done) >= 3
    for command, shown, real in done:
        assert real == shown, f"$ {command}"


@pytest.mark.parametrize("name", GENERATED)
def test_what_the_readme_shows_of_the_program_is_current(name: str) -> None:
    """Help and diagrams are those of this version; `python -m tests.docs.generated` brings them up to date."""
    assert marked("README.md", "generated", name) == GENERATED[name]()


def test_the_table_of_settings_is_complete_and_right() -> None:
    """Every setting stands in the README with its default, its option and its variable."""
    table = [[cell.strip("`") for cell in row[:4]] for row in rows(section("Settings"))]
    assert table == [list(row) for row in settings_rows()]


def test_the_table_of_the_engine_names_what_exists() -> None:
    """Every name in the table is public, and so is every member and parameter that stands beside it."""
    found = [re.findall(r"`([A-Za-z_.]+)[=(`]", cell) for _, cell in rows(section("The engine by itself"))]
    assert all(found)
    for names in found:
        parameters: set[str] = set()
        for name in names:
            thing: Any = agent_host
            if name[0].isupper() or hasattr(agent_host, name):
                for part in name.split("."):
                    thing = getattr(thing, part)
                parameters |= set(inspect.signature(thing).parameters) if callable(thing) else set()
            else:
                assert name in parameters, name


def test_the_layout_is_the_one_of_the_tree() -> None:
    """Every folder and module of the package, and every top-level folder, stands in the layout's table; no other."""
    listed = {row[0].strip("`") for row in rows(section("Layout"))}
    package = ROOT / "agent_host"
    parts = {f"agent_host/{path.name}" for path in package.glob("*.py")}
    parts |= {f"agent_host/{path.parent.name}/" for path in package.glob("*/__init__.py")}
    folders = {f"{name}/" for name in ("tests", "samples", "infra")}
    assert listed == parts | folders | {".ci/run"}


def test_the_way_of_one_turn_names_what_the_program_calls() -> None:
    """The eight steps name what `take_turn` and `work`, which it hands the turn to, call in that order."""
    source = (ROOT / "agent_host/server/turns.py").read_text()
    body = re.search(r"^async def take_turn\(.*?(?=^# --- )", source, re.MULTILINE | re.DOTALL)
    assert body is not None
    calls = re.findall(r"`(\w+(?:\.\w+)*)\(\)`", section("The way of one turn"))
    assert len(calls) >= 7
    places = [body[0].rfind(f" {call}(") for call in calls]
    assert -1 not in places, [call for call, place in zip(calls, places, strict=True) if place < 0]
    assert places == sorted(places)


def test_every_python_block_is_run_or_a_file() -> None:
    """No Python on the page escapes the tests."""
    assert [block.text for block in blocks("README.md") if block.language == "python" and block.kind != "file"] == []


PAGES = ["README.md", "infra/README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("samples/*/README.md"))]


@pytest.mark.parametrize("page", PAGES)
def test_every_path_a_page_links_to_exists(page: str) -> None:
    """No link into the repository is dead."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)\)", (ROOT / page).read_text())
    assert [link for link in links if not ((ROOT / page).parent / link).exists()] == []


def test_the_check_script_runs_the_test_command_of_the_readme(tmp_path: Path) -> None:
    """`.ci/run` has no commands of its own: what it runs is what the README tells people to run."""
    (tmp_path / ".ci").mkdir()
    script = tmp_path / ".ci" / "run"
    script.write_bytes((ROOT / ".ci/run").read_bytes())

    def outcome(command: str) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "README.md").write_text(f"# x\n\n<!-- command: test -->\n```sh\n{command}\n```\n")
        return subprocess.run(["bash", script], capture_output=True, text=True, check=False)

    assert outcome("echo pytest && echo '== 3 passed in 1 s =='").returncode == 0
    assert outcome("echo pytest && echo '== 1 failed, 3 passed in 1 s ==' && exit 1").returncode == 1
    assert "No test was collected" in outcome("echo pytest: no tests ran").stderr
    assert "has no test command" in outcome("echo 3 passed").stderr
    assert "pytest" in marked("README.md", "command", "test")


async def test_the_table_of_endpoints_is_complete_and_right(serve_app: Any) -> None:
    """Every endpoint of the application stands in the README, under its method and path; no other."""
    workflow = WorkflowBuilder(start_executor=executor(id="echo", input=str, workflow_output=str)(_echo)).build()
    served = await serve_app(workflow)
    routes = {
        (method, route.path) for route in served.app.routes for method in getattr(route, "methods", None) or ["WS"]
    }
    real = {f"{method} {path}" for method, path in routes if not path.startswith("/v1") and method != "HEAD"}
    listed = {cell.strip("`") for row in rows(section("Over HTTP")) for cell in row[0].split("<br>")}
    assert listed == real


async def _echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)
