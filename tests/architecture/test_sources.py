"""The rules that every file follows."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

LONGEST_FILE = 600
LONGEST_FUNCTION = 60
NAMELESS = {"utils", "helpers", "common", "manager", "mixin"}
OWN = [path for path in ("agent_host", "samples", "tests") if (ROOT / path).is_dir()]

# Joined from pieces, so that this file does not break its own rule.
FOREIGN = ["/" + "work/", "/" + "home/", "/" + "root/", "/" + "Users/", "py" + "pi.", "python" + "hosted"]


def files(suffix: str = "") -> Iterator[Path]:
    """Every file of the repository that is not ignored, whether git is there or not."""
    ignored = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    waiting = [ROOT]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name in ignored or path.name.endswith((".egg-info", ".pyc")):
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.name.endswith(suffix):
                yield path


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_finds_nothing(arguments: list[str]) -> None:
    """Every file is formatted, and breaks none of the rules in pyproject.toml."""
    done = run("ruff", *arguments, ".")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_is_typed_without_gaps() -> None:
    """mypy finds nothing in the package, in its strict mode."""
    done = run("mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    lines = (function.end_lineno or 0) - function.lineno + 1
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if told else 0)


def test_no_function_has_to_be_scrolled() -> None:
    """No function is longer than 60 lines."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length(node)} lines"
        for path in files(".py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > LONGEST_FUNCTION
    ]
    assert found == []


def test_no_file_is_a_place_for_everything() -> None:
    """No file is longer than 600 lines."""
    counted = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files(".py")}
    assert {name: lines for name, lines in counted.items() if lines > LONGEST_FILE} == {}


def test_no_module_is_named_for_nothing() -> None:
    """A module's name says what is in it."""
    assert [str(path) for path in files(".py") if NAMELESS & set(re.split(r"[_.]", path.stem))] == []


def test_every_suppression_says_what_it_suppresses() -> None:
    """No bare `type: ignore` and no bare `noqa`."""
    bare = re.compile(r"#\s*(type:\s*ignore(?!\[)|noqa(?!:))")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files(".py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.search(line) and path != Path(__file__)
    ]
    assert found == []


def test_no_file_knows_one_machine() -> None:
    """No file names a folder of somebody's machine or the host of a package index."""
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in files()
        for word in FOREIGN
        if word in path.read_bytes().decode("utf-8", "replace")
    ]
    assert found == []


def test_every_test_tells_its_promise() -> None:
    """Every test has a docstring."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in files(".py")
        if path.is_relative_to(ROOT / "tests")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert found == []


def test_the_constraints_are_names_and_versions() -> None:
    """infra/constraints.txt pins what the development installation needs, and records no address."""
    lines = (ROOT / "infra/constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    names = {_normal(line.partition("==")[0]) for line in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["openai"]]
    wanted += [need for need in project["optional-dependencies"]["dev"] if not need.startswith(project["name"])]
    assert {_normal(re.split(r"[\[<>=!~;]", need)[0]) for need in wanted} <= names


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
