"""`python -m tests.crash.matrix`: every crash point with every kind of turn, and a table of what came of it."""

import argparse
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.crash import deeds
from tests.crash.cells import KINDS, Kind, run_cell
from tests.crash.mortal_host import MortalHost

IN_A_TURN = (
    CrashPoint.ADMITTING, CrashPoint.ADMITTED_INSIDE, CrashPoint.ADMITTED, CrashPoint.TAKEN, CrashPoint.SENT,
    CrashPoint.APPENDING, CrashPoint.APPENDED, CrashPoint.NOTED, CrashPoint.STEPPING, CrashPoint.STEPPED,
    CrashPoint.FINISHING, CrashPoint.FINISHED,
)  # fmt: skip
TAKING_UP = (
    CrashPoint.TAKEN, CrashPoint.TAKEN_UP, CrashPoint.APPENDING, CrashPoint.APPENDED, CrashPoint.NOTED,
    CrashPoint.STEPPING, CrashPoint.STEPPED, CrashPoint.FINISHING, CrashPoint.FINISHED,
)  # fmt: skip
ENDING = (CrashPoint.DRAINING, CrashPoint.GIVING_BACK, CrashPoint.DRAINED)
FREEZING = (CrashPoint.NOTED, CrashPoint.STEPPED, CrashPoint.APPENDED)
PASSAGES = range(1, 9)


@dataclass(frozen=True, slots=True)
class Cell:
    """A crash point, and what is done while a trap is set there. Its names are row and column of the table."""

    point: CrashPoint
    deed: str
    run: Callable[[MortalHost], bool]
    passage: int = 1

    def __str__(self) -> str:
        return f"{self.point} {self.passage}, {self.deed}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a cell. `passed`: whether the process has died there; `fault` is empty if all is well."""

    passed: bool
    fault: str
    seconds: float


def turn(point: CrashPoint, kind: Kind, passage: int = 1) -> Cell:
    return Cell(point, kind.name, lambda host: run_cell(host, point, kind, passage), passage)


def taken_up(point: CrashPoint, kind: Kind) -> Cell:
    """A second death, over a turn that another process has left in the middle of a message."""
    then = Trap(point)
    return Cell(point, f"{kind.name}, again", lambda host: run_cell(host, CrashPoint.APPENDED, kind, 1, then=then))


def ended(point: CrashPoint, kind: Kind) -> Cell:
    return Cell(point, f"{kind.name}, SIGTERM", lambda host: run_cell(host, point, kind, asked=True))


def frozen(point: CrashPoint, *, taken_over: bool) -> Cell:
    name = "frozen, taken over" if taken_over else "frozen"
    return Cell(point, name, partial(deeds.freeze, point=point, taken_over=taken_over))


def other_cells() -> list[Cell]:
    """The cells that are no turn."""
    return [
        *(
            Cell(CrashPoint.OPENING, "open", partial(deeds.open_store, passage=passage), passage)
            for passage in range(1, 4)
        ),
        Cell(CrashPoint.OPENED, "open", deeds.open_with_a_turn),
        Cell(CrashPoint.ADDING_ITEMS, "edit", deeds.add_items),
        Cell(CrashPoint.DELETING_CONVERSATION, "edit", deeds.delete_conversation),
        Cell(CrashPoint.DELETING_RESPONSE, "edit", deeds.delete_response),
        *(
            Cell(point, "three deaths", partial(deeds.die_three_times, point=point))
            for point in (CrashPoint.APPENDED, CrashPoint.NOTED, CrashPoint.FINISHING)
        ),
    ]


def all_cells() -> list[Cell]:
    """The whole matrix. A turn need not come by a point; then its cell is empty."""
    background = [kind for kind in KINDS if kind.background]
    return [
        *(turn(point, kind, passage) for kind in KINDS for point in IN_A_TURN for passage in PASSAGES),
        *(taken_up(point, kind) for kind in background for point in TAKING_UP),
        *(ended(point, kind) for kind in KINDS if kind.background or kind.stream for point in ENDING),
        *(frozen(point, taken_over=taken_over) for point in FREEZING for taken_over in (False, True)),
        *other_cells(),
    ]


def run_cells(
    cells: Iterable[Cell], folder: Path, *, workers: int = 2, done: Callable[[Cell, Outcome], None] = lambda *_: None
) -> dict[Cell, Outcome]:
    """Run cells side by side, each worker on hosts of its own. After a fault it goes on with a new one."""
    waiting: SimpleQueue[Cell] = SimpleQueue()
    for cell in cells:
        waiting.put(cell)
    outcomes: dict[Cell, Outcome] = {}

    def work(number: int) -> None:
        host: MortalHost | None = None
        hosts = 0
        while True:
            try:
                cell = waiting.get_nowait()
            except Empty:
                break
            if host is None:
                hosts += 1
                host = MortalHost(folder / f"{number}-{hosts}")
            outcomes[cell] = _run(cell, host)
            done(cell, outcomes[cell])
            if outcomes[cell].fault:
                host.close()
                host = None
        if host is not None:
            host.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def _run(cell: Cell, host: MortalHost) -> Outcome:
    began = time.monotonic()
    try:
        if not host.starts:
            host.start()
        passed, fault = cell.run(host), ""
    except Exception:  # noqa: BLE001 - whatever it is, it is what came of this cell
        passed, fault = True, f"{traceback.format_exc(limit=-3)}\n{host.log[-2000:]}"
    return Outcome(passed, fault, time.monotonic() - began)


def table(outcomes: dict[Cell, Outcome]) -> str:
    """Points down, deeds across: how many passages were died at, `FAILED` if one of them went wrong."""
    columns = list(dict.fromkeys(cell.deed for cell in outcomes))
    lines = [f"{number:2}  {column}" for number, column in enumerate(columns, 1)]
    lines.append(f"\n{'':24}" + "".join(f"{number:>7}" for number in range(1, len(columns) + 1)))
    for point in CrashPoint:
        row = []
        for column in columns:
            here = [outcome for cell, outcome in outcomes.items() if (cell.point, cell.deed) == (point, column)]
            died = sum(outcome.passed for outcome in here)
            shown = "FAILED" if any(outcome.fault for outcome in here) else f"ok {died}" if died else ""
            row.append(f"{shown:>7}")
        lines.append(f"{point:24}{''.join(row)}")
    return "\n".join(lines)


def unreached(outcomes: dict[Cell, Outcome]) -> list[CrashPoint]:
    """The points that have cells, in none of which the process came by."""
    died = {cell.point for cell, outcome in outcomes.items() if outcome.passed}
    return [point for point in dict.fromkeys(cell.point for cell in outcomes) if point not in died]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crash.matrix", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="run the cells whose names contain this")
    options = parser.parse_args(arguments)
    cells = sorted((cell for cell in all_cells() if options.only in str(cell)), key=lambda cell: cell.passage)
    began = time.monotonic()

    def done(cell: Cell, outcome: Outcome) -> None:
        if outcome.fault:
            print(f"{cell}\n{outcome.fault}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        outcomes = run_cells(cells, Path(folder), workers=options.workers, done=done)
    print(table({cell: outcomes[cell] for cell in cells}))
    failed = sum(bool(outcome.fault) for outcome in outcomes.values())
    died = sum(outcome.passed for outcome in outcomes.values())
    print(f"\n{died} deaths, {failed} cells failed, {time.monotonic() - began:.0f} s")
    missed = unreached(outcomes)
    if missed:
        print(f"no process has died at: {', '.join(missed)}")
    sys.exit(1 if failed or missed else 0)


if __name__ == "__main__":
    main()
