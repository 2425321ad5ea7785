"""`agent-host deploy`: bring a workflow to Microsoft Foundry as a hosted agent, and look after it there."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from agent_host.cli.screen import harmless, note
from agent_host.cli.target import load_workflow
from agent_host.deploy.code_archive import pack
from agent_host.deploy.deploy import Agents, Clock, Plan
from agent_host.deploy.manifest import RUNTIMES, Code, Image, Manifest, agent_name
from agent_host.errors import SettingsError
from agent_host.foundry.project import project_client
from agent_host.settings import project_endpoint

_endpoint = click.option(
    "--endpoint", metavar="URL", help="Address of the project.  [default: FOUNDRY_PROJECT_ENDPOINT]"
)
_agent = click.argument("agent", metavar="AGENT")


class _Deploy(click.Group):
    """Takes a workflow where a command is expected, for `create`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Deploy)
def deploy() -> None:
    """Deploy a workflow as a hosted agent: agent-host deploy app.py:workflow

    A workflow in the place of COMMAND is that of create. Needs the extra `foundry`, and that you are signed in.
    """


def _variables(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    if wrong := [each for each in given if "=" not in each]:
        raise click.BadParameter(f"{wrong[0]!r} is no variable. Give NAME=VALUE.")
    return dict(each.split("=", 1) for each in given)


@deploy.command()
@click.argument("target", metavar="MODULE_OR_FILE:ATTR")
@click.option("--name", help="Name of the agent.  [default: that of the workflow]")
@click.option("--image", metavar="REFERENCE", help="An image in a registry.  [default: an archive of the code]")
@click.option("--registry-connection", metavar="NAME", help="The project's connection to a registry outside Azure.")
@click.option(
    "--folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What to archive.  [default: the folder of the file, or this one for a module]",
)  # fmt: skip
@click.option(
    "--runtime", type=click.Choice(RUNTIMES), default=RUNTIMES[0], show_default=True, help="Python to run it."
)
@click.option("--cpu", default="1", show_default=True, help="Processors of a session.")
@click.option("--memory", default="2Gi", show_default=True, help="Memory of a session.")
@click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, callback=_variables, help="Set a variable.")
@click.option("--idle-timeout", type=int, default=900, show_default=True, help="Seconds until a session is suspended.")
@click.option("--say", "text", default="hello", show_default=True, help="Say this to the new version; '' says nothing.")
@click.option("--wait", "patience", type=click.FloatRange(0), default=600, show_default=True, help="Seconds to wait.")
@click.option("--dry-run", is_flag=True, help="Show what would be done.")
@_endpoint
def create(
    target: str,
    name: str | None,
    image: str | None,
    registry_connection: str | None,
    folder: Path | None,
    runtime: str,
    cpu: str,
    memory: str,
    variables: dict[str, str],
    idle_timeout: int,
    text: str,
    patience: float,
    dry_run: bool,
    endpoint: str | None,
) -> None:
    """Create a version of an agent, wait until it is active, and say something to it.

    Without --image the platform builds one from an archive of the folder, its requirements.txt and this package.
    """
    name = name or agent_name(load_workflow(target).name)
    root = (folder or _folder_of(target)).resolve()
    source = Image(image, registry_connection) if image else Code(_entry_point(target, root), runtime)
    manifest = Manifest(
        name=name, source=source, cpu=cpu, memory=memory, environment=variables, idle_timeout=idle_timeout
    ).checked()
    plan = Plan(manifest, None if image else pack(root), text, patience)
    if dry_run:
        click.echo("\n".join(plan.steps(endpoint or _known_endpoint())))
        return
    with open_agents(endpoint) as agents:
        version = agents.create(plan)
        note(f"created version {version} of {name}")
        agents.wait_until_active(name, version, patience)
        if text:
            click.echo(harmless(agents.say(name, version, text)))
    note(f"{name} is deployed. Call it with get_openai_client(agent_name={name!r}).")


def _folder_of(target: str) -> Path:
    place = target.rpartition(":")[0] or target
    return Path(place).parent if place.endswith(".py") else Path.cwd()


def _entry_point(target: str, root: Path) -> tuple[str, ...]:
    place, separator, attribute = target.rpartition(":")
    if place.endswith(".py"):
        file = Path(place).resolve()
        if not file.is_relative_to(root):
            raise SettingsError(f"{place} is not below {root}, which is archived. Name one above it with --folder.")
        place = file.relative_to(root).as_posix()
    return ("python", "-m", "agent_host", "serve", f"{place}{separator}{attribute}")


def _known_endpoint() -> str:
    try:
        return project_endpoint()
    except SettingsError:
        return "(FOUNDRY_PROJECT_ENDPOINT is not set)"


@contextmanager
def open_agents(endpoint: str | None) -> Iterator[Agents]:
    """The agents of a project, by default that of the environment, as whoever is signed in."""
    # What it warns of is raised too, and told with a remedy.
    logging.getLogger("azure.identity").setLevel(logging.ERROR)
    with project_client(endpoint) as project:
        yield Agents(project, Clock(time.monotonic, time.sleep), note)


@deploy.command()
@_agent
@click.option("--stop", metavar="ID", help="End the sandbox of this session; its files stay.")
@click.option("--delete", "gone", metavar="ID", help="Delete this session with its files.")
@click.option("--json", "as_json", is_flag=True, help="Write them as JSON.")
@_endpoint
def sessions(agent: str, stop: str | None, gone: str | None, as_json: bool, endpoint: str | None) -> None:
    """List the sessions of an agent, or end one of them."""
    with open_agents(endpoint) as agents:
        if stop is not None:
            agents.stop_session(agent, stop)
        if gone is not None:
            agents.delete_session(agent, gone)
        if stop is not None or gone is not None:
            return
        found = list(agents.sessions(agent))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for session in found:
        version = session["version_indicator"].get("agent_version", "")
        click.echo(harmless(f"{session['agent_session_id']}  {session['status']:8}  version {version}"))


@deploy.command()
@_agent
@click.argument("session")
@_endpoint
def logs(agent: str, session: str, endpoint: str | None) -> None:
    """Follow what the container of a session writes.

    The platform ends it after half an hour, or after two minutes in which nothing was written.
    """
    with open_agents(endpoint) as agents:
        for line in agents.logs(agent, session):
            click.echo(harmless(line))


@deploy.command()
@_agent
@click.option("--version", metavar="NUMBER", help="Only this version.  [default: all, and the agent]")
@click.option("--force", is_flag=True, help="Also if sessions run on it; they are deleted too.")
@click.confirmation_option(prompt="What is deleted cannot be brought back. Go on?")
@_endpoint
def delete(agent: str, version: str | None, force: bool, endpoint: str | None) -> None:
    """Delete an agent, or one version of it."""
    with open_agents(endpoint) as agents:
        agents.delete(agent, version, force)
    note(f"deleted {f'version {version} of ' if version else ''}{agent}")
