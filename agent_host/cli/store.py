"""`agent-host store`: look into a store, copy it, and take single conversations out of it and into another."""

import asyncio
import errno
import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import BinaryIO, TypeVar

import click

from agent_host.cli.imported import check_content
from agent_host.cli.screen import harmless
from agent_host.errors import StoreError
from agent_host.settings import DAY
from agent_host.stores import Store, open_store, sqlite_copy, store_file
from agent_host.stores.archive import Archive, read_archive, write_archive
from agent_host.stores.new_file import check_name, new_file
from agent_host.stores.records import Description
from agent_host.stores.retention import in_words

T = TypeVar("T")

_store = click.argument("store", metavar="STORE")
_user = click.option("--user", default="", metavar="NAME", help="Whose it is.  [default: the local user]")


@click.group()
def store() -> None:
    """Look into a store, copy it, take conversations out of it and into another.

    STORE is the address or the file that was given to serve.
    """


@store.command()
@_store
@click.option("--json", "as_json", is_flag=True, help="Write it as JSON.")
def info(store: str, as_json: bool) -> None:
    """Tell what is stored and how much room it takes.

    Works beside a server.
    """
    path = store_file(store)
    found = asyncio.run(_with(path, True, lambda opened: opened.describe()))
    log = 0
    with suppress(FileNotFoundError):
        log = os.stat(f"{path}-wal").st_size
    if as_json:
        click.echo(json.dumps({**asdict(found), "write_ahead_log": log}, indent=2))
    else:
        click.echo("\n".join(_page(found, log, time.time())))


def _page(found: Description, log: int, now: float) -> Iterable[str]:
    yield f"{in_words(found.size)} in the file, of which {in_words(found.free)} are free; {in_words(log)} in its log"
    for kind, size in sorted(found.sizes.items(), key=lambda each: -each[1]):
        if size:
            yield f"  {in_words(size):>10}  {kind}"
    yield f"users             {found.users:,}"
    yield f"conversations     {found.conversations:,}"
    yield f"responses         {found.responses:,}, {found.pending:,} of them wait for answers"
    yield f"turns in flight   {found.in_flight:,}"
    yield f"commits           {found.commits:,}"
    yield f"blobs             {found.blobs:,}"
    if found.oldest_response is not None:
        day = datetime.fromtimestamp(found.oldest_response, UTC).date()
        yield f"oldest response   {day}, {(now - found.oldest_response) / DAY:.0f} days old"
    if found.largest:
        yield "largest conversations"
    for user, id_, items, size in found.largest:
        yield f"  {in_words(size):>10}  {id_}, {items:,} items" + (f", of user {user}" if user else "")


@store.command()
@_store
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def backup(store: str, file: str, force: bool) -> None:
    """Copy a store to FILE as it is at this moment.

    Works beside a server. The copy is checked. It is a store like any other: give it to serve, or bring it back with
    restore; never copy it over a store, whose log would be played back into it.
    """
    size = sqlite_copy.back_up(store_file(store), file, replace=force)
    click.echo(f"{file}: {in_words(size)}")


@store.command()
@_store
@click.argument("backup", metavar="BACKUP")
@click.option("--force", is_flag=True, help="Replace what is in STORE.")
def restore(store: str, backup: str, force: bool) -> None:
    """Let STORE be again what it was when BACKUP was made.

    What was stored since then is lost. No server may use STORE meanwhile. It may be damaged, or not be there.
    """
    path = store_file(store, is_there=False)
    if os.path.exists(path) and not force:
        raise StoreError(f"{path} would be lost, with all that was stored since. Say --force to replace it.")
    size = sqlite_copy.back_up(store_file(backup), path, replace=True)
    click.echo(f"{path}: {in_words(size)}")


@store.command()
@_store
@click.argument("id", metavar="ID")
@click.argument("file", type=click.Path(dir_okay=False), required=False)
@_user
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
def export(store: str, id: str, file: str | None, user: str, force: bool) -> None:
    """Write one conversation to FILE.

    That is the conversation ID, or the response ID with those that it continues. Works beside a server. FILE is text
    that holds all that was said and the state of the workflow. Only you may read it. Without FILE it is written to
    standard output.
    """
    path = store_file(store)
    if file is not None:
        check_name(file, path, replace=force)
    archive = asyncio.run(_with(path, True, lambda opened: opened.read_archive(user, id)))
    if archive is None:
        whose = f" of user {user!r}" if user else ""
        raise StoreError(f"There is no finished response and no conversation {id!r}{whose} in {store}.")
    if file is None:
        _write_out(archive)
    else:
        with new_file(file) as part, open(part, "wb") as out:
            out.writelines(write_archive(archive))
        click.echo(f"{file}: {_counted(archive)}")


def _write_out(archive: Archive) -> None:
    try:
        for line in write_archive(archive):
            click.echo(line, nl=False)
    except OSError as error:
        if error.errno == errno.EPIPE:  # whoever has read enough need not be told
            raise
        raise StoreError(f"The conversation cannot be written: {error.strerror}. Send it elsewhere.") from error


@store.command("import")
@_store
@click.argument("file", type=click.File("rb"))
@_user
def import_(store: str, file: BinaryIO, user: str) -> None:
    """Store the conversation in FILE, all of it or nothing.

    The FILE - is standard input. STORE is made if it is not there, and no server may use it meanwhile. What is there
    already must be the same, so the same file may be imported again. Check where a file comes from: what it says was
    said is believed.
    """
    archive = read_archive(file)
    check_content(archive)
    is_new = asyncio.run(
        _with(store_file(store, is_there=False), False, lambda opened: opened.add_archive(user, archive))
    )
    click.echo(f"{harmless(archive.id)}: {_counted(archive) if is_new else 'was there already'}")


def _counted(archive: Archive) -> str:
    counts = {"response": len(archive.responses), "item": len(archive.items), "commit": len(archive.commits)}
    return ", ".join(f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in counts.items() if count)


async def _with(path: str, read_only: bool, use: Callable[[Store], Awaitable[T]]) -> T:
    opened = open_store(path, read_only=read_only)
    try:
        await opened.open()
        return await use(opened)
    finally:
        await opened.aclose()
