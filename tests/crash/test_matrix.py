"""The short form of the crash matrix: every crash point, and every kind of turn at those that matter most to it.

`python -m tests.crash.matrix` runs all of it.
"""

import re
from pathlib import Path

import pytest

from agent_host.testing.crash_points import CrashPoint
from tests.crash.cells import KINDS
from tests.crash.matrix import Cell, Outcome, all_cells, other_cells, run_cells, unreached

PACKAGE = Path(__file__).parents[2] / "agent_host"

SHORT = """
admitting 1, background
admitted_inside 1, background
admitted 1, background
taken 1, background
appending 1, background
appended 2, background
noted 1, background
stepping 2, background
stepped 1, background
finishing 1, background
finished 1, background
admitting 1, plain
finishing 1, plain
finished 1, plain
admitted 1, stream
sent 1, stream
sent 3, stream
finished 1, stream
appended 1, background stream
noted 2, background stream
stepped 3, background stream
stepped 4, question
finished 1, question
stepping 2, answer
stepped 2, answer
finished 1, answer
finishing 1, plain answer
finishing 1, conversation
finished 1, conversation
admitted 1, background conversation
stepped 3, background conversation
finished 1, background conversation
noted 3, nested
stepped 5, nested
stepped 6, nested
appended 2, nested
taken_up 1, background, again
appended 1, background stream, again
stepped 1, nested, again
draining 1, background, SIGTERM
giving_back 1, background, SIGTERM
drained 1, background, SIGTERM
draining 1, stream, SIGTERM
noted 1, frozen
stepped 1, frozen, taken over
""".strip().splitlines()

CELLS = [
    *other_cells(),
    *(cell for name in SHORT for cell in all_cells() if str(cell) == name),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Cell, Outcome]:
    """What came of each cell; they run side by side."""
    return run_cells(CELLS, tmp_path_factory.mktemp("matrix"), workers=3)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_nothing_is_lost_and_nothing_is_done_twice(cell: Cell, outcomes: dict[Cell, Outcome]) -> None:
    """Killed there, every turn is finished, resumed or failed as it should be, and the next turns work."""
    if outcomes[cell].fault:
        pytest.fail(outcomes[cell].fault, pytrace=False)
    assert outcomes[cell].passed, "the process did not come by this point"


def test_the_short_form_has_every_point_and_every_kind() -> None:
    """No point is one that nothing comes by, and no kind of turn is left out."""
    assert len(CELLS) == len(SHORT) + len(other_cells())
    assert {cell.point for cell in CELLS} == set(CrashPoint)
    assert {cell.deed for cell in CELLS} >= {kind.name for kind in KINDS}


def test_the_crash_points_are_those_that_the_program_comes_by() -> None:
    """Every name stands somewhere in the package, and none stands there that has no meaning."""
    sources = [path.read_text() for path in PACKAGE.rglob("*.py") if path.parent.name != "testing"]
    used = {name for source in sources for name in re.findall(r"reached\(CrashPoint\.(\w+)\)", source)}
    assert used == {point.name for point in CrashPoint}


def test_every_crash_point_says_where_it_lies() -> None:
    """Below every name in the enumeration stands a line about it."""
    source = (PACKAGE / "crash_points.py").read_text()
    described = re.findall(r"^    (\w+) = \"(\w+)\"\n    \"\"\"[^\n]+\"\"\"$", source, re.MULTILINE)
    assert described == [(point.name, point.value) for point in CrashPoint]


def test_a_point_that_no_process_comes_by_is_told() -> None:
    """A cell may be empty, a whole row may not: the long form would say nothing about its point."""
    cells = [Cell(point, deed, lambda _: True) for point in (CrashPoint.TAKEN, CrashPoint.NOTED) for deed in "ab"]
    passed = dict(zip(cells, (True, False, False, False), strict=True))
    assert unreached({cell: Outcome(passed[cell], "", 0.0) for cell in cells}) == [CrashPoint.NOTED]
