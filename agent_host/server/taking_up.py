"""Taking a background turn from whoever had it: to go on with it after a crash, or to end it."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgspec

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.view import View
from agent_host.errors import StoreError
from agent_host.foundry.calls import on_behalf_of
from agent_host.ids import key_of
from agent_host.server.continuation import UNFINISHED
from agent_host.server.ending import finish
from agent_host.server.failures import abandoned
from agent_host.server.host import Host
from agent_host.server.starting_point import StartingPoint, starting_point
from agent_host.server.stored import StoredRequest, read_request
from agent_host.server.turn import Outcome, Turn
from agent_host.server.turns import LogAnswer, facts_of, work_in_background
from agent_host.stores.records import TurnInFlight
from agent_host.wire import problems
from agent_host.wire.problems import Problem
from agent_host.wire.replay import resume
from agent_host.wire.request import CreateRequest, parse_request
from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import IllegalMove, Transcript

log = logging.getLogger("agent_host")

ATTEMPTS = 3
"""How often a turn begins at one place, if each time its process dies or its end cannot be stored."""
_READ_AT_ONCE = 1000


async def take_up(host: Host, user: str, in_flight: TurnInFlight) -> None:
    """Go on with a turn that nobody works on, in this process, or end it as failed if that cannot be."""
    # Another user's request may have led here: what is done now is done for the one who asked for the turn.
    with on_behalf_of(_call_id(in_flight)):
        taken = await host.background.take((user, in_flight.id))
        if taken is not None:  # else somebody else was faster
            async with _in_order(host, user, taken):
                await _go_on(host, user, taken)


def _call_id(in_flight: TurnInFlight) -> str:
    try:
        return read_request(in_flight.request).call_id
    except msgspec.DecodeError:
        return ""  # it is given up in a moment


async def _go_on(host: Host, user: str, taken: TurnInFlight) -> None:
    try:
        turn = await _at_its_start(host, user, taken)
    except (Problem, IllegalMove, msgspec.DecodeError) as error:
        # What is stored of it cannot be read, by this version at least, so no response can be made of it.
        log.error("%s cannot be read back and is given up: %s", taken.id, error)
        await host.store.release(user, taken.id)
        return
    reason = _obstacle(host, taken)
    if reason is None:
        try:
            turn = await _where_it_stands(host, turn, taken)
        except Problem as problem:
            reason = problem.message
    if reason is not None:
        await _end(host, turn, Outcome("failed", turn.start.view, error=abandoned(reason)))
        return
    log.info("%s is taken up again, attempt %d", taken.id, taken.attempt + 1)
    assert turn.log is not None
    if turn.transcript.status == "queued" and taken.last_sequence < 0:
        turn.log.tell([*turn.transcript.created(), *turn.transcript.queued()])
    turn.log.tell(turn.transcript.abandon_open())
    reached(CrashPoint.TAKEN_UP)
    host.background.begin((user, taken.id), work_in_background(host, turn), turn.stop)


@asynccontextmanager
async def _in_order(host: Host, user: str, taken: TurnInFlight) -> AsyncIterator[None]:
    """Give a turn back that the store's own failure keeps from going on: no process has died of it."""
    try:
        yield
    except StoreError:
        await host.background.give_back((user, taken.id), has_begun=False)
        raise


async def end_elsewhere(host: Host, user: str, response_id: str) -> None:
    """Cancel a turn that another process works on, or nobody: from now on that one cannot write."""
    taken = await host.background.take((user, response_id), by_force=True)
    if taken is not None:
        async with _in_order(host, user, taken):
            turn = await _at_its_start(host, user, taken)
            if turn.transcript.status in UNFINISHED:  # else it was ended since it was taken
                await _end(host, turn, Outcome("cancelled", turn.start.view))


async def read_transcript(host: Host, user: str, in_flight: TurnInFlight) -> Transcript:
    """The response of a turn in flight as far as its event log tells it."""
    stored = read_request(in_flight.request)
    facts = facts_of(host, _as_accepted(stored), stored.who(user), in_flight.id, in_flight.created_at)
    return await _transcript(host, user, facts)


def _as_accepted(stored: StoredRequest) -> CreateRequest:
    """The request, which was read when it came: what was let in then is not refused now."""
    return parse_request(stored.body, lenient=True)


async def _transcript(host: Host, user: str, facts: ResponseFacts) -> Transcript:
    told: list[bytes] = []
    while True:
        more = await host.store.read_events(user, facts.id, len(told) - 1, _READ_AT_ONCE)
        told += more
        if len(more) < _READ_AT_ONCE:
            break
    partition = key_of(facts.id)
    return resume(facts, [msgspec.json.decode(event) for event in told], lambda p: host.sources.ids.new(p, partition))


async def _at_its_start(host: Host, user: str, taken: TurnInFlight) -> Turn:
    """The turn as far as it is needed to end it: who and what it is, and the name of the commit it started from."""
    stored = read_request(taken.request)
    request, who = _as_accepted(stored), stored.who(user)
    facts = facts_of(host, request, who, taken.id, taken.created_at)
    place = View(taken.start_commit, 0, 0, 0, {}, "")
    return Turn(
        request, who, facts, await _transcript(host, user, facts),
        StartingPoint(stored.continuation(place, request.conversation)), taken.key,
        log=host.events.open_turn(user, host.background.guard(taken)),
    )  # fmt: skip


async def _where_it_stands(host: Host, turn: Turn, taken: TurnInFlight) -> Turn:
    """The same turn with all it needs to go on: its state, its input and its answers.

    Raises a `Problem` if the workflow does not take these any more.
    """
    user = turn.who.user
    view = await host.view(user, taken.start_commit)
    if view is None:
        raise problems.previous_response_not_found(turn.request.previous_response_id or taken.start_commit)
    start = await starting_point(host, user, replace(turn.start.continues, view=view), taken.created_at)
    if taken.commit and taken.commit != taken.start_commit:
        return replace(turn, start=start, resumed_at=await host.view(user, taken.commit))
    return replace(turn, start=start)


def _obstacle(host: Host, taken: TurnInFlight) -> str | None:
    """Why a turn cannot go on here; None if it can."""
    if taken.attempt >= ATTEMPTS:
        return f"it was begun {ATTEMPTS} times and did not come to its end"
    stored = read_request(taken.request)
    if stored.workflow != host.workflow.name:
        return f"the workflow {stored.workflow!r} is no longer served here"
    return None


async def _end(host: Host, turn: Turn, outcome: Outcome) -> None:
    """End a turn that was taken, with the events that its response still needs."""
    transcript = turn.transcript
    assert turn.log is not None
    if turn.log.guard.last_sequence < 0:
        turn.log.tell([*transcript.created(), *transcript.queued()])
    if transcript.status == "queued":
        turn.log.tell(transcript.in_progress())
    await finish(host, turn, outcome, LogAnswer(turn))
