"""What a request continues, and what it brings there: everything that has to be looked up before a turn begins.

- A request that names a response or a conversation continues that one's commit. One that names neither begins at the
  initial state, with two exceptions: its first item is a compaction that has a commit, or its last exchange answers a
  question that is open somewhere; then it goes on there.
- What is continued holds already what it was told: items that a request repeats are not heard again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent_host.engine.view import View
from agent_host.server import questions
from agent_host.server.connection_memory import LaneMemory, Unstored
from agent_host.server.host import Host
from agent_host.server.questions import AnswerItem
from agent_host.server.references import Resolved, held_items, resolve_references
from agent_host.stores.records import Conversation, ResumePoint, Waiting
from agent_host.wire import problems
from agent_host.wire.input import InputItem, InputMessage, OtherItem, id_of, read_item, said, without_repeats
from agent_host.wire.request import CreateRequest

Json = dict[str, Any]

UNFINISHED = frozenset({"queued", "in_progress"})


@dataclass(frozen=True, slots=True)
class Continuation:
    """A commit to continue from and what a request brings there, with nothing left to look up.

    `is_inline`: the request brings its own history, so what stands before its last answer is known already. `waiting`
    are the items that entered the conversation since its last turn. `unstored` is what a connection remembers of the
    response that is continued, if that is not stored. `known_calls` are the ids of calls that the request has repeated.
    """

    view: View
    items: tuple[InputItem, ...]
    is_inline: bool = False
    conversation: Conversation | None = None
    waiting: Waiting = field(default_factory=Waiting)
    unstored: Unstored | None = None
    known_calls: tuple[str, ...] = ()

    @property
    def entered(self) -> tuple[InputItem, ...]:
        """The waiting items, as a request would bring them; what is wrong with one is said with its id."""
        return tuple(read_item(msgspec.json.decode(item.body), item.id) for item in self.waiting.items)


async def look_up(host: Host, user: str, request: CreateRequest, memory: LaneMemory | None = None) -> Continuation:
    """Find what a request continues: in its connection's memory, if it has one, and in the store.

    Raises the `Problem` of whatever the request names that is not there. What the workflow cannot take is said before,
    unless more may have entered the conversation than the request brings.
    """
    previous, named = request.previous_response_id, request.conversation
    if previous is not None and _is_plain(request.items):
        host.reader.read(request.items)
    unstored = memory.find(previous) if memory is not None else None
    if unstored is not None:
        heard_since = dict.fromkeys(unstored.heard)
        new = await _new(host, user, unstored.stored, await _resolved(host, user, request), heard_since)
        return Continuation(unstored.view, new.items, unstored=unstored, known_calls=new.known_calls)
    if previous is not None:
        point = await resolve(host, user, previous)
        view = await host.view(user, point.commit)
        if view is None:
            raise problems.previous_response_not_found(previous)
        new = await _new(host, user, point.commit, await _resolved(host, user, request), {})
        return Continuation(view, new.items, known_calls=new.known_calls)
    if named is not None:
        return await _in_conversation(host, user, named, request)
    return await _from_items(host, user, await _resolved(host, user, request))


async def is_current(host: Host, user: str, continuation: Continuation) -> bool:
    """Whether the conversation that was looked up still stands where it stood."""
    conversation = continuation.conversation
    if conversation is None:
        return True
    found = await host.store.read_conversation(user, conversation.id)
    return found is not None and found.head == conversation.head


async def resolve(host: Host, user: str, response_id: str) -> ResumePoint:
    """The finished response that a request continues, or the `Problem` that there is none."""
    point = await host.store.resolve(user, response_id)
    if point is None:
        raise problems.previous_response_not_found(response_id)
    if point.status in UNFINISHED:
        await host.settle_lapsed(user, response_id)
        raise problems.previous_response_not_ready(response_id)
    return point


def _is_plain(items: Sequence[InputItem]) -> bool:
    return all(isinstance(item, InputMessage) for item in items)


async def _resolved(host: Host, user: str, request: CreateRequest) -> Resolved:
    items = request.items
    return Resolved(without_repeats(items)) if _is_plain(items) else await resolve_references(host.store, user, items)


async def _in_conversation(host: Host, user: str, conversation_id: str, request: CreateRequest) -> Continuation:
    store, brought = host.store, await _resolved(host, user, request)
    conversation = await _conversation(host, user, conversation_id)
    if conversation is None:
        raise problems.conversation_not_found(conversation_id)
    head = conversation.head or host.definition.root.id
    view = await host.view(user, head)
    if view is None:
        raise problems.conversation_not_found(conversation_id)
    waiting = await store.waiting_items(user, conversation_id)
    new = await _new(host, user, head, brought, {item.id: msgspec.json.decode(item.body) for item in waiting.items})
    return Continuation(view, new.items, False, conversation, waiting, known_calls=new.known_calls)


async def _conversation(host: Host, user: str, conversation_id: str) -> Conversation | None:
    if host.hosting.owns_conversations:
        return await host.store.read_conversation(user, conversation_id)
    made_elsewhere = Conversation(conversation_id, int(host.sources.clock()), b"{}")
    return await host.store.adopt_conversation(user, made_elsewhere)


@dataclass(frozen=True, slots=True)
class _New:
    """The items of a request that what it continues has not heard, and the calls among those that it has."""

    items: tuple[InputItem, ...]
    known_calls: tuple[str, ...] = ()


async def _new(
    host: Host, user: str, commit_id: str, brought: Resolved, heard_since: Mapping[str, Json | None]
) -> _New:
    """What the state of a commit has not heard, or said, already, and is not among what was `heard_since`, by id.

    Raises the `Problem` of an item that says something else under the id of one that was heard.
    """
    items, ids = brought.items, {id for item in brought.items if (id := id_of(item)) is not None}
    if not ids:
        return _New(items)
    turns = await host.heard.at(user, commit_id)
    if ids.isdisjoint(turns) and ids.isdisjoint(heard_since):
        return _New(items)
    known = {**await _said_by(host, user, {turns[id] for id in ids & turns.keys()}), **heard_since}
    new: list[InputItem] = []
    calls: list[str] = []
    for item in items:
        id = id_of(item)
        if id is None or not (id in turns or id in heard_since):
            new.append(item)
            continue
        first = known.get(id)
        if first is not None and _differs(item, first):
            raise problems.duplicate_item(id)
        calls += [called] if (called := questions.called_by(item)) is not None else []
    return _New(tuple(new), tuple(calls))


async def _said_by(host: Host, user: str, response_ids: Collection[str]) -> dict[str, Json]:
    """The items of these responses by their ids, as far as they are stored."""
    records = [await host.store.read_response(user, response_id) for response_id in response_ids]
    return held_items({id: (each.input, each.body) for each in records if each is not None for id in each.items})


def _differs(item: InputItem, stored: Json) -> bool:
    return said(item) != said(read_item(stored, ""))


# --- What a request without ids continues --------------------------------------------------------------------------


async def _from_items(host: Host, user: str, resolved: Resolved) -> Continuation:
    """By what its items are, a request that names nothing may go on somewhere; else it begins at the initial state."""
    root = await host.view(user, host.definition.root.id)
    assert root is not None, "the root is always there"
    compacted = await host.view(user, resolved.commit) if resolved.commit is not None else None
    if compacted is not None:
        new = await _new(host, user, compacted.commit_id, resolved, dict.fromkeys(resolved.heard))
        return Continuation(compacted, new.items, known_calls=new.known_calls)
    call_id = _last_call(resolved.items)
    commit = await host.store.find_call(user, call_id) if call_id is not None else None
    view = await host.view(user, commit) if commit is not None else None
    return Continuation(view or root, resolved.items, is_inline=view is not None)


def _last_call(items: Sequence[InputItem]) -> str | None:
    """The call that an inline history has come to, answered or not, unless the assistant has said more since."""
    for item in reversed(items):
        if isinstance(item, AnswerItem):
            return questions.call_id_of(item)
        call_id = questions.called_by(item)
        if call_id is not None:
            return call_id
        if isinstance(item, OtherItem) and not item.type.endswith("_output"):
            return None
        if isinstance(item, InputMessage) and item.role == "assistant":
            return None
    return None
