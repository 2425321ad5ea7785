"""What makes a deployed agent silent: pure checks over what was found, each with its remedy."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]  # it has no types of its own

from agent_host.deploy.manifest import PLATFORM, PROTOCOL, reserved

LARGEST_SKEW = 240.0
"""Seconds that a clock may be off; with five minutes tokens are refused."""
SLOW = 30.0
"""Seconds until readiness above which a session may be given up before it has begun."""

_MACHINES = frozenset({"x86_64", "amd64"})
_GUID = re.compile(r"[0-9a-f]{32}")
_ELSEWHERE = re.compile(r"^FROM\s+--platform=(?!linux/amd64\b|\$)(\S+)", re.MULTILINE | re.IGNORECASE)
_SET_BY_IMAGE = re.compile(r"^\s*ENV\s+(.*)", re.MULTILINE | re.IGNORECASE)

Outcome = Literal["ok", "warning", "problem", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says; the remedy is empty if there is nothing to do."""

    check: str
    outcome: Outcome
    says: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Something that was tried: what was wrong with it, or what is to be known if nothing was."""

    error: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What was found. None is what could not be tried; `skew` is how many seconds the clock is ahead.

    `missing` are the distributions of the extra `foundry` that are not installed.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    machine: str = "x86_64"
    dockerfile: str | None = None
    manifest: str | None = None
    workflow: Attempt | None = None
    port: Attempt = Attempt()
    readiness: Attempt | None = None
    seconds: float = 0.0
    home: Attempt = Attempt()
    store: Attempt | None = None
    credential: Attempt | None = None
    skew: float | None = None
    missing: tuple[str, ...] = ()


def examine(facts: Facts) -> list[Finding]:
    """All checks, in the order in which a container comes up."""
    return [_found(name, check(facts)) for name, check in CHECKS.items()]


Verdict = tuple[Outcome, str] | tuple[Outcome, str, str]


def _found(name: str, verdict: Verdict) -> Finding:
    return Finding(name, *verdict)


def _tried(attempt: Attempt | None, skipped: str, remedy: str) -> Verdict:
    if attempt is None:
        return "skipped", skipped
    return ("problem", attempt.error, remedy) if attempt.error else ("ok", attempt.detail)


def _image(facts: Facts) -> Verdict:
    if facts.dockerfile is None:
        return "skipped", "there is no Dockerfile here or in infra/"
    build = f"Build with --platform {PLATFORM}, or let the registry build: az acr build --platform {PLATFORM}."
    if found := _ELSEWHERE.search(facts.dockerfile):
        return "problem", f"the Dockerfile builds for {found[1]}, the platform runs {PLATFORM} only", build
    if facts.machine.lower() not in _MACHINES and "--platform=linux/amd64" not in facts.dockerfile:
        return "warning", f"built as it is on this machine, the image is for {facts.machine}", build
    return "ok", f"nothing in the Dockerfile is for another platform than {PLATFORM}"


def _services(manifest: str) -> list[dict[str, Any]]:
    """The services that azure.yaml describes; raises `yaml.YAMLError` if it is not YAML."""
    found = yaml.safe_load(manifest)
    services = found.get("services") if isinstance(found, dict) else None
    return [each for each in services.values() if isinstance(each, dict)] if isinstance(services, dict) else []


def _protocol(facts: Facts) -> Verdict:
    if facts.manifest is None:
        return "skipped", "there is no azure.yaml here or in infra/; agent-host deploy declares the right one"
    try:
        services = _services(facts.manifest)
    except yaml.YAMLError as error:
        return "problem", f"azure.yaml cannot be read: {' '.join(str(error).split())}", "Mend what it names."
    protocols = [each for service in services for each in service.get("protocols") or () if isinstance(each, dict)]
    declared = [(str(each.get("protocol")), str(each["version"])) for each in protocols if "version" in each]
    name, version = PROTOCOL
    remedy = f"Declare under protocols: in azure.yaml: protocol: {name}, version: {version!r}."
    if not declared:
        return "problem", "azure.yaml declares no protocol with its version", remedy
    if PROTOCOL not in declared:
        return "problem", f"azure.yaml declares {' '.join(declared[0])}, the container speaks {name} {version}", remedy
    return "ok", f"{name} {version}"


def _image_variables(dockerfile: str) -> Iterator[str]:
    for rest in _SET_BY_IMAGE.findall(re.sub(r"\\\s*\n", " ", dockerfile)):
        first, *more = rest.split()
        if "=" not in first:  # the old form: one variable, and its value behind a space
            yield first
            continue
        try:
            words = shlex.split(rest)
        except ValueError:  # an open quotation mark: the builder will complain of it
            words = [first, *more]
        yield from (word.partition("=")[0] for word in words)


def _manifest_variables(manifest: str) -> Iterator[str]:
    try:
        services = _services(manifest)
    except yaml.YAMLError:
        return  # that is a problem of the check that reads the protocol
    for service in services:
        yield from map(str, service.get("env") or ())


def _variables(facts: Facts) -> Verdict:
    names = [*_image_variables(facts.dockerfile or ""), *_manifest_variables(facts.manifest or "")]
    if taken := reserved(dict.fromkeys(names, "")):
        return "problem", f"{', '.join(taken)} belong to the platform", "Rename them, or leave them out."
    guid = facts.environment.get("FOUNDRY_AGENT_SESSION_GUID")
    if guid and _GUID.fullmatch(guid) is None:
        return "problem", f"FOUNDRY_AGENT_SESSION_GUID is {guid!r}", "It has 32 hexadecimal digits. Unset it here."
    if facts.environment.get("FOUNDRY_HOSTING_ENVIRONMENT") and not facts.environment.get("FOUNDRY_PROJECT_ENDPOINT"):
        says = "FOUNDRY_HOSTING_ENVIRONMENT says that this runs hosted, but there is no FOUNDRY_PROJECT_ENDPOINT"
        return "problem", says, "Unset the first here; the platform sets both."
    return "ok", "none that the platform reserves is set by the image or azure.yaml"


def _extra(facts: Facts) -> Verdict:
    if facts.missing:
        remedy = (
            "pip install 'workflow-agent-host[foundry]'; agent-host deploy and infra/Dockerfile name it themselves."
        )
        return "warning", f"a deployed agent needs {', '.join(facts.missing)}, which is not installed here", remedy
    return "ok", "what a deployed agent needs is installed"


def _readiness(facts: Facts) -> Verdict:
    verdict = _tried(
        facts.readiness,
        "no workflow was named that could be started",
        "Start it here with agent-host serve and read what it writes; a container that is not ready is ended.",
    )
    if verdict[0] == "ok" and facts.seconds > SLOW:
        remedy = "Import less at start, and open connections when they are first used."
        return "warning", f"ready only after {facts.seconds:.0f} s", remedy
    return verdict


def _clock(facts: Facts) -> Verdict:
    if facts.skew is None:
        return "skipped", "no server was reached that tells the time"
    if abs(facts.skew) > LARGEST_SKEW:
        off = f"{abs(facts.skew):.0f} s {'ahead' if facts.skew > 0 else 'behind'}"
        return "problem", f"the clock is {off}, so tokens are refused", "Let the system set its clock (NTP)."
    return "ok", f"{abs(facts.skew):.0f} s off"


CHECKS: Mapping[str, Callable[[Facts], Verdict]] = {
    "workflow": lambda facts: _tried(
        facts.workflow, "no workflow was named", "Install what is missing, and name it in requirements.txt too."
    ),
    "port": lambda facts: _tried(facts.port, "", "Stop what listens there, or unset PORT: the platform expects 8088."),
    "readiness": _readiness,
    "extra": _extra,
    "image": _image,
    "protocol": _protocol,
    "variables": _variables,
    "home": lambda facts: _tried(
        facts.home, "", "Give the user of the process a home that it may write to: useradd --create-home."
    ),
    # What a store and the service say of an error ends with its remedy.
    "store": lambda facts: _tried(facts.store, "no workflow was named", ""),
    "credential": lambda facts: _tried(facts.credential, "FOUNDRY_PROJECT_ENDPOINT names no project to sign in to", ""),
    "clock": _clock,
}
