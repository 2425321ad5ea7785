"""Where in a function an entry of its journal is made: in which branch of it, and as which there.

Rule 1: every task is a branch of its own, and counts its own entries. So a position does not depend on which of
        several tasks is faster.
Rule 2: the branches of a task are numbered in the order of their first entries. Tasks that were started together make
        them in the order in which they were started, unless they wait for something that is no entry before.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

from agent_host.errors import WorkflowRunnerException

_WIDTH = 10**6  # entries of one branch, branches of one task, and runs: more than anybody needs


class Branch:
    """One task of a function while it is executed. `path` leads to it: the run's number, then that of each branch.

    `suspended`: a question that this task or one that it has started asked is not answered. `streaming` tells, while
    pieces of a text are yielded, whether they are new.
    """

    __slots__ = ("_entries", "_forks", "parent", "path", "streaming", "suspended", "task")

    def __init__(self, path: tuple[int, ...], task: "asyncio.Task[Any] | None", parent: "Branch | None" = None) -> None:
        self.path = path
        self.task = task
        self.parent = parent
        self.suspended = False
        self.streaming: bool | None = None
        self._entries = 0
        self._forks = 0

    def __repr__(self) -> str:
        return f"<Branch {'.'.join(map(str, self.path))}, {self._entries} entries, {self._forks} branches>"

    def fork(self, task: "asyncio.Task[Any]") -> "Branch":
        """The branch of a task that this one has started."""
        number, self._forks = self._forks, self._forks + 1
        return Branch((*self.path, number), task, self)

    def place(self) -> int:
        """The position of the next entry."""
        number, self._entries = self._entries, self._entries + 1
        position = 1
        for part in (*self.path, number):
            if part >= _WIDTH:
                raise WorkflowRunnerException(
                    f"The function makes more than {_WIDTH:,} entries in one task; run several workflows instead."
                )
            position = position * _WIDTH + part
        return position

    def line(self) -> "Iterator[Branch]":
        """This branch and those that it was started from, the innermost first."""
        branch: Branch | None = self
        while branch is not None:
            yield branch
            branch = branch.parent


def run_of(position: int) -> int:
    """The number of the run that a position belongs to."""
    while position >= 2 * _WIDTH:
        position //= _WIDTH
    return position - _WIDTH
