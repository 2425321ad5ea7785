"""The endpoint that compacts: a long conversation becomes a handle to what the store has of it.

Nothing is summarised and nothing is lost: the handle stands for all items and for the state of the workflow.
"""

import msgspec

from agent_host.ids import key_of
from agent_host.server.continuation import resolve
from agent_host.server.exchange import Exchange
from agent_host.server.history import response_history
from agent_host.server.references import resolve_references
from agent_host.stores.records import Compaction
from agent_host.wire import problems
from agent_host.wire.compaction import compaction_item, compaction_object, parse_compact
from agent_host.wire.input import items_json, read_items
from agent_host.wire.response import usage_object

_HANDLE_BYTES = 24
_json = msgspec.json.Encoder().encode


async def compact_response(exchange: Exchange) -> None:
    """POST /responses/compact: keep what was said under a handle that later requests may bring."""
    request = parse_compact(await exchange.body())
    host, user = exchange.host, exchange.who.user
    ids, previous = host.sources.ids, request.previous_response_id
    key = key_of(previous) or ids.partition_key()
    given, commit = request.items, None
    if previous is not None:
        commit = (await resolve(host, user, previous)).commit
        record = await host.store.read_response(user, previous)
        if record is None:
            raise problems.previous_response_not_found(previous)
        given = (*read_items(await response_history(host.store, user, record), "input"), *given)
    resolved = await resolve_references(host.store, user, given)
    items = items_json(resolved.items, lambda prefix: ids.new(prefix, key))

    handle, created_at = ids.entropy(_HANDLE_BYTES).hex(), int(host.sources.clock())
    await host.store.keep_compaction(user, Compaction(handle, created_at, _json(items), commit or resolved.commit))
    asked = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    output = [*asked, compaction_item(ids.new("cmp", key), handle)]
    answer = compaction_object(ids.new("resp", key), created_at, output, usage_object())
    exchange.about = answer["id"]
    await exchange.answer(answer)
