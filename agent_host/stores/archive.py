"""One conversation by itself: its file, which other versions and other stores read.

The file is text, one JSON object a line; bytes are in base64. The first line names the format and its version, the last
one the number of lines before it and a hash of them. Between them stand, in this order, commits (parents first), blobs,
responses, questions of deleted ones, and the conversation with its items. `kind` says what a line is.

Rule 1: nothing in a file is trusted. What is not of the right type, does not have its hash, or needs something that the
file does not have, is refused before anything is stored.
Rule 2: a file has no user, and no root: a state that is read through the root of a workflow has a copy of it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal, NoReturn

import msgspec

from agent_host.engine.checkpoint import (
    BLOB,
    HASH_SIZE,
    INLINE,
    Commit,
    blob_hash,
    body_references,
    cell_references,
)
from agent_host.errors import StoreFormatError
from agent_host.stores.records import Conversation, Item, ResponseRecord

FORMAT = "agent_host conversation"
VERSION = 1
COPY = "_copy"
"""How the id of a copy of a root ends."""

_ROOT = "chk_root"
_LARGEST = 253_402_300_799
"""The last second that a date can name; nothing counts as far."""


class _Line(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    pass


class _Head(_Line, frozen=True, tag="head"):
    format: str
    version: int
    id: str


class _End(_Line, frozen=True, tag="end"):
    lines: int
    hash: bytes


class ArchivedCommit(_Line, frozen=True, tag="commit"):
    """A commit, and the ids of what was heard on the way to it since the one before it."""

    id: str
    parent: str | None
    workflow: str
    session_id: str
    commit_kind: Literal["input", "response", "step", "manual"]
    seq: int
    step: int
    created_at: float
    signature: str
    delta: dict[str, bytes | None]
    complete: bool
    distance: int
    heard: tuple[str, ...] = ()

    def as_commit(self) -> Commit:
        """The commit as stores know it."""
        return Commit(
            self.id, self.parent, self.workflow, self.session_id, self.commit_kind, self.seq, self.step,
            self.created_at, self.signature, self.delta, self.complete, self.distance,
        )  # fmt: skip


class _Blob(_Line, frozen=True, tag="blob"):
    hash: bytes
    body: bytes


class _Response(_Line, frozen=True, tag="response"):
    record: ResponseRecord


class ArchivedCall(_Line, frozen=True, tag="call"):
    """A question that is open at a commit, asked by a response that was deleted since."""

    response_id: str
    commit: str
    call_id: str
    request_id: str


class _Conversation(_Line, frozen=True, tag="conversation"):
    conversation: Conversation


class _Item(_Line, frozen=True, tag="item"):
    item: Item
    waiting: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """A conversation, or a chain of responses, with all that is needed to continue it. `id` is what was asked for.

    `items` are those of the conversation, each with whether it waits for the next turn.
    """

    id: str
    commits: tuple[ArchivedCommit, ...]
    blobs: Mapping[bytes, bytes]
    responses: tuple[ResponseRecord, ...]
    conversation: Conversation | None = None
    items: tuple[tuple[Item, bool], ...] = ()
    calls: tuple[ArchivedCall, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(
    _Head | _End | ArchivedCommit | _Blob | _Response | ArchivedCall | _Conversation | _Item
).decode  # fmt: skip


def write_archive(archive: Archive) -> Iterator[bytes]:
    """The lines of the file."""
    digest, count = blake2b(digest_size=32), 0
    for line in _lines(archive):
        encoded = _encode(line) + b"\n"
        digest.update(encoded)
        count += 1
        yield encoded
    yield _encode(_End(count, digest.digest())) + b"\n"


def _lines(archive: Archive) -> Iterator[_Line]:
    yield _Head(FORMAT, VERSION, archive.id)
    yield from archive.commits
    yield from (_Blob(hash_, body) for hash_, body in archive.blobs.items())
    yield from (_Response(record) for record in archive.responses)
    yield from archive.calls
    if archive.conversation is not None:
        yield _Conversation(archive.conversation)
    yield from (_Item(item, waiting) for item, waiting in archive.items)


def read_archive(lines: Iterable[bytes]) -> Archive:
    """What a file holds; raises `StoreFormatError` naming the line that is wrong, or what is missing."""
    digest, number, end, head = blake2b(digest_size=32), 0, None, None
    found: dict[type[_Line], list[_Line]] = {}
    for number, encoded in enumerate(lines, start=1):
        if end is not None:
            _refuse(f"line {number} stands behind its end")
        try:
            line = _decode(encoded)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _refuse(_foreign() if number == 1 else f"line {number} is broken ({error})")
        if head is None:
            head = _checked_head(line)
        elif isinstance(line, _End):
            end = line
        else:
            found.setdefault(type(line), []).append(line)
        if end is None:
            digest.update(encoded)
    if head is None or end is None:
        _refuse("it has no end, so it was cut off")
    if (end.lines, end.hash) != (number - 1, digest.digest()):
        _refuse("it was changed after it was written: its lines do not have their hash")
    return _checked(_assembled(head.id, found))


def _checked_head(line: object) -> _Head:
    if not isinstance(line, _Head) or line.format != FORMAT:
        _refuse(_foreign())
    if line.version != VERSION:
        _refuse(f"its version is {line.version}, and this program reads {VERSION}; use the program that wrote it")
    return line


def _foreign() -> str:
    return "it is no exported conversation"


def _refuse(why: str) -> NoReturn:
    raise StoreFormatError(f"The file cannot be imported: {why}. Nothing was stored; export it again.")


def _assembled(id: str, found: Mapping[type[_Line], list[_Line]]) -> Archive:
    conversations = [line.conversation for line in found.get(_Conversation, ()) if isinstance(line, _Conversation)]
    if len(conversations) > 1:
        _refuse("it holds several conversations")
    blobs = {}
    for line in found.get(_Blob, ()):
        assert isinstance(line, _Blob)
        if blob_hash(line.body) != line.hash:
            _refuse(f"the blob {line.hash.hex()} does not have its hash")
        blobs[line.hash] = line.body
    return Archive(
        id,
        tuple(line for line in found.get(ArchivedCommit, ()) if isinstance(line, ArchivedCommit)),
        blobs,
        tuple(line.record for line in found.get(_Response, ()) if isinstance(line, _Response)),
        conversations[0] if conversations else None,
        tuple((line.item, line.waiting) for line in found.get(_Item, ()) if isinstance(line, _Item)),
        tuple(line for line in found.get(ArchivedCall, ()) if isinstance(line, ArchivedCall)),
    )


def _checked(archive: Archive) -> Archive:
    """The same archive; raises `StoreFormatError` if it is not sound by itself, or needs something that it lacks."""
    known = _check_commits(archive)
    _check_responses(archive)
    head = archive.conversation.head if archive.conversation is not None else None
    ends = [record.commit for record in archive.responses] + [call.commit for call in archive.calls]
    for end in (*ends, *([head] if head is not None else [])):
        if end not in known:
            _refuse(f"commit {end!r} is missing")
    if archive.items and archive.conversation is None:
        _refuse("it has items of a conversation, but not the conversation")
    return archive


def _check_commits(archive: Archive) -> set[str]:
    """The ids of the commits."""
    known: set[str] = set()
    wanted: set[bytes] = set()
    for commit in archive.commits:
        if commit.id in known:
            _refuse(f"commit {commit.id!r} stands in it twice")
        if commit.id.startswith(_ROOT) and not commit.id.endswith(COPY):
            _refuse(f"commit {commit.id!r} has the id of a root, which belongs to no user")
        if not commit.complete and commit.parent not in known:
            _refuse(f"commit {commit.id!r} needs commit {commit.parent!r}, which does not stand before it")
        _check_numbers(f"commit {commit.id!r}", (commit.seq, commit.step, commit.distance, commit.created_at))
        known.add(commit.id)
        cells = [cell for cell in commit.delta.values() if cell is not None]
        if not all(cell[:1] == INLINE or (cell[:1] == BLOB and len(cell) == 1 + HASH_SIZE) for cell in cells):
            _refuse(f"commit {commit.id!r} has a broken cell")
        wanted.update(hash_ for cell in cells for hash_ in cell_references(cell))
    wanted.update(hash_ for body in archive.blobs.values() for hash_ in body_references(body))
    if missing := wanted - archive.blobs.keys():
        _refuse(f"the blob {min(missing).hex()} is missing")
    return known


def _check_responses(archive: Archive) -> None:
    waiting = {record.id for record in archive.responses}
    if len(waiting) != len(archive.responses):
        _refuse("a response stands in it twice")
    for record in archive.responses:
        if record.previous_response_id in waiting:
            _refuse(f"response {record.id!r} continues {record.previous_response_id!r}, which does not stand before it")
        waiting.remove(record.id)
        _check_numbers(f"response {record.id!r}", (record.created_at, record.completed_at or 0))
    conversation = archive.conversation
    if conversation is not None:
        _check_numbers(f"conversation {conversation.id!r}", (conversation.created_at,))
    held = [record.id for record in archive.responses[-1:]] if conversation is None else [conversation.id]
    ids = {record.id for record in archive.responses}
    if any(call.response_id in ids for call in archive.calls):
        _refuse("a question of one of its responses stands beside it")
    if held != [archive.id]:
        _refuse(f"what it is said to hold, {archive.id!r}, is not in it")


def _check_numbers(owner: str, numbers: Iterable[float]) -> None:
    if not all(0 <= number <= _LARGEST for number in numbers):
        _refuse(f"{owner} has a number that is too large or negative")
