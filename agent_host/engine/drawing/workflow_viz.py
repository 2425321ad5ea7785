"""A workflow as a drawing: for a page, for Graphviz, or as an image file."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from agent_host.engine.drawing import dot, mermaid, svg
from agent_host.engine.drawing.picture import Picture, picture_of
from agent_host.engine.graph.graph import WorkflowOutline

DrawingFormat = Literal["mermaid", "dot", "svg"]

_WRITERS: dict[str, tuple[Callable[[Picture], str], tuple[str, ...]]] = {
    "mermaid": (mermaid.to_mermaid, (".mmd", ".mermaid")),
    "dot": (dot.to_digraph, (".dot", ".gv")),
    "svg": (svg.to_svg, (".svg",)),
}


class WorkflowViz:
    """Draws a workflow. The same workflow always gives the same text, and no other program is needed."""

    def __init__(self, workflow: WorkflowOutline) -> None:
        self._picture = picture_of(workflow)

    def to_mermaid(self) -> str:
        """Mermaid text, which Markdown viewers draw."""
        return mermaid.to_mermaid(self._picture)

    def to_digraph(self) -> str:
        """Graphviz text."""
        return dot.to_digraph(self._picture)

    def to_svg(self) -> str:
        """An SVG image, readable on light and dark pages."""
        return svg.to_svg(self._picture)

    def export(self, format: DrawingFormat = "svg", filename: str | os.PathLike[str] | None = None) -> str:
        """Write a drawing to a file and return its path; without a filename it is a new temporary file.

        Raises `ValueError` for another format, and for a filename whose extension is that of another one.
        """
        if format not in _WRITERS:
            raise ValueError(
                f"There is no format {format!r}, only {', '.join(_WRITERS)}. For a bitmap or PDF, convert the SVG."
            )
        write, extensions = _WRITERS[format]
        path = _temporary(extensions[0]) if filename is None else Path(filename)
        if path.suffix and path.suffix.lower() not in extensions:
            raise ValueError(f"{path.name!r} does not end in {' or '.join(extensions)}, as a {format} file does.")
        path.write_text(write(self._picture), encoding="utf-8", newline="\n")
        return str(path)

    def save_svg(self, filename: str | os.PathLike[str]) -> str:
        """Write the SVG image to a file and return its path."""
        return self.export("svg", filename)


def _temporary(extension: str) -> Path:
    handle, name = tempfile.mkstemp(prefix="workflow-", suffix=extension)
    os.close(handle)
    return Path(name)
