"""The command line, and the only place that wires concrete parts together. One file per verb."""

import sys

import click

from agent_host import __version__
from agent_host.errors import AgentHostError


class _Group(click.Group):
    """Shows the package's own errors as one message, without a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AgentHostError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agent-host")
def main() -> None:
    """Serve a workflow through the OpenAI Responses API, look at it, and check it against what is stored."""


from agent_host.cli.check import check  # noqa: E402 - the verbs register themselves on the group above
from agent_host.cli.graph import graph  # noqa: E402 - as above
from agent_host.cli.invoke import invoke  # noqa: E402 - as above
from agent_host.cli.serve import serve  # noqa: E402 - as above

main.add_command(serve)
main.add_command(graph)
main.add_command(check)
main.add_command(invoke)

if __name__ == "__main__":
    sys.exit(main())
