"""Where responses, commits and blobs are kept.

`open_store` and `project_store` are the only places that know which kinds of store there are. The promise is in
`base.py`; everything above this package uses that and nothing else of it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agent_host.errors import StoreError
from agent_host.stores.base import CommitLog, Store
from agent_host.stores.records import ResponseRecord, ResumePoint, SavePoint

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

    from agent_host.stores.foundry.showing import Show

__all__ = [
    "PROJECT",
    "CommitLog",
    "ResponseRecord",
    "ResumePoint",
    "SavePoint",
    "Store",
    "open_store",
    "project_store",
    "store_file",
]

PROJECT = "foundry:"
"""Begins the address of a store in a Foundry project; the project's endpoint is behind it."""
LIFETIME = 60 * 86_400
"""Seconds that a project keeps what nobody uses. Half of that is promised after each use."""

# Two letters at least: `C:` begins a path on Windows.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")
_IN_MEMORY = ("", "/", "/:memory:")


def open_store(url: str, *, read_only: bool = False) -> Store:
    """The store that an address names, not opened yet: call `await store.open()` before the first verb.

    `sqlite:///data/host.db` (relative), `sqlite:////srv/host.db` (absolute), `sqlite://` (in memory, gone when
    closed), or the plain path of a SQLite file. Raises `StoreError` for anything else.

    `read_only` opens a file beside the process that serves it, without its lock: nothing is written or migrated, every
    verb that writes raises `StoreError`, and a file that is not there, or of an older format, is refused.
    """
    # Loaded here so that a host with another store does not load SQLite.
    from agent_host.stores.sql_store import SqlStore
    from agent_host.stores.sqlite import SqliteDatabase

    path = _sqlite_path(url)
    if read_only and path is None:
        raise StoreError(f"The store {url!r} lies in memory, so there is nothing to read. Name the file of a store.")
    return SqlStore(SqliteDatabase(path, read_only=read_only))


def project_store(
    address: str,
    show: "Show",
    *,
    agent: str,
    session: Callable[[], str],
    home: str,
    user_agent: str,
    credential: "AsyncTokenCredential | None" = None,
) -> Store:
    """The store at an address that begins with `PROJECT`; it is not opened yet.

    `show` makes of a stored response what the platform shows of it. `agent` names the agent; what one of them stores is
    no other's. `session` tells the platform's session, "" for
    none, of which this is the only process. Below the folder `home`, if it is not "", lies what never changes.
    `user_agent` is what the server calls itself. Without a credential azure-identity finds one.
    """
    from agent_host.foundry.storage import ProjectStorage
    from agent_host.stores.foundry.store import FoundryStore

    endpoint = address.removeprefix(PROJECT).rstrip("/")
    name = f"agent_host-{agent}" if agent else "agent_host"
    storage = ProjectStorage(endpoint, credential, store=name, lifetime=LIFETIME, user_agent=user_agent)
    cache = Path(home) / ".agent_host" / "segments" if home else None
    return FoundryStore(storage, show, session=session, cache=cache)


def store_file(url: str, *, is_there: bool = True) -> str:
    """The file of a store; raises `StoreError` for a store in memory, and for no file unless it may be missing."""
    path = _sqlite_path(url)
    if path is None or (is_there and not os.path.isfile(path)):
        raise StoreError(f"There is no store at {url}. Name the file of one that a server has written.")
    return path


def _sqlite_path(url: str) -> str | None:
    if url == ":memory:":
        return None
    if url.startswith(PROJECT):
        raise StoreError(f"The store {url} can only be served: it lies in a Foundry project. Name a file.")
    if url and _SCHEME.match(url) is None:
        return url
    prefix, slashes, path = url.partition("sqlite://")
    if prefix or not slashes or (path and not path.startswith("/")):
        raise StoreError(
            f"The store address {url!r} is not understood. Use sqlite:///relative/path.db, "
            "sqlite:////absolute/path.db, sqlite:// for memory, or the path of a file."
        )
    return None if path in _IN_MEMORY else path[1:]
