"""Crash points as users of the package meet them: armed in a test's own process, or by a file."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent_host import crash_points
from agent_host.errors import SettingsError
from agent_host.stores import open_store
from agent_host.testing.commit_log_contract import ROOT
from agent_host.testing.crash_points import Crash, CrashPoint, Trap, TrapFile, set_trap
from agent_host.testing.records import response


async def test_a_trap_raises_once_at_its_passage(tmp_path: Path) -> None:
    """The write that it hits has not happened; those before and after it have."""
    store = open_store(f"sqlite:///{tmp_path}/host.db")
    await store.open()
    with set_trap(Trap(CrashPoint.FINISHING, passage=2, action="raise")):
        await store.finish("", response("one", ROOT, ROOT), [ROOT])
        with pytest.raises(Crash, match="finishing"):
            await store.finish("", response("two", ROOT, ROOT), [])
        await store.finish("", response("three", ROOT, ROOT), [])
    found = [await store.read_response("", f"resp_{name}") is not None for name in ("one", "two", "three")]
    assert found == [True, False, True]
    await store.aclose()


def test_a_trap_ends_with_its_block() -> None:
    """Nothing stays armed, also if the block has raised."""
    with pytest.raises(Crash), set_trap(Trap(CrashPoint.STEPPED, action="raise")):
        crash_points.reached(CrashPoint.OPENED)
        crash_points.reached(CrashPoint.STEPPED)
    crash_points.reached(CrashPoint.STEPPED)


def test_a_trap_file_counts_from_when_it_is_there(tmp_path: Path) -> None:
    """Passages before it was written do not count, and it is gone when the trap has snapped."""
    file = tmp_path / "trap"
    pass_by = TrapFile(file)
    pass_by(CrashPoint.STEPPED)
    Trap(CrashPoint.STEPPED, passage=2, action="raise").write(file)
    pass_by(CrashPoint.STEPPED)
    pass_by(CrashPoint.FINISHED)
    with pytest.raises(Crash):
        pass_by(CrashPoint.STEPPED)
    assert list(tmp_path.iterdir()) == []
    pass_by(CrashPoint.STEPPED)


@pytest.mark.parametrize("text", ["nowhere 1 kill", "stepped once kill", "stepped 1 burn", "stepped"])
def test_a_file_that_holds_no_trap_is_refused(tmp_path: Path, text: str) -> None:
    """The error shows what stands there and what should."""
    (tmp_path / "trap").write_text(text)
    with pytest.raises(SettingsError, match="for example 'stepped 1 kill'"):
        Trap.read(tmp_path / "trap")


def test_the_kit_runs_the_command_line(tmp_path: Path) -> None:
    """What stands behind the file is the command line as everybody uses it."""
    command: list[Any] = [sys.executable, "-m", "agent_host.testing.crash_points", tmp_path / "trap", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith("agent-host")
