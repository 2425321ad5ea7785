"""Drawings of workflows: what they show, that every text in them is written safely, and that nothing overlaps."""

import itertools
import re
import string
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, executor, handler
from agent_host.engine.definition import OutputDesignation
from agent_host.engine.drawing import dot, mermaid, svg
from agent_host.engine.drawing.layers import MARGIN, Box, Layout, Line, arrange
from agent_host.engine.drawing.picture import Arrow, Node, Picture, picture_of
from agent_host.engine.drawing.workflow_viz import WorkflowViz
from agent_host.engine.graph.edges import EdgeGroup, FanIn, FanOut, SingleEdge, Switch
from agent_host.engine.graph.graph import Graph

SVG = "{http://www.w3.org/2000/svg}"


class Step(Executor):
    @handler
    async def go(self, value: Any, ctx: WorkflowContext[Any]) -> None: ...


class Final(Executor):
    @handler
    async def go(self, value: Any, ctx: WorkflowContext[Any, str]) -> None: ...


class Bare(Executor):
    @handler
    async def go(self, value: Any, ctx: WorkflowContext) -> None: ...


class Holding(Step):
    """An executor that stands for a workflow."""

    def __init__(self, id: str, inside: Any) -> None:
        super().__init__(id)
        self.inside = inside

    @property
    def nested_workflow(self) -> Any:
        return self.inside


class Outline:
    """What can be seen of a workflow."""

    max_iterations = 100
    signature = ""

    def __init__(
        self,
        executors: Sequence[Executor],
        *groups: EdgeGroup,
        name: str = "flow",
        outputs: frozenset[str] | None = None,
    ) -> None:
        self.name = name
        self.graph = Graph.of(executors[0].id, {made.id: made for made in executors}, groups)
        self.outputs = OutputDesignation(outputs, frozenset())


def steps(names: str) -> list[Executor]:
    return [Step(name) for name in names.split()]


def urgent(value: Any) -> bool:
    return True


def by_size(value: Any, ids: list[str]) -> list[str]:
    return ids


def choosing() -> Outline:
    """Every kind of group, all kinds of labels, a loop, a circle and a nested workflow within a nested one."""
    deep = Outline([Step("check"), Final("pass")], SingleEdge("check", "pass", urgent), name="deep")
    inner = Outline([Step("take"), Holding("again", deep)], SingleEdge("take", "again"), name="inner")
    executors = [*steps("a b c d"), Holding("review", inner), Final("end")]
    return Outline(
        executors,
        Switch("a", ((urgent, "b"), (lambda value: True, "c"), (urgent, "b")), "c", ("open", None, None)),
        SingleEdge("b", "d", lambda value: True),
        SingleEdge("b", "b", urgent, "once more"),
        FanOut("c", ("d", "review"), by_size),
        FanIn(("d", "review"), "end"),
        SingleEdge("end", "a", urgent),
        SingleEdge("a", "end"),
    )


# --- What is shown -----------------------------------------------------------------------------------------------


def test_a_picture_shows_every_executor_and_every_way() -> None:
    """Ids and classes; start and outputs; joins and selections as points; cases, defaults and conditions as labels."""
    picture = picture_of(choosing())
    titles = {node.id: node.title for node in picture.nodes}
    assert list(titles.values()) == ["a", "b", "c", "d", "review", "end", "by_size", "fan-in"]
    assert [node.shape for node in picture.nodes[6:]] == ["selection", "fan-in"]
    assert [(titles[a.source], titles[a.target], a.label, a.is_certain) for a in picture.arrows] == [
        ("a", "b", "open, urgent", False),
        ("a", "c", "case 2, default", False),
        ("b", "d", "condition", False),
        ("b", "b", "once more", False),
        ("c", "by_size", "", True),
        ("by_size", "d", "", False),
        ("by_size", "review", "", False),
        ("d", "fan-in", "", True),
        ("review", "fan-in", "", True),
        ("fan-in", "end", "", True),
        ("end", "a", "urgent", False),
        ("a", "end", "", True),
    ]
    assert [(node.title, *node.marks) for node in picture.nodes if node.marks] == [("a", "start"), ("end", "output")]
    inner = picture.nodes[4].inside
    assert inner is not None
    assert [(node.id, node.title, node.detail) for node in inner.nodes] == [
        ("n5_1", "take", "Step"),
        ("n5_2", "again", "Holding"),
    ]
    assert inner.nodes[1].inside is not None
    assert [node.title for node in inner.nodes[1].inside.nodes] == ["check", "pass"]


@pytest.mark.parametrize(
    ("outputs", "marked"), [(None, ["final"]), (frozenset({"bare"}), ["bare"]), (frozenset({"final"}), ["final"])]
)
def test_the_executors_that_answer_are_marked(outputs: frozenset[str] | None, marked: list[str]) -> None:
    """Those that declare to yield, and of those that declare nothing the ones that the author has named."""
    ways = SingleEdge("first", "bare"), SingleEdge("bare", "final")
    outline = Outline([Step("first"), Bare("bare"), Final("final")], *ways, outputs=outputs)
    assert [node.title for node in picture_of(outline).nodes if node.is_output] == marked


def test_the_start_comes_first_wherever_it_was_declared() -> None:
    """The order of the other executors is that of their declaration."""
    graph = Graph.of("b", {name: Step(name) for name in "abc"}, [SingleEdge("b", "a"), SingleEdge("a", "c")])
    outline = Outline(steps("x"))
    outline.graph = graph
    assert [node.title for node in picture_of(outline).nodes] == ["b", "a", "c"]


def built() -> Workflow:
    @executor
    async def greet(text: str, ctx: WorkflowContext[str]) -> None: ...

    return WorkflowBuilder(start_executor=greet, name="hello").add_edge(greet, Final("done")).build()


def test_a_workflow_is_drawn_in_every_format() -> None:
    """What `build()` returns can be drawn as it is; a function's class is said to be one."""
    drawn = WorkflowViz(built())
    assert drawn.to_mermaid() == (
        'flowchart TD\n    n1(["greet<br/>function, start"])\n    n2["done<br/>Final, output"]\n    n1 --> n2\n'
    )
    assert drawn.to_digraph().splitlines()[-5:] == [
        '    label="hello";',
        '    n1 [label="greet\\nfunction, start", style="rounded,bold"];',
        '    n2 [label="done\\nFinal, output", peripheries=2];',
        "    n1 -> n2;",
        "}",
    ]
    assert texts(drawn.to_svg()) == ["hello", "greet", "function · start", "done", "Final · output"]


def test_a_drawing_is_the_same_in_every_process() -> None:
    """Nothing depends on the order in which a set happens to be."""
    program = (
        "from tests.engine.test_drawing import choosing, WorkflowViz\n"
        "viz = WorkflowViz(choosing())\nprint(viz.to_mermaid(), viz.to_digraph(), viz.to_svg())"
    )
    drawings = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(drawings) == 1
    assert len(drawings.pop()) > 1000


# --- Files -------------------------------------------------------------------------------------------------------


def test_a_drawing_is_exported_to_a_file(tmp_path: Path) -> None:
    """Under the name given, or in a new temporary file; the path is returned."""
    viz = WorkflowViz(built())
    written = {"svg": viz.to_svg(), "dot": viz.to_digraph(), "mermaid": viz.to_mermaid()}
    for format, extension in (("svg", "svg"), ("dot", "gv"), ("mermaid", "mmd"), ("dot", "DOT")):
        path = tmp_path / f"flow.{extension}"
        assert viz.export(format, path) == str(path)  # type: ignore[arg-type]  # one of the three
        assert path.read_text(encoding="utf-8") == written[format]
    assert viz.save_svg(str(tmp_path / "saved.svg")) == str(tmp_path / "saved.svg")
    assert (tmp_path / "saved.svg").read_text(encoding="utf-8") == written["svg"]
    temporary = Path(viz.export("dot"))
    try:
        assert temporary.read_text(encoding="utf-8") == written["dot"]
        assert temporary.suffix == ".dot"
    finally:
        temporary.unlink()


def test_a_wrong_format_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A bitmap is not made here, and the extension of a file must be that of its format."""
    viz = WorkflowViz(built())
    with pytest.raises(ValueError, match=r"no format 'png', only mermaid, dot, svg\. For a bitmap or PDF, convert"):
        viz.export("png", tmp_path / "flow.png")  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(ValueError, match=r"'flow\.dot' does not end in \.svg, as a svg file does"):
        viz.export("svg", tmp_path / "flow.dot")
    assert list(tmp_path.iterdir()) == []


# --- Any text can be drawn -----------------------------------------------------------------------------------------

ODD = [
    "end", "graph", "subgraph", "node", "click", "style: #a;", 'say "hi"', "a<b>&amp;<br>", "%%{init: {}}%%", "1. one",
    "- one", "`code`", "*bold* _it_", "a|b[c](d){e}", "back\\slash\\", "日本語", "🎉", "a;b --> c",
]  # fmt: skip
UNWRITABLE = ["x\u2028y", "\x7f\ud800"]

MERMAID_LINE = re.compile(
    r"flowchart TD"
    r"|\s+(?P<node>n[\d_]+)(?:\(\[\"T\"\]\)|\[\"T\"\]|\(\(\"T\"\)\)|\{\{\"T\"\}\})"
    r"|\s+subgraph (?P<group>n[\d_]+)\[\"T\"\]"
    r"|\s+end"
    r"|\s+(?P<source>n[\d_]+) (?:-->|-\.->)(?:\|\"T\"\|)? (?P<target>n[\d_]+)".replace(
        "T", r"[\w ,!?()/='.\-]*(?:(?:#\d+;|<br/>)[\w ,!?()/='.\-]*)*"
    )
)
DOT_TEXT = r'"(?:[^"\\]|\\.)*"'
DOT_ATTRIBUTES = rf"\w+=(?:\w+|{DOT_TEXT})(?:, \w+=(?:\w+|{DOT_TEXT}))*"
DOT_LINE = re.compile(
    r"digraph workflow \{"
    rf"|\s+(?:rankdir|compound|fontname|label|style)=(?:\w+|{DOT_TEXT});"
    rf"|\s+(?:node|edge) \[{DOT_ATTRIBUTES}\];"
    rf"|\s+(?P<node>n[\d_]+) \[{DOT_ATTRIBUTES}\];"
    r"|\s+subgraph cluster_(?P<group>n[\d_]+) \{"
    r"|\s*\}"
    rf"|\s+(?P<source>n[\d_]+) -> (?P<target>n[\d_]+)(?: \[{DOT_ATTRIBUTES}\])?;"
)


def structure(text: str, line: re.Pattern[str]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """The nodes, groups and arrows of a text of which every line must be one that the format knows."""
    nodes, groups, arrows = [], [], []
    for row in text.removesuffix("\n").split("\n"):
        found = line.fullmatch(row)
        assert found is not None, row
        part = found.groupdict()
        nodes += [part["node"]] if part["node"] else []
        groups += [part["group"]] if part["group"] else []
        arrows += [(part["source"], part["target"])] if part["source"] else []
    return nodes, groups, arrows


def texts(image: str) -> list[str]:
    """What can be read in an SVG image."""
    return ["".join(element.itertext()) for element in ET.fromstring(image).iter(f"{SVG}text")]


def oddly_named(names: Sequence[str]) -> Picture:
    """A picture that has the names everywhere a name can be."""
    inside = Picture(names[0], tuple(Node(f"n1_{n}", name, name) for n, name in enumerate(names, 1)), ())
    nodes = [Node("n1", names[0], names[0], inside=inside, is_start=True)]
    nodes += [Node(f"n{n}", name, name, is_output=n % 2 == 0) for n, name in enumerate(names, 2)]
    points = (Node("n90", names[0], shape="fan-in"), Node("n91", names[-1], shape="selection"))
    arrows = [Arrow(one.id, other.id, other.title, False) for one, other in itertools.pairwise((*nodes, *points))]
    return Picture(names[-1], (*nodes, *points), tuple(arrows))


def test_odd_ids_come_through() -> None:
    """Ids that are words or marks of a format, or that no file can hold, are drawn; each is a node of its own."""
    names = [*ODD, *UNWRITABLE]
    outline = Outline([Step(name) for name in names], *(SingleEdge(a, b) for a, b in itertools.pairwise(names)))
    viz = WorkflowViz(outline)
    for text, line in ((viz.to_mermaid(), MERMAID_LINE), (viz.to_digraph(), DOT_LINE)):
        text.encode()
        nodes, _, arrows = structure(text, line)
        assert nodes == [f"n{number}" for number in range(1, len(names) + 1)]
        assert arrows == list(itertools.pairwise(nodes))
    assert {*ODD, "x y", "\ufffd\ufffd"} <= set(texts(viz.to_svg()))


ANY_TEXT = st.one_of(st.sampled_from(ODD), st.text(string.printable[:95] + "äß日🎉", min_size=1))


@given(st.lists(ANY_TEXT, min_size=1, max_size=6))
def test_no_text_breaks_out_of_its_place(names: list[str]) -> None:
    """Whatever ids, classes and labels are, the nodes and arrows of a text are those of the picture."""
    picture = oddly_named(names)
    expected = [node.id for node in picture.nodes if node.inside is None] + [
        node.id for node in (picture.nodes[0].inside or picture).nodes
    ]
    nodes, groups, arrows = structure(mermaid.to_mermaid(picture), MERMAID_LINE)
    assert (sorted(nodes), groups) == (sorted(expected), ["n1"])
    assert arrows == [(arrow.source, arrow.target) for arrow in picture.arrows]
    nodes, groups, arrows = structure(dot.to_digraph(picture), DOT_LINE)
    assert (sorted(nodes), groups, len(arrows)) == (sorted(expected), ["n1"], len(picture.arrows))
    image = ET.fromstring(svg.to_svg(picture))
    known = {"svg", "title", "desc", "style", "rect", "text", "g", "path"}
    assert {element.tag.removeprefix(SVG) for element in image.iter()} <= known


def test_mermaid_reads_a_text_as_it_was_written() -> None:
    """Its marks, and those of Markdown within it, stand as numbers; plain words stand as they are."""
    written = ["snake_case, kebab-case (x) 2.5!", 'a "b" #c', "1. one", "- one", "_it_", "100% <b> & `c` *d* e:f;"]
    nodes = tuple(Node(f"n{number}", text) for number, text in enumerate(written, 1))
    shown = re.findall(r'\["(.*)<br/>"\]', mermaid.to_mermaid(Picture("", nodes, ())))
    assert shown == [
        "snake_case, kebab-case (x) 2.5!", "a #34;b#34; #35;c", "1#46; one", "#45; one", "#95;it#95;",
        "100#37; #60;b#62; #38; #96;c#96; #42;d#42; e#58;f#59;",
    ]  # fmt: skip
    assert [re.sub(r"#(\d+);", lambda found: chr(int(found[1])), text) for text in shown] == written


def test_graphviz_reads_a_text_as_it_was_written() -> None:
    """Quotation marks, backslashes and its entities are escaped."""
    text = dot.to_digraph(Picture("", (Node("n1", 'a "b" \\n &lt;', "c"),), ()))
    assert 'n1 [label="a \\"b\\" \\\\n &amp;lt;\\nc"];' in text


def test_graphviz_draws_arrows_of_groups_between_nodes() -> None:
    """They go to the start inside and come from an output inside, and are cut off at the border."""
    deep = Outline([Step("check"), Final("pass")], SingleEdge("check", "pass"))
    review = Holding("review", Outline([Step("take"), Holding("again", deep)], SingleEdge("take", "again")))
    ways = SingleEdge("a", "review"), SingleEdge("review", "b"), SingleEdge("review", "review", urgent)
    lines = [
        line.strip() for line in WorkflowViz(Outline([Step("a"), review, Step("b")], *ways)).to_digraph().split("\n")
    ]
    assert [line for line in lines if "->" in line] == [
        "n2_2_1 -> n2_2_2;",
        "n2_1 -> n2_2_1 [lhead=cluster_n2_2];",
        "n1 -> n2_1 [lhead=cluster_n2];",
        "n2_1 -> n3 [ltail=cluster_n2];",
        'n2_1 -> n2_1 [label="urgent", style=dashed];',
    ]


# --- Where everything is -------------------------------------------------------------------------------------------


def random_graph(choose: st.DataObject) -> tuple[list[Box], list[Line]]:
    count = choose.draw(st.integers(1, 9))
    sizes = st.integers(20, 240)
    boxes = [Box(f"b{number}", choose.draw(sizes), choose.draw(sizes)) for number in range(count)]
    ends = st.integers(0, count - 1)
    tree = [(choose.draw(st.integers(0, number - 1)), number) for number in range(1, count)]
    pairs = dict.fromkeys([*tree, *choose.draw(st.lists(st.tuples(ends, ends), max_size=12))])
    widths = st.sampled_from([0.0, 0.0, 40.0, 150.0])
    labels = [choose.draw(widths) for _ in pairs]
    return boxes, [
        Line(f"b{a}", f"b{b}", width, 20.0 if width else 0.0) for (a, b), width in zip(pairs, labels, strict=True)
    ]


Rectangle = tuple[float, float, float, float]


def rectangle(centre: tuple[float, float], width: float, height: float) -> Rectangle:
    x, y = centre
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles share more than a border."""
    apart = (one[2] - other[0], other[2] - one[0], one[3] - other[1], other[3] - one[1])
    return min(apart) > 0.01


def inside(point: tuple[float, float], area: Rectangle) -> bool:
    return area[0] <= point[0] <= area[2] and area[1] <= point[1] <= area[3]


def check(boxes: Sequence[Box], lines: Sequence[Line], layout: Layout) -> None:
    """Nothing overlaps, everything is inside, and every part of a line passes beside the boxes and labels of others."""
    placed = {box.id: rectangle(layout.boxes[box.id], box.width, box.height) for box in boxes}
    routed = list(zip(lines, layout.routes, strict=True))
    labels = [rectangle(r.label, line.label_width, line.label_height) for line, r in routed if line.label_width]
    for one, other in itertools.combinations([*placed.values(), *labels], 2):
        assert not overlap(one, other)
    for left, top, right, bottom in [*placed.values(), *labels]:
        assert min(left, top) >= MARGIN - 0.01
        assert right <= layout.width - MARGIN + 0.01
        assert bottom <= layout.height - MARGIN + 0.01
    for line, route in routed:
        for box, (x, y) in ((placed[line.source], route.stations[0]), (placed[line.target], route.stations[-1])):
            assert box[0] <= x <= box[2]
            assert line.source == line.target or min(abs(y - box[1]), abs(y - box[3])) < 0.01
        if line.source != line.target:
            others = [*placed.values(), *(label for label in labels if not inside(route.label, label))]
            for number, ((x, y), (end_x, end_y)) in enumerate(itertools.pairwise(route.stations)):
                part = (min(x, end_x) - 0.1, min(y, end_y), max(x, end_x) + 0.1, max(y, end_y))
                assert number % 2 or x == end_x
                assert not any(overlap(part, other) for other in others)


@given(st.data())
def test_nothing_overlaps_in_any_graph(choose: st.DataObject) -> None:
    """Boxes and labels keep apart and inside the image, lines begin and end at their boxes and pass beside others."""
    boxes, lines = random_graph(choose)
    check(boxes, lines, arrange(boxes, lines))


def test_a_thousand_executors_are_placed() -> None:
    """A long chain needs no deep recursion, and a wide fan-out no end of time."""
    boxes = [Box(str(number), 100, 50) for number in range(1000)]
    chain = [Line(one.id, other.id) for one, other in itertools.pairwise(boxes)]
    assert len({y for _, y in arrange(boxes, chain).boxes.values()}) == 1000
    wide = [Line("0", box.id) for box in boxes[1:200]] + [Line(box.id, "999") for box in boxes[1:200]]
    layout = arrange([*boxes[:200], boxes[999]], wide)
    assert layout.boxes["0"][1] < layout.boxes["7"][1] < layout.boxes["999"][1]


def test_lines_lead_down_and_a_line_back_leads_up() -> None:
    """Every box stands below those that lead to it; a line that closes a circle turns nothing round."""
    boxes = [Box(name, 80, 40) for name in "abcd"]
    lines = [Line(*pair) for pair in ("ab", "bc", "ca", "ad", "cd")]
    layout = arrange(boxes, lines)
    heights = [layout.boxes[name][1] for name in "abcd"]
    assert heights == sorted(set(heights))
    ups = [route.stations[0][1] > route.stations[-1][1] for route in layout.routes]
    assert ups == [False, False, True, False, False]


def test_a_chain_is_straight_and_a_fan_out_is_even() -> None:
    """Boxes of a chain stand under each other, a source and a join above and below the middle of what they connect."""
    boxes = [Box(name, 80, 40) for name in ["a", "b", "c", *"123", "z"]]
    lines = [Line("a", "b"), Line("b", "c"), *(Line("c", n) for n in "123"), *(Line(n, "z") for n in "123")]
    layout = arrange(boxes, lines)
    middle = layout.boxes["2"][0]
    assert [round(layout.boxes[name][0] - middle, 3) for name in "abcz"] == [0, 0, 0, 0]
    assert round(layout.boxes["1"][0] + layout.boxes["3"][0], 3) == round(2 * middle, 3)


def test_many_lines_end_at_one_point_and_few_beside_each_other() -> None:
    """Where arrowheads would cover each other, they become one."""

    def ends(count: int) -> set[float]:
        boxes = [Box(str(number), 80, 40) for number in range(count + 1)]
        layout = arrange(boxes, [Line("0", box.id) for box in boxes[1:]])
        return {route.stations[0][0] for route in layout.routes}

    assert [len(ends(count)) for count in (1, 2, 5, 12)] == [1, 2, 5, 1]


def test_boxes_of_a_tree_stand_above_the_middle_of_those_below() -> None:
    """Where they branch, at every level, though the branches are of different width."""
    boxes = [Box(name, 80, 40) for name in "rab1234"]
    ways = ["ra", "rb", "a1", "a2", "a3", "b4"]
    places = arrange(boxes, [Line(*way) for way in ways]).boxes
    for upper in "ra":
        below = [places[way[1]][0] for way in ways if way[0] == upper]
        assert round(places[upper][0] - sum(below) / len(below), 3) == 0


def test_lines_cross_as_little_as_they_must() -> None:
    """Boxes declared in an unlucky order change places."""
    boxes = [Box(name, 80, 40) for name in ("s", "a", "b", "c", "x", "y", "z")]
    lines = [Line("s", "a"), Line("s", "b"), Line("s", "c"), Line("a", "z"), Line("b", "x"), Line("c", "y")]
    layout = arrange(boxes, lines)
    order = sorted("xyz", key=lambda name: layout.boxes[name][0])
    feeding = sorted("abc", key=lambda name: layout.boxes[name][0])
    assert order == [{"a": "z", "b": "x", "c": "y"}[name] for name in feeding]


def test_the_image_is_as_large_as_its_content() -> None:
    """Everything lies inside the viewBox, also a long name; texts that are cut are whole in their tooltips."""
    long = "x" * 128
    image = svg.to_svg(picture_of(Outline([Step(long)], name="a name that is wider than a narrow drawing of one box")))
    root = ET.fromstring(image)
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert (float(root.attrib["width"]), float(root.attrib["height"])) == (width, height)
    box = next(element for element in root.iter(f"{SVG}rect") if "box" in element.attrib["class"])
    assert 0 < float(box.attrib["width"]) < width < 600
    assert "x" * 33 + "…" in texts(image)
    assert any(long in "".join(element.itertext()) for element in root.iter(f"{SVG}title"))


def test_a_nested_workflow_is_drawn_inside_its_executor() -> None:
    """Its boxes lie within the group, and the group beside everything else."""
    drawing = svg._Drawing.of(picture_of(choosing()))
    inner = drawing.inner["n5"]
    group = svg._sized(drawing.picture.nodes[4], inner)
    assert group.width >= inner.layout.width
    assert group.height > inner.layout.height
    boxes = [svg._sized(node, drawing.inner.get(node.id)) for node in drawing.picture.nodes]
    check(boxes, [svg._measured(arrow) for arrow in drawing.picture.arrows], drawing.layout)


def test_the_image_has_colours_for_dark_pages() -> None:
    """Every part that has a colour has one in either mode, and the image brings its own background."""
    image = WorkflowViz(choosing()).to_svg()
    light, _, dark = svg._STYLE.partition("@media (prefers-color-scheme: dark) {\n")
    coloured = re.compile(r"^(.+?) \{[^}]*(?:fill|stroke): #", re.MULTILINE)
    named = {part.strip() for rule in coloured.findall(light) for part in rule.split(",")}
    assert len(named) == 12
    assert named == {part.strip() for rule in coloured.findall(dark) for part in rule.split(",")}
    assert '<rect class="canvas" width=' in image
