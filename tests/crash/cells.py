"""One cell of the crash matrix: a turn of some kind whose process is killed at a crash point, and what must hold then.

A cell leaves a living host and a sound store behind, so the next one can be run on them.
"""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import openai

from agent_host.testing.crash_points import CrashPoint, Trap
from tests.crash.mortal_host import LOST, PATIENCE, MortalHost
from tests.crash.soundness import faults, story_faults

Work = Literal["work", "nested", "ask", "answer"]

SIBLINGS = ["left step", "left", "right step", "right"]
SUPERSTEPS: dict[Work, list[list[str]]] = {
    "work": [["begin"], SIBLINGS, ["join"], ["end"]],
    "nested": [["begin"], SIBLINGS, ["join"], [], ["inner"], ["outer"], ["end"]],
    "ask": [["begin"], SIBLINGS, ["join"]],
    "answer": [["learn work"], ["end"]],
}
"""The side effects of each superstep of a turn."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of turn: how it is asked for, and what the workflow does in it."""

    name: str
    work: Work = "work"
    background: bool = False
    stream: bool = False
    in_conversation: bool = False


KINDS = (
    Kind("plain"),
    Kind("stream", stream=True),
    Kind("background", background=True),
    Kind("background stream", background=True, stream=True),
    Kind("question", "ask", background=True),
    Kind("answer", "answer", background=True),
    Kind("plain answer", "answer"),
    Kind("conversation", in_conversation=True),
    Kind("background conversation", background=True, in_conversation=True),
    Kind("nested", "nested", background=True, stream=True),
)


@dataclass(slots=True)
class Attempt:
    """What a client has asked for, and what it has heard until the process died."""

    request: dict[str, Any]
    key: str
    name: str
    names: list[str]
    parent: str | None = None
    conversation: str | None = None
    heard: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    was_told_the_end: bool = False


@dataclass(slots=True)
class AtDeath:
    """What the store and the side effects were when the process died. `response` is the turn's, if it left a trace.

    `notes` and `attempt` count what is noted of the superstep that ran, and how often the turn was begun.
    """

    response: str | None
    is_stored: bool
    events: list[dict[str, Any]]
    effects: Counter[str]
    settled: list[str]
    notes: int
    attempt: int


_numbers = iter(range(10**9))


def run_cell(
    host: MortalHost, point: CrashPoint, kind: Kind, passage: int = 1, *, then: Trap | None = None, asked: bool = False
) -> bool:
    """Kill the process at a passage of a point in a turn of a kind; False if the turn does not come by.

    `then` sets a second trap for the process that takes the turn up. `asked` asks the process to end, as soon as the
    turn has begun. Raises `AssertionError` if anything was lost, repeated or left unsound.
    """
    attempt = prepare(host, kind)
    known = {name for (name,) in host.query("SELECT id FROM responses UNION SELECT id FROM turns")}
    host.set(Trap(point, passage))
    ask(host, attempt, asked=asked)
    if attempt.heard is not None and not attempt.was_told_the_end:
        watch_to_the_end(host, attempt.heard)
    if not host.has_died(within=PATIENCE if asked else 0.2):
        host.trap.unlink()
        if asked:
            host.start()
        return False
    dead = look(host, kind, attempt, known)
    if point is CrashPoint.NOTED:
        assert dead.notes >= passage, "what had finished of the superstep is not noted"
    if asked:
        assert dead.attempt <= (point is not CrashPoint.DRAINED), (
            "a turn that was left in order counts as one that died"
        )
    deaths = 1
    if then is not None:
        host.set(then)
        host.spawn()
        if not host.has_died(within=PATIENCE):
            host.trap.unlink()
            host.kill()
            host.start()
            return False
        deaths += 1
        later = look(host, kind, attempt, known)
        assert set(dead.settled) <= set(later.settled)
        assert later.events[: len(dead.events)] == dead.events
        dead = later
    host.start()
    check(host, kind, attempt, dead, deaths)
    return True


def prepare(host: MortalHost, kind: Kind) -> Attempt:
    """The turns that come before, and the request of the one that is to die."""
    number = next(_numbers)
    parent_name, name = f"parent{number}", f"turn{number}"
    conversation = host.client.conversations.create().id if kind.in_conversation else None
    place: dict[str, Any] = {"conversation": conversation} if conversation else {}
    before = "ask" if kind.work == "answer" else "work"
    parent = host.client.responses.create(input=f"{parent_name} {before}", **place)
    assert parent.status == "completed"
    request: dict[str, Any] = {"input": f"{name} {kind.work}", "background": kind.background, "stream": kind.stream}
    names = [parent_name, name]
    if kind.work == "answer":
        call = {"type": "function_call_output", "call_id": parent.output[-1].call_id, "output": "work"}
        request["input"], name, names = [call], parent_name, [parent_name]
    request |= place or {"previous_response_id": parent.id}
    return Attempt(request, f"key{number}", name, names, parent.id, conversation)


def ask(host: MortalHost, attempt: Attempt, *, asked: bool = False) -> None:
    """Make the request and take in what is answered, until the end or the death."""
    try:
        answer = host.client.responses.create(**attempt.request, extra_headers={"idempotency-key": attempt.key})
        if not attempt.request["stream"]:
            attempt.heard = answer.id
            attempt.was_told_the_end = answer.status == "completed"
            if asked:
                host.process.terminate()
            return
        for event in answer:
            if asked and not attempt.events:
                host.process.terminate()
            attempt.events.append(event.to_dict(mode="json"))
            attempt.heard = attempt.events[0]["response"]["id"]
        attempt.was_told_the_end = attempt.events[-1]["type"] == "response.completed"
    except LOST:
        pass


def watch_to_the_end(host: MortalHost, response_id: str) -> None:
    """Wait until the response or the process has ended."""
    end = time.monotonic() + 10
    while host.process.poll() is None and time.monotonic() < end:
        try:
            if host.client.responses.retrieve(response_id).status == "completed":
                return
            time.sleep(0.01)
        except (*LOST, openai.InternalServerError):  # it is down, or going down
            time.sleep(0.01)


def look(host: MortalHost, kind: Kind, attempt: Attempt, known: set[str]) -> AtDeath:
    """What the dead process has left."""
    in_flight = {name for (name,) in host.query("SELECT id FROM turns")} - known
    stored = {name for (name,) in host.query("SELECT id FROM responses")} - known
    assert len(in_flight | stored) <= 1, "one request, one turn"
    (response,) = in_flight | stored or {None}
    effects = Counter(host.effects(attempt.name))
    settled = [effect for effect, count in effects.items() if count and kind.work == "answer" and effect in SIBLINGS]
    steps = len(host.query("SELECT id FROM commits WHERE session_id = ? AND kind = 'step'", response))
    parts = SUPERSTEPS[kind.work]
    settled += [effect for part in (parts if stored else parts[:steps]) for effect in part]
    notes = host.query("SELECT name, body FROM turn_notes WHERE response_id = ?", response)
    for name, note in notes:
        # The note of a call names its executor, the note of a step what the step is called.
        done = [part for part in SIBLINGS if part.endswith("step") == ("/j/" in name) and part.encode() in note]
        settled += done[:1]
    begun = host.query("SELECT attempt FROM turns WHERE id = ?", response)
    events = host.events(response) if response else []
    return AtDeath(response, bool(stored), events, effects, settled, len(notes), sum(attempt for (attempt,) in begun))


def check(host: MortalHost, kind: Kind, attempt: Attempt, dead: AtDeath, deaths: int) -> None:
    """See that nothing was lost and nothing was done twice, and that the next turns work."""
    if attempt.was_told_the_end:
        assert dead.is_stored, "the client was told the end of a turn that is not stored"
    if kind.background and attempt.heard is not None:
        assert dead.response == attempt.heard, "an accepted background turn is gone"
    if not kind.background and not dead.is_stored:
        assert dead.response is None, "a foreground turn left something behind"
    # The client makes its request again: it is given the response that there is, or the turn is taken now.
    again = host.client.responses.create(**attempt.request, extra_headers={"idempotency-key": attempt.key})
    if attempt.request["stream"]:
        *_, again = (event.response for event in again if hasattr(event, "response"))
    assert dead.response in (None, again.id), "the request made again is another response"
    response = host.ended(again.id)
    assert response.status == "completed", response.error
    check_effects(host, kind, attempt, dead, deaths)
    if kind.background:
        check_story(host, attempt, dead, response, deaths)
    check_next_turns(host, kind, attempt, response)
    assert faults(host.store) == []


def check_effects(host: MortalHost, kind: Kind, attempt: Attempt, dead: AtDeath, deaths: int) -> None:
    """What was settled has not run again, and everything has run."""
    effects = Counter(host.effects(attempt.name))
    for effect in dead.settled:
        assert dead.effects[effect] == effects[effect] <= deaths, f"{effect!r} was settled and has run again"
    for effect in (effect for part in SUPERSTEPS[kind.work] for effect in part):
        assert 1 <= effects[effect] <= deaths + 1, f"{effect!r} has run {effects[effect]} times"


def check_story(host: MortalHost, attempt: Attempt, dead: AtDeath, response: Any, deaths: int) -> None:
    """The events go on behind those that were there, and end once."""
    story = host.events(response.id)
    assert story[: len(dead.events)] == dead.events
    if dead.response is not None:
        assert story[: len(attempt.events)] == attempt.events, "the client saw events that are not stored"
    assert list(story_faults(story)) == []
    assert story[-1]["response"] == response.to_dict(mode="json")
    place = len(dead.events) // 2
    told = host.client.responses.retrieve(response.id, stream=True, starting_after=place)
    assert [event.to_dict(mode="json") for event in told] == story[place + 1 :]
    items = [event["item"] for event in dead.events if event["type"] == "response.output_item.done"]
    assert [item.to_dict(mode="json") for item in response.output][: len(items)] == items, "an item has changed"
    taken_back = [item for item in response.output if getattr(item, "status", None) == "incomplete"]
    assert len(taken_back) <= deaths


def check_next_turns(host: MortalHost, kind: Kind, attempt: Attempt, response: Any) -> None:
    """The response, or its conversation, can be continued, and holds the turns that led there, each once."""
    if kind.work == "ask":
        call = {"type": "function_call_output", "call_id": response.output[-1].call_id, "output": "work"}
        response = host.client.responses.create(input=[call], previous_response_id=response.id)
    names = attempt.names
    assert last_text(response) == " ".join(names)
    if attempt.conversation is not None:
        names = [*names, f"after-{attempt.name}"]
        response = host.client.responses.create(input=f"{names[-1]} work", conversation=attempt.conversation)
        assert last_text(response) == " ".join(names)
        check_conversation(host, attempt.conversation, names)
    names = [*names, f"next-{attempt.name}"]
    after = host.client.responses.create(input=f"{names[-1]} work", previous_response_id=response.id)
    assert last_text(after) == " ".join(names)


def check_conversation(host: MortalHost, conversation: str, names: list[str]) -> None:
    """A conversation lists its turns in order, each whole."""
    items = host.client.conversations.items.list(conversation, order="asc", limit=100).data
    said = [item.content[0].text for item in items if item.role == "user"]
    assert said == [f"{name} work" for name in names]
    answers = [item.content[0].text for item in items if item.role == "assistant"]
    whole = [[*["to be or not", "joined"], " ".join(names[:count])] for count in range(1, len(names) + 1)]
    assert answers == [text for answer in whole for text in answer]


def last_text(response: Any) -> str:
    """The text of the last message of a response."""
    assert response.status == "completed", response.error
    text: str = [item for item in response.output if item.type == "message"][-1].content[0].text
    return text
