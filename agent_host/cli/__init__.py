"""The command line, and the only place that wires concrete parts together. One file per verb."""

import sys
from importlib import import_module

import click

from agent_host import __version__
from agent_host.errors import AgentHostError

VERBS = ("serve", "invoke", "graph", "check", "gc", "store", "deploy", "doctor")


class _Group(click.Group):
    """Loads a verb when it is used: one that asks a server need not wait for all that a server is made of.

    The package's own errors are shown as one message, without a traceback.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"agent_host.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except AgentHostError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agent-host")
def main() -> None:
    """Serve a workflow through the OpenAI Responses API, talk to it, draw it, check it against what is stored,
    look after the store, and deploy it."""


if __name__ == "__main__":
    sys.exit(main())
