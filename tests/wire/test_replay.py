"""Making the events of a finished response again; many ways of telling a response, tried by machine."""

import copy
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_host.wire.replay import replay
from agent_host.wire.response import ResponseFacts, error_object, usage_object
from agent_host.wire.transcript import IllegalMove, Transcript

TEXTS = st.text(max_size=12)
PHASES = st.sampled_from(["final_answer", "commentary"])


def without_abandoned_texts(told: list[dict[str, Any]], response: dict[str, Any]) -> list[dict[str, Any]]:
    """The events with the texts emptied that were taken back later."""
    gone = {item["id"] for item in response["output"] if item["status"] == "incomplete"}
    return [{**event, "delta": ""} if "delta" in event and event["item_id"] in gone else event for event in told]


class Telling(RuleBasedStateMachine):
    """Tells a response in any legal way, and checks at every step what may never happen."""

    @initialize(background=st.booleans(), echo=st.booleans())
    def begin(self, background: bool, echo: bool) -> None:
        numbers = itertools.count()
        facts = ResponseFacts(
            "resp_1",
            1,
            "m",
            background=background,
            metadata={"k": "v"},
            echo={"prompt": {"id": "p"}, "temperature": 0.5} if echo else {},
        )
        self.transcript = Transcript(facts, lambda prefix: f"{prefix}_{next(numbers)}")
        self.told: list[dict[str, Any]] = []
        self.as_told: list[dict[str, Any]] = []
        self.texts: dict[int, str] = {}
        self.opened = 0
        self.ended = False
        self.keep(self.transcript.created())
        if background:
            self.keep(self.transcript.queued())
        self.keep(self.transcript.in_progress())

    def keep(self, events: list[dict[str, Any]]) -> None:
        self.told += events
        self.as_told += copy.deepcopy(events)

    @precondition(lambda self: not self.ended)
    @rule(phase=PHASES)
    def open(self, phase: Any) -> None:
        index, events = self.transcript.open_message(phase)
        assert index == self.opened
        self.opened += 1
        self.texts[index] = ""
        self.keep(events)

    @precondition(lambda self: not self.ended and self.texts)
    @rule(data=st.data(), text=TEXTS)
    def grow(self, data: st.DataObject, text: str) -> None:
        index = data.draw(st.sampled_from(sorted(self.texts)))
        self.keep(self.transcript.text_delta(index, text))
        self.texts[index] += text.encode("utf-8", "replace").decode()

    @precondition(lambda self: not self.ended and self.texts)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.texts)))
        events = self.transcript.close_message(index)
        assert events[0]["text"] == self.texts.pop(index)
        self.keep(events)

    @precondition(lambda self: not self.ended and self.texts)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(sorted(self.texts)))
        del self.texts[index]
        self.keep(self.transcript.abandon(index))

    @precondition(lambda self: not self.ended)
    @rule(text=TEXTS, phase=PHASES)
    def whole_message(self, text: str, phase: Any) -> None:
        self.keep(self.transcript.message(text, phase))
        self.opened += 1

    @precondition(lambda self: not self.ended)
    @rule(arguments=TEXTS)
    def call(self, arguments: str) -> None:
        self.keep(self.transcript.function_call(f"call_{self.opened}", "ask", arguments))
        self.opened += 1

    @precondition(lambda self: not self.ended and self.texts)
    @rule()
    def end_too_early(self) -> None:
        with pytest.raises(IllegalMove):
            self.transcript.completed(usage_object(), 5)

    @rule(index=st.integers(-3, 20))
    def touch_what_is_not_open(self, index: int) -> None:
        if index in self.texts and not self.ended:
            return
        before = (self.transcript.output, list(self.transcript.journal))
        for move in (self.transcript.close_message, self.transcript.abandon):
            with pytest.raises(IllegalMove):
                move(index)
        with pytest.raises(IllegalMove):
            self.transcript.text_delta(index, "x")
        assert (self.transcript.output, list(self.transcript.journal)) == before

    @precondition(lambda self: not self.ended)
    @rule(how=st.sampled_from(["completed", "incomplete", "failed", "cancelled"]))
    def end(self, how: str) -> None:
        self.keep(self.transcript.abandon_open())
        self.texts.clear()
        usage = usage_object(1, 2)
        endings = {
            "completed": lambda: self.transcript.completed(usage, 5),
            "incomplete": lambda: self.transcript.incomplete("content_filter", usage, 5),
            "failed": lambda: self.transcript.failed(error_object("server_error", "why"), None, 5),
            "cancelled": lambda: self.transcript.cancelled(usage, None),
        }
        self.keep(endings[how]())
        self.ended = True
        self.replayed()

    def replayed(self) -> None:
        response = self.transcript.final_response()
        stored = msgspec.json.decode(msgspec.json.encode([response, self.transcript.journal]))
        again = replay(*stored)
        assert again == without_abandoned_texts(self.told, response)
        assert msgspec.json.encode(again) == msgspec.json.encode(without_abandoned_texts(self.told, response))

    @invariant()
    def what_was_told_stays_told(self) -> None:
        assert self.told == self.as_told
        assert [event["sequence_number"] for event in self.told] == list(range(len(self.told)))
        assert self.transcript.open_items == sorted(self.texts)


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def finished(transcript: Transcript, *texts: str) -> dict[str, Any]:
    transcript.created()
    transcript.in_progress()
    for text in texts:
        transcript.message(text, "final_answer")
    transcript.completed(usage_object(), 5)
    return transcript.final_response()


@pytest.mark.parametrize(
    "journal",
    [
        [],
        [[0, -1], [0, -2]],
        [[0, -1], [0, 3], [0, -2]],
        [[0, -4], [0, 5], [0, -2]],
        [[0, -1], [0, 5], [0, -3]],
        [[0, -1], [0, 5], [0, -2], [1, -1]],
        [[0, 5], [0, -1], [0, -2]],
        [[-1, -1]],
        [[0, -1], [0, -1]],
        [[0, -1], [0, 5], [0, -7], [0, -2]],
        [[0, -1], [0, 0], [0, 5], [0, -2]],
    ],
)
def test_a_journal_of_another_response_is_refused(transcript: Transcript, journal: list[list[int]]) -> None:
    """A journal that does not fit raises, rather than telling something that never happened."""
    response = finished(transcript, "hello")
    with pytest.raises(IllegalMove):
        replay(response, journal)


def test_an_unfinished_response_is_not_replayed(transcript: Transcript) -> None:
    """Only what has ended can be told again from its end."""
    response = transcript.created()[0]["response"]
    with pytest.raises(IllegalMove):
        replay(response, [])


def test_the_deltas_come_back_in_their_pieces(transcript: Transcript) -> None:
    """A replay cuts the text where it was cut at first."""
    transcript.created()
    transcript.in_progress()
    index, _ = transcript.open_message("final_answer")
    for piece in ("Hel", "lo, ", "world"):
        transcript.text_delta(index, piece)
    transcript.close_message(index)
    transcript.completed(usage_object(), 5)
    again = replay(transcript.final_response(), transcript.journal)
    assert [event["delta"] for event in again if "delta" in event] == ["Hel", "lo, ", "world"]
