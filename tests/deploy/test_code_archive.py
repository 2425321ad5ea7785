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


def test_the_requirements_are_those_of_the_code_that_is_packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a source tree they are read of its pyproject.toml, as what is installed may be of an older state."""
    monkeypatch.setattr(code_archive, "requires", lambda name: ["click>=1"])
    assert {"azure-core[aio]>=1.35", "uvicorn[standard]>=0.40"} <= set(pack(folder).requirements)


@pytest.mark.parametrize("pyproject", [None, '[project]\nname = "another"\n', "no TOML", "[tool.ruff]\n"])
def test_elsewhere_the_requirements_are_those_of_the_installed_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pyproject: str | None
) -> None:
    """Where the package lies in no source tree of its own, what pip has noted of it is what it needs."""
    package = tmp_path / "somewhere" / "agent_host"
    package.mkdir(parents=True)
    if pyproject is not None:
        (package.parent / "pyproject.toml").write_text(pyproject)
    noted = ["click>=1", 'azure-core[aio]>=1; extra == "foundry"', "pytest>=9; extra == 'dev'"]
    monkeypatch.setattr(code_archive, "_PACKAGE", package)
    monkeypatch.setattr(code_archive, "requires", lambda name: noted)
    assert pack(folder).requirements == ("pandas", "azure-core[aio]>=1", "click>=1")


def test_every_file_can_be_read_by_whoever_runs_it(folder: Path) -> None:
    """Unpacked by root, the files are readable for the user of the container."""
    entries = zipfile.ZipFile(io.BytesIO(pack(folder).content)).infolist()
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}


@pytest.mark.parametrize("link", ["nowhere", ".", "..", "loop"])
def test_only_regular_files_are_packed(folder: Path, link: str) -> None:
    """Links that lead nowhere or back, and pipes, are left out; a link to a file is that file."""
    (folder / "words" / "loop").symlink_to(link)
    os.mkfifo(folder / "pipe")
    (folder / "again.txt").symlink_to("words/hello.txt")
    assert pack(folder).files == ("again.txt", "app.py", "words/hello.txt")


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is deployed without a file that belongs to it, and the message says which one it is."""
    read = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == "hello.txt":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(DeployError, match=r"words/hello\.txt cannot be read: Permission denied"):
        pack(folder)


def test_a_folder_with_the_name_of_the_package_is_refused(folder: Path) -> None:
    """The program's own agent_host and this package cannot both be in the archive; this package's own folder may."""
    (folder / "agent_host").symlink_to(code_archive._PACKAGE)
    pack(folder)
    (folder / "agent_host").unlink()
    (folder / "agent_host").mkdir()
    (folder / "agent_host" / "tools.py").write_text("")
    with pytest.raises(DeployError, match="Rename the folder"):
        pack(folder)
