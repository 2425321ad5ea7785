"""A picture as Graphviz text, for those who have its programs.

Graphviz draws arrows to nodes only. One to a group goes to a node inside it and is cut off at the group's border.
"""

from collections.abc import Iterator

from agent_host.engine.drawing.picture import Arrow, Node, Picture

_INDENT = "    "
_HEAD = """digraph workflow {
    rankdir=TB;
    compound=true;
    fontname="Helvetica";
    node [shape=box, style=rounded, fontname="Helvetica"];
    edge [fontname="Helvetica", fontsize=10];
"""


def to_digraph(picture: Picture) -> str:
    """A directed graph from top to bottom, one node or arrow a line, with a line break at the end."""
    return "\n".join([f"{_HEAD}    label={_quoted(picture.title)};", *_lines(picture, _INDENT), "}"]) + "\n"


def _lines(picture: Picture, indent: str) -> Iterator[str]:
    nodes = {node.id: node for node in picture.nodes}
    for node in picture.nodes:
        if node.inside is None:
            yield f"{indent}{node.id} [{_attributes(node)}];"
        else:
            yield f"{indent}subgraph cluster_{node.id} {{"
            yield f"{indent}{_INDENT}label={_caption(node)};"
            yield f"{indent}{_INDENT}style={_quoted('rounded,dashed')};"
            yield from _lines(node.inside, indent + _INDENT)
            yield f"{indent}}}"
    for arrow in picture.arrows:
        yield f"{indent}{_arrow(arrow, nodes)}"


def _attributes(node: Node) -> str:
    match node.shape:
        case "fan-in":
            return f"shape=circle, style=solid, label={_quoted(node.title)}"
        case "selection":
            return f"shape=hexagon, style=solid, label={_quoted(node.title)}"
        case _:
            bold = f", style={_quoted('rounded,bold')}" if node.is_start else ""
            double = ", peripheries=2" if node.is_output else ""
            return f"label={_caption(node)}{bold}{double}"


def _arrow(arrow: Arrow, nodes: dict[str, Node]) -> str:
    source, target = nodes[arrow.source], nodes[arrow.target]
    attributes = [f"label={_quoted(arrow.label)}"] if arrow.label else []
    attributes += [] if arrow.is_certain else ["style=dashed"]
    if source is not target:  # Graphviz cuts nothing off an arrow inside a group
        attributes += [] if source.inside is None else [f"ltail=cluster_{source.id}"]
        attributes += [] if target.inside is None else [f"lhead=cluster_{target.id}"]
    shown = f" [{', '.join(attributes)}]" if attributes else ""
    return f"{_last(source)} -> {_first(target)}{shown};"


def _first(node: Node) -> str:
    """The node an arrow to this one is drawn to."""
    return node.id if node.inside is None else _first(node.inside.nodes[0])


def _last(node: Node) -> str:
    """The node an arrow from this one is drawn from."""
    if node.inside is None:
        return node.id
    ends = [inner for inner in node.inside.nodes if inner.is_output] or [node.inside.nodes[0]]
    return _last(ends[-1])


def _caption(node: Node) -> str:
    return f'"{_escaped(node.title)}\\n{_escaped(node.caption)}"'


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
