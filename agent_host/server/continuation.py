"""What a request continues, and what it brings there: everything that has to be looked up before a turn begins.

- A request that names a response or a conversation continues that one's commit. One that names neither begins at the
  initial state, with two exceptions: its first item is a compaction that has a commit, or its last exchange answers a
  question that is open somewhere; then it goes on there.
- What is continued holds already what it was told: items that a request repeats are not heard again.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from agent_host.engine.view import View
from agent_host.errors import TurnConflictError
from agent_host.server import questions
from agent_host.server.connection_memory import LaneMemory, Unstored
from agent_host.server.host import Host
from agent_host.server.questions import AnswerItem
from agent_host.server.references import Resolved, held_items, id_of, once, refuse_changed, resolve_references
from agent_host.stores.records import Conversation, ResumePoint, Waiting
from agent_host.wire import problems
from agent_host.wire.input import InputItem, InputMessage, OtherItem, read_item
from agent_host.wire.request import CreateRequest

UNFINISHED = frozenset({"queued", "in_progress"})


@dataclass(frozen=True, slots=True)
class Continuation:
    """A commit to continue from and what a request brings there, with nothing left to look up.

    `is_inline`: the request brings its own history, so what stands before its last answer is known already. `waiting`
    are the items that entered the conversation since its last turn. `unstored` is what a connection remembers of the
    response that is continued, if that is not stored.
    """

    view: View
    items: tuple[InputItem, ...]
    is_inline: bool = False
    conversation: Conversation | None = None
    waiting: Waiting = field(default_factory=Waiting)
    unstored: Unstored | None = None

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
        new = await _new(host, user, unstored.stored, await _resolved(host, user, request), unstored.heard)
        return Continuation(unstored.view, new, unstored=unstored)
    if previous is not None:
        point = await resolve(host, user, previous)
        view = await host.view(user, point.commit)
        if view is None:
            raise problems.previous_response_not_found(previous)
        return Continuation(view, await _new(host, user, point.commit, await _resolved(host, user, request)))
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
    return Resolved(once(items)) if _is_plain(items) else await resolve_references(host.store, user, items)


async def _in_conversation(host: Host, user: str, conversation_id: str, request: CreateRequest) -> Continuation:
    store, brought = host.store, await _resolved(host, user, request)
    conversation = await store.read_conversation(user, conversation_id)
    if conversation is None and not host.hosting.owns_conversations:
        conversation = await _taken_over(host, user, conversation_id)
    if conversation is None:
        raise problems.conversation_not_found(conversation_id)
    head = conversation.head or host.definition.root.id
    view = await host.view(user, head)
    if view is None:
        raise problems.conversation_not_found(conversation_id)
    waiting = await store.waiting_items(user, conversation_id)
    new = await _new(host, user, head, brought, tuple(item.id for item in waiting.items))
    return Continuation(view, new, conversation=conversation, waiting=waiting)


async def _taken_over(host: Host, user: str, conversation_id: str) -> Conversation | None:
    """A conversation that was made elsewhere, with nothing said in it yet."""
    with suppress(TurnConflictError):  # another turn was faster
        found = Conversation(conversation_id, int(host.sources.clock()), b"{}")
        await host.store.create_conversation(user, found, ())
    return await host.store.read_conversation(user, conversation_id)


async def _new(
    host: Host, user: str, commit_id: str, brought: Resolved, heard_since: Sequence[str] = ()
) -> tuple[InputItem, ...]:
    """The items that the state of a commit has not heard, or said, already; nor anybody since.

    Raises the `Problem` of one that says something else under the id of one of those.
    """
    items, ids = brought.items, {id for item in brought.items if (id := id_of(item)) is not None}
    if not ids:
        return items
    heard = set(heard_since)
    held = held_items(await host.store.find_items(user, ids))
    if not ids <= heard and (held or brought.was_compacted):
        heard.update(id for turn in await host.store.read_heard(user, commit_id, ids - heard) for id in turn.items)
    refuse_changed((item for item in items if id_of(item) in heard), held)
    return tuple(item for item in items if id_of(item) not in heard)


# --- What a request without ids continues --------------------------------------------------------------------------


async def _from_items(host: Host, user: str, resolved: Resolved) -> Continuation:
    """By what its items are, a request that names nothing may go on somewhere; else it begins at the initial state."""
    root = await host.view(user, host.definition.root.id)
    assert root is not None, "the root is always there"
    compacted = await host.view(user, resolved.commit) if resolved.commit is not None else None
    if compacted is not None:
        return Continuation(compacted, await _new(host, user, compacted.commit_id, resolved, resolved.heard))
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
