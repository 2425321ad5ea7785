"""A picture as Mermaid text, which many Markdown viewers draw.

Texts stand in quotation marks, and every character that Mermaid or its Markdown could take for its own is written as
a number: quotation marks, `#`, `<`, `*`, a list's number or hyphen at the beginning.
"""

import re
from collections.abc import Iterator

from agent_host.engine.drawing.picture import Arrow, Node, Picture

_SPECIAL = re.compile(r"[^\w ,!?()/='.\-]|^-|_(?=\W|$)|(?<!\w)_|(?<=\d)[.)](?= )")
_INDENT = "    "


def to_mermaid(picture: Picture) -> str:
    """A flowchart from top to bottom, one node or arrow a line, with a line break at the end."""
    return "\n".join(["flowchart TD", *_lines(picture, _INDENT)]) + "\n"


def _lines(picture: Picture, indent: str) -> Iterator[str]:
    for node in picture.nodes:
        if node.inside is None:
            yield f"{indent}{node.id}{_box(node)}"
        else:
            yield f'{indent}subgraph {node.id}["{_caption(node)}"]'
            yield from _lines(node.inside, indent + _INDENT)
            yield f"{indent}end"
    for arrow in picture.arrows:
        yield f"{indent}{arrow.source} {_shaft(arrow)} {arrow.target}"


def _box(node: Node) -> str:
    match node.shape:
        case "fan-in":
            return f'(("{_escaped(node.title)}"))'
        case "selection":
            return f'{{{{"{_escaped(node.title)}"}}}}'
        case _:
            return f'(["{_caption(node)}"])' if node.is_start else f'["{_caption(node)}"]'


def _caption(node: Node) -> str:
    return f"{_escaped(node.title)}<br/>{_escaped(node.caption)}"


def _shaft(arrow: Arrow) -> str:
    shaft = "-->" if arrow.is_certain else "-.->"
    return f'{shaft}|"{_escaped(arrow.label)}"|' if arrow.label else shaft


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", text)
