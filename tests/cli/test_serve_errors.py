"""`agent-host serve` with something wrong: one message that names the thing and the remedy, and nothing changed."""

import socket
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

GOOD = (
    "from agent_host import WorkflowBuilder, executor\n"
    "@executor\nasync def echo(text: str, ctx) -> None: ...\n"
    "workflow = WorkflowBuilder(start_executor=echo, name='echo').build()\n"
)


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app.py").write_text(GOOD)
    return f"{tmp_path / 'app.py'}:workflow"


def says(ended: "subprocess.CompletedProcess[str]", *words: str, code: int = 1) -> None:
    """The process has said what is wrong, on standard error, and nothing of its own insides."""
    assert ended.returncode == code, ended.stderr
    assert ended.stdout == ""
    assert "Error: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "/agent_host/" not in ended.stderr
    assert len(ended.stderr) < 1200
    for word in words:
        assert word in ended.stderr, ended.stderr


def left(tmp_path: Path) -> set[str]:
    """The files that the working directory has now."""
    return {str(path.relative_to(tmp_path / "cwd")) for path in (tmp_path / "cwd").rglob("*")}


# --- The target --------------------------------------------------------------------------------------------------

WRONG = {
    "a missing file": ("", "nothere.py:workflow", ["nothere.py", "no file"]),
    "a missing module": ("", "nothere:workflow", ["'nothere'", "no module", ".py"]),
    "a missing submodule": ("", "json.nothere:workflow", ["'json.nothere'", "no module"]),
    "a relative module": ("", ".app:workflow", ["'.app'"]),
    "no target": ("", ":", ["':'"]),
    "a missing attribute": (GOOD, "app.py:flow", ["'app.py'", "'flow'", "workflow"]),
    "a missing attribute of a module": (GOOD, "app:flow", ["'app'", "'flow'", "workflow"]),
    "an attribute that is no workflow": (GOOD + "flow = 3\n", "app.py:flow", ["app.py:flow", "int", "workflow"]),
    "a builder": (GOOD.replace(".build()", ""), "app.py:workflow", ["WorkflowBuilder", ".build()"]),
    "an asynchronous factory": (GOOD + "async def make(): return workflow\n", "app.py:make", ["coroutine"]),
    "a factory that needs something": (GOOD + "def make(x): return workflow\n", "app.py:make", ["app.py:make", "'x'"]),
    "a syntax error": ("x = 1\ndef broken(:\n    pass\n", "app.py:workflow", ["SyntaxError", "line 2", "def broken(:"]),
    "a syntax error in a module": ("x = 1\ndef broken(:\n", "app:workflow", ["SyntaxError", "line 2", "def broken(:"]),
    "an error in the user's file": ("x = 1\ny = x / 0\n", "app.py:workflow", ["ZeroDivision", "line 2", "x / 0"]),
    "an import that fails": ("import nothere\n", "app.py:workflow", ["nothere", "import nothere"]),
    "a file that ends the program": ("import sys\nsys.exit('bye')\n", "app.py:workflow", ["bye", "SystemExit"]),
    "an error of ours in the user's file": (
        GOOD.replace("text: str, ctx", "text, ctx"), "app.py:workflow", ["HandlerError", "echo", "line 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_target_that_cannot_be_loaded(run_cli: Run, tmp_path: Path, name: str) -> None:
    """The message names the target and what is wrong with it; of an error in the user's file it shows the line."""
    source, target, words = WRONG[name]
    if source:
        (tmp_path / "cwd" / "app.py").write_text(source)
    before = left(tmp_path)
    says(run_cli("serve", target, env={"PYTHONDONTWRITEBYTECODE": "1"}), *words)
    assert left(tmp_path) == before


def test_an_error_in_a_package_above_the_target(run_cli: Run, tmp_path: Path) -> None:
    """Also the file of a package that is imported on the way is shown with its line."""
    (tmp_path / "cwd" / "pkg").mkdir()
    (tmp_path / "cwd" / "pkg" / "__init__.py").write_text("x = 1\ny = x / 0\n")
    says(run_cli("serve", "pkg.app:workflow"), "pkg.app", "ZeroDivisionError", "y = x / 0")


def test_a_module_or_a_file_or_a_factory_can_be_served(serve: Any, tmp_path: Path) -> None:
    """A target is MODULE_OR_FILE:ATTR; without an attribute it is `workflow`; a function is called for it."""
    (tmp_path / "one.py").write_text(GOOD + "def make(): return workflow\n")
    for target in ("one", "one:workflow", "one.py", f"{tmp_path}/one.py:make"):
        host = serve(target)
        assert "serving echo on" in host.log
        host.kill()


# --- The address -------------------------------------------------------------------------------------------------


def test_a_port_in_use(run_cli: Run, app: str, tmp_path: Path) -> None:
    """The message names address and port; no store is made."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        says(run_cli("serve", app, "--port", port), f"127.0.0.1:{port}", "in use", "--port")
    assert left(tmp_path) == set()


def test_a_host_that_does_not_exist(run_cli: Run, app: str) -> None:
    """An address of another machine cannot be bound."""
    says(run_cli("serve", app, "--host", "192.0.2.1", "--no-auth"), "192.0.2.1", "Cannot listen")


@pytest.mark.parametrize("value", ["many", "70000", "-1"])
def test_a_port_in_the_environment_that_is_none(run_cli: Run, app: str, value: str) -> None:
    """The setting is named with its value."""
    says(run_cli("serve", app, env={"PORT": value}), "PORT", value, "65535")


def test_binding_to_all_without_a_key(run_cli: Run, app: str, tmp_path: Path) -> None:
    """Letting other machines in without a key must be said; nothing is started."""
    says(run_cli("serve", app, "--host", "0.0.0.0"), "0.0.0.0", "AGENT_HOST_API_KEY", "--no-auth")
    assert left(tmp_path) == set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve"], ["MODULE_OR_FILE:ATTR"]),
        (["serve", "app.py", "--prot", "1"], ["--prot"]),
        (["serve", "app.py", "--port", "x"], ["--port", "'x'"]),
        (["serve", "app.py", "--shutdown-grace", "-1"], ["--shutdown-grace", "-1"]),
        (["server"], ["server"]),
    ],
)
def test_a_command_line_that_is_not_understood(run_cli: Run, arguments: list[str], words: list[str]) -> None:
    """The option is named, with where to find help; the exit code is the usual one."""
    says(run_cli(*arguments), *words, "--help", code=2)


# --- The store ---------------------------------------------------------------------------------------------------


def test_a_store_that_is_no_database(run_cli: Run, app: str, tmp_path: Path) -> None:
    """The file is named and left as it is."""
    file = tmp_path / "cwd" / "notes.txt"
    file.write_text("my notes\n" * 100)
    says(run_cli("serve", app, "--port", "0", "--store", "sqlite:///notes.txt"), "notes.txt", "not a SQLite database")
    assert file.read_text() == "my notes\n" * 100
    assert left(tmp_path) == {"notes.txt"}


def test_a_database_of_another_program(run_cli: Run, app: str, tmp_path: Path) -> None:
    """It is not written to."""
    file = tmp_path / "cwd" / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    content = file.read_bytes()
    says(run_cli("serve", app, "--port", "0", "--store", "other.db"), "other.db", "another program")
    assert file.read_bytes() == content


def test_a_store_of_a_newer_version(run_cli: Run, app: str, serve: Any, tmp_path: Path) -> None:
    """Nothing is lost: the file is refused unchanged, with the advice to upgrade."""
    file = tmp_path / "cwd" / "new.db"
    file.parent.mkdir(exist_ok=True)
    serve(app, store=file).stop()
    with sqlite3.connect(file) as store:
        store.execute("PRAGMA user_version = 999")
    store.close()
    content = file.read_bytes()
    says(run_cli("serve", app, "--port", "0", "--store", "new.db"), "new.db", "999", "Upgrade")
    assert file.read_bytes() == content


def test_a_store_in_use(run_cli: Run, app: str, serve: Any, tmp_path: Path) -> None:
    """One process serves a file; the second is told which process has it."""
    host = serve(app, store=tmp_path / "a.db")
    says(run_cli("serve", app, "--port", "0", "--store", f"{tmp_path}/a.db"), "a.db", str(host.process.pid))
    assert host.say("x").status == "completed"


def test_a_directory_as_store(run_cli: Run, app: str, tmp_path: Path) -> None:
    """A file is wanted; the message shows one."""
    (tmp_path / "cwd" / "data").mkdir()
    says(run_cli("serve", app, "--port", "0", "--store", "data"), "is a directory", "data/agent_host.db")
    assert left(tmp_path) == {"data"}


@pytest.mark.parametrize("parent", ["file", "proc"])
def test_a_store_where_nothing_can_be_written(run_cli: Run, app: str, tmp_path: Path, parent: str) -> None:
    """The place is named, and what to do."""
    (tmp_path / "cwd" / "file").write_text("")
    place = {"file": "file/a.db", "proc": "/proc/a.db"}[parent]
    says(run_cli("serve", app, "--port", "0", "--store", place), place, "cannot be", "write")
    assert left(tmp_path) == {"file"}


@pytest.mark.parametrize("address", ["postgres://x", "sqlite:/a.db", "http://x/y"])
def test_an_address_of_a_store_that_is_not_understood(run_cli: Run, app: str, tmp_path: Path, address: str) -> None:
    """The message shows which addresses there are."""
    says(run_cli("serve", app, "--port", "0", "--store", address), address, "sqlite:///")
    assert left(tmp_path) == set()


# --- What goes well ----------------------------------------------------------------------------------------------


def test_help_and_version(run_cli: Run) -> None:
    """The command explains itself."""
    assert "serve" in run_cli("--help").stdout
    shown = run_cli("serve", "--help").stdout
    for option in ("--port", "--host", "--store", "--shutdown-grace", "--max-concurrent-turns", "--no-auth"):
        assert option in shown
    assert "agent-host" in run_cli("--version").stdout


def test_the_default_store_is_named_after_the_workflow(serve: Any, app: str, tmp_path: Path) -> None:
    """Without `--store` it is `.agent_host/<workflow name>.db` below the working directory."""
    host = serve(app, store=None)
    assert "stored in sqlite:///.agent_host/echo.db" in host.log
    host.stop()
    assert (tmp_path / ".agent_host" / "echo.db").exists()
