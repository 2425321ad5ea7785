"""What may import what, and what an import costs."""

import subprocess
import sys

from tests.docs.pages import ROOT

HEAVY = {"starlette", "uvicorn", "openai", "azure", "sqlite3", "pydantic"}


def test_the_import_contracts_hold() -> None:
    """Imports point down through the layers, the pure cores do no I/O, and only the server knows the web framework."""
    program = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " kept, 0 broken" in done.stdout


def test_importing_the_package_loads_nothing_heavy() -> None:
    """A program that only needs the engine pays for no web server, database, model client or validation library."""
    program = f"import sys, agent_host; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_engine_loads_no_server_and_no_database() -> None:
    """Building and running a workflow in a program of one's own loads neither web server nor database."""
    program = "import sys, agent_host; agent_host.WorkflowBuilder, agent_host.Executor; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (HEAVY - {"pydantic"}) & set(done.stdout.split()) == set()
