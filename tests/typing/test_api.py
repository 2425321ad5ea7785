"""A user's program passes the strictest type checking."""

import subprocess
import sys

import pytest

from tests.docs.pages import ROOT

PROGRAMS = ["tests/typing/api.py", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("samples/*/app.py")))]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_of_a_user_is_typed(program: str) -> None:
    """mypy --strict accepts the public API as it is meant to be used, and refuses what is marked as a mistake."""
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
