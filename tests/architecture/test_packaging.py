"""The wheel: what is in it, and that it works without the repository."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PROGRAM = """
import asyncio, pathlib, agent_host
from agent_host import create_app, executor, WorkflowBuilder

@executor
async def echo(text: str, ctx: agent_host.WorkflowContext[str, str]) -> None:
    await ctx.yield_output(text)

async def main() -> None:
    app = create_app(WorkflowBuilder(start_executor=echo, name="echo").build(), "sqlite:///echo.db")
    await app.state.agent_host.open()
    await app.state.agent_host.aclose()

asyncio.run(main())
print(pathlib.Path(agent_host.__file__).parent.parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    """SQL files and the mark of a typed package are in the wheel; tests and samples are not."""
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"agent_host"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "agent_host").rglob("*.sql")}
    assert len(sources) >= 3
    assert sources | {"agent_host/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_wheel_works_without_the_repository(wheel: Path, tmp_path: Path) -> None:
    """A host made from the installed package alone opens its store."""
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "installed")
    assert (tmp_path / "echo.db").exists()
