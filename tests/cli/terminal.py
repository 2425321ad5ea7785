"""A terminal with `agent-host` on it: what it shows can be read, and text be typed."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

PATIENCE = 20.0
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal:
    """Runs `python -m agent_host ...` on a terminal of its own. `output` takes standard output elsewhere."""

    def __init__(self, *arguments: str, cwd: Path, output: IO[bytes] | None = None) -> None:
        self._own, theirs = pty.openpty()
        self.raw = ""
        self._read_up_to = 0
        environment = {**os.environ, "TERM": "xterm"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "agent_host", *arguments],
            stdin=theirs, stdout=output or theirs, stderr=theirs, cwd=cwd, env=environment, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._own)

    @property
    def shown(self) -> str:
        """What stands on the terminal, what was typed included, without styles."""
        return _STYLE.sub("", self.raw).replace("\r\n", "\n")

    def until(self, text: str) -> None:
        """Wait until a text is shown behind the one that was waited for before."""
        end = time.monotonic() + PATIENCE
        while (found := self.shown.find(text, self._read_up_to)) < 0:
            assert self._more(), f"{text!r} is not shown:\n{self.shown}"
            assert time.monotonic() < end, f"{text!r} is not shown:\n{self.shown}"
        self._read_up_to = found + len(text)

    def type(self, text: str) -> None:
        """Type a text, `\\n` and control characters included."""
        os.write(self._own, text.encode())

    def ended(self) -> int:
        """Wait for the end; returns the exit code."""
        while self._more():
            pass
        return self.process.wait(PATIENCE)

    def _more(self) -> bool:
        if not select.select([self._own], [], [], PATIENCE)[0]:
            return False
        try:
            piece = os.read(self._own, 65_536)
        except OSError:  # the other end is closed
            return False
        self.raw += piece.decode("utf-8", "replace")
        return bool(piece)
