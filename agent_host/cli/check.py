"""`agent-host check`: what of a store the workflow, as it is now, could not continue.

Rule 1: the store is opened for reading only, beside a server that may be using it.
Rule 2: no handler runs and no executor takes up what is stored. Of the program's code run only `on_checkpoint_save`,
        for the state that conversations begin with, and `migrate`, where the workflow has one.
Rule 3: a commit that several save points share is looked at once, and none is kept in memory after its turn.
"""

import asyncio
import json
import shutil
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import click

from agent_host.cli.target import load_workflow
from agent_host.engine.definition import Definition
from agent_host.engine.migration.compatibility import Incompatibility
from agent_host.engine.migration.graph_policy import GraphPolicy
from agent_host.engine.migration.migration import examine
from agent_host.engine.storage.head_publisher import blobs_with_root
from agent_host.engine.view import gather, read_view
from agent_host.engine.workflow import Workflow
from agent_host.errors import CheckpointDecodeError, CheckpointNotFoundError
from agent_host.server.app import default_store
from agent_host.settings import Settings
from agent_host.stores import SavePoint, Store, open_store

_DAY = 86_400.0
_WIDEST = 100
_DAMAGED_SHOWN = 5


@dataclass(slots=True)
class Finding:
    """One problem, with how many save points have it and the first of them."""

    problem: Incompatibility
    example: SavePoint
    count: int = 0


@dataclass(slots=True)
class Report:
    """What a survey has found. `elsewhere` counts the save points of other workflows, which were not looked at."""

    workflow: str
    checked: int = 0
    stuck: int = 0
    findings: dict[Incompatibility, Finding] = field(default_factory=dict)
    damaged: list[tuple[SavePoint, str]] = field(default_factory=list)
    elsewhere: Counter[str] = field(default_factory=Counter)

    @property
    def continuable(self) -> int:
        return self.checked - self.stuck

    def take(self, points: list[SavePoint], found: list[Incompatibility], damage: str | None) -> None:
        """Note what was found at a commit that these save points share."""
        self.checked += len(points)
        if not found and damage is None:
            return
        self.stuck += len(points)
        for problem in found:
            self.findings.setdefault(problem, Finding(problem, points[0])).count += len(points)
        if damage is not None:
            self.damaged += [(point, damage) for point in points]

    def by_executor(self) -> dict[str, list[Finding]]:
        """The findings by executor, the most frequent first."""
        groups: dict[str, list[Finding]] = {}
        for finding in sorted(self.findings.values(), key=lambda found: (-found.count, str(found.problem))):
            groups.setdefault(finding.problem.executor, []).append(finding)
        return groups


async def survey(store: Store, policy: GraphPolicy, definition: Definition, since: float) -> Report:
    """Look at the head of every session and conversation, and at every response since a time in seconds."""
    report = Report(definition.name)
    sharing: dict[tuple[str, str], list[SavePoint]] = {}
    for point in await store.save_points(since):
        if point.workflow in (definition.name, ""):  # of what is gone, nobody knows whose it was
            sharing.setdefault((point.user, point.commit), []).append(point)
        else:
            report.elsewhere[point.workflow] += 1
    for (user, commit_id), points in sharing.items():
        try:
            found, damage = await _look(store, policy, definition, user, commit_id), None
        except (CheckpointDecodeError, CheckpointNotFoundError) as error:
            found, damage = [], str(error)
        report.take(points, found, damage)
    return report


async def _look(
    store: Store, policy: GraphPolicy, definition: Definition, user: str, commit_id: str
) -> list[Incompatibility]:
    _, view = await read_view(partial(store.read_chain, user), commit_id)
    read_blobs = blobs_with_root(definition.root, partial(store.read_blobs, user))
    bodies = await gather(list(view.cells.values()), definition.codec, read_blobs)
    return await examine(policy, definition, view, bodies)


@click.command()
@click.argument("target", metavar="MODULE_OR_FILE:ATTR")
@click.option("--store", "store_url", metavar="URL", help="Where responses live, as given to serve.")
@click.option(
    "--days", type=click.FloatRange(0), default=7, show_default=True, help="How old the responses to look at may be."
)
@click.option("--json", "as_json", is_flag=True, help="Write the report as JSON.")
def check(target: str, store_url: str | None, days: float, as_json: bool) -> None:
    """Tell which stored conversations a workflow could not continue, before it is deployed.

    Looks at the newest state of every session and conversation, and at the responses of the last days, in a store that
    may be in use.
    Runs no handler and changes nothing. Ends with 1 if anything could not be continued.
    """
    workflow = load_workflow(target)
    address = store_url or default_store(workflow, Settings())
    report = asyncio.run(_report(workflow, address, time.time() - days * _DAY))
    if as_json:
        click.echo(json.dumps(as_data(report), indent=2, ensure_ascii=False))
    else:
        width = min(shutil.get_terminal_size().columns, _WIDEST)
        click.echo("\n".join(page(report, width)))
    if report.stuck:
        sys.exit(1)


async def _report(workflow: Workflow, address: str, since: float) -> Report:
    definition = await workflow.definition()
    store = open_store(address, read_only=True)
    try:
        await store.open()
        return await survey(store, definition.graph_policy, definition, since)
    finally:
        await store.aclose()


# --- The report as a page, and as data ---------------------------------------------------------------------------


def page(report: Report, width: int) -> Iterator[str]:
    """The report's lines for a person, the most urgent first."""
    if not report.stuck:
        yield f"{_save_points(report.checked)} can be continued."
    else:
        yield f"{report.workflow}: {report.stuck:,} of {_save_points(report.checked)} could not be continued."
        for executor, findings in report.by_executor().items():
            yield ""
            yield executor or "The whole workflow"
            for finding in findings:
                yield from _shown(finding, width)
        if report.damaged:
            yield ""
            yield f"Damaged in the store: {_save_points(len(report.damaged))}"
            for point, why in report.damaged[:_DAMAGED_SHOWN]:
                yield from _wrapped(f"{_named(point)}: {why}", width, 2)
            if len(report.damaged) > _DAMAGED_SHOWN:
                yield f"  and {len(report.damaged) - _DAMAGED_SHOWN} more; --json lists them all"
        yield ""
        yield f"{_save_points(report.continuable)} can be continued. Nothing was changed."
    for name, count in sorted(report.elsewhere.items()):
        yield f"Not looked at: {_save_points(count)} of another workflow, {name!r}."


def _shown(finding: Finding, width: int) -> Iterator[str]:
    problem = finding.problem
    yield f"  {finding.count:,} x {problem.what} {problem.name}"
    yield from _wrapped(problem.why, width, 6)
    yield from _wrapped(f"Fix: {problem.remedy}", width, 6)
    yield f"      For example: {_named(finding.example)}"


def _wrapped(text: str, width: int, indent: int) -> Iterator[str]:
    margin = " " * indent
    # Code in a message is copied, so it is never broken at a hyphen.
    yield from textwrap.wrap(text, width, initial_indent=margin, subsequent_indent=margin, break_on_hyphens=False)


def _named(point: SavePoint) -> str:
    return f"{point.kind} {point.name}" + (f" of user {point.user}" if point.user else "")


def _save_points(count: int) -> str:
    return f"{count:,} save point{'' if count == 1 else 's'}"


def as_data(report: Report) -> dict[str, Any]:
    """The report for programs."""
    return {
        "workflow": report.workflow,
        "checked": report.checked,
        "continuable": report.continuable,
        "problems": [
            {**asdict(finding.problem), "count": finding.count, "example": asdict(finding.example)}
            for findings in report.by_executor().values()
            for finding in findings
        ],
        "damaged": [{**asdict(point), "why": why} for point, why in report.damaged],
        "other_workflows": dict(sorted(report.elsewhere.items())),
    }
