"""Talks to the service: creates a version, waits for it, says something to it, and looks after its sessions."""

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agent_host.deploy.code_archive import CodeArchive
from agent_host.deploy.failures import BY_CODE, NOT_SIGNED_IN, Failure, explained
from agent_host.deploy.manifest import Manifest
from agent_host.errors import DeployError

if TYPE_CHECKING:
    from azure.ai.projects import AIProjectClient

POLL_EVERY = 10.0
CONFIRMATIONS = 2
"""How often in a row a version must be seen active, as one that has just become so may still turn back."""

_SHOWN = 8

Verdict = Literal["wait", "ready", "failed", "gone"]
STATES: dict[str, Verdict] = {
    "creating": "wait",
    "active": "ready",
    "failed": "failed",
    "deleting": "gone",
    "deleted": "gone",
}
"""What a version's status means for whoever waits for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment would do. `text` is said to the new version, unless it is empty; times are in seconds."""

    manifest: Manifest
    archive: CodeArchive | None
    text: str
    patience: float

    def steps(self, endpoint: str) -> Iterator[str]:
        """The plan for people, a line for each step."""
        name = self.manifest.name
        yield f"project  {endpoint}"
        if self.archive is not None:
            size = len(self.archive.content) / 1024
            yield f"archive  {size:,.0f} KB: this package, requirements.txt, {_some(self.archive.files)}"
        yield f"create   a version of {name}, by this definition:"
        yield json.dumps(self.manifest.definition, indent=2)
        yield f"wait     until it is active, at most {self.patience:g} s"
        if self.text:
            yield f"say      {self.text!r} to it, in a session of its own"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@dataclass(frozen=True, slots=True)
class Watch:
    """What is known about a version while it is waited for."""

    verdict: Verdict = "wait"
    times_active: int = 0

    def seen(self, status: str) -> "Watch":
        """What is known after a look at the version. A status that is new to us is waited for."""
        verdict = STATES.get(status, "wait")
        times = self.times_active + 1 if verdict == "ready" else 0
        return Watch("wait" if verdict == "ready" and times < CONFIRMATIONS else verdict, times)


@dataclass(frozen=True, slots=True)
class Clock:
    """How time passes: `now` in seconds, and `sleep` for so many."""

    now: Callable[[], float]
    sleep: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Agents:
    """The hosted agents of a project. Every error of the service is a `DeployError` that says what to do."""

    project: "AIProjectClient"
    clock: Clock
    tell: Callable[[str], None] = field(default=lambda text: None)

    def reach(self) -> None:
        """Sign in, and see that the project answers."""
        with _explained("Reaching the project"):
            next(iter(self.project.agents.list(limit=1)), None)

    def create(self, plan: Plan) -> str:
        """Create a version, and return its number."""
        manifest = plan.manifest
        with _explained(f"Creating a version of {manifest.name}"):
            if plan.archive is None:
                body = {"definition": manifest.definition}
                created = self.project.agents.create_version(manifest.name, body)
            else:
                from azure.ai.projects.models import HostedAgentDefinition

                definition = HostedAgentDefinition(manifest.definition)
                code = _Zip(plan.archive.content)
                created = self.project.agents.create_version_from_code(manifest.name, definition=definition, code=code)
        return created.version

    def wait_until_active(self, name: str, version: str, patience: float) -> None:
        """Look at a version until it is active. Raises `DeployError` if it fails, is deleted, or takes too long."""
        watch, end, status = Watch(), self.clock.now() + patience, ""
        while True:
            with _explained(f"Looking at version {version} of {name}"):
                found = self.project.agents.get_version(name, version)
            if (now := str(found.get("status"))) != status:
                status = now
                self.tell(f"version {version} is {status}")
            watch = watch.seen(status)
            if watch.verdict == "ready":
                return
            if watch.verdict != "wait":
                raise DeployError(_why(name, version, watch.verdict, found.get("error") or {}))
            if self.clock.now() >= end:
                raise DeployError(
                    f"Version {version} of {name} is still {status} after {patience:g} s. It may yet become active, "
                    "which the agent's page in the portal shows. Give it more time with --wait, or make the image "
                    "smaller."
                )
            self.clock.sleep(POLL_EVERY)

    def say(self, name: str, version: str, text: str) -> str:
        """What a version answers to a text, in a session that is deleted again if the answer is complete."""
        indicator = {"type": "version_ref", "agent_version": version}
        with _explained(f"Starting a session of version {version} of {name}"):
            session = self.project.agents.create_session(name, {"version_indicator": indicator}).agent_session_id
        logs = f"What it wrote meanwhile: agent-host deploy logs {name} {session}"
        with _explained(f"Saying something to {name}", logs), self.project.get_openai_client(agent_name=name) as client:
            response = client.responses.create(input=text, extra_body={"agent_session_id": session})
        if response.status != "completed":
            cause = f": {response.error.message}" if response.error else ""
            raise DeployError(f"{name} answers, but its response {response.id} is {response.status}{cause}. {logs}")
        self.delete_session(name, session)
        return response.output_text

    def sessions(self, name: str) -> Iterator[dict[str, Any]]:
        """The sessions of an agent, as the service tells them."""
        with _explained(f"Listing the sessions of {name}"):
            for session in self.project.agents.list_sessions(name):
                yield session.as_dict()

    def stop_session(self, name: str, session: str) -> None:
        """End a session's sandbox; its files stay."""
        with _explained(f"Stopping the session {session} of {name}"):
            self.project.agents.stop_session(name, session)

    def delete_session(self, name: str, session: str) -> None:
        """Delete a session with its files."""
        with _explained(f"Deleting the session {session} of {name}"):
            self.project.agents.delete_session(name, session)

    def logs(self, name: str, session: str) -> Iterator[str]:
        """The lines that a session's container writes, until the service ends the stream."""
        with _explained(f"Reading the logs of {name}"):
            of = self.project.agents.get_session(name, session).version_indicator
            chunks: Any = self.project.agents.get_session_log_stream(name, of["agent_version"], session)
            yield from log_lines(chunks)

    def delete(self, name: str, version: str | None, force: bool) -> None:
        """Delete a version, or the agent with all of them; with `force` also if sessions run on it."""
        with _explained(f"Deleting {name}"):
            if version is None:
                self.project.agents.delete(name, force=force)
            else:
                self.project.agents.delete_version(name, version, force=force)


class _Zip(io.BytesIO):
    """The name tells the client library what it uploads."""

    name = "agent.zip"


def log_lines(chunks: Iterator[bytes]) -> Iterator[str]:
    """The lines in a stream of server-sent events. Their form is no contract, so a strange one is shown as it is."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield _log_line(line.removeprefix(b"data:").strip().decode("utf-8", "replace"))


def _log_line(data: str) -> str:
    try:
        event = json.loads(data)
        return f"{event['timestamp']} {event['stream']} {event['message']}"
    except (ValueError, TypeError, KeyError):
        return data


def _why(name: str, version: str, verdict: Verdict, error: dict[str, str]) -> str:
    if verdict == "gone":
        return f"Version {version} of {name} was deleted meanwhile. Deploy again, and see that nobody else does."
    code = error.get("code", "")
    said = error.get("message") or "the service tells no reason; the agent's page in the portal may"
    return explained(f"Version {version} of {name}", Failure(400 if code in BY_CODE else 500, code, said))


@contextmanager
def _explained(doing: str, more: str = "") -> Iterator[None]:
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from openai import APIStatusError, OpenAIError

    try:
        yield
    except HttpResponseError as error:
        told = getattr(error.model, "error", None) or error.error
        if isinstance(error, ClientAuthenticationError) and error.response is None:
            # Behind the first line stands what each kind of credential has to say, most of which nobody uses.
            failure = Failure(None, NOT_SIGNED_IN, error.message.partition("\n")[0])
        else:
            failure = Failure(error.status_code, (told and told.code) or "", (told and told.message) or error.message)
    except APIStatusError as error:
        failure = Failure(error.status_code, error.code or "", error.message)
    except (AzureError, OpenAIError) as error:
        failure = Failure(None, "", str(error))
    else:
        return
    raise DeployError(" ".join(filter(None, (explained(doing, failure), more))))
