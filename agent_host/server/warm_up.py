"""A warm-up: a turn that runs nothing, whose input waits for the turn that continues it."""

from dataclasses import replace

from agent_host.foundry.identity import Identity
from agent_host.server.bridge import usage_of
from agent_host.server.connection_memory import LaneMemory, Unstored
from agent_host.server.host import Host
from agent_host.server.turn import Answer, Ended
from agent_host.server.turns import admit, in_session, read_request


async def warm_up(host: Host, body: bytes, who: Identity, answer: Answer, memory: LaneMemory) -> Ended:
    """Check a request as if it were to run, and keep its input. It is remembered by the connection, never stored.

    Raises a `Problem` before anything was told.
    """
    request = replace(read_request(host, body, memory), store=False)
    turn = await admit(host, request, in_session(host, who, request), None, memory=memory)
    before = turn.start.continues.unstored or Unstored(turn.start.view)
    memory.keep(turn.facts.id, replace(before, items=request.items, size=before.size + len(body)))
    transcript = turn.transcript
    answer.tell([*transcript.created(), *transcript.in_progress()])
    answer.tell(transcript.completed(usage_of({}), int(host.sources.clock())))
    return Ended(transcript.final_response())
