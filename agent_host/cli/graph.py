"""`agent-host graph`: show a workflow without running it."""

import json
from collections.abc import Callable
from pathlib import Path

import click

from agent_host.cli.target import load_workflow
from agent_host.engine.drawing.workflow_viz import WorkflowViz
from agent_host.engine.graph.graph_data import workflow_to_data
from agent_host.engine.workflow import Workflow

_WRITERS: dict[str, Callable[[Workflow], str]] = {
    "mermaid": lambda workflow: WorkflowViz(workflow).to_mermaid(),
    "dot": lambda workflow: WorkflowViz(workflow).to_digraph(),
    "svg": lambda workflow: WorkflowViz(workflow).to_svg(),
    "json": lambda workflow: json.dumps(workflow_to_data(workflow), indent=2, ensure_ascii=False) + "\n",
}
_EXTENSIONS = {
    ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg", ".json": "json",
}  # fmt: skip


@click.command()
@click.argument("target", metavar="MODULE_OR_FILE:ATTR")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(list(_WRITERS)),
    help="What to write.  [default: by the extension of the file, else mermaid]",
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write to a file.")
def graph(target: str, format_name: str | None, output: Path | None) -> None:
    """Draw a workflow, for example: agent-host graph app.py:workflow -o app.svg

    Mermaid is text that Markdown viewers draw, dot is that of Graphviz, json the executors and edges as data. The
    SVG image needs no other program.
    """
    write = _WRITERS[format_name or _format_of(output)]
    text = write(load_workflow(target)).encode()
    if output is None:
        click.echo(text, nl=False)
        return
    try:
        output.write_bytes(text)
    except OSError as error:
        raise click.ClickException(
            f"Cannot write {str(output)!r}: {error.strerror}. Name a file in a folder that exists and is yours."
        ) from None


def _format_of(output: Path | None) -> str:
    if output is None:
        return "mermaid"
    if output.suffix.lower() not in _EXTENSIONS:
        raise click.UsageError(
            f"{output.name!r} does not tell the format: end it in {', '.join(_EXTENSIONS)}, or give --format."
        )
    return _EXTENSIONS[output.suffix.lower()]
