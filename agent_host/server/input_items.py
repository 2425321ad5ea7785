"""The endpoint of the items that a response was given."""

from typing import Any

import msgspec

from agent_host.ids import is_well_formed
from agent_host.server.exchange import Exchange
from agent_host.server.references import held_items
from agent_host.wire import problems
from agent_host.wire.paging import page_of
from agent_host.wire.query import page_query


async def list_input_items(exchange: Exchange) -> None:
    """GET /responses/{id}/input_items: the items of the response's own request, in pages."""
    response_id = exchange.path("response_id")
    exchange.about = response_id
    page = page_query(exchange.query.multi_items())
    if not is_well_formed(response_id):
        raise problems.response_not_found(response_id)
    store, user = exchange.host.store, exchange.who.user
    record = await store.read_response(user, response_id)
    if record is None:
        if await store.is_in_flight(user, response_id):
            raise problems.response_in_progress(response_id)
        raise problems.response_not_found(response_id)
    listed = page_of(msgspec.json.decode(record.input), page)
    await exchange.answer({**listed, "data": await _with_references(exchange, listed["data"])})


async def _with_references(exchange: Exchange, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items, with those in the place of references that these stand for, as long as they are stored."""
    wanted = [item["id"] for item in items if item["type"] == "item_reference"]
    if not wanted:
        return items
    found = held_items(await exchange.host.store.find_items(exchange.who.user, wanted))
    return [found.get(item["id"]) or item for item in items]
