"""The endpoint that compacts: a long conversation becomes a handle to what the store has of it.

Nothing is summarised and nothing is lost: the handle stands for all items and for the state of the workflow.
"""

import msgspec

from agent_host.ids import key_of
from agent_host.server.continuation import resolve
from agent_host.server.exchange import Exchange
from agent_host.server.history import history
from agent_host.server.references import Resolved, resolve_references
from agent_host.stores.records import Compaction
from agent_host.wire.compaction import compaction_item, compaction_object, parse_compact
from agent_host.wire.input import id_of, items_json, read_items
from agent_host.wire.response import usage_object

_HANDLE_BYTES = 16
_json = msgspec.json.Encoder().encode


async def compact_response(exchange: Exchange) -> None:
    """POST /responses/compact: keep what was said under a handle that later requests may bring."""
    host, user = exchange.host, exchange.who.user
    request = parse_compact(await exchange.body(), lenient=host.hosting.ignores_unknown_fields)
    ids, previous = host.sources.ids, request.previous_response_id
    key = key_of(previous) or ids.partition_key()
    commit: str | None = None
    earlier = Resolved(())
    if previous is not None:
        commit = (await resolve(host, user, previous)).commit
        said = read_items(await history(host.store, user, commit), "input")
        earlier = await resolve_references(host.store, user, said)
    resolved = await resolve_references(host.store, user, (*earlier.items, *request.items))
    items = items_json(resolved.items, lambda prefix: ids.new(prefix, key))
    heard = resolved.heard if commit is None else tuple(id for item in earlier.items if (id := id_of(item)) is not None)

    # With the key of what it stands for, so that a store keeps both in one place; the rest nobody can guess.
    handle, created_at = f"handle_{key}{ids.entropy(_HANDLE_BYTES).hex()}", int(host.sources.clock())
    kept = Compaction(handle, created_at, _json(items), commit or resolved.commit, heard)
    await host.store.keep_compaction(user, kept)
    asked = [item for item in items if item["type"] == "message" and item["role"] == "user"]
    output = [*asked, compaction_item(ids.new("cmp", key), handle)]
    answer = compaction_object(ids.new(host.hosting.response_prefix, key), created_at, output, usage_object())
    exchange.about = answer["id"]
    await exchange.answer(answer)
