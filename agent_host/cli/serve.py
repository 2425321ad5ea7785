"""`agent-host serve`: run one workflow on uvicorn, and go down in order."""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import click
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from agent_host.cli import logs
from agent_host.cli.exporting import export
from agent_host.cli.target import load_workflow
from agent_host.errors import SettingsError
from agent_host.foundry.emulation import VARIABLES
from agent_host.foundry.observability import MARK
from agent_host.server.app import create_app, default_store
from agent_host.server.gateway import EmulatedGateway
from agent_host.server.host import Host
from agent_host.server.runs import CUT_PATIENCE
from agent_host.server.streams import STALLED_AFTER
from agent_host.settings import APPROVALS, PROGRESS, Settings, duration, in_words
from agent_host.telemetry import AGENT_NAME

log = logging.getLogger("agent_host")

BACKLOG = 2048
LAST_WORDS = 0.5
"""Seconds in which, after the last turn, the next answer must leave, and in which threads end after the store."""
EXPORT_PATIENCE = 2.0
"""Seconds that what was observed last gets to reach those who watch."""


@click.command()
@click.argument("target", metavar="MODULE_OR_FILE:ATTR")
@click.option("--host", help="Address to bind.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to bind; 0 takes a free one.  [default: PORT or 8088]"
)
@click.option("--store", "store_url", metavar="URL", help="Where responses live, such as sqlite:///data/host.db.")
@click.option("--keep-responses", metavar="TIME", help="How old responses get, such as 12h or forever.  [default: 30d]")
@click.option("--max-concurrent-turns", type=click.IntRange(1), help="Turns that run at once.  [default: 1000]")
@click.option("--shutdown-grace", type=click.FloatRange(0), help="Seconds running turns get to finish.  [default: 5]")
@click.option("--progress", type=click.Choice(PROGRESS), help="How clients see what the executors do.  [default: off]")
@click.option(
    "--approvals",
    type=click.Choice(APPROVALS),
    help="The item that asks for an approval.  [default: function_call]",
)
@click.option("--strict-model", is_flag=True, help="Refuse requests for a model that is not the workflow.")
@click.option(
    "--trust-host", "trusted_hosts", metavar="NAME", multiple=True, help="Without a key: a name whose pages may call."
)
@click.option("--no-auth", is_flag=True, help="Serve other machines without an API key.")
@click.option("--emulate-foundry", is_flag=True, help="Behave as a Foundry hosted agent on this machine.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True
)
def serve(
    target: str,
    host: str | None,
    port: int | None,
    store_url: str | None,
    keep_responses: str | None,
    max_concurrent_turns: int | None,
    shutdown_grace: float | None,
    progress: str | None,
    approvals: str | None,
    strict_model: bool,
    trusted_hosts: tuple[str, ...],
    no_auth: bool,
    emulate_foundry: bool,
    log_level: str,
) -> None:
    """Serve a workflow, for example: agent-host serve app.py:workflow

    The workflow is a module's or file's attribute, or a function that returns one. With AGENT_HOST_API_KEY set,
    clients must send that key.
    """
    if emulate_foundry:
        # The workflow's own program finds them too, as it would there.
        os.environ.update({name: value for name, value in VARIABLES.items() if not os.environ.get(name)})
        host = host or "127.0.0.1"
    settings = Settings.from_environment(
        host=host, port=port, max_concurrent_turns=max_concurrent_turns, shutdown_grace=shutdown_grace,
        progress=progress, approvals=approvals, strict_model=strict_model, trusted_hosts=trusted_hosts,
        keep_responses=None if keep_responses is None else duration(keep_responses),
    )  # fmt: skip
    if not (settings.is_local or settings.api_key or settings.platform or no_auth):
        raise SettingsError(
            f"Binding {settings.host} lets other machines in. Set AGENT_HOST_API_KEY, or say --no-auth if something "
            "in front of the host checks who calls."
        )
    settings = replace(settings, expose_errors=settings.is_local)
    logs.configure(log_level)
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    workflow = load_workflow(target)
    address = store_url or default_store(workflow, settings)
    app = create_app(workflow, address, settings=settings)
    if emulate_foundry:
        app.add_middleware(EmulatedGateway)
        log.info("emulating a Foundry hosted agent; the header x-ms-user-identity says which user calls")
    listening = _bind(settings)
    told = app.state.agent_host.agent
    send_the_rest = export(settings, told[AGENT_NAME], MARK if settings.platform else {})
    with asyncio.Runner(loop_factory=uvicorn.Config(app, log_config=None).get_loop_factory()) as runner:
        runner.run(_serve(app, app.state.agent_host, listening, address, send_the_rest))


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn tells what no line of ours tells: a stream that was cut off, or a turn that was left behind."""
    message = record.getMessage()
    return "without completing" not in message and not message.startswith("Cancel ")


def _bind(settings: Settings) -> socket.socket:
    """Take the port now, so that a taken one is a message and not a traceback."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # The protocol must be named: event loops switch off Nagle's delay only for sockets that say they are TCP, and
    # with it every answer in two pieces would wait 40 ms for the client's acknowledgement.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections inherit it: one whose client takes nothing for so long is ended by the operating system.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_AFTER * 1000))
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. Stop what uses the port, or choose "
            "another with --port."
        ) from None
    # From now on clients may connect: those that come before the host is open wait.
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


async def _serve(
    app: Any, host: Host, listening: socket.socket, address: str, send_the_rest: Callable[[], None]
) -> None:
    try:
        is_open = await host.begin()
    except BaseException:
        listening.close()
        await host.store.aclose()
        raise
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_keep_alive=75,
        ws=_WebSocket,
        ws_max_size=host.settings.max_body_bytes,
        proxy_headers=False,
        # A turn that cannot be cut off must not keep the process alive.
        timeout_graceful_shutdown=host.settings.shutdown_grace + CUT_PATIENCE + LAST_WORDS,  # type: ignore[arg-type]  # a float will do
    )
    server = _Server(config, host)
    name, port = listening.getsockname()[:2]
    shown = f"[{name}]" if ":" in name else name
    kept = in_words(host.settings.keep_responses)
    log.info("serving %s on http://%s:%d, stored in %s for %s", host.workflow.name, shown, port, address, kept)
    if is_open and host.definition.foreign:
        log.info("shared by all conversations, not stored: %s", ", ".join(host.definition.foreign))
    await server.serve(sockets=[listening])
    log.info("stopped")
    # A thread that the process does not wait for: whoever it sends to may be away.
    sending = threading.Thread(target=send_the_rest, daemon=True)
    sending.start()
    sending.join(EXPORT_PATIENCE)
    _end_soon()


def _end_soon() -> None:
    """See that the process ends even if a handler still blocks a thread. All is stored and closed by now."""

    def leave() -> None:
        log.warning("a handler still blocks a thread; it is left behind")
        logging.shutdown()
        os._exit(0)

    last = threading.Timer(LAST_WORDS, leave)
    last.daemon = True
    last.start()


class _WebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which the application ends: uvicorn alone would cut off the turns that run on it."""

    def shutdown(self) -> None:
        """Wait for the application's close frame, and then not long for the client's."""
        self.close_timeout = LAST_WORDS
        if self.close_sent:
            super().shutdown()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # uvicorn takes a refused upgrade for one that was forgotten, and complains in the log.
            self.handshake_complete = True


class _Server(uvicorn.Server):
    """uvicorn, with our order of going down: no new turns, running turns finish or are cut off, streams end, then the
    store closes. uvicorn alone would wait for open streams for ever, or close the store under them."""

    def __init__(self, config: uvicorn.Config, host: Host) -> None:
        super().__init__(config)
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._is_asked = False
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Go down in order; asked a second time, at once, also if a handler blocks the event loop."""
        if self._is_asked:
            log.warning("stopped at once by a second signal; the next start settles what ran")
            logging.shutdown()
            os._exit(128 + sig)
        self._is_asked = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        grace = self._host.settings.shutdown_grace
        log.info("stopping; %d running turns get %g s", self._host.runs.running, grace)
        until = self._loop.time() + grace
        self.should_exit = True
        await self._host.drain()
        await asyncio.sleep(max(until - self._loop.time(), 0))
        left: set[Any] = set()
        while self.server_state.connections != left:
            left = set(self.server_state.connections)
            await asyncio.sleep(LAST_WORDS)
        # Nobody has taken an answer for a while: clients that do not read must not keep the process alive.
        for connection in left:
            connection.transport.abort()
