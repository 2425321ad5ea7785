"""Markdown pages that can be run: their files are written, their commands executed, their output compared.

A line `<!-- file: NAME -->` above a code block makes it a file; `<!-- generated: NAME -->` a block that is made from
the program; `<!-- command: NAME -->` one of the commands that everything begins with. In a block marked `console`
a line `$ command` is run in one shell per page, and the lines below it are its output. A command that serves runs on
a free port until the page serves again or ends.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0
ADDRESS = "127.0.0.1:8088"

_BLOCK = re.compile(r"(?:^<!-- (\w+): (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_END = "--end-of-output--"
_VARYING = [
    (re.compile(r"\b(resp|msg|chk)_[0-9a-f]{8,}"), r"\1_..."),
    (re.compile(r'("(?:created|completed)_at": ?)\d+'), r"\1..."),
    (re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE), "HH:MM:SS "),
    (re.compile(r"\b\d+\.\d ms\b"), "N ms"),
    (re.compile(r"\b127\.0\.0\.1:\d+"), ADDRESS),
]


@dataclass(frozen=True, slots=True)
class Block:
    """A code block: its language, its text, and what the comment above it says, such as ("file", "notes.py")."""

    language: str
    text: str
    kind: str
    name: str

    @property
    def commands(self) -> Iterator[tuple[str, str]]:
        """The commands of a console block, each with the output that the page shows."""
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            lines = part.splitlines()
            length = 1
            while lines[length - 1].endswith("\\"):
                length += 1
            yield "\n".join(lines[:length]), "\n".join(lines[length:])


def blocks(page: str) -> list[Block]:
    """The code blocks of a page."""
    return [
        Block(match[3], match[4], match[1] or "", match[2] or "")
        for match in _BLOCK.finditer((ROOT / page).read_text())
    ]


def marked(page: str, kind: str, name: str) -> str:
    """The text of the one block that carries a mark."""
    (found,) = [block.text for block in blocks(page) if (block.kind, block.name) == (kind, name)]
    return found


def settled(text: str) -> str:
    """A text without what differs from run to run: ids, times, ports."""
    for varying, fixed in _VARYING:
        text = varying.sub(fixed, text)
    return text.rstrip()


def run_page(page: str, folder: Path) -> list[tuple[str, str, str]]:
    """Do what a page says, in a folder. Returns (command, shown output, real output) of each command."""
    with Shell(folder) as shell:
        done = []
        for block in blocks(page):
            if block.kind == "file":
                shell.files[block.name] = block.text
            elif block.language == "console":
                for command, shown in block.commands:
                    done.append((command, settled(shown), settled(shell.run(command))))
        return done


class Shell:
    """A bash in a folder, in which `agent-host` and `python` are those of the tests; and the server it has started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = ADDRESS
        self.files: dict[str, str] = {}
        self._server: subprocess.Popen[bytes] | None = None
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, "PORT": "0", "NO_PROXY": "*"}
        self._bash = subprocess.Popen(
            ["bash"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=self._environment,
        )

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *error: object) -> None:
        self._stop_server()
        self._bash.communicate()

    def run(self, command: str) -> str:
        """Run a command; returns what it printed."""
        for name, text in self.files.items():
            (self._folder / name).write_text(text.replace(ADDRESS, self._address))
        if command.startswith("agent-host serve"):
            return self._start_server(command)
        stdin, stdout = _pipes(self._bash)
        stdin.write(command.replace(ADDRESS, self._address) + f"\necho; echo {_END}\n")
        stdin.flush()
        lines = list(iter(stdout.readline, f"{_END}\n"))
        return "".join(lines)

    def _start_server(self, command: str) -> str:
        self._stop_server()
        log = self._folder / "server.log"
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                shlex.split(command), stdout=output, stderr=output, cwd=self._folder, env=self._environment
            )
        end = time.monotonic() + PATIENCE
        while (found := re.search(r"serving .* on http://(127\.0\.0\.1:\d+), .*\n", log.read_text())) is None:
            assert self._server.poll() is None, f"the server has ended:\n{log.read_text()}"
            assert time.monotonic() < end, f"the server does not serve:\n{log.read_text()}"
            time.sleep(0.02)
        self._address = found[1]
        return found.string[: found.end()]

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.terminate()
            assert self._server.wait(PATIENCE) == 0


def _pipes(process: "subprocess.Popen[str]") -> tuple[IO[str], IO[str]]:
    assert process.stdin is not None and process.stdout is not None
    return process.stdin, process.stdout
