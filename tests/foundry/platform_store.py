"""Stores in a project of the stand-in, as a hosted agent has them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from azure.core.credentials import AccessToken

from agent_host.foundry.storage import ProjectStorage
from agent_host.stores.foundry.store import FoundryStore, Show
from agent_host.stores.records import ResponseRecord
from tests.foundry.stand_in import TOKEN, Project

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


def storage_of(project: Project) -> ProjectStorage:
    """A connection to the project, which tries again at once."""
    return ProjectStorage(
        project.endpoint,
        Credential(),
        store="agent_host",
        lifetime=LIFETIME,
        user_agent="agent-host/test",
        retry_backoff_factor=0.001,
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
