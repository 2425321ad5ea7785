"""What is deployed: the definition of a hosted agent as data, and its form on the wire."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from agent_host.errors import DeployError

PROTOCOL = ("responses", "2.0.0")
"""What the container speaks. Older versions of the protocol are refused by the platform."""
RUNTIMES = ("python_3_13", "python_3_14")
PLATFORM = "linux/amd64"
SHORTEST_IDLE, LONGEST_IDLE = 120, 14_400

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_RESERVED = re.compile(r"(?:FOUNDRY|AGENT)_.*|PORT|APPLICATIONINSIGHTS_CONNECTION_STRING", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in a registry. A private registry other than Azure's needs a connection of the project."""

    reference: str
    connection: str | None = None

    @property
    def tag(self) -> str:
        """The tag or the digest; empty if the reference has neither."""
        last = PurePosixPath(self.reference).name
        return last.partition("@")[2] or last.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Code:
    """Python files that the platform makes an image of; `entry_point` is the command that starts them."""

    entry_point: tuple[str, ...]
    runtime: str = RUNTIMES[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One version of a hosted agent. `idle_timeout` is in seconds."""

    name: str
    source: Image | Code
    cpu: str = "1"
    memory: str = "2Gi"
    environment: Mapping[str, str] = field(default_factory=dict)
    idle_timeout: int = 900

    def checked(self) -> "Manifest":
        """This manifest, or `DeployError` with everything that the platform would refuse or misunderstand."""
        if problems := list(self.problems()):
            raise DeployError("\n".join(problems))
        return self

    def problems(self) -> Iterator[str]:
        """What is wrong, a sentence each, with what to do about it."""
        if _NAME.fullmatch(self.name) is None:
            yield (
                f"{self.name!r} is no name for an agent. Take letters and digits with hyphens between them, at most 63."
            )
        if not SHORTEST_IDLE <= self.idle_timeout <= LONGEST_IDLE:
            yield f"The idle timeout is {self.idle_timeout} s. Take {SHORTEST_IDLE} to {LONGEST_IDLE} seconds."
        for name in reserved(self.environment):
            yield f"The platform sets {name} itself and refuses it in a definition. Take another name, or leave it out."
        if isinstance(self.source, Image) and self.source.tag in ("", "latest"):
            yield (
                f"The image {self.source.reference!r} may be another one tomorrow, but a version never changes. Push "
                "it with a tag of its own, such as the commit it was built from."
            )
        if isinstance(self.source, Code) and self.source.runtime not in RUNTIMES:
            yield f"There is no runtime {self.source.runtime!r}. Take {' or '.join(RUNTIMES)}, or deploy an image."

    @property
    def definition(self) -> dict[str, Any]:
        """The definition as the service takes it."""
        protocol, version = PROTOCOL
        definition: dict[str, Any] = {
            "kind": "hosted",
            "cpu": self.cpu,
            "memory": self.memory,
            "protocol_versions": [{"protocol": protocol, "version": version}],
            "environment_variables": dict(self.environment),
            "session_configuration": {"idle_timeout_seconds": self.idle_timeout},
        }
        if isinstance(self.source, Image):
            container = {"image": self.source.reference}
            if self.source.connection is not None:
                container["registry_connection_id"] = self.source.connection
            return {**definition, "container_configuration": container}
        code = {
            "runtime": self.source.runtime,
            "entry_point": list(self.source.entry_point),
            "dependency_resolution": "remote_build",
        }
        return {**definition, "code_configuration": code}


def agent_name(workflow: str) -> str:
    """The name of an agent made from that of a workflow."""
    return re.sub(r"[^A-Za-z0-9]+", "-", workflow).strip("-")[:63].rstrip("-")


def reserved(names: Mapping[str, str]) -> list[str]:
    """Those of the names that only the platform may set."""
    return [name for name in names if _RESERVED.fullmatch(name)]
