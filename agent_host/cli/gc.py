"""`agent-host gc`: forget now what a server would forget in time, or tell what that would be."""

import asyncio
import json
import tempfile
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import click

from agent_host.errors import StoreLockedError
from agent_host.server.retention import LOG_KEPT_FOR
from agent_host.settings import Settings, duration
from agent_host.stores import open_store, sqlite_copy, store_file
from agent_host.stores.retention import Collected, collect


@click.command()
@click.argument("store", metavar="STORE")
@click.option("--keep-responses", metavar="TIME", help="How old responses get, such as 12h or forever.  [default: 30d]")
@click.option("--dry-run", is_flag=True, help="Tell what would go; works on a copy, beside a server too.")
@click.option("--shrink", is_flag=True, help="Give the freed room back to the disk, which takes room for a copy.")
@click.option("--json", "as_json", is_flag=True, help="Write what went as JSON.")
def gc(store: str, keep_responses: str | None, dry_run: bool, shrink: bool, as_json: bool) -> None:
    """Forget old responses, and what nothing needs any more, for example: agent-host gc .agent_host/notes.db

    A server does this by itself. STORE is the address or the file of a store that no server uses.
    """
    path = store_file(store)
    keep = Settings().keep_responses if keep_responses is None else duration(keep_responses)
    now = time.time()
    collect_ = partial(_collect, before=now - keep if keep else None, ended_before=now - LOG_KEPT_FOR)
    if dry_run:
        with tempfile.TemporaryDirectory() as folder:
            copy = str(Path(folder) / "copy.db")
            sqlite_copy.back_up(path, copy)
            collected = asyncio.run(collect_(copy))
    else:
        try:
            collected = asyncio.run(collect_(path))
        except StoreLockedError as error:
            raise StoreLockedError(
                f"{error} A server forgets by itself from time to time; --dry-run tells what would go meanwhile."
            ) from None
        if shrink:
            sqlite_copy.shrink(path)
    if as_json:
        click.echo(json.dumps({"dry_run": dry_run, "size": collected.size, **asdict(collected)}, indent=2))
    else:
        click.echo(f"{'Would go' if dry_run else 'Gone'}: {collected.summary}")


async def _collect(path: str, before: float | None, ended_before: float) -> Collected:
    store = open_store(path)
    try:
        await store.open()
        return await collect(store, before, ended_before=ended_before)
    finally:
        await store.aclose()
