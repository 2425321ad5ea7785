"""The legal order of events, and what the events say."""

from collections.abc import Callable
from typing import Any

import pytest

from agent_host.wire.response import ResponseFacts, error_object, usage_object
from agent_host.wire.transcript import RESPONSE_MOVES, IllegalMove, Transcript

Check = Callable[[dict[str, Any]], None]
USAGE = usage_object(1, 2)
ERROR = error_object("server_error", "It broke.")

MOVES: dict[str, Callable[[Transcript], Any]] = {
    "created": lambda to: to.created(),
    "queued": lambda to: to.queued(),
    "in_progress": lambda to: to.in_progress(),
    "item": lambda to: to.message("hi", "commentary"),
    "completed": lambda to: to.completed(USAGE, 5),
    "incomplete": lambda to: to.incomplete("content_filter", USAGE, 5),
    "failed": lambda to: to.failed(ERROR, None, 5),
    "cancelled": lambda to: to.cancelled(USAGE, 5),
}
ITEM_CALLS: dict[str, Callable[[Transcript], Any]] = {
    "delta": lambda to: to.text_delta(0, "x"),
    "close": lambda to: to.close_message(0),
    "abandon": lambda to: to.abandon(0),
}
WAYS = {
    "new": [],
    "created": ["created"],
    "new in background": [],
    "created in background": ["created"],
    "queued": ["created", "queued"],
    "in_progress": ["created", "in_progress"],
    **{end: ["created", "in_progress", end] for end in ("completed", "incomplete", "failed", "cancelled")},
}
ITEM_WAYS: dict[str, list[str]] = {"text": [], "done": ["close"], "abandoned": ["abandon"]}


def shape(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def visible(transcript: Transcript) -> Any:
    return (transcript.status, transcript.output, transcript.open_items, list(transcript.journal))


def begun(transcript: Transcript) -> Transcript:
    transcript.created()
    transcript.in_progress()
    return transcript


def test_the_table_is_whole() -> None:
    """Every state that a move leads to has a row, and every row is tried below."""
    assert {after for row in RESPONSE_MOVES.values() for after in row.values()} <= set(RESPONSE_MOVES)
    assert set(WAYS) == set(RESPONSE_MOVES)
    assert {move for row in RESPONSE_MOVES.values() for move in row} == set(MOVES)


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", RESPONSE_MOVES)
def test_a_response_moves_as_its_table_says(new_id: Callable[[str], str], state: str, move: str) -> None:
    """From each state each move either is in the table and works, or raises and changes nothing."""
    background = "background" in state or state == "queued"
    transcript = Transcript(ResponseFacts("resp_1", 1, "m", background=background), new_id)
    for step in WAYS[state]:
        MOVES[step](transcript)
    before = visible(transcript)
    if move in RESPONSE_MOVES[state]:
        MOVES[move](transcript)
        assert visible(transcript) != before or move in ("created", "in_progress", "queued")
    else:
        with pytest.raises(IllegalMove):
            MOVES[move](transcript)
        assert visible(transcript) == before


@pytest.mark.parametrize("move", ITEM_CALLS)
@pytest.mark.parametrize("state", ["absent", *ITEM_WAYS])
def test_only_a_message_that_is_open_moves(transcript: Transcript, state: str, move: str) -> None:
    """A message takes text until it is closed or taken back; else every move raises and changes nothing."""
    begun(transcript)
    if state != "absent":
        transcript.open_message("commentary")
    for step in ITEM_WAYS.get(state, []):
        ITEM_CALLS[step](transcript)
    before = visible(transcript)
    if state == "text":
        ITEM_CALLS[move](transcript)
        assert visible(transcript) != before
    else:
        with pytest.raises(IllegalMove):
            ITEM_CALLS[move](transcript)
        assert visible(transcript) == before


def test_the_response_can_be_shown_at_any_time(new_id: Callable[[str], str], strict_response: Check) -> None:
    """Until its end a response is shown with its status and what is finished; then as its last event shows it."""
    transcript = Transcript(ResponseFacts("resp_1", 1, "m", background=True), new_id)
    assert transcript.response()["status"] == "queued"
    transcript.created()
    transcript.queued()
    transcript.in_progress()
    transcript.message("one", "commentary")
    transcript.open_message("final_answer")
    shown = transcript.response()
    strict_response(shown)
    assert (shown["status"], [item["content"][0]["text"] for item in shown["output"]]) == ("in_progress", ["one"])
    transcript.abandon_open()
    last = transcript.completed(USAGE, 5)[0]["response"]
    assert transcript.response() == last
    assert len(shown["output"]) == 1


def test_a_copy_goes_its_own_way(transcript: Transcript) -> None:
    """What is tried on a copy is not in the original, nor the other way round."""
    begun(transcript)
    transcript.open_message("final_answer")
    transcript.text_delta(0, "a")
    before = visible(transcript)
    copied = transcript.copy()
    copied.text_delta(0, "b")
    copied.close_message(0)
    ended = copied.completed(USAGE, 5)[0]
    assert visible(transcript) == before
    transcript.text_delta(0, "c")
    transcript.close_message(0)
    assert copied.output[0]["content"][0]["text"] == "ab"
    assert transcript.output[0]["content"][0]["text"] == "ac"
    assert transcript.completed(USAGE, 5)[0]["sequence_number"] == ended["sequence_number"]
    assert copied.final_response() == ended["response"]


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed", "cancelled"])
def test_a_response_does_not_end_with_an_item_open(transcript: Transcript, end: str) -> None:
    """Whoever ends a response closes or abandons its items first."""
    begun(transcript).open_message("final_answer")
    before = visible(transcript)
    with pytest.raises(IllegalMove):
        MOVES[end](transcript)
    assert visible(transcript) == before
    transcript.abandon_open()
    MOVES[end](transcript)


def test_no_negative_index_reaches_an_item(transcript: Transcript) -> None:
    """The last item is not item -1."""
    begun(transcript).open_message("final_answer")
    with pytest.raises(IllegalMove):
        transcript.text_delta(-1, "x")


def test_nothing_can_be_opened_before_work_begins(transcript: Transcript) -> None:
    """A message may not come before the response is in progress, and the attempt uses up no index."""
    transcript.created()
    with pytest.raises(IllegalMove):
        transcript.open_message("final_answer")
    transcript.in_progress()
    assert transcript.open_message("final_answer")[0] == 0


def test_a_message_is_told_in_the_order_clients_need(transcript: Transcript, strict_event: Check) -> None:
    """A turn with one message: each event in its place, numbered without a gap, and valid for strict clients."""
    told = transcript.created() + transcript.in_progress()
    told += transcript.message("hi", "final_answer") + transcript.completed(USAGE, 5)
    assert shape(told) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(9))
    for event in told:
        strict_event(event)
    assert told[2]["item"]["content"] == []
    assert (told[2]["item"]["status"], told[2]["item"]["phase"]) == ("in_progress", "final_answer")
    assert told[4]["logprobs"] == []
    assert told[7]["item"] == told[8]["response"]["output"][0]
    assert {event["item_id"] for event in told if "item_id" in event} == {told[2]["item"]["id"]}


def test_an_empty_message_has_no_delta(transcript: Transcript) -> None:
    """A message without text is opened and closed."""
    told = begun(transcript).message("", "commentary")
    assert "output_text.delta" not in shape(told)
    assert transcript.output[0]["content"][0]["text"] == ""


def test_a_function_call_is_told_with_its_arguments(transcript: Transcript, strict_event: Check) -> None:
    """A call is added without arguments, which follow in one piece, and keeps its ids."""
    told = begun(transcript).function_call("call_1", "ask", '{"q":1}')
    assert shape(told) == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    for event in told:
        strict_event(event)
    assert (told[0]["item"]["arguments"], told[3]["item"]["arguments"]) == ("", '{"q":1}')
    assert {event["item"]["call_id"] for event in (told[0], told[3])} == {"call_1"}
    assert [event["sequence_number"] for event in told] == [2, 3, 4, 5]
    assert transcript.open_items == []


def test_early_events_show_no_output(transcript: Transcript) -> None:
    """The first events keep their empty output when the response has long been finished."""
    told = transcript.created() + transcript.in_progress()
    transcript.message("hi", "final_answer")
    transcript.completed(USAGE, 5)
    assert [event["response"]["output"] for event in told] == [[], []]
    assert [event["response"]["status"] for event in told] == ["in_progress", "in_progress"]


def test_an_abandoned_message_stays_empty_and_keeps_its_place(transcript: Transcript, strict_event: Check) -> None:
    """A failed attempt is closed by one event, incomplete and empty; the next attempt has an index of its own."""
    begun(transcript)
    first, _ = transcript.open_message("final_answer")
    transcript.text_delta(first, "half an ans")
    told = transcript.abandon(first)
    assert shape(told) == ["output_item.done"]
    strict_event(told[0])
    item = told[0]["item"]
    assert (item["status"], item["content"], item["phase"]) == ("incomplete", [], "commentary")
    second, _ = transcript.open_message("final_answer")
    transcript.text_delta(second, "an answer")
    transcript.close_message(second)
    output = transcript.completed(USAGE, 5)[0]["response"]["output"]
    assert second == 1
    assert output[0] == item
    assert output[0]["id"] != output[1]["id"]


def test_messages_may_grow_side_by_side(transcript: Transcript) -> None:
    """Several messages are open at once, each with its own text; the output is in order of opening."""
    begun(transcript)
    one, _ = transcript.open_message("commentary")
    two, _ = transcript.open_message("final_answer")
    for index, text in ((one, "a"), (two, "b"), (one, "c"), (two, "d")):
        transcript.text_delta(index, text)
    transcript.close_message(two)
    assert transcript.open_items == [one]
    transcript.close_message(one)
    assert [item["content"][0]["text"] for item in transcript.output] == ["ac", "bd"]


def test_a_cancelled_response_ends_with_the_event_clients_know(transcript: Transcript, strict_event: Check) -> None:
    """A cancelled response keeps what is finished; its last event is `response.failed` without an error."""
    begun(transcript).message("done", "commentary")
    told = transcript.cancelled(USAGE, 5)
    strict_event(told[0])
    assert told[0]["type"] == "response.failed"
    assert (told[0]["response"]["status"], told[0]["response"]["error"]) == ("cancelled", None)
    assert len(told[0]["response"]["output"]) == 1


def test_the_reason_of_an_end_is_in_the_response(new_id: Callable[[str], str], strict_event: Check) -> None:
    """A failed response has its error, an incomplete one its reason, and neither has the other's."""
    failed = begun(Transcript(ResponseFacts("resp_1", 1, "m"), new_id)).failed(ERROR, None, 5)[0]
    incomplete = begun(Transcript(ResponseFacts("resp_2", 1, "m"), new_id)).incomplete("content_filter", USAGE, 5)[0]
    for event in (failed, incomplete):
        strict_event(event)
    assert (failed["response"]["error"], failed["response"]["incomplete_details"]) == (ERROR, None)
    assert incomplete["response"]["error"] is None
    assert incomplete["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_the_final_response_is_the_one_of_the_last_event(transcript: Transcript, strict_response: Check) -> None:
    """What is read later is what the stream ended with; before the end there is no final response."""
    begun(transcript)
    with pytest.raises(IllegalMove):
        transcript.final_response()
    transcript.message("hi", "final_answer")
    last = transcript.completed(USAGE, 5)[0]["response"]
    strict_response(last)
    assert transcript.final_response() == last
    transcript.final_response()["output"].clear()
    assert transcript.final_response() == last


def test_a_background_response_waits_in_a_queue(new_id: Callable[[str], str], strict_event: Check) -> None:
    """A background response is created queued, told to be queued, and then begins."""
    transcript = Transcript(ResponseFacts("resp_1", 1, "m", background=True), new_id)
    told = transcript.created() + transcript.queued()
    assert transcript.status == "queued"
    told += transcript.in_progress()
    for event in told:
        strict_event(event)
    assert [event["response"]["status"] for event in told] == ["queued", "queued", "in_progress"]


def test_half_a_character_does_not_break_a_stream(transcript: Transcript, strict_event: Check) -> None:
    """Text that cannot be sent as UTF-8 is made sendable, so that one bad string does not cost a turn."""
    told = begun(transcript).message("good \ud800 bad", "final_answer")
    assert transcript.output[0]["content"][0]["text"] == "good ? bad"
    assert told[2]["delta"] == "good ? bad"
    assert error_object("server_error", "\udcff")["message"] == "?"
