"""The endpoints of `/responses`: take a turn, show a response, follow it, cancel it, delete it."""

import asyncio
from typing import Any

from agent_host.foundry.identity import Identity
from agent_host.ids import is_well_formed
from agent_host.server.exchange import Exchange, going_down
from agent_host.server.following import follow
from agent_host.server.host import Host
from agent_host.server.idempotency import HEADER as IDEMPOTENCY_KEY
from agent_host.server.idempotency import Repeated
from agent_host.server.stored import response_of
from agent_host.server.streams import Disconnect, JsonAnswer, StreamAnswer, send_frames
from agent_host.server.taking_up import end_elsewhere, read_transcript
from agent_host.server.turn import Answer
from agent_host.server.turns import take_turn
from agent_host.wire import problems
from agent_host.wire.query import retrieve_query
from agent_host.wire.request import CreateRequest

CANCEL_TRIES = 5
"""How often a turn is tried to be cancelled, if each time another process takes it meanwhile."""
LOOK_AGAIN = 0.05
"""Seconds, at least, between two looks for the end of a turn that another request has begun."""


async def create_response(exchange: Exchange) -> None:
    """POST /responses: take one turn."""
    body = await exchange.body()
    while not await _take(exchange, body):
        pass  # the turn that it would have repeated is gone without a response: this is the first one now


async def _take(exchange: Exchange, body: bytes) -> bool:
    """Take the turn of a request; False if it repeats one that has vanished meanwhile, and nothing was answered."""
    host = exchange.host
    requests: list[CreateRequest] = []
    streams: list[StreamAnswer] = []

    def open_answer(request: CreateRequest, who: Identity) -> Answer:
        requests.append(request)
        exchange.session_id = who.session_id
        if not request.stream or request.background:
            return JsonAnswer()
        streams.append(StreamAnswer(exchange.send, exchange.own_headers, host.settings.keep_alive))
        return streams[0]

    with Disconnect(exchange.receive):
        try:
            ended = await take_turn(
                host, body, exchange.who, open_answer, idempotency=exchange.headers.get(IDEMPOTENCY_KEY)
            )
            exchange.about = ended.about
        except Repeated as repeated:
            return await _answer_again(exchange, repeated, is_stream=requests[0].stream)
        finally:
            for stream in streams:
                await stream.end()
        if requests[0].background and requests[0].stream:
            await _follow(exchange, ended.response["id"], after=-1)
            return True
    if not streams:
        await exchange.answer(ended.response)
    return True


async def _answer_again(exchange: Exchange, repeated: Repeated, *, is_stream: bool) -> bool:
    """Give a request that was made before the response that it made, once that is there; False if it will not be."""
    host, user, response_id = exchange.host, exchange.who.user, repeated.response_id
    exchange.about = f"{response_id} again"
    while (found := await _response(host, user, response_id)) is None:
        if not await repeated.is_in_flight(host, user):
            return False
        await asyncio.sleep(max(LOOK_AGAIN, host.store.event_pause))
    if is_stream:
        await _follow(exchange, response_id, after=-1)
    else:
        await exchange.answer(found)
    return True


async def _follow(exchange: Exchange, response_id: str, *, after: int) -> None:
    frames = follow(exchange.host, exchange.who.user, response_id, after)
    await send_frames(exchange.send, exchange.own_headers, frames)


def _response_id(exchange: Exchange) -> str:
    """The id in the path. One that no response can have never reaches the store."""
    response_id = exchange.path("response_id")
    if not is_well_formed(response_id):
        raise problems.response_not_found(response_id)
    return response_id


async def retrieve_response(exchange: Exchange) -> None:
    """GET /responses/{id}: a response as it is now, or its events from any place on."""
    host, user, response_id = exchange.host, exchange.who.user, _response_id(exchange)
    asked = retrieve_query(exchange.query.multi_items())
    response = await _response(host, user, response_id)
    if response is None:
        raise problems.response_not_found(response_id)
    exchange.about = f"{response_id} {response['status']}"
    is_seen = exchange.scope["method"] != "HEAD"  # else no event is worth reading
    if not (asked.stream and is_seen):
        await exchange.answer(response)
        return
    with Disconnect(exchange.receive):
        await _follow(exchange, response_id, after=asked.starting_after)


async def _response(host: Host, user: str, response_id: str) -> dict[str, Any] | None:
    """A finished response, or a background one as far as it has come; None if there is none."""
    record = await host.store.read_response(user, response_id)
    if record is not None:
        return response_of(record)
    in_flight = await host.store.read_turn(user, response_id)
    if in_flight is None:
        # It may have ended between the two looks.
        record = await host.store.read_response(user, response_id)
        return response_of(record) if record is not None else None
    await host.settle_lapsed(user, response_id)
    return (await read_transcript(host, user, in_flight)).response()


async def _end(host: Host, user: str, response_id: str) -> None:
    """Cancel a turn in flight, where it is worked on or from here."""
    work = host.background.work_of((user, response_id))
    if work is not None:
        work.cancel()
        await asyncio.wait([work.task])
    else:
        await end_elsewhere(host, user, response_id)


async def cancel_response(exchange: Exchange) -> None:
    """POST /responses/{id}/cancel: end a background response. The answer is what became of it."""
    host, user, response_id = exchange.host, exchange.who.user, _response_id(exchange)
    record = None
    for _ in range(CANCEL_TRIES):
        is_in_flight = await host.store.is_in_flight(user, response_id)
        if is_in_flight:
            await _end(host, user, response_id)
        record = await host.store.read_response(user, response_id)
        if record is not None or not is_in_flight or host.runs.draining:
            break
    if record is None and is_in_flight:
        raise going_down() if host.runs.draining else problems.server_fault(exchange.who.request_id)
    if record is None:
        raise problems.response_not_found(response_id)
    if not record.background:
        raise problems.cannot_cancel_synchronous()
    exchange.about = f"{record.id} {record.status}"
    await exchange.answer(response_of(record))


async def delete_response(exchange: Exchange) -> None:
    """DELETE /responses/{id}: forget a response. What continued it, and what it brought into a conversation, stays."""
    host, user, response_id = exchange.host, exchange.who.user, _response_id(exchange)
    if not await host.store.delete_response(user, response_id):
        if await host.store.is_in_flight(user, response_id):
            raise problems.response_in_progress(response_id)
        raise problems.response_not_found(response_id)
    exchange.about = f"{response_id} deleted"
    await exchange.answer({"id": response_id, "object": "response", "deleted": True})


async def readiness(exchange: Exchange) -> None:
    """GET /readiness: whether this process takes requests."""
    if exchange.host.runs.draining:
        raise going_down()
    await exchange.answer({"status": "healthy"})
