"""Archives from rows and into rows: functions of a connection.

Rule 1: what is imported lies in the partition of the user alone.
Rule 2: what is there already is left as it is, and must be what the archive holds.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace

import msgspec

from agent_host.engine.checkpoint import Commit, body_references, cell_references, cells_of
from agent_host.errors import CheckpointDecodeError, TurnConflictError
from agent_host.stores import conversation_rows, response_rows, rows
from agent_host.stores.archive import COPY, Archive, ArchivedCall, ArchivedCommit
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES, parse, sql_text
from agent_host.stores.records import Conversation, Item, OpenCall, ResponseRecord

_STATEMENTS = parse(sql_text("archive.sql"))
_decode = msgspec.json.Decoder(tuple[str, ...]).decode


def read(connection: Connection, own: str, id: str) -> Archive | None:
    """A conversation with its responses, or a response with those that it continues; None if there is none."""
    conversation = conversation_rows.read(connection, own, id)
    records = _responses_in(connection, own, id) if conversation is not None else _line_of(connection, own, id)
    if conversation is None and not records:
        return None
    ends = [record.commit for record in records]
    if conversation is not None and conversation.head is not None:
        ends.append(conversation.head)
    commits, roots = _commits(connection, own, id, ends)
    return Archive(
        id,
        tuple(commits),
        _blobs(connection, own, commits),
        tuple(_away_from(roots, record) for record in records),
        None if conversation is None else _head_away_from(roots, conversation),
        _items(connection, own, id),
        _calls(connection, own, dict.fromkeys(ends), {record.id for record in records}),
    )


def _responses_in(connection: Connection, own: str, conversation_id: str) -> list[ResponseRecord]:
    found = connection.execute(_STATEMENTS["responses_in_conversation"], (own, conversation_id)).fetchall()
    return [record for (id_,) in found if (record := response_rows.read(connection, own, id_)) is not None]


def _line_of(connection: Connection, own: str, response_id: str) -> list[ResponseRecord]:
    line: dict[str, ResponseRecord] = {}
    previous: str | None = response_id
    while previous is not None and previous not in line:
        record = response_rows.read(connection, own, previous)
        if record is None:
            break
        line[record.id] = record
        previous = record.previous_response_id
    return list(line.values())[::-1]


def _items(connection: Connection, own: str, conversation_id: str) -> tuple[tuple[Item, bool], ...]:
    found = connection.execute(_STATEMENTS["items_of_conversation"], (own, conversation_id)).fetchall()
    return tuple((Item(id_, body), bool(waiting)) for id_, body, waiting in found)


def _calls(
    connection: Connection, own: str, commits: Iterable[str], responses: Collection[str]
) -> tuple[ArchivedCall, ...]:
    """The questions at these commits that no response in the archive has asked."""
    found = [
        ArchivedCall(response_id, commit, call_id, request_id)
        for commit in commits
        for response_id, call_id, request_id in connection.execute(
            _STATEMENTS["calls_at_commit"], (own, commit)
        ).fetchall()
    ]
    return tuple(call for call in found if call.response_id not in responses)


def _commits(connection: Connection, own: str, id: str, ends: Iterable[str]) -> tuple[list[ArchivedCommit], set[str]]:
    """What is needed to read these commits, parents first, and the roots among them, of which these are copies."""
    found: dict[str, ArchivedCommit] = {}
    roots: set[str] = set()
    for end in ends:
        chain = rows.select_chain(connection, own, end)
        if not chain:
            raise CheckpointDecodeError(f"Commit {end} is missing. Restore the store from a backup.")
        roots.update(commit.id for commit in chain if commit.kind == "root")
        for commit in reversed(chain):
            if commit.id not in found:
                heard = _heard(connection, own, commit.id, stands_alone=commit.parent not in found)
                found[commit.id] = _archived(id, commit, roots, heard)
    return list(found.values()), roots


def _heard(connection: Connection, own: str, commit_id: str, *, stands_alone: bool) -> tuple[str, ...]:
    """What was heard until a commit; if its parent stands in the archive, since that."""
    if stands_alone:
        turns = response_rows.read_heard(connection, own, commit_id)
        return tuple(item for turn in reversed(turns) for item in turn.items)
    (heard,) = connection.execute(_STATEMENTS["heard_at_commit"], (own, commit_id)).fetchone()
    return () if heard is None else _decode(heard)


def _archived(id: str, commit: Commit, roots: set[str], heard: tuple[str, ...]) -> ArchivedCommit:
    is_root = commit.kind == "root"
    return ArchivedCommit(
        id=commit.id + COPY if is_root else commit.id,
        parent=f"{commit.parent}{COPY}" if commit.parent in roots else commit.parent,
        workflow=commit.workflow,
        session_id=id if is_root else commit.session_id,
        commit_kind="manual" if commit.kind == "root" else commit.kind,
        seq=commit.seq,
        step=commit.step,
        created_at=commit.created_at,
        signature=commit.signature,
        delta=dict(commit.delta),
        complete=commit.complete,
        distance=commit.distance,
        heard=heard,
    )


def _away_from(roots: set[str], record: ResponseRecord) -> ResponseRecord:
    start, end = ((commit + COPY if commit in roots else commit) for commit in (record.start_commit, record.commit))
    return replace(record, start_commit=start, commit=end, heard=())


def _head_away_from(roots: set[str], conversation: Conversation) -> Conversation:
    head = conversation.head
    return replace(conversation, head=head + COPY) if head is not None and head in roots else conversation


def _blobs(connection: Connection, own: str, commits: Iterable[ArchivedCommit]) -> dict[bytes, bytes]:
    bodies: dict[bytes, bytes] = {}
    wanted = {hash_ for commit in commits for cell in commit.delta.values() if cell for hash_ in cell_references(cell)}
    while wanted:
        found = rows.checked(rows.select_blobs(connection, own, wanted))
        if missing := wanted - found.keys():
            raise CheckpointDecodeError(f"Blob {min(missing).hex()} is missing. Restore the store from a backup.")
        bodies |= found
        wanted = {hash_ for body in found.values() for hash_ in body_references(body)} - bodies.keys()
    return bodies


# --- Into a store ------------------------------------------------------------------------------------------------


def add(connection: Connection, own: str, archive: Archive) -> bool:
    """Store what is not there yet; `TurnConflictError` if something else is there. Whether anything was new."""
    stored = read(connection, own, archive.id)
    if stored is not None and _told(stored) == _told(archive):
        return False
    cells: dict[str, dict[str, bytes]] = {}
    for commit in archive.commits:
        _add_commit(connection, own, commit, cells)
    for hash_, body in archive.blobs.items():
        connection.execute(QUERIES["insert_blob"], (own, hash_, body))
    for record in archive.responses:
        _add_response(connection, own, record)
    _refuse_circles(connection, own, archive)
    for call in archive.calls:
        _add_call(connection, own, call)
    if archive.conversation is not None:
        _add_conversation(connection, own, archive.conversation, archive.items)
    return True


def _told(archive: Archive) -> object:
    """What tells two archives of one conversation apart; the same state may be kept in other commits."""
    return archive.responses, archive.conversation, archive.items, archive.calls


def _add_commit(connection: Connection, own: str, archived: ArchivedCommit, cells: dict[str, dict[str, bytes]]) -> None:
    commit = archived.as_commit()
    inherited = {} if commit.complete else cells[commit.parent or ""]
    cells[commit.id] = cells_of([commit, replace(commit, delta=inherited, complete=True)])
    if rows.is_stored(connection, own, commit.id):
        if cells_of(rows.select_chain(connection, own, commit.id)) != cells[commit.id]:
            raise _differs("Commit", commit.id)
        return
    if commit.parent is not None and not rows.is_stored(connection, own, commit.parent):
        commit = replace(commit, parent=None)  # it is complete
    rows.insert_commits(connection, own, [commit], TurnConflictError)
    if archived.heard:
        connection.execute(QUERIES["put_heard"], (msgspec.json.encode(archived.heard), own, commit.id))


def _add_response(connection: Connection, own: str, record: ResponseRecord) -> None:
    stored = response_rows.read(connection, own, record.id)
    if stored is None:
        connection.execute(_STATEMENTS["delete_calls_of_response"], (own, record.id))
        response_rows.insert(connection, own, replace(record, heard=()), None)
    elif _away_from(_roots(connection, stored.start_commit, stored.commit), stored) != replace(record, heard=()):
        raise _differs("Response", record.id)


def _roots(connection: Connection, *commits: str) -> set[str]:
    return {commit for commit in commits if connection.execute(QUERIES["find_root"], (commit,)).fetchone() is not None}


def _refuse_circles(connection: Connection, own: str, archive: Archive) -> None:
    """A response that is stored may continue one that was deleted and comes back now."""
    ids = {record.id for record in archive.responses}
    for record in archive.responses:
        if record.previous_response_id is not None and record.previous_response_id not in ids:
            before = {each.id for each in _line_of(connection, own, record.previous_response_id)}
            if before & ids:
                raise _differs("Response", record.previous_response_id)


def _add_call(connection: Connection, own: str, call: ArchivedCall) -> None:
    if OpenCall(call.call_id, call.request_id) not in response_rows.read_calls(connection, own, call.commit):
        (position,) = connection.execute(_STATEMENTS["next_call"], (own, call.response_id, call.commit)).fetchone()
        row = (own, call.response_id, position, call.commit, call.call_id, call.request_id)
        connection.execute(QUERIES["insert_call"], row)


def _add_conversation(
    connection: Connection, own: str, conversation: Conversation, items: Iterable[tuple[Item, bool]]
) -> None:
    items = tuple(items)
    stored = conversation_rows.read(connection, own, conversation.id)
    if stored is not None:
        roots = _roots(connection, stored.head) if stored.head is not None else set[str]()
        if (_head_away_from(roots, stored), _items(connection, own, stored.id)) != (conversation, items):
            raise _differs("Conversation", conversation.id)
        return
    conversation_rows.create(connection, own, conversation, ())
    position = 0
    for position, (item, waiting) in enumerate(items, start=1):
        row = (own, conversation.id, position, item.id, waiting, item.body)
        if connection.execute(QUERIES["insert_conversation_item"], row).rowcount != 1:
            raise _differs("Item", item.id)
    connection.execute(QUERIES["extend_conversation"], (position, own, conversation.id))


def _differs(what: str, id: str) -> TurnConflictError:
    return TurnConflictError(
        f"{what} {id!r} is in the store already, and is not the one of the file. Nothing was stored; import into "
        "another store, or as another user."
    )
