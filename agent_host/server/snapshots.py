"""The hooks of memory snapshots: the platform copies a process that is ready, and each copy goes on in a session.

What must differ between two copies is made anew after the restoring: randomness, the owner's name of background turns,
and what the platform's variables say.
"""

import os
from dataclasses import replace
from typing import Any

import msgspec

from agent_host.errors import AgentHostError, SettingsError
from agent_host.ids import random_bytes
from agent_host.server.exchange import Exchange
from agent_host.server.host import Host
from agent_host.wire import problems

SESSION_ID = "FOUNDRY_AGENT_SESSION_ID"
_OK = {"status": "ok"}


class _SessionContext(msgspec.Struct, frozen=True):
    session_id: str
    restore_id: str
    session_env_overrides: dict[str, str] = {}


class _AfterRestore(msgspec.Struct, frozen=True):
    session_context: _SessionContext


async def before_snapshot(exchange: Exchange) -> None:
    """POST /_agent/before-snapshot: be ready to serve, so that a copy need not begin from nothing."""
    _read(await exchange.body(), dict[str, Any], "invalid_before_snapshot_request")
    try:
        await exchange.host.open()
    except AgentHostError as error:
        raise problems.snapshot_failed("before_snapshot_failed", "The host could not be opened.") from error
    await exchange.answer(_OK)


async def after_restore(exchange: Exchange) -> None:
    """POST /_agent/after-restore: become the process of a session. Done once for each restoring."""
    asked = _read(await exchange.body(), _AfterRestore, "invalid_after_restore_request").session_context
    host, platform = exchange.host, exchange.host.settings.platform
    if not (asked.session_id and asked.restore_id):
        raise problems.bad_snapshot_request("invalid_after_restore_request", "'session_id' or 'restore_id' is empty.")
    if platform is not None and platform.session_id not in ("", asked.session_id):
        raise problems.session_mismatch(platform.session_id)
    if asked.restore_id != host.restored_by:
        try:
            _restore(host, {**asked.session_env_overrides, SESSION_ID: asked.session_id})
        except (SettingsError, ValueError) as error:
            raise problems.snapshot_failed("after_restore_failed", "The environment was left as it was.") from error
        host.restored_by = asked.restore_id
    await exchange.answer(_OK)


def _restore(host: Host, variables: dict[str, str]) -> None:
    before = {name: os.environ.get(name) for name in variables}
    try:
        os.environ.update(variables)
        settings = host.settings.read_again()
    except BaseException:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        raise
    assert settings.platform is not None, "the hooks are served on a platform only"
    host.settings = replace(settings, platform=replace(settings.platform, session_id=variables[SESSION_ID]))
    random_bytes.forget()
    host.background.take_new_name()


def _read(body: bytes, form: Any, code: str) -> Any:
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.MsgspecError as error:
        raise problems.bad_snapshot_request(code, str(error)) from None
