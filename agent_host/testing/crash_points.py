"""Let a process die where it hurts most, and see that your workflow goes on: crash points, armed by a trap.

In a test's own process, `with set_trap(Trap(CrashPoint.STEPPED, action="raise")):` raises `Crash` at the first
superstep that is stored. To kill a real host, start it with a file that need not exist yet:

    python -m agent_host.testing.crash_points FILE serve app.py:workflow --store sqlite:///host.db

and write a trap to that file when it is to be set (`Trap.write`). The file is gone when the trap has snapped, so the
same command, given again, starts a host that lives.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from agent_host.cli import main
from agent_host.crash_points import CrashPoint, watch
from agent_host.errors import SettingsError

__all__ = ["Crash", "CrashPoint", "Trap", "set_trap"]

Action = Literal["kill", "stop", "raise"]


class Crash(Exception):
    """Raised at a crash point by a trap with the action "raise"."""


@dataclass(frozen=True, slots=True)
class Trap:
    """What is to happen at a crash point, when it is passed for the nth time since the trap was set.

    "kill" ends the process by SIGKILL, "stop" freezes it by SIGSTOP until it gets SIGCONT, "raise" raises `Crash`.
    """

    point: CrashPoint
    passage: int = 1
    action: Action = "kill"

    def write(self, file: Path) -> None:
        """Set the trap for the process that watches this file."""
        written = file.with_name(f"{file.name}.new")
        written.write_text(f"{self.point} {self.passage} {self.action}")
        written.replace(file)

    @classmethod
    def read(cls, file: Path) -> "Trap | None":
        """The trap in a file; None if there is none. Raises `SettingsError` if it is not one."""
        try:
            text = file.read_text()
            point, passage, action = text.split()
            if action not in get_args(Action):
                raise ValueError(action)
            return cls(CrashPoint(point), int(passage), cast(Action, action))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise SettingsError(
                f"{file} holds {text!r}; a trap is a crash point, the number of a passage and an action: "
                f"for example '{CrashPoint.STEPPED} 1 kill'."
            ) from error

    def snap(self) -> None:
        """Do what it is set for."""
        if self.action == "raise":
            raise Crash(f"the trap at {self.point} has snapped")
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


@contextmanager
def set_trap(trap: Trap) -> Iterator[None]:
    """Set a trap for this process until the block ends; it snaps once. One at a time can be set."""
    passages = 0

    def watcher(point: CrashPoint) -> None:
        nonlocal passages
        passages += point == trap.point
        if point == trap.point and passages == trap.passage:
            trap.snap()

    watch(watcher)
    try:
        yield
    finally:
        watch(None)


class TrapFile:
    """Watches a file for a trap, which may be set and taken away while the process runs."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._passages = 0

    def __call__(self, point: CrashPoint) -> None:
        trap = Trap.read(self._file)
        if trap is None:
            self._passages = 0
        elif trap.point == point:
            self._passages += 1
            if self._passages == trap.passage:
                self._file.unlink()
                trap.snap()


if __name__ == "__main__":
    watch(TrapFile(Path(sys.argv.pop(1))))
    main(prog_name="agent-host")
