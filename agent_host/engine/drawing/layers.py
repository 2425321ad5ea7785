"""Where the boxes and lines of a drawing go: in rows from top to bottom, so that lines point down where they can.

Rule 1: lines that close a circle are turned round, then every box stands in the row below the last that points to it.
Rule 2: between two rows of boxes lies a row of bends. Every line has a bend in every row it passes, as wide as its
        label where that stands; so lines pass beside boxes, and labels beside both.
Rule 3: the order in a row is the one with the fewest crossings among some that are tried; nothing is random.
Rule 4: x is the place nearest to what a cell is connected to that keeps the order and the distances.

All lengths are in pixels, y grows downwards, and a box's place is its centre.
"""

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MARGIN = 24.0
LOOP = 36.0
"""How far a line from a box to itself stands out on its right."""

_BESIDE = 28.0
_BEND = 14.0
_ROW_GAP = 30.0
_WIDEST_ROW_GAP = 72.0
_PORT = 18.0
_NARROWEST_PORT = 9.0
_ORDERINGS = 12
_SHIFTS = 8

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Box:
    """Something to be placed."""

    id: str
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """Something that connects two boxes, with the size of its label; zero for none."""

    source: str
    target: str
    label_width: float = 0.0
    label_height: float = 0.0


@dataclass(frozen=True, slots=True)
class Route:
    """The way of a line from its source to its target.

    `stations` come in pairs: between the two of a pair the line is straight, to the next pair it swings. `label` is
    the label's centre.
    """

    stations: tuple[Point, ...]
    label: Point


@dataclass(frozen=True, slots=True)
class Layout:
    """The size of the drawing, the centre of every box by its id, and the route of every line in the order given."""

    width: float
    height: float
    boxes: dict[str, Point]
    routes: tuple[Route, ...]


@dataclass(slots=True, eq=False)
class _Cell:
    """A box, or a bend of a line, in its row. `left` and `right` are its reach from x."""

    row: int
    left: float
    right: float
    height: float
    is_box: bool
    x: float = 0.0
    place: int = 0
    above: "list[_Cell]" = field(default_factory=list)
    below: "list[_Cell]" = field(default_factory=list)


def arrange(boxes: Sequence[Box], lines: Sequence[Line]) -> Layout:
    """Place the boxes, the first in the top row, and lead the lines between them."""
    grid = _Grid(boxes, lines)
    grid.order()
    grid.shift()
    return grid.layout()


class _Grid:
    """The cells in their rows, and the chain of cells of every line from its upper to its lower end."""

    def __init__(self, boxes: Sequence[Box], lines: Sequence[Line]) -> None:
        self._lines = lines
        ids = [box.id for box in boxes]
        self._turned = _closing(ids, lines)
        rows = _rows(ids, [self._downwards(number) for number in range(len(lines))])
        self._sizes = {box.id: box for box in boxes}
        self._cells = {box.id: self._box(box, 2 * rows[box.id]) for box in boxes}
        self._chains = [self._chain(number) for number in range(len(lines))]
        count = 1 + max((cell.row for cell in self._cells.values()), default=0)
        self._rows: list[list[_Cell]] = [[] for _ in range(count)]
        for cell in dict.fromkeys(cell for chain in [list(self._cells.values()), *self._chains] for cell in chain):
            self._rows[cell.row].append(cell)
        self._number_places()

    def _downwards(self, number: int) -> tuple[str, str]:
        line = self._lines[number]
        return (line.target, line.source) if number in self._turned else (line.source, line.target)

    def _box(self, box: Box, row: int) -> _Cell:
        loops = [line for line in self._lines if line.source == line.target == box.id]
        beside = max((LOOP + line.label_width for line in loops), default=0.0)
        return _Cell(row, box.width / 2, box.width / 2 + beside, box.height, is_box=True)

    def _chain(self, number: int) -> list[_Cell]:
        line = self._lines[number]
        upper, lower = (self._cells[end] for end in self._downwards(number))
        if upper is lower:
            return [upper]
        bends = [_Cell(row, _BEND / 2, _BEND / 2, 0.0, is_box=False) for row in range(upper.row + 1, lower.row)]
        labelled = bends[-1] if number in self._turned else bends[0]
        if line.label_width:
            labelled.left = labelled.right = line.label_width / 2
            labelled.height = line.label_height
        chain = [upper, *bends, lower]
        for one, other in pairwise(chain):
            one.below.append(other)
            other.above.append(one)
        return chain

    # --- The order in the rows ---

    def order(self) -> None:
        """Put every cell near the middle of its neighbours, row after row, and keep the best order seen."""
        best, fewest = [list(row) for row in self._rows], self._crossings()
        for turn in range(_ORDERINGS):
            if not fewest:
                break
            downwards = turn % 2 == 0
            for row in self._rows if downwards else reversed(self._rows):
                row.sort(key=lambda cell: _middle(cell.above if downwards else cell.below, cell.place))
                _number(row)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self._rows], crossings
        self._rows = best
        self._number_places()

    def _crossings(self) -> int:
        total = 0
        for row in self._rows:
            passed: list[int] = []
            for cell in row:
                ends = sorted(below.place for below in cell.below)
                total += sum(len(passed) - bisect_right(passed, end) for end in ends)
                for end in ends:
                    insort(passed, end)
        return total

    def _number_places(self) -> None:
        for row in self._rows:
            _number(row)

    # --- x ---

    def shift(self) -> None:
        """Hang every row below the one above it, then move its cells to between their neighbours."""
        for row in self._rows:
            _settle(row, [_mean(cell, cell.above) for cell in row], [1.0] * len(row))
        for turn in range(_SHIFTS):
            for row in self._rows if turn % 2 == 0 else reversed(self._rows):
                _settle(row, [_between(cell) for cell in row], [_pull(cell) for cell in row])

    # --- y, and the result ---

    def layout(self) -> Layout:
        """Read the places off."""
        cells = [cell for row in self._rows for cell in row]
        offset = MARGIN - min((cell.x - cell.left for cell in cells), default=0.0)
        for cell in cells:
            cell.x += offset
        bands = self._bands()
        routes = tuple(self._route(number, bands) for number in range(len(self._lines)))
        places = {key: (cell.x, sum(bands[cell.row]) / 2) for key, cell in self._cells.items()}
        reached = [x for route in routes for x, _ in route.stations] + [cell.x + cell.right for cell in cells]
        return Layout(max(reached, default=0.0) + MARGIN, bands[-1][1] + MARGIN if bands else 0.0, places, routes)

    def _bands(self) -> list[tuple[float, float]]:
        """Upper and lower edge of every row. Where lines go far aside, the rows stand further apart."""
        bands, top = [], MARGIN
        for row in self._rows:
            height = max((cell.height for cell in row), default=0.0)
            bands.append((top, top + height))
            aside = max((abs(cell.x - below.x) for cell in row for below in cell.below), default=0.0)
            top += height + min(max(_ROW_GAP, aside / 3), _WIDEST_ROW_GAP)
        return bands

    def _route(self, number: int, bands: list[tuple[float, float]]) -> Route:
        chain, line = self._chains[number], self._lines[number]
        if len(chain) == 1:
            return self._loop(chain[0], line, bands)
        stations: list[Point] = []
        for cell in chain:
            top, bottom = bands[cell.row]
            if cell is chain[0]:
                x, middle = self._port(cell, cell.below, chain[1]), (top + bottom) / 2
                stations += [(x, middle + cell.height / 2), (x, bottom)]
            elif cell is chain[-1]:
                x, middle = self._port(cell, cell.above, chain[-2]), (top + bottom) / 2
                stations += [(x, top), (x, middle - cell.height / 2)]
            elif bottom > top:  # a row of bends without any label is crossed in one swing
                stations += [(cell.x, top), (cell.x, bottom)]
        labelled = chain[-2] if number in self._turned else chain[1]
        label = (labelled.x, sum(bands[labelled.row]) / 2)
        return Route(tuple(reversed(stations)) if number in self._turned else tuple(stations), label)

    def _port(self, cell: _Cell, side: list[_Cell], end: _Cell) -> float:
        """Where on a box's side a line ends: beside the others in the order of where they go; many end at one point."""
        order = sorted(side, key=lambda other: other.place)
        width = 2 * cell.left - 2 * _PORT
        step = min(_PORT, width / (len(order) - 1)) if len(order) > 1 else 0.0
        step = step if step >= _NARROWEST_PORT else 0.0
        return cell.x + step * (order.index(end) - (len(order) - 1) / 2)

    @staticmethod
    def _loop(cell: _Cell, line: Line, bands: list[tuple[float, float]]) -> Route:
        middle, edge = sum(bands[cell.row]) / 2, cell.x + cell.left
        out = min(12.0, cell.height / 4)
        label = (edge + LOOP - 4 + line.label_width / 2, middle)
        return Route(((edge, middle - out), (edge, middle + out)), label)


def _closing(ids: Sequence[str], lines: Sequence[Line]) -> set[int]:
    """The lines that close a circle: those that lead back to where a walk from the first box has come from."""
    leaving: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        if line.source != line.target:
            leaving[line.source].append(number)
    closing: set[int] = set()
    done: set[str] = set()
    for first in ids:
        path, waiting = {first}, [(first, iter(leaving[first]))]
        while waiting and first not in done:
            here, rest = waiting[-1]
            number = next(rest, -1)
            if number < 0:
                waiting.pop()
                path.discard(here)
                done.add(here)
            elif (target := lines[number].target) in path:
                closing.add(number)
            elif target not in done:
                path.add(target)
                waiting.append((target, iter(leaving[target])))
    return closing


def _rows(ids: Sequence[str], lines: Sequence[tuple[str, str]]) -> dict[str, int]:
    """The length of the longest way to every box; the lines have no circle but loops."""
    below: dict[str, list[str]] = defaultdict(list)
    missing = dict.fromkeys(ids, 0)
    for upper, lower in lines:
        if upper != lower:
            below[upper].append(lower)
            missing[lower] += 1
    rows = dict.fromkeys(ids, 0)
    ready = [key for key in ids if not missing[key]]
    for here in ready:
        for lower in below[here]:
            rows[lower] = max(rows[lower], rows[here] + 1)
            missing[lower] -= 1
            if not missing[lower]:
                ready.append(lower)
    return rows


def _middle(cells: Sequence[_Cell], otherwise: int) -> float:
    return sum(cell.place for cell in cells) / len(cells) if cells else otherwise


def _number(row: Iterable[_Cell]) -> None:
    for place, cell in enumerate(row):
        cell.place = place


def _pull(cell: _Cell) -> float:
    """How much a cell wants to be where its neighbours are: bends most, so that long lines are straight."""
    return sum((1.0, 3.0, 8.0)[(not cell.is_box) + (not other.is_box)] for other in (*cell.above, *cell.below)) or 0.1


def _mean(cell: _Cell, near: Sequence[_Cell]) -> float:
    return sum(other.x for other in near) / len(near) if near else cell.x


def _between(cell: _Cell) -> float:
    """Where the cell is, or the nearest x that lies between what is above and what is below it.

    A box that branches one way only wants to be at the middle of its branches.
    """
    above, below = _mean(cell, cell.above), _mean(cell, cell.below)
    if cell.is_box and min(len(cell.above), len(cell.below)) < 2 <= max(len(cell.above), len(cell.below)):
        over = [end for bend in cell.above for end in bend.above]
        under = [end for bend in cell.below for end in bend.below]
        return _mean(cell, max(over, under, key=len))
    above = above if cell.above else below
    below = below if cell.below else above
    return min(max(cell.x, min(above, below)), max(above, below))


def _settle(row: Sequence[_Cell], wanted: Sequence[float], weights: Sequence[float]) -> None:
    """Give every cell the x nearest to the wanted one, in weighted squares, that keeps order and distances.

    With the distances taken off, this is a monotone regression: neighbours that would pass each other become a block
    at the mean of what its members want.
    """
    offsets = list(_offsets(row))
    blocks: list[tuple[float, float, int]] = []  # mean, weight, members
    for x, offset, weight in zip(wanted, offsets, weights, strict=True):
        mean, members = x - offset, 1
        while blocks and blocks[-1][0] > mean:
            other, heavy, count = blocks.pop()
            mean = (mean * weight + other * heavy) / (weight + heavy)
            weight, members = weight + heavy, members + count
        blocks.append((mean, weight, members))
    means = [mean for mean, _, members in blocks for _ in range(members)]
    for cell, mean, offset in zip(row, means, offsets, strict=True):
        cell.x = mean + offset


def _offsets(row: Sequence[_Cell]) -> Iterator[float]:
    """The least distance of every cell from the first one."""
    offset = 0.0
    for number, cell in enumerate(row):
        if number:
            before = row[number - 1]
            beside = _BESIDE if before.is_box or cell.is_box else _BESIDE / 2
            offset += before.right + beside + cell.left
        yield offset
