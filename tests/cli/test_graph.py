"""`agent-host graph`: what it prints and writes, and what it says when it cannot."""

import json
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]

APP = """
from agent_host import WorkflowBuilder, WorkflowContext, executor

@executor(id="grüßen")
async def greet(text: str, ctx: WorkflowContext[str]) -> None: ...

@executor
async def answer(text: str, ctx: WorkflowContext[str, str]) -> None: ...

workflow = WorkflowBuilder(start_executor=greet, name="hello").add_edge(greet, answer).build()
"""

BEGINNINGS = {
    "mermaid": "flowchart TD\n",
    "dot": "digraph workflow {\n",
    "svg": '<svg xmlns="http://www.w3.org/2000/svg"',
    "json": '{\n  "name": "hello",\n',
}


@pytest.fixture
def app(tmp_path: Path) -> str:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return f"{tmp_path / 'app.py'}:workflow"


def test_mermaid_is_printed_unless_asked_otherwise(run_cli: Run, app: str) -> None:
    """The whole of standard output is the drawing, in UTF-8 whatever the terminal is."""
    done = run_cli("graph", app, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        'flowchart TD\n    n1(["grüßen<br/>function, start"])\n    n2["answer<br/>function, output"]\n    n1 --> n2\n'
    )


@pytest.mark.parametrize("name", BEGINNINGS)
def test_each_format_can_be_asked_for(run_cli: Run, app: str, name: str) -> None:
    """What is printed is a text of that format."""
    done = run_cli("graph", app, "--format", name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(BEGINNINGS[name])
    assert "answer" in done.stdout
    if name == "json":
        assert list(json.loads(done.stdout)["executors"]) == ["grüßen", "answer"]
    if name == "svg":
        ET.fromstring(done.stdout)


@pytest.mark.parametrize(
    ("file", "options", "name"),
    [
        ("flow.mmd", [], "mermaid"), ("flow.mermaid", [], "mermaid"), ("flow.dot", [], "dot"), ("flow.gv", [], "dot"),
        ("flow.SVG", [], "svg"), ("flow.json", [], "json"), ("flow.svg", ["--format", "dot"], "dot"),
        ("flow", ["--format", "svg"], "svg"),
    ],
)  # fmt: skip
def test_a_file_tells_the_format(
    run_cli: Run, app: str, tmp_path: Path, file: str, options: list[str], name: str
) -> None:
    """Its extension decides unless --format does; then nothing is printed."""
    done = run_cli("graph", app, "-o", file, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    written = (tmp_path / "cwd" / file).read_text(encoding="utf-8")
    assert written == run_cli("graph", app, "--format", name).stdout
    assert written.startswith(BEGINNINGS[name])


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["app.py:nothing"], ["no file 'app.py'"], 1),
        (["APP:nothing"], ["has no 'nothing'", "It has these workflows: workflow"], 1),
        (["APP:workflow", "-o", "nowhere/flow.svg"], ["Cannot write 'nowhere/flow.svg'", "No such file", "exists"], 1),
        (["APP:workflow", "-o", "."], ["does not tell the format"], 2),
        (["APP:workflow", "-o", "flow.png"], ["'flow.png' does not tell the format", ".svg", "--format"], 2),
        (["APP:workflow", "--format", "png"], ["'png' is not one of 'mermaid', 'dot', 'svg', 'json'"], 2),
        ([], ["Missing argument"], 2),
    ],
    ids=["no file", "no attribute", "no folder", "a folder", "another extension", "another format", "no target"],
)
def test_what_cannot_be_drawn_or_written(
    run_cli: Run, app: str, tmp_path: Path, arguments: list[str], words: list[str], code: int
) -> None:
    """One message names the thing and the remedy, and nothing is written."""
    path = app.removesuffix(":workflow")
    done = run_cli("graph", *(argument.replace("APP", path) for argument in arguments))
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert list((tmp_path / "cwd").iterdir()) == []


def test_a_graph_that_may_not_be_meant_is_drawn_with_a_warning(run_cli: Run, tmp_path: Path) -> None:
    """The warning stands on standard error and shows the line that builds the workflow; the drawing is whole."""
    (tmp_path / "app.py").write_text(APP.replace("WorkflowContext[str])", "WorkflowContext[str | int])"), "utf-8")
    done = run_cli("graph", str(tmp_path / "app.py"))
    assert done.stdout.startswith(BEGINNINGS["mermaid"])
    assert "WorkflowWarning: 'grüßen' declares to send int, which no edge delivers: 'answer' takes str." in done.stderr
    assert "app.py:10" in done.stderr
