"""What must hold in the tables of a store between two requests, read past the host."""

import json
import sqlite3
import time
from collections import Counter
from typing import Any

import msgspec

from agent_host.engine.checkpoint import body_references, cell_references

_TERMINAL = {"response.completed", "response.failed", "response.incomplete"}
_unpack = msgspec.msgpack.decode


def faults(connection: sqlite3.Connection) -> list[str]:
    """Everything in these tables that must not be."""
    return [*_commits(connection), *_logs(connection), *_turns(connection), *_conversations(connection)]


def events_of(connection: sqlite3.Connection) -> dict[str, list[dict[str, Any]]]:
    """The event log of every response that has one, as it lies there."""
    logs: dict[str, list[dict[str, Any]]] = {}
    rows = connection.execute(
        "SELECT response_id, first_sequence, last_sequence, bodies FROM events ORDER BY response_id, last_sequence"
    )
    for response_id, first, last, bodies in rows:
        events = [json.loads(event) for event in _unpack(bodies)]
        assert len(events) == last - first + 1, f"{response_id}: a batch of {len(events)} events from {first} to {last}"
        logs.setdefault(response_id, []).extend(events)
    return logs


def _commits(connection: sqlite3.Connection) -> list[str]:
    """Every commit that is named is there, with its ancestors and its blobs."""
    found = []
    commits = {
        row[0]: row[1:] for row in connection.execute("SELECT id, parent, complete, delta, user_id FROM commits")
    }
    bodies = dict(connection.execute("SELECT hash, body FROM blobs").fetchall())
    for id, (parent, complete, delta, _) in commits.items():
        if not complete and parent not in commits:
            found.append(f"the parent {parent} of commit {id} is missing")
        waiting = [blob for cell in _unpack(delta).values() if cell for blob in cell_references(cell)]
        while waiting:
            blob = waiting.pop()
            if blob not in bodies:
                found.append(f"commit {id} names a blob that is missing")
            else:
                waiting += body_references(bodies[blob])
    named = connection.execute(
        "SELECT 'response ' || id, commit_id FROM responses UNION ALL SELECT 'response ' || id, start_commit "
        "FROM responses UNION ALL SELECT 'turn ' || id, commit_id FROM turns UNION ALL SELECT 'turn ' || id, "
        "start_commit FROM turns UNION ALL SELECT 'conversation ' || id, head FROM conversations WHERE head IS NOT NULL"
    )
    return found + [f"commit {id} of {who} is missing" for who, id in named if id and id not in commits]


def _logs(connection: sqlite3.Connection) -> list[str]:
    """An event log is without a gap, of a response or a turn, and ends with the only terminal event it has."""
    found = []
    turns = dict(connection.execute("SELECT id, last_sequence FROM turns").fetchall())
    ended = dict(connection.execute("SELECT id, status FROM responses WHERE background").fetchall())
    for id, events in events_of(connection).items():
        numbers = [event["sequence_number"] for event in events]
        terminal = [event for event in events if event["type"] in _TERMINAL]
        if numbers != list(range(len(events))):
            found.append(f"the events of {id} are numbered {numbers}")
        if (id in turns) == (id in ended):
            found.append(f"the events of {id} belong to {'two' if id in turns else 'none'}")
        if id in turns and (terminal or len(events) != turns[id] + 1):
            found.append(f"turn {id} has {len(events)} events, up to {turns[id]}, terminal ones: {len(terminal)}")
        if id in ended and (len(terminal) != 1 or events[-1] is not terminal[0]):
            found.append(f"response {id} has {len(terminal)} terminal events")
        if id in ended and terminal and terminal[-1]["response"]["status"] != ended[id]:
            found.append(f"response {id} is {ended[id]}, its terminal event says otherwise")
    return found + [f"response {id} has no events" for id in ended.keys() - events_of(connection).keys()]


def _turns(connection: sqlite3.Connection) -> list[str]:
    """A turn in flight has an owner, its request, and its conversation for itself; no response has its id."""
    found = []
    turns = connection.execute("SELECT id, conversation, owner, status, lease_until FROM turns").fetchall()
    requests = {row[0] for row in connection.execute("SELECT response_id FROM turn_requests")}
    responses = {row[0]: row[1] for row in connection.execute("SELECT id, status FROM responses")}
    for id, _, owner, status, lease_until in turns:
        if owner is None or status != "in_progress" or lease_until <= time.time():
            found.append(f"turn {id} is {status} and has the owner {owner} until {lease_until}")
        if id not in requests:
            found.append(f"turn {id} has lost its request")
        if id in responses:
            found.append(f"response {id} has ended and is in flight")
    held = Counter(conversation for _, conversation, *_ in turns if conversation is not None)
    found += [f"conversation {id} has {count} turns in flight" for id, count in held.items() if count > 1]
    found += [f"a request without a turn: {id}" for id in requests - {turn[0] for turn in turns}]
    unfinished = {"queued", "in_progress"}
    return found + [f"response {id} is stored as {status}" for id, status in responses.items() if status in unfinished]


def _conversations(connection: sqlite3.Connection) -> list[str]:
    """A head is the commit of a completed turn of its conversation, unless that response was deleted."""
    found = []
    heads = connection.execute("SELECT id, head FROM conversations WHERE head IS NOT NULL").fetchall()
    for id, head in heads:
        session = connection.execute("SELECT session_id FROM commits WHERE id = ?", (head,)).fetchone()
        row = connection.execute(
            "SELECT conversation, status, commit_id FROM responses WHERE id = ?", session or ("",)
        ).fetchone()
        if row is not None and row != (id, "completed", head):
            found.append(f"conversation {id} stands at {head}, the commit of {session}, which is {row}")
    orphans = connection.execute(
        "SELECT id FROM conversation_items WHERE conversation NOT IN (SELECT id FROM conversations)"
    )
    return found + [f"item {id} belongs to no conversation" for (id,) in orphans]
