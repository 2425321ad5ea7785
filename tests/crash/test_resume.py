"""A run that commits every superstep goes on in a new process as if nothing had happened, wherever the old one died."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

COUNTING = str(Path(__file__).parent / "counting.py")


def python(*arguments: str, code: int) -> list[dict[str, Any]]:
    """Run the program in a process of its own and return what it printed."""
    ended = subprocess.run([sys.executable, COUNTING, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def outputs(lines: list[dict[str, Any]]) -> list[str]:
    return [line["output"] for line in lines if "output" in line]


def split(lines: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """What one process printed about each of the runs it went on with; each ends with its state."""
    runs: list[list[dict[str, Any]]] = [[]]
    for line in lines:
        runs[-1].append(line)
        if "state" in line:
            runs.append([])
    return runs[:-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The run without interruption."""
    return python("begin", f"sqlite:///{tmp_path_factory.mktemp('whole')}/a.db", "never", "0", code=0)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_goes_on_in_a_new_process_wherever_it_died(when: str, whole: Any, tmp_path: Path) -> None:
    """Killed before or right after any of its commits, the state in the end is that of the uninterrupted run.

    Outputs are told when the superstep that made them is stored: none comes twice, and only those of a superstep that
    was stored in the very moment of death can have missed their listener.
    """
    count = whole[-1]["commits"]
    assert count == 11
    stores = [f"sqlite:///{tmp_path}/{number}.db" for number in range(1, count + 1)]
    with ThreadPoolExecutor(2) as pool:
        begun = list(
            pool.map(lambda number: python("begin", stores[number - 1], when, str(number), code=9), range(1, count + 1))
        )
    if when == "before":
        # Before the first commit there is nothing to go on with: the run has not begun.
        begun, stores = begun[1:], stores[1:]
    resumed = split(python("resume", *stores, code=0))
    assert len(resumed) == len(stores)
    expected = outputs(whole)
    for first, second in zip(begun, resumed, strict=True):
        assert second[-1]["state"] == whole[-1]["state"]
        told, rest = outputs(first), outputs(second)
        missed = len(expected) - len(told) - len(rest)
        assert told == expected[: len(told)]
        assert rest == expected[len(told) + missed :]
        assert missed == 0 if when == "before" else missed in (0, 1)
