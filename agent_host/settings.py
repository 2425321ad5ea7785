"""How the host behaves. The only place that reads the environment, and only when asked to."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from agent_host.errors import SettingsError

PROGRESS = ("off", "commentary", "reasoning")
APPROVALS = ("function_call", "mcp")
DAY = 86_400.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}
_PROJECT = re.compile(r"https://[^/\s?#]+/api/projects/[^/\s?#]+")
SIGNALS = ("traces", "metrics", "logs")
OTLP_PROTOCOL = "http/protobuf"
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_HOSTED = "FOUNDRY_HOSTING_ENVIRONMENT"
_SESSION_GUID = "FOUNDRY_AGENT_SESSION_GUID"
_PLATFORM = {
    "project_endpoint": "FOUNDRY_PROJECT_ENDPOINT",
    "project_id": "FOUNDRY_PROJECT_ARM_ID",
    "agent_name": "FOUNDRY_AGENT_NAME",
    "agent_version": "FOUNDRY_AGENT_VERSION",
    "agent_id": "FOUNDRY_AGENT_ID",
    "blueprint_id": "FOUNDRY_AGENT_BLUEPRINT_CLIENT_ID",
    "tenant_id": "FOUNDRY_AGENT_TENANT_ID",
    "session_id": "FOUNDRY_AGENT_SESSION_ID",
    "home": "HOME",
}


@dataclass(frozen=True, slots=True)
class Platform:
    """What a hosted agent platform says of the agent and of the sandbox in which it runs; "" is what it leaves open.

    `project_endpoint` is where its services are called, `project_id` the project's resource id. `session_id` names
    the session that the sandbox serves; without it each request has, or is given, one of its own. `home` is a folder
    that the session finds again, if it is that of the last time.
    """

    project_endpoint: str = ""
    project_id: str = ""
    agent_name: str = ""
    agent_version: str = ""
    agent_id: str = ""
    blueprint_id: str = ""
    tenant_id: str = ""
    session_id: str = ""
    home: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Platform | None":
        """What the platform's variables say; None outside of a platform. Raises `SettingsError` naming a bad one."""
        if not environment.get(_HOSTED):
            return None
        guid = environment.get(_SESSION_GUID, "")
        if guid and re.fullmatch(r"[0-9a-f]{32}", guid) is None:
            raise SettingsError(f"{_SESSION_GUID} must be 32 lower-case hexadecimal digits; got {guid!r}.")
        return cls(**{name: environment.get(variable, "") for name, variable in _PLATFORM.items()})


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits and addresses. Times are in seconds, sizes in bytes.

    `expose_errors` puts the cause of a failed turn into the answer; without it the client gets a safe text and the
    request id, and the log has the cause. `progress` shows clients what the executors do, as messages of the phase
    `commentary` or as reasoning. `approvals` says in which form an `ApprovalRequest` reaches them: as a function call,
    which every client knows, or as an `mcp_approval_request`. `strict_model` refuses models other than the workflow.
    `trusted_hosts` are names, without ports: as long as there is no API key, browsers' pages of these hosts may use
    this one too, and besides addresses and `localhost` it may be called by them. `keep_responses` is how old
    responses get before the host forgets them; with 0 it keeps them for ever. `platform` is the hosted agent platform
    that runs the host, None where nothing does. `otlp_signals` are what `agent-host serve` sends to OTLP collectors, of
    traces, metrics and logs, and `otlp_protocol` is how the environment wants it sent. `application_insights` is the
    connection string of where it sends all three; `application_insights_entra` says that it must sign in there.
    """

    host: str = "127.0.0.1"
    port: int = 8088
    api_key: str | None = None
    max_concurrent_turns: int = 1000
    max_waiting_turns: int = 1000
    max_body_bytes: int = 32 * 1024 * 1024
    keep_alive: float = 15.0
    shutdown_grace: float = 5.0
    expose_errors: bool = True
    progress: Literal["off", "commentary", "reasoning"] = "off"
    approvals: Literal["function_call", "mcp"] = "function_call"
    strict_model: bool = False
    keep_responses: float = 30 * DAY
    trusted_hosts: tuple[str, ...] = ()
    platform: Platform | None = None
    otlp_signals: tuple[str, ...] = ()
    otlp_protocol: str = OTLP_PROTOCOL
    application_insights: str | None = field(default=None, repr=False)
    application_insights_entra: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **given: Any) -> "Settings":
        """Settings from the environment's variables, with what is `given` (and not None) on top.

        A hosted agent platform needs other defaults: its gateway must reach the host, it grants a longer end, and
        clients are told no causes. Raises `SettingsError` naming the setting and what it takes.
        """
        source = os.environ if environment is None else environment
        settings = cls(
            port=_port(source.get("PORT") or "8088"),
            api_key=source.get("AGENT_HOST_API_KEY") or None,
            keep_alive=_keep_alive(source.get("SSE_KEEPALIVE_INTERVAL") or "15"),
            platform=Platform.from_environment(source),
            otlp_signals=tuple(signal for signal in SIGNALS if _otlp(source, signal, "ENDPOINT")),
            otlp_protocol=_otlp_protocol(source),
            application_insights=source.get("APPLICATIONINSIGHTS_CONNECTION_STRING") or None,
            application_insights_entra=source.get("APPLICATIONINSIGHTS_AUTH_MODE", "").strip().lower() == "entra",
        )
        if settings.platform is not None:
            settings = replace(settings, host="0.0.0.0", shutdown_grace=25.0, expose_errors=False)
        settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
        return settings.checked()

    def checked(self) -> "Settings":
        """These settings, or `SettingsError`."""
        if self.platform is not None and self.api_key is not None:
            raise SettingsError(
                "AGENT_HOST_API_KEY locks everybody out of a hosted agent: the platform checks who calls, and passes "
                "no Authorization header on. Remove the variable."
            )
        for name in ("max_concurrent_turns", "max_body_bytes"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("max_waiting_turns", "shutdown_grace", "keep_alive", "keep_responses"):
            if not getattr(self, name) >= 0:  # also refuses what is not a number
                raise SettingsError(f"{name} must not be negative; got {getattr(self, name)}.")
        for name, known in (("progress", PROGRESS), ("approvals", APPROVALS)):
            if getattr(self, name) not in known:
                raise SettingsError(f"{name} must be {' or '.join(known)}; got {getattr(self, name)!r}.")
        return self

    def read_again(self) -> "Settings":
        """These settings with what the platform's variables say now. Raises `SettingsError` naming a bad one."""
        return replace(self, platform=Platform.from_environment(os.environ) or self.platform)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the host."""
        return self.host in LOOPBACK


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise SettingsError(f"PORT must be a number from 0 to 65535; got {text!r}.")
    return int(text)


def _otlp(source: Mapping[str, str], signal: str, what: str) -> str:
    """What the variable of one signal says, or else that of all of them."""
    return source.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}") or source.get(f"OTEL_EXPORTER_OTLP_{what}") or ""


def _otlp_protocol(source: Mapping[str, str]) -> str:
    asked = (_otlp(source, signal, "PROTOCOL") for signal in SIGNALS)
    return next((protocol for protocol in asked if protocol not in ("", OTLP_PROTOCOL)), OTLP_PROTOCOL)


def _keep_alive(text: str) -> float:
    if not text.isdecimal():
        raise SettingsError(f"SSE_KEEPALIVE_INTERVAL must be whole seconds, or 0 for no comments; got {text!r}.")
    return float(text)


def duration(text: str) -> float:
    """The seconds that a text such as `30d`, `12h` or `90` names, and 0 for `forever`; raises `SettingsError`."""
    if text == "forever":
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", text)
    if found is None or float(found[1]) == 0:
        raise SettingsError(f"{text!r} is no time. Say how many seconds, or 12h, 30d, 8w or forever.")
    return float(found[1]) * _UNITS[found[2] or "s"]


def in_words(seconds: float) -> str:
    """A time for people, in the largest unit that it is whole in, such as `30 days`; `ever` for 0."""
    if not seconds:
        return "ever"
    units = (("day", DAY), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))
    name, unit = next(((name, unit) for name, unit in units if seconds % unit == 0), units[-1])
    return f"{seconds / unit:g} {name}{'s' * (seconds != unit)}"


def project_endpoint(environment: Mapping[str, str] | None = None) -> str:
    """The Foundry project that `FOUNDRY_PROJECT_ENDPOINT` names, without a slash at its end; raises `SettingsError`."""
    endpoint = (os.environ if environment is None else environment).get("FOUNDRY_PROJECT_ENDPOINT", "").rstrip("/")
    if _PROJECT.fullmatch(endpoint) is None:
        raise SettingsError(
            f"FOUNDRY_PROJECT_ENDPOINT {f'is {endpoint!r}' if endpoint else 'is not set'}. Set it to the address of "
            "the project, https://ACCOUNT.services.ai.azure.com/api/projects/PROJECT; the project's page in the "
            "portal shows it."
        )
    return endpoint
