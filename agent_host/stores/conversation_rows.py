"""Conversations and their items as rows: functions of a connection.

Rule 1: a place in a conversation is given once; it is not given again when its item was deleted.
Rule 2: an item that was added outside of a turn waits until a turn that has read it ends.
"""

from collections.abc import Sequence

from agent_host.crash_points import CrashPoint, reached
from agent_host.errors import TurnConflictError, UnknownItemError
from agent_host.stores import response_rows
from agent_host.stores.database import Connection
from agent_host.stores.queries import QUERIES
from agent_host.stores.records import Conversation, ConversationMove, Item, Waiting


def create(connection: Connection, own: str, conversation: Conversation, items: Sequence[Item]) -> None:
    """Store a conversation whose first items wait; `TurnConflictError` if the user has one of that id."""
    row = (own, conversation.id, conversation.created_at, conversation.metadata, conversation.head)
    if connection.execute(QUERIES["insert_conversation"], row).rowcount != 1:
        raise TurnConflictError(f"Conversation {conversation.id} exists already. Nothing was stored; use a new id.")
    _add(connection, own, conversation.id, items)


def adopt(connection: Connection, own: str, conversation: Conversation, items: Sequence[Item] = ()) -> None:
    """See that there is a conversation that was made elsewhere; items that it has not yet wait for its next turn."""
    row = (own, conversation.id, conversation.created_at, conversation.metadata, conversation.head)
    connection.execute(QUERIES["insert_conversation"], row)
    new = [item for item in items if read_item(connection, own, conversation.id, item.id) is None]
    _add(connection, own, conversation.id, new)


def read(connection: Connection, own: str, conversation_id: str) -> Conversation | None:
    """A conversation; None if there is none."""
    row = connection.execute(QUERIES["select_conversation"], (own, conversation_id)).fetchone()
    return None if row is None else Conversation(*row)


def update(connection: Connection, own: str, conversation_id: str, metadata: bytes) -> Conversation | None:
    """Replace the metadata of a conversation; None if there is none."""
    connection.execute(QUERIES["update_conversation"], (metadata, own, conversation_id))
    return read(connection, own, conversation_id)


def delete(connection: Connection, own: str, conversation_id: str) -> bool:
    """Remove a conversation with its items, and questions that nobody else can answer; False if there is none."""
    conversation = read(connection, own, conversation_id)
    if conversation is None:
        return False
    connection.execute(QUERIES["delete_conversation"], (own, conversation_id))
    reached(CrashPoint.DELETING_CONVERSATION)
    connection.execute(QUERIES["delete_conversation_items"], (own, conversation_id))
    if conversation.head is not None:
        response_rows.forget_calls(connection, own, conversation.head)
    return True


def move(connection: Connection, own: str, to: str, move: ConversationMove) -> None:
    """Let a conversation stand at the commit of a turn; `TurnConflictError` if it cannot follow from where it is."""
    row = (to, own, move.conversation, move.expected_head or "")
    if connection.execute(QUERIES["move_conversation"], row).rowcount != 1:
        raise TurnConflictError(
            f"Conversation {move.conversation} was deleted, or does not stand at {move.expected_head or 'no commit'} "
            "any more. Nothing was stored; ask again."
        )
    connection.execute(QUERIES["take_waiting_items"], (False, own, move.conversation, move.position))
    for position, item in enumerate(move.items, start=_extend(connection, own, move.conversation, len(move.items))):
        # An item that the client has repeated keeps its place.
        _insert(connection, own, move.conversation, position, item, waiting=False)


def add(connection: Connection, own: str, conversation_id: str, items: Sequence[Item]) -> Conversation | None:
    """Let items wait in a conversation; None if there is none."""
    if read(connection, own, conversation_id) is None:
        return None
    _add(connection, own, conversation_id, items)
    reached(CrashPoint.ADDING_ITEMS)
    return read(connection, own, conversation_id)


def _add(connection: Connection, own: str, conversation_id: str, items: Sequence[Item]) -> None:
    for position, item in enumerate(items, start=_extend(connection, own, conversation_id, len(items))):
        if not _insert(connection, own, conversation_id, position, item, waiting=True):
            raise TurnConflictError(
                f"Conversation {conversation_id} has an item {item.id} already. Nothing was added; use a new id."
            )


def _extend(connection: Connection, own: str, conversation_id: str, by: int) -> int:
    """Take places behind those that are taken; returns the first of them."""
    connection.execute(QUERIES["extend_conversation"], (by, own, conversation_id))
    return _last_position(connection, own, conversation_id) - by + 1


def _last_position(connection: Connection, own: str, conversation_id: str) -> int:
    position: int = connection.execute(QUERIES["select_last_position"], (own, conversation_id)).fetchone()[0]
    return position


def _insert(
    connection: Connection, own: str, conversation_id: str, position: int, item: Item, *, waiting: bool
) -> bool:
    row = (own, conversation_id, position, item.id, waiting, item.body)
    return connection.execute(QUERIES["insert_conversation_item"], row).rowcount == 1


def list_items(
    connection: Connection, own: str, conversation_id: str, after: str | None, limit: int, newest_first: bool
) -> tuple[list[Item], bool] | None:
    """A page of items, and whether there are more; None if there is no such conversation."""
    if read(connection, own, conversation_id) is None:
        return None
    place = _last_position(connection, own, conversation_id) + 1 if newest_first else 0
    if after is not None:
        row = connection.execute(QUERIES["select_conversation_item"], (own, after, conversation_id)).fetchone()
        if row is None:
            raise UnknownItemError(f"Conversation {conversation_id} has no item {after}, so none stands behind it.")
        place = row[2]
    query = QUERIES["select_items_before"] if newest_first else QUERIES["select_items_after"]
    found = connection.execute(query, (own, conversation_id, place, limit + 1)).fetchall()
    return [Item(*row) for row in found[:limit]], len(found) > limit


def read_item(connection: Connection, own: str, conversation_id: str, item_id: str) -> Item | None:
    """An item of a conversation; None if there is none."""
    row = connection.execute(QUERIES["select_conversation_item"], (own, item_id, conversation_id)).fetchone()
    return None if row is None else Item(*row[:2])


def delete_item(connection: Connection, own: str, conversation_id: str, item_id: str) -> bool:
    """Remove an item of a conversation; False if there is none."""
    return connection.execute(QUERIES["delete_conversation_item"], (own, item_id, conversation_id)).rowcount == 1


def waiting(connection: Connection, own: str, conversation_id: str) -> Waiting:
    """The items that wait for the next turn, and the place of the last of them."""
    found = connection.execute(QUERIES["select_waiting_items"], (own, conversation_id)).fetchall()
    return Waiting(tuple(Item(*row[:2]) for row in found), found[-1][2] if found else 0)
