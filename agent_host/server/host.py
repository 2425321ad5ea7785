"""The host: one workflow, one store, and what a process keeps between requests."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.checkpoint import Commit
from agent_host.engine.definition import Definition
from agent_host.engine.storage.head_publisher import blobs_with_root, root_view
from agent_host.engine.view import ReadBlobs, View, read_view
from agent_host.engine.workflow import Workflow
from agent_host.errors import StoreError, StoreFormatError, StoreLockedError, WorkflowValidationError
from agent_host.foundry.hosting import hosting_of
from agent_host.foundry.observability import agent_attributes
from agent_host.ids import IdSource, random_bytes
from agent_host.server.background import BackgroundTurns, TakeUp
from agent_host.server.bridge import InputReader
from agent_host.server.event_log import EventLog
from agent_host.server.heard import HeardItems
from agent_host.server.questions import declared_questions
from agent_host.server.retention import Retention
from agent_host.server.runs import Runs
from agent_host.settings import Settings
from agent_host.stores.base import Store
from agent_host.stores.records import TurnInFlight

VIEWS_KEPT = 2048
GIVING_BACK_PATIENCE = 1.0
"""Seconds that background turns which wait for a place get to be given back when the host goes down."""
OPENING_PATIENCE = 10.0
"""Seconds after which a hosted agent comes up though its store does not answer."""
Tokenizer = Callable[[str], int]
"""How many tokens a text has."""

log = logging.getLogger("agent_host")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where time and ids come from; tests give their own."""

    clock: Callable[[], float] = time.time
    ids: IdSource = field(default_factory=IdSource)
    new_request_id: Callable[[], str] = lambda: random_bytes(16).hex()


class Host:
    """Opens with the first request or the application's start, whichever comes first; `aclose` ends it.

    `take_up` goes on with background turns that nobody works on; `tokenizer` counts tokens.
    """

    def __init__(
        self,
        workflow: Workflow,
        store: Store,
        settings: Settings,
        sources: Sources | None = None,
        *,
        take_up: "Callable[[Host, str, TurnInFlight], Awaitable[None]] | None" = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.workflow = workflow
        self.store = store
        self.heard = HeardItems(store)
        self.settings = settings
        self.hosting = hosting_of(settings.platform)
        self.agent = agent_attributes(workflow.name, settings.platform)
        self.sources = sources or Sources()
        self.tokenizer = tokenizer
        self.runs = Runs(settings.max_concurrent_turns, settings.max_waiting_turns)
        self.events = EventLog(store, lambda key: self.background.lose(key))
        self.background = BackgroundTurns(store, self.sources.clock, self.events.bells.ring)
        self.retention = Retention(store, settings.keep_responses, self.sources.clock)
        self.questions: list[dict[str, Any]] = []
        self._take_up: TakeUp | None = partial(take_up, self) if take_up is not None else None
        self.reader = InputReader(workflow.input_types)
        self.root_is_stored = False
        self.restored_by = ""  # the platform's name for the last restoring of this process from a snapshot
        self._definition: Definition | None = None
        self._root: View | None = None
        self._views: OrderedDict[tuple[str, str], View] = OrderedDict()
        self._opening = asyncio.Lock()
        self._has_tried = False
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
                self.questions = declared_questions(definition)
                self._root = root_view(definition.root)
                self._definition = definition
                if self._take_up is not None:
                    self.background.start(self._take_up)
                self.retention.start([definition.root.id])

    async def begin(self) -> bool:
        """Open before the first request; False if a hosted agent must leave that to its requests.

        Its storage is elsewhere and may be away. The platform ends containers that do not come up, again and again, and
        nobody would be told why; so it comes up and says so, once. What does not pass by itself is raised.
        """
        if not self.hosting.tells_platform:
            await self.open()
        elif not self._has_tried:
            self._has_tried = True
            try:
                async with asyncio.timeout(OPENING_PATIENCE):
                    await self.open()
            except (StoreFormatError, StoreLockedError):
                raise
            except (StoreError, TimeoutError) as error:
                why = str(error) or "it does not answer"
                log.error("the store is not open, which each request tries again: %s", why)
        return self._definition is not None

    async def aclose(self) -> None:
        """Cut off what still runs after the grace, then close the store. Safe to call again."""
        await self.drain()
        await self.retention.aclose()
        await self.background.aclose()
        await self.events.aclose()
        reached(CrashPoint.DRAINED)
        await self.store.aclose()

    async def drain(self) -> None:
        """Take no new turns, let running ones finish within the grace, and end the rest as failed. Done once."""
        if self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        await asyncio.shield(self._draining)

    async def _drain(self) -> None:
        self.background.stop()
        reached(CrashPoint.DRAINING)
        await self.runs.drain(self.settings.shutdown_grace)
        if self.runs.cut_off:
            log.warning("turns that did not finish in time and were stored as failed: %d", self.runs.cut_off)
        await self.background.ended(GIVING_BACK_PATIENCE)
        if self.background.left:
            turns_are = "background turn is" if self.background.left == 1 else "background turns are"
            log.info("%d %s left for the next start", self.background.left, turns_are)
        if self.runs.running:
            log.warning("turns that block a thread and are left behind, nothing of them is kept: %d", self.runs.running)

    async def view(self, user: str, commit_id: str) -> View | None:
        """The state at a commit; None if it is another workflow's. Of recent ones the process remembers the cells."""
        if commit_id == self.definition.root.id:
            return self._root
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

    def unstored_root(self) -> tuple[Commit, ...]:
        """The root commit, as long as the store has none: the first turn brings it along."""
        return () if self.root_is_stored else (self.definition.root,)

    async def settle_lapsed(self, user: str, response_id: str) -> None:
        """If a background turn in flight was left behind by a process that is gone, go on with it now."""
        key = (user, response_id)
        if self._take_up is not None and self.background.work_of(key) is None:
            await self.background.sweep(self._take_up, only=key)

    def remember(self, user: str, view: View) -> None:
        """Keep a view for the turn that continues it."""
        self._views[user, view.commit_id] = view
        while len(self._views) > VIEWS_KEPT:
            self._views.popitem(last=False)

    def blob_reader(self, user: str) -> ReadBlobs:
        """Blob reads for a lane of this user."""
        return blobs_with_root(self.definition.root, lambda hashes: self.store.read_blobs(user, hashes))
