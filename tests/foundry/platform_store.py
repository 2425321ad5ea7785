"""Stores in a project of the stand-in, as a hosted agent has them, and families as these have them."""

import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from azure.core.credentials import AccessToken

from agent_host.engine.checkpoint import Commit, cell_references
from agent_host.foundry.storage import ProjectStorage
from agent_host.ids import IdSource, key_of
from agent_host.stores.database import Connection
from agent_host.stores.foundry.cache import SegmentCache
from agent_host.stores.foundry.family import Family
from agent_host.stores.foundry.store import FoundryStore, Show
from agent_host.stores.records import ResponseRecord
from agent_host.testing.commit_log_contract import ROOT, child
from agent_host.testing.records import response
from tests.foundry.stand_in import TOKEN, Project, Recorded

LIFETIME = 60 * 86_400


class Credential:
    """Gives the token that the stand-in takes."""

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        assert scopes == ("https://ai.azure.com/.default",)
        return AccessToken(TOKEN, 2**40)

    async def close(self) -> None:
        """Nothing is open."""

    async def __aenter__(self) -> "Credential":
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""


def only_the_id(record: ResponseRecord) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A response that the platform takes, of a record whose bytes are those of a store's test."""
    return {"id": f"caresp_{hashlib.sha256(record.id.encode()).hexdigest()[:50]}", "output": []}, []


def storage_of(project: Project, **options: Any) -> ProjectStorage:
    """A connection to the project, which tries again at once."""
    return ProjectStorage(
        project.endpoint,
        options.pop("credential", Credential()),
        store="agent_host",
        lifetime=LIFETIME,
        user_agent="agent-host/test",
        **{"retry_backoff_factor": 0.001, **options},
    )


def platform_store(
    project: Project,
    *,
    session: str = "",
    cache: Path | None = None,
    show: Show = only_the_id,
    clock: Callable[[], float] | None = None,
) -> FoundryStore:
    """A store as one process of a session has it."""
    return FoundryStore(storage_of(project), show, session=lambda: session, cache=cache, clock=clock or project.clock)


@asynccontextmanager
async def process(project: Project, **more: Any) -> AsyncIterator[FoundryStore]:
    """A store that is open in the block."""
    store = platform_store(project, **more)
    await store.open()
    try:
        yield store
    finally:
        await store.aclose()


# --- A family alone ----------------------------------------------------------------------------------------------

NAME = "ann/desk"
HEAD = f"f/{NAME}"
LARGE = 300_000
"""Bytes that do not fit into a head."""


@asynccontextmanager
async def family(project: Project, cache: Path | None = None, name: str = NAME) -> AsyncIterator[Family]:
    """A family as one process has it."""
    storage = storage_of(project)
    await storage.open()
    made = Family(name, storage, SegmentCache(cache), project.clock)
    try:
        yield made
    finally:
        await made.aclose()
        await storage.aclose()


def noise(seed: int, size: int = LARGE) -> bytes:
    """Bytes that cannot be made smaller."""
    return Random(seed).randbytes(size)


def note(name: str, body: bytes = b"") -> Callable[[Connection], int]:
    """A write: a row of its own. Its result is how many there are then."""

    def write(connection: Connection) -> int:
        connection.execute("INSERT INTO turn_requests (user_id, response_id, body) VALUES ('', ?, ?)", (name, body))
        return len(notes(connection))

    return write


def notes(connection: Connection) -> list[str]:
    """The names of what was noted, in order."""
    return [name for (name,) in connection.execute("SELECT response_id FROM turn_requests ORDER BY rowid").fetchall()]


def on_head(request: Recorded) -> bool:
    """Whether a request writes the head of the family."""
    return request.key == HEAD and request.method in ("PUT", "POST")


# --- Turns whose ids have partition keys -------------------------------------------------------------------------

IDS = IdSource()


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn as a store gets it: its record and its commit."""

    record: ResponseRecord
    commit: Commit


def turn(previous: Turn | None = None, *bodies: bytes, key: str | None = None, **changes: Any) -> Turn:
    """A turn that continues another one or begins a chain. Its ids have the key of that, or the one that is given."""
    key = key or (key_of(previous.record.id) if previous else None) or IDS.partition_key()
    start = previous.commit if previous else ROOT
    name = IDS.new("caresp", key)
    end = replace(child(start, "", *bodies, session=name), id=IDS.new("chk", key))
    items = (IDS.new("msg", key), IDS.new("msg", key))
    record = replace(
        response("", start, end),
        id=name,
        previous_response_id=previous.record.id if previous else None,
        items=items,
        heard=items,
        **changes,
    )
    return Turn(record, end)


async def finish(store: FoundryStore, user: str, made: Turn, **more: Any) -> None:
    """Store a turn."""
    await store.finish(
        user, made.record, [made.commit] if made.record.previous_response_id else [ROOT, made.commit], **more
    )


async def read_state(store: FoundryStore, user: str, response_id: str) -> dict[bytes, bytes]:
    """Read all that a turn needs to continue a response, one after the other; the blobs."""
    point = await store.resolve(user, response_id)
    assert point is not None, f"{response_id} is unknown"
    commits = await store.read_chain(user, point.commit)
    hashes = {hash_ for commit in commits for cell in commit.delta.values() for hash_ in cell_references(cell)}
    blobs = await store.read_blobs(user, hashes)
    assert hashes == blobs.keys()
    await store.read_calls(user, point.commit)
    await store.read_heard(user, point.commit)
    return blobs
