"""What holds of a store's file at every moment, whatever happened to the processes that wrote it.

`faults` looks at the whole file and tells what does not hold, one line for each; a sound file has none.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from agent_host.engine.checkpoint import blob_hash, body_references
from agent_host.engine.storage.reachability import needed_blobs
from agent_host.stores.base import SYSTEM
from agent_host.wire.events import TERMINAL

ENDED = {"completed", "incomplete", "failed", "cancelled"}

Row = tuple[Any, ...]

ORPHANS = {
    "a turn without its request": (
        "SELECT id FROM turns AS t WHERE NOT EXISTS"
        " (SELECT 1 FROM turn_requests AS r WHERE r.user_id = t.user_id AND r.response_id = t.id)"
    ),
    "a request without its turn": (
        "SELECT response_id FROM turn_requests AS r WHERE NOT EXISTS"
        " (SELECT 1 FROM turns AS t WHERE t.user_id = r.user_id AND t.id = r.response_id)"
    ),
    "notes without their turn": (
        "SELECT DISTINCT response_id FROM turn_notes AS n WHERE NOT EXISTS"
        " (SELECT 1 FROM turns AS t WHERE t.user_id = n.user_id AND t.id = n.response_id)"
    ),
    "events without turn or response": (
        "SELECT DISTINCT response_id FROM events AS e WHERE NOT EXISTS"
        " (SELECT 1 FROM turns AS t WHERE t.user_id = e.user_id AND t.id = e.response_id) AND NOT EXISTS"
        " (SELECT 1 FROM responses AS r WHERE r.user_id = e.user_id AND r.id = e.response_id)"
    ),
    "a turn that has ended": (
        "SELECT t.id FROM turns AS t JOIN responses AS r ON r.user_id = t.user_id AND r.id = t.id"
    ),
    "a place of an item whose response is gone": (
        "SELECT id FROM item_places AS p WHERE NOT EXISTS"
        " (SELECT 1 FROM responses AS r WHERE r.user_id = p.user_id AND r.id = p.response_id)"
    ),
    "an item without its conversation": (
        "SELECT id FROM conversation_items AS i WHERE NOT EXISTS"
        " (SELECT 1 FROM conversations AS c WHERE c.user_id = i.user_id AND c.id = i.conversation)"
    ),
    "an item behind the end of its conversation": (
        "SELECT i.id FROM conversation_items AS i JOIN conversations AS c"
        " ON c.user_id = i.user_id AND c.id = i.conversation WHERE i.position > c.last_position"
    ),
    "an owner without a lease, or a lease without an owner": (
        "SELECT id FROM turns WHERE (owner IS NULL) != (lease_until IS NULL)"
    ),
}

SAVE_POINTS = {
    "response": (
        "SELECT user_id, id, commit_id FROM responses UNION ALL SELECT user_id, id, start_commit FROM responses"
    ),
    "turn": "SELECT user_id, id, commit_id FROM turns UNION ALL SELECT user_id, id, start_commit FROM turns",
    "conversation": "SELECT user_id, id, head FROM conversations WHERE head IS NOT NULL",
    "session": "SELECT user_id, session_id, commit_id FROM heads",
    "compaction": "SELECT user_id, handle, commit_id FROM compactions WHERE commit_id IS NOT NULL",
    "question": "SELECT user_id, call_id, commit_id FROM calls",
}


def faults(path: Path) -> list[str]:
    """What does not hold of the store in a file, which a process may be serving."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        return [
            *_damage(connection),
            *_orphans(connection),
            *_states(connection),
            *_responses(connection),
            *_event_logs(connection),
        ]


def _damage(connection: sqlite3.Connection) -> Iterator[str]:
    for (said,) in connection.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"SQLite finds {said}"


def _orphans(connection: sqlite3.Connection) -> Iterator[str]:
    for what, query in ORPHANS.items():
        for (name,) in connection.execute(query):
            yield f"{what}: {name}"


def _states(connection: sqlite3.Connection) -> Iterator[str]:
    """Every commit is read through commits that are there, with blobs that are there and sound."""
    blobs: dict[str, dict[bytes, bytes]] = {}
    for user, hash_, body in connection.execute("SELECT user_id, hash, body FROM blobs"):
        blobs.setdefault(user, {})[hash_] = body
        if blob_hash(body) != hash_:
            yield f"a damaged blob: {hash_.hex()}"
    commits: dict[str, dict[str, Row]] = {}
    for user, name, *row in connection.execute("SELECT user_id, id, parent, complete, delta FROM commits"):
        commits.setdefault(user, {})[name] = tuple(row)
    roots = commits.get(SYSTEM, {})
    for user, own in commits.items():
        for name, (parent, complete, _) in own.items():
            if not complete and parent not in own and parent not in roots:
                yield f"a commit whose parent is gone: {name}"
        references = {
            hash_: body_references(body) for home in (SYSTEM, user) for hash_, body in blobs.get(home, {}).items()
        }
        deltas = (msgspec.msgpack.decode(delta, type=dict[str, bytes | None]) for _, _, delta in own.values())
        for hash_ in needed_blobs(deltas, references) - references.keys():
            yield f"a blob that commits of {user!r} need is gone: {hash_.hex()}"
    for kind, query in SAVE_POINTS.items():
        for user, name, commit in connection.execute(query):
            if commit not in commits.get(user, {}) and commit not in roots:
                yield f"the commit of {kind} {name} is gone: {commit}"


def _responses(connection: sqlite3.Connection) -> Iterator[str]:
    for name, status, input_, body in connection.execute("SELECT id, status, input, body FROM responses"):
        if status not in ENDED:
            yield f"a stored response that has not ended: {name} {status}"
        msgspec.json.decode(input_)
        items = msgspec.json.decode(body).get("output", [])
        if twice := [each for each, count in Counter(item["id"] for item in items).items() if count > 1]:
            yield f"response {name} has items twice: {twice}"


def _event_logs(connection: sqlite3.Connection) -> Iterator[str]:
    """Events stand one behind the other; the last of a response that has ended, and no other, is its end."""
    last = dict(connection.execute("SELECT id, last_sequence FROM turns"))
    ended = {name for (name,) in connection.execute("SELECT id FROM responses WHERE log_ended_at IS NOT NULL")}
    found = connection.execute(
        "SELECT response_id, first_sequence, last_sequence, bodies FROM events"
        " ORDER BY user_id, response_id, last_sequence"
    )
    logged = set()
    for name, rows in groupby(found, key=lambda row: row[0]):
        logged.add(name)
        events = []
        for _, first, until, bodies in rows:
            if first != len(events):
                yield f"events of {name} from {first} stand behind {len(events)} others"
            events += [msgspec.json.decode(body) for body in msgspec.msgpack.decode(bodies)]
            if len(events) != until + 1:
                yield f"events of {name} up to {until} are {len(events)}"
        if [event["sequence_number"] for event in events] != list(range(len(events))):
            yield f"events of {name} are not numbered one by one"
        ends = [number for number, event in enumerate(events) if event["type"] in TERMINAL]
        if ends != ([len(events) - 1] if name in ended else []):
            yield f"{name} has terminal events at {ends} of {len(events)}"
        if name in last and last[name] != len(events) - 1:
            yield f"turn {name} says {last[name]} is its last event; it is {len(events) - 1}"
        yield from (f"{fault} in {name}" for fault in story_faults(events))
    for name in ended - logged:
        yield f"a background response without its events: {name}"
    for name in last.keys() - logged:
        if last[name] != -1:
            yield f"turn {name} says {last[name]} is its last event; it has none"


def story_faults(events: list[dict[str, Any]]) -> Iterator[str]:
    """What is wrong with the items that a list of events tells of: each opens once and closes once, in order."""
    opened: dict[int, str] = {}
    closed: dict[int, dict[str, Any]] = {}
    for event in events:
        place, kind = event.get("output_index"), event["type"]
        if kind == "response.output_item.added":
            if place != len(opened) or len(closed) != len(opened):
                yield f"item {place} opens behind {len(opened)} others, of which {len(closed)} are done"
            opened[place] = event["item"]["id"]
        elif place is not None and (place in closed or place not in opened):
            yield f"{kind} of item {place}, which is not open"
        elif kind == "response.output_item.done":
            closed[place] = event["item"]
            if opened[place] != event["item"]["id"]:
                yield f"item {place} is done under another id"
            if event["item"].get("status") == "incomplete" and event["item"].get("content") != []:
                yield f"item {place} was taken back and has content"
    yield from _frame_faults(events, opened, closed)


def _frame_faults(
    events: list[dict[str, Any]], opened: dict[int, str], closed: dict[int, dict[str, Any]]
) -> Iterator[str]:
    """What is wrong with the beginning and the end of a list of events, given the items in it."""
    if len(set(opened.values())) != len(opened):
        yield "an id of an item is used twice"
    beginnings = Counter(event["type"] for event in events)
    if beginnings["response.created"] > 1 or beginnings["response.in_progress"] > 1:
        yield "the response begins twice"
    if events and events[-1]["type"] in TERMINAL:
        output = events[-1]["response"]["output"]
        if output != [closed.get(place) for place in range(len(opened))]:
            yield "the output is not that of its events"
