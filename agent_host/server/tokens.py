"""The endpoint that counts tokens."""

from typing import Any

from agent_host.server.continuation import resolve
from agent_host.server.exchange import Exchange
from agent_host.server.history import conversation_history, history
from agent_host.server.references import resolve_references
from agent_host.wire.input import items_json, read_items
from agent_host.wire.tokens import TokenRequest, counted_text, estimated_tokens, parse_token_request, tokens_object


async def count_input_tokens(exchange: Exchange) -> None:
    """POST /responses/input_tokens: how much a request would give a model to read."""
    host = exchange.host
    request = parse_token_request(await exchange.body(), lenient=host.hosting.ignores_unknown_fields)
    earlier = read_items(await _earlier(exchange, request), "input")
    resolved = await resolve_references(host.store, exchange.who.user, (*earlier, *request.items))
    items = items_json(resolved.items, lambda prefix: prefix)
    count = (host.tokenizer or estimated_tokens)(counted_text(items, request.instructions, request.tools))
    await exchange.answer(tokens_object(count))


async def _earlier(exchange: Exchange, request: TokenRequest) -> list[dict[str, Any]]:
    """The stored items that the request continues."""
    host, user = exchange.host, exchange.who.user
    if request.conversation is not None:
        return await conversation_history(host.store, user, request.conversation)
    previous = request.previous_response_id
    if previous is None:
        return []
    return await history(host.store, user, (await resolve(host, user, previous)).commit)
