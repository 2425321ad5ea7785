"""Records as the contract suites store them: a finished response, and turns in flight."""

from dataclasses import replace
from typing import Any

from agent_host.engine.checkpoint import Commit
from agent_host.stores import Store
from agent_host.stores.records import Conversation, Guard, Item, ResponseRecord, TurnInFlight
from agent_host.testing.commit_log_contract import ROOT


def response(name: str, start: Commit, end: Commit) -> ResponseRecord:
    """The record of a turn from one commit to another."""
    return ResponseRecord(
        id=f"resp_{name}",
        previous_response_id=None,
        start_commit=start.id,
        commit=end.id,
        conversation=None,
        status="completed",
        created_at=100,
        completed_at=101,
        delta_lengths=b"\x01\x02",
        input=b"input",
        body=b"body",
    )


def foreground(name: str, **changes: Any) -> TurnInFlight:
    """A foreground turn that starts from the root."""
    return replace(TurnInFlight(id=f"resp_{name}", start_commit=ROOT.id, created_at=100), **changes)


def background(name: str, **changes: Any) -> TurnInFlight:
    """A background turn that starts from the root."""
    return foreground(name, **{"background": True, "request": b"request", **changes})


async def begun(store: Store, name: str, *, user: str = "", owner: str = "me", **changes: Any) -> Guard:
    """Admit a background turn, take it, with a lease from 0 to 10, and begin it; the guard of its first write."""
    await store.admit(user, background(name, **changes), [ROOT])
    assert await store.take(user, f"resp_{name}", owner, now=0, until=10) is not None
    guard = Guard(f"resp_{name}", owner)
    await store.begin(user, guard, [])
    return guard


def conversation(name: str) -> Conversation:
    """A conversation that has had no turn."""
    return Conversation(f"conv_{name}", 100, b"metadata")


def item(name: str) -> Item:
    """An item of a conversation."""
    return Item(f"msg_{name}", name.encode())
