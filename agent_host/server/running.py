"""Running the workflow of one turn: from the starting commit to rest, each settled event told in the words of the wire.

A foreground turn commits once, at rest; a background turn commits every superstep together with what it settles of the
response.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from agent_host.crash_points import CrashPoint, reached
from agent_host.engine.checkpoint import Commit
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.ports import Boundary
from agent_host.engine.running.lane import Lane
from agent_host.engine.running.runner import Run, RunOptions
from agent_host.errors import WorkflowRunnerException
from agent_host.ids import key_of
from agent_host.server import bridge
from agent_host.server.bridge import SETTLED, Narrator
from agent_host.server.host import Host
from agent_host.server.questions import open_questions
from agent_host.server.starting_point import blob_reader
from agent_host.server.turn import Answer, Outcome, Turn

FAIR_SHARE = 0.01
"""Seconds for which supersteps that wait for nothing may keep everybody else waiting."""


async def materialise(host: Host, turn: Turn) -> Lane:
    """Clone the executors and give them the starting commit's state. The lane is forgotten after the turn."""
    view = turn.resumed_at or turn.start.view
    return await Lane.open(
        turn.facts.id, host.definition, view, blob_reader(host, turn.who.user, turn.start.continues.unstored)
    )


def _pace(loop: asyncio.AbstractEventLoop) -> Callable[[], Awaitable[None]]:
    """What lets others go on between supersteps that have taken their share of time."""
    began = loop.time()

    async def pace() -> None:
        nonlocal began
        if loop.time() - began >= FAIR_SHARE:
            await asyncio.sleep(0)
            began = loop.time()

    return pace


class _AtRest:
    """The publisher of a foreground turn: keeps the boundary at rest for the turn's one transaction."""

    def __init__(self) -> None:
        self.commits: tuple[Commit, ...] = ()

    async def publish(self, boundary: Boundary) -> None:
        self.commits = (*self.commits, *boundary.commits)

    async def record(self, entries: Mapping[str, bytes]) -> None:
        """Nothing: a foreground turn that does not end leaves nothing behind."""

    async def recorded(self) -> dict[str, bytes]:
        return {}


class _EachStep:
    """The publisher of a background turn: stores every boundary with what it settles of the response."""

    commits: tuple[Commit, ...] = ()

    def __init__(self, host: Host, turn: Turn, narrator: Narrator) -> None:
        assert turn.log is not None
        self._host = host
        self._log = turn.log
        self._narrator = narrator

    async def publish(self, boundary: Boundary) -> None:
        self._log.hold_back()
        for event in boundary.events:
            self._narrator.hear(event)
        if boundary.commits:
            await self._log.step(boundary.commits)
            reached(CrashPoint.STEPPED)

    async def record(self, entries: Mapping[str, bytes]) -> None:
        await self._log.record(entries)

    async def recorded(self) -> dict[str, bytes]:
        return await self._host.store.recorded(*self._log.key)


async def run(host: Host, turn: Turn, lane: Lane, answer: Answer) -> Outcome | None:
    """Run supersteps until the workflow is at rest. Raises what a handler raised; None if it was told to stop."""
    progress = bridge.progress_of(turn.request, host.settings.progress)
    narrator = Narrator(turn.transcript, answer.tell, progress=progress)
    publisher = _EachStep(host, turn, narrator) if turn.is_background else _AtRest()
    options = RunOptions(
        durability="step" if turn.is_background else "turn",
        streaming=answer.is_stream,
        turn=bridge.turn_of(turn.request, turn.facts, turn.who),
        stop=turn.stop,
        pace=_pace(asyncio.get_running_loop()),
        clock=host.sources.clock,
        new_commit_id=lambda: host.sources.ids.new("chk", key_of(turn.facts.id)),
        show_output=bridge.as_text,
        hears=bridge.heard(progress, is_background=turn.is_background, shows_events=turn.who.wants_workflow_events),
    )

    def hear(event: WorkflowEvent) -> None:
        if turn.who.wants_workflow_events:
            answer.show(event)
        if not (turn.is_background and event.type in SETTLED):
            narrator.hear(event)

    engine = Run(lane, publisher, hear, options)
    try:
        if turn.resumed_at is not None:
            await engine.resume()
        elif turn.start.answers:
            await engine.answer(turn.start.answers, *turn.start.inputs, given_at=turn.facts.created_at)
        else:
            await engine.start(*turn.start.inputs)
        await engine.to_rest()
    finally:
        turn.usage.update(engine.usage)
    if lane.queued:
        return None
    questions = tuple(open_questions(lane))
    if questions and not turn.request.store and turn.memory is None:
        raise WorkflowRunnerException(
            f"The workflow asks {questions[0].name!r}, but a response that is not stored cannot be answered. "
            'Send the request with "store": true.'
        )
    return Outcome("completed", lane.view, publisher.commits, questions)
