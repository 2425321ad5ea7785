"""The host: one workflow, one store, and what a process keeps between requests."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from agent_host.engine.definition import Definition
from agent_host.engine.storage.head_publisher import blobs_with_root, root_view
from agent_host.engine.view import ReadBlobs, View, read_view
from agent_host.engine.workflow import Workflow
from agent_host.errors import WorkflowValidationError
from agent_host.ids import IdSource, random_bytes
from agent_host.server.bridge import InputReader
from agent_host.server.runs import Runs
from agent_host.settings import Settings
from agent_host.stores.base import Store

VIEWS_KEPT = 2048
log = logging.getLogger("agent_host")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where time and ids come from; tests give their own."""

    clock: Callable[[], float] = time.time
    ids: IdSource = field(default_factory=IdSource)
    new_request_id: Callable[[], str] = lambda: random_bytes(16).hex()


class Host:
    """Opens with the first request or the application's start, whichever comes first; `aclose` ends it."""

    def __init__(self, workflow: Workflow, store: Store, settings: Settings, sources: Sources | None = None) -> None:
        self.workflow = workflow
        self.store = store
        self.settings = settings
        self.sources = sources or Sources()
        self.runs = Runs(settings.max_concurrent_turns, settings.max_waiting_turns)
        self.reader = InputReader(workflow.input_types)
        self.root_is_stored = False
        self._definition: Definition | None = None
        self._views: OrderedDict[tuple[str, str], View] = OrderedDict()
        self._opening = asyncio.Lock()
        self._draining: asyncio.Future[None] | None = None
        if not self.reader.is_possible:
            takes = ", ".join(getattr(kind, "__qualname__", str(kind)) for kind in workflow.input_types)
            raise WorkflowValidationError(
                f"The start executor {workflow.graph.start!r} takes {takes}; a request carries text or messages. "
                "Give it a handler for str, Message, list[Message], a dataclass or a pydantic model."
            )

    def __repr__(self) -> str:
        state = "open" if self._definition is not None else "not open"
        return f"<Host of {self.workflow.name!r}, {state}, {self.runs!r}>"

    @property
    def definition(self) -> Definition:
        """The workflow with its initial state; the host must be open."""
        assert self._definition is not None, "open() comes first"
        return self._definition

    async def open(self) -> None:
        """Take the workflow's initial state and open the store. Safe to call again and from several requests."""
        if self._definition is not None:
            return
        async with self._opening:
            if self._definition is None:
                definition = await self.workflow.definition()
                await self.store.open()
                self.root_is_stored = await self.store.holds_root(definition.root.id)
                self._definition = definition

    async def aclose(self) -> None:
        """Cut off what still runs after the grace, then close the store. Safe to call again."""
        await self.drain()
        await self.store.aclose()

    async def drain(self) -> None:
        """Take no new turns, let running ones finish within the grace, and end the rest as failed. Done once."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        cut = await self.runs.drain(self.settings.shutdown_grace)
        if cut:
            log.warning("turns that did not finish in time and were stored as failed: %d", cut)
        if self.runs.running:
            log.warning("turns that block a thread and are left behind, nothing of them is kept: %d", self.runs.running)

    async def view(self, user: str, commit_id: str) -> View | None:
        """The state at a commit; None if it is another workflow's. Of recent ones the process remembers the cells."""
        if commit_id == self.definition.root.id:
            return root_view(self.definition.root)
        key = (user, commit_id)
        known = self._views.get(key)
        if known is not None:
            self._views.move_to_end(key)
            return known

        commit, view = await read_view(lambda wanted: self.store.read_chain(user, wanted), commit_id)
        if commit.workflow != self.workflow.name:
            return None
        self.remember(user, view)
        return view

    def remember(self, user: str, view: View) -> None:
        """Keep a view for the turn that continues it."""
        self._views[user, view.commit_id] = view
        while len(self._views) > VIEWS_KEPT:
            self._views.popitem(last=False)

    def blob_reader(self, user: str) -> ReadBlobs:
        """Blob reads for a lane of this user."""
        return blobs_with_root(self.definition.root, lambda hashes: self.store.read_blobs(user, hashes))
