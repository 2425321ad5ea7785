"""The archive of code that a hosted agent is made of."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from agent_host.deploy import code_archive
from agent_host.deploy.code_archive import merged, pack
from agent_host.errors import DeployError

FLOW = """
from agent_host import WorkflowBuilder, WorkflowContext, executor

@executor
async def echo(text: str, ctx: WorkflowContext[str, str]) -> None:
    await ctx.yield_output(text)

workflow = WorkflowBuilder(start_executor=echo, name="echo").build()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A program with what lies around in its folder."""
    program = tmp_path / "program"
    for name in ("app.py", "words/hello.txt", ".env", ".git/config", "__pycache__/app.pyc", ".agent_host/echo.db"):
        (program / name).parent.mkdir(parents=True, exist_ok=True)
        (program / name).write_text(FLOW if name == "app.py" else "secret")
    (program / "requirements.txt").write_text("pandas\n\nworkflow_agent_host[openai]>=0.1\n")
    return program


def test_an_archive_holds_the_program_and_this_package(folder: Path) -> None:
    """Files of the program and of the package are in it; secrets, caches and stores are not."""
    packed = pack(folder)
    assert packed.files == ("app.py", "words/hello.txt")
    names = zipfile.ZipFile(io.BytesIO(packed.content)).namelist()
    assert {name for name in names if not name.startswith("agent_host/")} == {*packed.files, "requirements.txt"}
    assert {"agent_host/__main__.py", "agent_host/stores/sql/sqlite/schema.sql"} <= set(names)
    assert not [name for name in names if name.endswith(".pyc")]


def test_the_requirements_are_those_of_both(folder: Path) -> None:
    """What the program and the package need is installed, but not the package, which is there already."""
    requirements = pack(folder).requirements
    assert requirements[0] == "pandas"
    needs = {line.partition(">")[0] for line in requirements}
    assert {"starlette", "azure-identity", "opentelemetry-sdk"} <= needs
    assert not needs & {"pytest", "langgraph"}
    assert not [line for line in requirements if "agent" in line]


def test_the_same_files_give_the_same_bytes(folder: Path) -> None:
    """The service can tell by its hash that nothing has changed, whenever the files were written."""
    first = pack(folder).content
    os.utime(folder / "app.py", (1, 1))
    assert pack(folder).content == first


def test_the_archive_alone_serves_the_program(folder: Path, tmp_path: Path) -> None:
    """Unpacked elsewhere, the program is found and loaded by the package of the archive."""
    zipfile.ZipFile(io.BytesIO(pack(folder).content)).extractall(tmp_path / "there")
    program = "import agent_host; print(agent_host.__file__)"
    done = subprocess.run(
        [sys.executable, "-m", "agent_host", "graph", "app.py:workflow"],
        cwd=tmp_path / "there", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    where = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "there", capture_output=True, text=True)
    assert where.stdout.startswith(str(tmp_path / "there"))


def test_an_archive_that_is_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platform would not take is not sent, and the message has two ways out."""
    monkeypatch.setattr(code_archive, "LARGEST", 1 << 10)
    with pytest.raises(DeployError, match="--image"):
        pack(folder)


def test_a_requirement_on_the_package_is_dropped_however_it_is_written() -> None:
    """Dots, dashes and underscores are the same in the name of a distribution."""
    own = ["Workflow.Agent_Host==0.1", "workflow-agent-host[openai] @ file:x", "workflows"]
    assert list(merged(own, ["click"])) == ["workflows", "click"]
