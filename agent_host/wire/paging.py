"""Lists that are given in pages."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent_host.wire import problems
from agent_host.wire.query import PageQuery


def list_object(items: Sequence[Mapping[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    """A page of items with ids. The pagers of clients go on behind `last_id` as long as there is more."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def page_of(items: Sequence[Mapping[str, Any]], query: PageQuery) -> dict[str, Any]:
    """One page of items that are given oldest first. Raises the `Problem` of an `after` that is not among them."""
    ordered = list(reversed(items)) if query.newest_first else list(items)
    if query.after is not None:
        place = next((index for index, item in enumerate(ordered) if item["id"] == query.after), None)
        if place is None:
            raise problems.cursor_not_found(query.after)
        ordered = ordered[place + 1 :]
    return list_object(ordered[: query.limit], has_more=len(ordered) > query.limit)
