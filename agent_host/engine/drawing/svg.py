"""A picture as SVG, drawn without any other program. It is readable on light and on dark pages."""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from agent_host.engine.drawing.layers import LOOP, MARGIN, Box, Layout, Line, Point, Route, arrange
from agent_host.engine.drawing.picture import Arrow, Node, Picture

_TITLE, _DETAIL, _LABEL = 14.0, 12.0, 12.0
"""Sizes of letters in pixels."""

_LONGEST_TITLE, _LONGEST_LABEL = 34, 28
_PADDING = 18.0
_BOX_HEIGHT, _POINT_HEIGHT, _LABEL_HEIGHT = 54.0, 30.0, 20.0
_NARROWEST = 92.0
_HEADING = 40.0
_ARROWHEAD = 9.0

_STYLE = """
.wf { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.wf text { text-anchor: middle; fill: #1f2328; font-size: 14px; }
.wf .title { font-weight: 600; }
.wf .detail, .wf .label { font-size: 12px; fill: #59636e; }
.wf .heading { text-anchor: start; font-size: 13px; fill: #59636e; }
.wf .canvas { fill: #ffffff; }
.wf .box { fill: #f6f8fa; stroke: #818b98; stroke-width: 1.25; }
.wf .group { fill: none; stroke: #818b98; stroke-width: 1.25; stroke-dasharray: 2 4; stroke-linecap: round; }
.wf .point { fill: #fff8c5; stroke: #9a6700; stroke-width: 1.25; }
.wf .line { fill: none; stroke: #6e7781; stroke-width: 1.5; }
.wf .maybe { stroke-dasharray: 6 4; }
.wf .head { fill: #6e7781; }
.wf rect.output { stroke: #0969da; stroke-width: 2; }
.wf rect.start { stroke: #1a7f37; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
.wf text { fill: #f0f6fc; }
.wf .detail, .wf .label, .wf .heading { fill: #9198a1; }
.wf .canvas { fill: #0d1117; }
.wf .box { fill: #151b23; stroke: #656c76; }
.wf .group { stroke: #656c76; }
.wf .point { fill: #272115; stroke: #d29922; }
.wf .line { stroke: #9198a1; }
.wf .head { fill: #9198a1; }
.wf rect.output { stroke: #4493f8; }
.wf rect.start { stroke: #3fb950; }
}
"""


def to_svg(picture: Picture) -> str:
    """A drawing as large as its content. Texts that are cut are whole in their tooltips."""
    drawing = _Drawing.of(picture)
    heading = _shortened(picture.title, 60)
    width = max(drawing.layout.width, _text_width(heading, 13.0) + 2 * MARGIN)
    height = drawing.layout.height + _HEADING - MARGIN
    told = ", ".join(node.title for node in picture.nodes if node.shape == "executor")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="wf" role="img" viewBox="0 0 {_n(width)} {_n(height)}" '
        f'width="{_n(width)}" height="{_n(height)}">',
        f"<title>{escape(picture.title)}</title>",
        f"<desc>A workflow of these executors: {escape(told)}.</desc>",
        f"<style>{_STYLE}</style>",
        f'<rect class="canvas" width="{_n(width)}" height="{_n(height)}" rx="8"/>',
        f'<text class="heading" x="{_n(MARGIN)}" y="25">{escape(heading)}</text>',
        f'<g transform="translate({_n((width - drawing.layout.width) / 2)} {_n(_HEADING - MARGIN)})">',
        *drawing.lines(),
        "</g>",
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A picture with the place of everything in it; pictures inside nodes are drawings of their own."""

    picture: Picture
    layout: Layout
    inner: "dict[str, _Drawing]"

    @classmethod
    def of(cls, picture: Picture) -> "_Drawing":
        inner = {node.id: cls.of(node.inside) for node in picture.nodes if node.inside is not None}
        boxes = [_sized(node, inner.get(node.id)) for node in picture.nodes]
        return cls(picture, arrange(boxes, [_measured(arrow) for arrow in picture.arrows]), inner)

    def lines(self) -> Iterator[str]:
        """Lines first and boxes over them; labels last, on plates that hide the line behind."""
        routed = list(zip(self.picture.arrows, self.layout.routes, strict=True))
        for arrow, route in routed:
            yield from _drawn_route(arrow, route)
        for node in self.picture.nodes:
            x, y = self.layout.boxes[node.id]
            inner = self.inner.get(node.id)
            size = _sized(node, inner)
            if inner is None:
                yield from _drawn_box(node, x, y, size)
            else:
                yield from _drawn_group(node, x, y, size)
                left, top = x - inner.layout.width / 2, y + size.height / 2 - inner.layout.height
                yield f'<g transform="translate({_n(left)} {_n(top)})">'
                yield from inner.lines()
                yield "</g>"
        for arrow, route in routed:
            if arrow.label:
                yield from _drawn_label(arrow, route.label)


def _sized(node: Node, inner: _Drawing | None) -> Box:
    if node.shape != "executor":
        return Box(node.id, _text_width(_shortened(node.title, _LONGEST_LABEL), _LABEL) + 1.6 * _PADDING, _POINT_HEIGHT)
    title = _text_width(_shortened(node.title, _LONGEST_TITLE), _TITLE) * 1.06
    detail = _text_width(_detail(node), _DETAIL)
    width = max(title, detail) + 2 * _PADDING
    if inner is None:
        return Box(node.id, max(width, _NARROWEST), _BOX_HEIGHT)
    return Box(node.id, max(width, inner.layout.width), inner.layout.height + _BOX_HEIGHT - MARGIN / 2)


def _measured(arrow: Arrow) -> Line:
    if not arrow.label:
        return Line(arrow.source, arrow.target)
    width = _text_width(_shortened(arrow.label, _LONGEST_LABEL), _LABEL) + 8
    return Line(arrow.source, arrow.target, width, _LABEL_HEIGHT)


def _drawn_box(node: Node, x: float, y: float, size: Box) -> Iterator[str]:
    corner = _corner(x, y, size)
    yield f"<g><title>{escape(' '.join((node.title, node.detail)).strip())}</title>"
    if node.shape == "executor":
        kinds = " ".join(("box", *node.marks))
        yield f'<rect class="{kinds}" {corner} rx="{_n(size.height / 2) if node.is_start else 8}"/>'
        yield _text("title", x, y - 4, _shortened(node.title, _LONGEST_TITLE))
        yield _caption(node, x, y + 14)
    else:
        yield f'<rect class="point" {corner} rx="{_n(size.height / 2) if node.shape == "fan-in" else 4}"/>'
        yield _text("label", x, y + 4, _shortened(node.title, _LONGEST_LABEL))
    yield "</g>"


def _drawn_group(node: Node, x: float, y: float, size: Box) -> Iterator[str]:
    kinds = " ".join(("group", *node.marks))
    top = y - size.height / 2
    yield f"<g><title>{escape(node.title)}</title>"
    yield f'<rect class="{kinds}" {_corner(x, y, size)} rx="12"/>'
    yield _text("title", x, top + 23, _shortened(node.title, _LONGEST_TITLE))
    yield _caption(node, x, top + 41)
    yield "</g>"


def _caption(node: Node, x: float, y: float) -> str:
    return _text("detail", x, y, _detail(node))


def _detail(node: Node) -> str:
    return " · ".join((_shortened(node.detail, _LONGEST_TITLE), *node.marks))


def _drawn_route(arrow: Arrow, route: Route) -> Iterator[str]:
    kinds = "line" if arrow.is_certain else "line maybe"
    if arrow.source == arrow.target:
        (x, top), (_, bottom) = route.stations
        out = x + LOOP
        yield f'<path class="{kinds}" d="M{_n(x)} {_n(top)}C{_n(out)} {_n(top - 8)} {_n(out)} {_n(bottom + 8)} ' \
              f'{_n(x + _ARROWHEAD - 1)} {_n(bottom + 1)}"/>'  # fmt: skip
        yield f'<path class="head" d="M{_n(x)} {_n(bottom)}l{_n(_ARROWHEAD)} -3.5v7z"/>'
        return
    *passed, (x, before), (_, y) = route.stations
    back = -_ARROWHEAD if y > passed[0][1] else _ARROWHEAD
    neck = y + back
    path = _path((*passed, (x, min(before, neck) if back < 0 else max(before, neck)), (x, neck)))
    yield f'<path class="{kinds}" d="{path}"/>'
    yield f'<path class="head" d="M{_n(x)} {_n(y)}l-4 {_n(back)}h8z"/>'


def _path(stations: tuple[Point, ...]) -> str:
    """Straight between the two of a pair, and an S with upright ends from pair to pair."""
    path = f"M{_n(stations[0][0])} {_n(stations[0][1])}"
    for number, ((x, y), (next_x, next_y)) in enumerate(pairwise(stations)):
        if number % 2 == 0 or x == next_x:
            path += f"L{_n(next_x)} {_n(next_y)}" if (x, y) != (next_x, next_y) else ""
        else:
            middle = (y + next_y) / 2
            path += f"C{_n(x)} {_n(middle)} {_n(next_x)} {_n(middle)} {_n(next_x)} {_n(next_y)}"
    return path


def _drawn_label(arrow: Arrow, centre: Point) -> Iterator[str]:
    x, y = centre
    label = _shortened(arrow.label, _LONGEST_LABEL)
    size = Box("", _text_width(label, _LABEL) + 8, _LABEL_HEIGHT)
    yield f"<g><title>{escape(arrow.label)}</title>"
    yield f'<rect class="canvas" {_corner(x, y, size)}/>'
    yield _text("label", x, y + 4, label)
    yield "</g>"


def _text(kind: str, x: float, y: float, text: str) -> str:
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{escape(text)}</text>'


def _corner(x: float, y: float, size: Box) -> str:
    left, top = x - size.width / 2, y - size.height / 2
    return f'x="{_n(left)}" y="{_n(top)}" width="{_n(size.width)}" height="{_n(size.height)}"'


def _n(length: float) -> str:
    return f"{length:.1f}".removesuffix(".0")


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _text_width(text: str, size: float) -> float:
    """About what a text takes in the usual fonts; rather too much than too little."""
    return size * sum(map(_letter_width, text))


def _letter_width(letter: str) -> float:
    if unicodedata.combining(letter) or unicodedata.category(letter) in ("Cf", "Mn", "Me"):
        return 0.0
    if unicodedata.east_asian_width(letter) in ("W", "F"):
        return 1.05
    if letter in "ijltfrI.,:;'|!()[] ":
        return 0.36
    if letter in "mwMW@%—…":
        return 0.95
    return 0.72 if letter.isupper() or letter in "&_+=<>#~" else 0.6
