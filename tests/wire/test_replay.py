"""Telling events again, from a journal and from a log; many ways of telling a response, tried by machine."""

import copy
import itertools
from typing import Any

import httpx2
import msgspec
import openai
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent_host.wire import sse
from agent_host.wire.replay import replay, resume
from agent_host.wire.response import ResponseFacts, error_object, usage_object
from agent_host.wire.transcript import IllegalMove, Transcript
from tests.wire.told import CITATION, TOLD

TEXTS = st.text(max_size=12)
PHASES = st.sampled_from(["final_answer", "commentary"])
GONE = {"incomplete", "failed"}
SAID = ("delta", "text", "refusal", "arguments", "input", "code", "part", "annotation")


def silenced(told: list[dict[str, Any]], abandoned: set[str]) -> list[dict[str, Any]]:
    """The events without what was said in items that were taken back later."""
    return [
        {key: each for key, each in event.items() if key not in SAID} if event.get("item_id") in abandoned else event
        for event in told
    ]


def ended(transcript: Transcript) -> list[dict[str, Any]]:
    return [*transcript.abandon_open(), *transcript.completed(usage_object(), 5)]


def as_stored(*values: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(values))


class Telling(RuleBasedStateMachine):
    """Tells a response in any legal way, and checks at every step what may never happen."""

    @initialize(background=st.booleans(), echo=st.booleans())
    def begin(self, background: bool, echo: bool) -> None:
        numbers = itertools.count()
        self.facts = ResponseFacts(
            "resp_1",
            1,
            "m",
            background=background,
            metadata={"k": "v"},
            echo={"prompt": {"id": "p"}, "temperature": 0.5} if echo else {},
        )
        self.transcript = Transcript(self.facts, lambda prefix: f"{prefix}_{next(numbers)}")
        self.told: list[dict[str, Any]] = []
        self.as_told: list[dict[str, Any]] = []
        self.texts: dict[int, str] = {}  # of the items into which text may come
        self.thoughts: set[int] = set()  # reasonings without an open summary
        self.abandoned: set[str] = set()
        self.copies: list[tuple[int, Transcript]] = []
        self.opened = 0
        self.ended = False
        self.keep(self.transcript.created())
        if background:
            self.keep(self.transcript.queued())
        self.keep(self.transcript.in_progress())

    def keep(self, events: list[dict[str, Any]]) -> None:
        self.told += events
        self.as_told += copy.deepcopy(events)

    def one_of(self, data: st.DataObject, indices: Any) -> int:
        return data.draw(st.sampled_from(sorted(indices)))

    @precondition(lambda self: not self.ended)
    @rule(phase=PHASES, how=st.sampled_from(["open_message", "open_refusal", "open_function_call", "open_reasoning"]))
    def open(self, phase: Any, how: str) -> None:
        given = {"open_function_call": (f"call_{self.opened}", "ask"), "open_reasoning": ()}.get(how, (phase,))
        index, events = getattr(self.transcript, how)(*given)
        assert index == self.opened
        self.opened += 1
        if how == "open_reasoning":
            self.thoughts.add(index)
        else:
            self.texts[index] = ""
        self.keep(events)

    @precondition(lambda self: not self.ended and self.texts)
    @rule(data=st.data(), text=TEXTS)
    def grow(self, data: st.DataObject, text: str) -> None:
        index = self.one_of(data, self.texts)
        self.keep(self.transcript.text_delta(index, text))
        self.texts[index] += text.encode("utf-8", "replace").decode()

    @precondition(lambda self: not self.ended and self.thoughts)
    @rule(data=st.data())
    def open_summary(self, data: st.DataObject) -> None:
        index = self.one_of(data, self.thoughts)
        self.keep(self.transcript.open_summary(index))
        self.thoughts.remove(index)
        self.texts[index] = ""

    @precondition(lambda self: not self.ended and self.texts)
    @rule(data=st.data(), annotated=st.booleans())
    def close_text(self, data: st.DataObject, annotated: bool) -> None:
        index = self.one_of(data, self.texts)
        moves = self.transcript.moves(index)
        if "summary done" in moves:
            events = self.transcript.close_summary(index)
            self.thoughts.add(index)
        elif "text done" in moves:
            events = self.transcript.close_message(index, [CITATION] * annotated)
        else:
            events = self.transcript.close(index)
        assert self.texts.pop(index) in events[0].values()
        self.keep(events)

    @precondition(lambda self: not self.ended and self.thoughts)
    @rule(data=st.data(), sealed=st.booleans())
    def close_reasoning(self, data: st.DataObject, sealed: bool) -> None:
        index = self.one_of(data, self.thoughts)
        self.thoughts.remove(index)
        self.keep(self.transcript.close(index, **({"encrypted_content": "x"} if sealed else {})))

    @precondition(lambda self: not self.ended and (self.texts or self.thoughts))
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        index = self.one_of(data, [*self.texts, *self.thoughts])
        self.texts.pop(index, None)
        self.thoughts.discard(index)
        self.abandoned.add(self.transcript.draft(index)["id"])
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

    @precondition(lambda self: not self.ended)
    @rule(name=st.sampled_from(sorted(TOLD)))
    def whole(self, name: str) -> None:
        item = TOLD[name][0]
        if "call_id" in item:
            item = {**item, "call_id": f"call_{self.opened}"}  # clients tell calls apart by it
        self.keep(self.transcript.whole(item))
        self.opened += 1

    @precondition(lambda self: not self.ended and (self.texts or self.thoughts))
    @rule()
    def end_too_early(self) -> None:
        with pytest.raises(IllegalMove):
            self.transcript.completed(usage_object(), 5)

    @rule(index=st.integers(-3, 20))
    def touch_what_is_not_open(self, index: int) -> None:
        if (index in self.texts or index in self.thoughts) and not self.ended:
            return
        before = (self.transcript.output, list(self.transcript.journal))
        for move in (self.transcript.close, self.transcript.close_message, self.transcript.abandon):
            with pytest.raises(IllegalMove):
                move(index)
        for text in ("x", ""):
            with pytest.raises(IllegalMove):
                self.transcript.text_delta(index, text)
        assert (self.transcript.output, list(self.transcript.journal)) == before

    @rule()
    def copy_it(self) -> None:
        self.copies.append((len(self.told), self.transcript.copy()))

    @precondition(lambda self: not self.ended)
    @rule(how=st.sampled_from(["completed", "incomplete", "failed", "cancelled"]))
    def end(self, how: str) -> None:
        self.abandoned |= {self.transcript.draft(index)["id"] for index in self.transcript.open_items}
        self.keep(self.transcript.abandon_open())
        self.texts.clear()
        self.thoughts.clear()
        usage = usage_object(1, 2)
        endings = {
            "completed": lambda: self.transcript.completed(usage, 5),
            "incomplete": lambda: self.transcript.incomplete("content_filter", usage, 5),
            "failed": lambda: self.transcript.failed(error_object("server_error", "why"), None, 5),
            "cancelled": lambda: self.transcript.cancelled(usage, None),
        }
        self.keep(endings[how]())
        self.ended = True
        self.told_again(how)

    def told_again(self, how: str) -> None:
        response = self.transcript.final_response()
        done = [event["item"] for event in self.told if event["type"] == "response.output_item.done"]
        added = [event["item"]["id"] for event in self.told if event["type"] == "response.output_item.added"]
        assert sorted(item["id"] for item in done) == sorted(added)
        assert [item["id"] for item in response["output"]] == added
        assert all(item in done for item in response["output"])
        again = replay(*as_stored(response, self.transcript.journal))
        assert msgspec.json.encode(silenced(again, self.abandoned)) == msgspec.json.encode(
            silenced(self.told, self.abandoned)
        )
        assert not any(event["delta"] for event in again if "delta" in event and event["item_id"] in self.abandoned)
        self.cut_anywhere(response)
        for length, transcript in self.copies:
            resumed = resume(self.facts, self.told[:length], self.transcript._new_id)
            assert resumed.response() == transcript.response()
            if length < len(self.told):
                assert ended(resumed) == ended(transcript)
        if how == "completed":
            assert accumulated(self.told) == response

    def cut_anywhere(self, response: dict[str, Any]) -> None:
        """From every beginning of the log the response goes on, ends, and can be replayed."""
        for length in range(len(self.told) - 1):
            log = as_stored(*self.told[:length])
            resumed = resume(self.facts, log, lambda prefix: f"{prefix}_new")
            if length < 2 + self.facts.background:
                assert resumed.output == []
                continue
            gone = {resumed.draft(index)["id"] for index in resumed.open_items}
            going_on = resumed.message("On.") + ended(resumed)
            assert [event["sequence_number"] for event in log + going_on] == list(range(length + len(going_on)))
            again = replay(*as_stored(resumed.final_response(), resumed.journal))
            assert silenced(again, self.abandoned | gone) == silenced(log + going_on, self.abandoned | gone)
        assert resume(self.facts, as_stored(*self.told), lambda prefix: "").final_response() == response

    @invariant()
    def what_was_told_stays_told(self) -> None:
        assert self.told == self.as_told
        assert [event["sequence_number"] for event in self.told] == list(range(len(self.told)))
        assert self.transcript.open_items == sorted([*self.texts, *self.thoughts])


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def accumulated(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The response that the stream helper of openai-python puts together from the events."""
    stream = b"".join(map(sse.encode, told))

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=stream, headers={"content-type": sse.CONTENT_TYPE})

    with (
        httpx2.Client(transport=httpx2.MockTransport(answer)) as http,
        openai.OpenAI(base_url="http://host", api_key="none", http_client=http) as client,
        client.responses.stream(model="m", input="hi") as events,
    ):
        heard = [event.sequence_number for event in events]
        assert heard == list(range(len(told)))
        response: dict[str, Any] = events.get_final_response().to_dict(mode="json")
    for item in response["output"]:
        for parsed in [item, *(item.get("content") or [])]:
            parsed.pop("parsed", None)
            parsed.pop("parsed_arguments", None)
    return response


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


def logged(transcript: Transcript) -> list[dict[str, Any]]:
    told = transcript.created() + transcript.in_progress() + transcript.message("hello", "commentary")
    told += transcript.reasoning(["First."])
    index, opening = transcript.open_message("final_answer")
    return told + opening + transcript.text_delta(index, "Hel")


def test_a_transcript_goes_on_behind_its_log(transcript: Transcript, facts: ResponseFacts) -> None:
    """Rebuilt from a log a transcript has what was open and finished, and goes on as the first one would."""
    log = as_stored(*logged(transcript))
    resumed = resume(facts, log, lambda prefix: f"{prefix}_new")
    assert (resumed.status, resumed.open_items, resumed.output) == ("in_progress", [2], transcript.output)
    index = resumed.open_items[0]
    told = resumed.text_delta(index, "lo") + resumed.close_message(index) + resumed.message("Bye.", "commentary")
    assert told[0]["sequence_number"] == len(log)
    assert told[1]["text"] == "Hello"
    assert (told[4]["output_index"], told[4]["item"]["id"]) == (3, "msg_new")


TEARS: dict[str, Any] = {
    "a gap": lambda log: log[:4] + log[5:],
    "no beginning": lambda log: log[1:],
    "an event twice": lambda log: [*log[:5], *log[4:]],
    "another order": lambda log: [*log[:5], log[6], log[5], *log[7:]],
    "another text": lambda log: [*log[:4], {**log[4], "delta": "HELLO"}, *log[5:]],
    "a longer text": lambda log: [*log[:5], {**log[5], "text": "hello."}, *log[6:]],
    "another end of an item": lambda log: [*log[:7], {**log[7], "item": {**log[7]["item"], "content": []}}, *log[8:]],
    "another part": lambda log: [*log[:3], {**log[3], "part": {"type": "refusal", "refusal": ""}}, *log[4:]],
    "another id": lambda log: [*log[:4], {**log[4], "item_id": "msg_x"}, *log[5:]],
    "a field more": lambda log: [*log[:4], {**log[4], "obfuscation": "x"}, *log[5:]],
    "an unknown event": lambda log: [*log[:4], {**log[4], "type": "response.bogus"}],
    "no event": lambda log: [*log[:4], {}],
    "no item": lambda log: [*log[:2], {**log[2], "item": None}],
    "a finished item at once": lambda log: [*log[:2], {**log[7], "sequence_number": 2}],
    "no such item": lambda log: [*log[:4], {**log[4], "output_index": 7}],
}


@pytest.mark.parametrize("tear", TEARS)
def test_a_log_that_is_torn_is_refused(transcript: Transcript, facts: ResponseFacts, tear: str) -> None:
    """A log that no transcript has told raises, whatever is wrong with it."""
    log = logged(transcript)
    resume(facts, log, lambda prefix: "")
    with pytest.raises(IllegalMove):
        resume(facts, TEARS[tear](log), lambda prefix: "")


def test_a_log_of_another_response_is_refused(transcript: Transcript, facts: ResponseFacts) -> None:
    """The facts of a response are those that its log shows."""
    with pytest.raises(IllegalMove):
        resume(ResponseFacts(facts.id, facts.created_at, "another-model"), logged(transcript), lambda prefix: "")


def test_a_journal_is_small(transcript: Transcript) -> None:
    """A message takes two entries besides its deltas, an item that is told whole takes one."""
    transcript.created()
    transcript.in_progress()
    index, _ = transcript.open_message("final_answer")
    for _ in range(10):
        transcript.text_delta(index, "hi")
    transcript.close_message(index)
    assert len(transcript.journal) == 12
    for item, _ in TOLD.values():
        transcript.whole(item)
    assert len(transcript.journal) == 12 + len(TOLD)
