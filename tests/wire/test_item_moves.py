"""Items of every kind: their order, their finished and their abandoned forms, and what strict clients say to them."""

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from agent_host.wire.item_moves import BEGUN, ITEM_MOVES, MOVES, moves_to
from agent_host.wire.items import KINDS
from agent_host.wire.response import ResponseFacts, usage_object
from agent_host.wire.transcript import MOVE_ENTRIES, IllegalMove, Transcript
from tests.published import NOT_PUBLISHED_ITEMS, PUBLISHED_EVENTS
from tests.wire.told import CITED, MESSAGE, REFUSAL, TOLD

Check = Callable[[dict[str, Any]], None]


def types(told: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in told]


def visible(transcript: Transcript) -> Any:
    return copy.deepcopy((transcript.response(), transcript.open_items, transcript.journal))


@pytest.fixture
def begun(transcript: Transcript) -> Transcript:
    transcript.created()
    transcript.in_progress()
    return transcript


@pytest.mark.parametrize("kind", ITEM_MOVES)
def test_the_table_of_a_kind_is_whole(kind: str) -> None:
    """Every state can be reached and has a row, every row leads to the end, and every move has an event."""
    moves = ITEM_MOVES[kind]
    assert {after for row in moves.values() for after in row.values()} == set(moves) - {"added"} | (
        {"added"} if kind in ("reasoning", "function_call", "custom_tool_call") else set()
    )
    assert {move for row in moves.values() for move in row} <= set(MOVES)
    for state in moves:
        seen = [state]
        while moves[seen[-1]]:
            seen.append(moves[seen[-1]][next(iter(moves[seen[-1]]))])
            assert len(seen) <= len(moves)
        assert seen[-1] in ("done", "abandoned")
    assert all("abandon" in row for state, row in moves.items() if state not in ("done", "abandoned"))


def test_every_kind_is_tried() -> None:
    """Each kind of the table has a finished item below, a prefix for its ids, and a form in which it begins."""
    assert {item["type"] for item, _ in TOLD.values()} == set(ITEM_MOVES) == set(BEGUN)
    assert set(ITEM_MOVES) <= set(KINDS)


def test_no_kind_is_called_unpublished_that_is_published() -> None:
    """A kind is spared the published types only if they do not have it."""
    added = PUBLISHED_EVENTS["response.output_item.added"].model_json_schema()
    published = {
        value
        for each in added["$defs"].values()
        if isinstance(each.get("properties"), dict)
        for value in [each["properties"].get("type", {}).get("const")]
        if value
    }
    assert {"message", "function_call", "reasoning"} <= published
    assert not published & set(NOT_PUBLISHED_ITEMS)


def test_entries_of_the_journal_stay_what_they_were() -> None:
    """Journals are stored, so the numbers of the moves in them do not change."""
    assert (MOVE_ENTRIES["text part"], MOVE_ENTRIES["refusal part"], MOVE_ENTRIES["summary part"]) == (-8, -13, -17)
    assert (MOVE_ENTRIES["in progress"], MOVE_ENTRIES["failed"]) == (-31, -36)


@pytest.mark.parametrize("name", TOLD)
def test_an_item_is_told_in_the_order_of_its_kind(begun: Transcript, strict_event: Check, name: str) -> None:
    """Added, its own events, done: numbered, with one index and one id, and each valid for strict clients."""
    item, between = TOLD[name]
    told = begun.whole(item)
    assert types(told) == ["output_item.added", *between, "output_item.done"]
    assert [event["sequence_number"] for event in told] == list(range(2, 2 + len(told)))
    assert {event["output_index"] for event in told} == {0}
    id = told[0]["item"]["id"]
    assert id.startswith(f"{KINDS[item['type']].prefix}_")
    assert {event.get("item_id", id) for event in told} == {told[-1]["item"]["id"]} == {id}
    assert told[-1]["item"].items() >= {key: each for key, each in item.items() if each is not None and each}.items()
    assert told[0]["item"].get("status", "in_progress") == "in_progress"
    for event in told + begun.completed(usage_object(), 5):
        strict_event(event)
    assert begun.final_response()["output"] == [told[-1]["item"]]


@pytest.mark.parametrize("name", TOLD)
def test_an_item_can_be_abandoned_wherever_it_is_open(
    facts: ResponseFacts, new_id: Callable[[str], str], strict_event: Check, name: str
) -> None:
    """After any of its events an item can be taken back: one event, no content, and valid for strict clients."""
    item, _ = TOLD[name]
    item = started(facts, new_id).whole(item)[-1]["item"]
    way = [(move, added) for move, added in moves_to(item) if move != "done"]
    for length in range(len(way) + 1):
        transcript = started(facts, new_id)
        added = transcript.add(started(facts, new_id).whole(item)[0]["item"])
        for move, value in way[:length]:
            if MOVES[move].says == "delta":
                transcript.delta(0, value, len(value))
            else:
                transcript.move(0, move, value)
        assert transcript.open_items == [0]
        told = transcript.abandon(0)
        assert types(told) == ["output_item.done"]
        strict_event(told[0])
        gone = told[0]["item"]
        assert gone.get("status", "incomplete") in ("incomplete", "failed")
        assert {k: v for k, v in gone.items() if k not in ("status", "phase")} == {
            k: v for k, v in added["item"].items() if k not in ("status", "phase")
        }
        strict_event(transcript.completed(usage_object(), 5)[0])


def started(facts: ResponseFacts, new_id: Callable[[str], str]) -> Transcript:
    transcript = Transcript(facts, new_id)
    transcript.created()
    transcript.in_progress()
    return transcript


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"type": "bogus"},
        {"type": "item_reference", "id": "msg_1"},
        {"type": "message", "role": "assistant"},
        {**MESSAGE, "content": []},
        {**MESSAGE, "content": "text"},
        {**MESSAGE, "content": [{"type": "input_text", "text": "hi"}]},
        {**MESSAGE, "content": [*MESSAGE["content"], *REFUSAL["content"]]},
        {**MESSAGE, "content": [{"type": "output_text", "text": "hi", "logprobs": [1]}]},
        {**REFUSAL, "content": [{"type": "refusal"}]},
        {"type": "function_call", "call_id": "c", "name": "n"},
        {"type": "function_call", "call_id": "c", "name": "n", "arguments": 5},
        {"type": "reasoning", "summary": 5},
        {"type": "code_interpreter_call", "container_id": "c", "code": None},
    ],
)
def test_what_is_no_finished_item_changes_nothing(
    begun: Transcript, new_id: Callable[[str], str], item: dict[str, Any]
) -> None:
    """An item that its events could not tell raises, and uses up no id, no index and no number."""
    before = visible(begun)
    with pytest.raises(IllegalMove):
        begun.whole(item)
    assert visible(begun) == before
    told = begun.whole(MESSAGE)
    assert (told[0]["sequence_number"], told[0]["output_index"], told[0]["item"]["id"]) == (2, 0, "msg_0")


def test_an_item_keeps_the_id_that_it_has_and_no_other_gets_it(begun: Transcript) -> None:
    """Whoever needs to know an id beforehand gives it with the item, once."""
    assert begun.whole({**MESSAGE, "id": "msg_own"})[0]["item"]["id"] == "msg_own"
    before = visible(begun)
    with pytest.raises(IllegalMove):
        begun.whole({**REFUSAL, "id": "msg_own"})
    assert visible(begun) == before


def test_nulls_that_clients_refuse_are_left_out(begun: Transcript) -> None:
    """An item as a model's API gave it is told without the nulls for which a key must be absent."""
    item = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": None,
        "encrypted_content": None,
        "status": None,
    }
    told = begun.whole(item)
    assert told[-1]["item"] == {"id": "rs_1", "type": "reasoning", "summary": [], "status": "completed"}


def test_halves_of_characters_do_not_reach_a_client(begun: Transcript) -> None:
    """Text that cannot be sent as UTF-8 is made sendable wherever it stands in an item."""
    error = {"type": "mcp_tool_execution_error", "content": ["\ud800"]}
    for event in begun.mcp_call("t\ud800", "s", "\udfff", error=error):
        msgspec.json.encode(event)
    assert begun.output[0]["error"]["content"] == ["?"]


def test_a_refusal_is_told_in_pieces(begun: Transcript, strict_event: Check) -> None:
    """A refusal grows like a text."""
    index, told = begun.open_refusal("commentary")
    told += begun.text_delta(index, "I ") + begun.text_delta(index, "") + begun.text_delta(index, "cannot.")
    told += begun.close(index)
    for event in told:
        strict_event(event)
    assert [event["delta"] for event in told if "delta" in event] == ["I ", "cannot."]
    assert begun.output[0]["content"] == [{"type": "refusal", "refusal": "I cannot."}]
    assert begun.output[0]["phase"] == "commentary"


def test_arguments_are_told_in_pieces(begun: Transcript, strict_event: Check) -> None:
    """A function call that grows ends like one that is told whole."""
    index, told = begun.open_function_call("call_1", "ask")
    told += begun.text_delta(index, '{"q"') + begun.text_delta(index, ":1}") + begun.close(index)
    for event in told:
        strict_event(event)
    whole = begun.function_call("call_1", "ask", '{"q":1}')
    assert begun.output[0] == {**begun.output[1], "id": begun.output[0]["id"]}
    assert told[-2] == {**whole[-2], "sequence_number": 5, "output_index": 0, "item_id": told[0]["item"]["id"]}


def test_summaries_are_told_in_pieces(begun: Transcript, strict_event: Check) -> None:
    """Summaries follow each other with their own index; what is sealed comes with the end."""
    index, told = begun.open_reasoning()
    for pieces in (["Fir", "st."], ["Then."]):
        told += begun.open_summary(index)
        for piece in pieces:
            told += begun.text_delta(index, piece)
        told += begun.close_summary(index)
    told += begun.close(index, encrypted_content="sealed")
    for event in told:
        strict_event(event)
    assert [event["summary_index"] for event in told if "summary_index" in event] == [0] * 5 + [1] * 4
    again = begun.reasoning(["First.", "Then."], "sealed")
    assert begun.output[0] == {**begun.output[1], "id": begun.output[0]["id"]}
    assert "encrypted_content" not in told[0]["item"] | again[0]["item"]


def test_a_summary_that_is_open_is_closed_with_its_item(begun: Transcript) -> None:
    """Closing an item tells all that is left of it."""
    index, _ = begun.open_reasoning()
    begun.open_summary(index)
    begun.text_delta(index, "Hm.")
    assert types(begun.close(index)) == [
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    assert begun.output[0]["summary"] == [{"type": "summary_text", "text": "Hm."}]


def test_annotations_come_behind_the_text(begun: Transcript) -> None:
    """A message that grew has its annotations at its end, as one that is told whole."""
    index, _ = begun.open_message("commentary")
    begun.text_delta(index, "Hello.")
    told = begun.close_message(index, CITED["content"][0]["annotations"])
    assert types(told) == [
        "output_text.done",
        *["output_text.annotation.added"] * 2,
        "content_part.done",
        "output_item.done",
    ]
    assert [event["annotation_index"] for event in told if "annotation" in event] == [0, 1]
    assert begun.output[0]["content"] == CITED["content"]


ILLEGAL: dict[str, Callable[[Transcript, int], Any]] = {
    "open_summary": lambda to, at: to.open_summary(at),
    "close_summary": lambda to, at: to.close_summary(at),
    "text_delta": lambda to, at: to.text_delta(at, "x"),
    "empty text_delta": lambda to, at: to.text_delta(at, ""),
    "delta": lambda to, at: to.delta(at, "x", 1),
    "unknown field": lambda to, at: to.close(at, bogus=1),
    "field that is told in pieces": lambda to, at: to.close(at, summary=[], arguments="", content=[]),
    "annotations": lambda to, at: to.close_message(at, [{}]),
    "move": lambda to, at: to.move(at, "searching"),
    "done": lambda to, at: to.move(at, "done"),
    "abandon": lambda to, at: to.move(at, "abandon"),
    "delta as move": lambda to, at: to.move(at, "text delta", "x"),
}


@pytest.mark.parametrize("move", ILLEGAL)
@pytest.mark.parametrize("kind", sorted(ITEM_MOVES))
def test_a_move_of_another_kind_changes_nothing(begun: Transcript, kind: str, move: str) -> None:
    """What an item of this kind cannot do, where it stands, raises and changes nothing."""
    item = next(item for item, _ in TOLD.values() if item["type"] == kind)
    begun.add(begun.copy().whole(item)[0]["item"])
    if kind == "reasoning" and move == "open_summary":
        begun.open_summary(0)
    if kind in ("function_call", "custom_tool_call"):
        begun.text_delta(0, "x")
        begun.move(0, next(iter(begun.moves(0))))
    before, draft = visible(begun), begun.draft(0)
    with pytest.raises(IllegalMove):
        ILLEGAL[move](begun, 0)
    assert (visible(begun), begun.draft(0)) == (before, draft)
    assert begun.abandon(0)[0]["sequence_number"] == 3 + 2 * (kind in ("function_call", "custom_tool_call")) + (
        kind == "reasoning" and move == "open_summary"
    )


@pytest.mark.parametrize(
    "item",
    [
        {**MESSAGE, "id": "msg_1"},
        {"type": "bogus", "id": "x_1"},
        {**MESSAGE, "id": "rs_1", "status": "in_progress", "content": []},
    ],
)
def test_only_an_item_that_begins_is_added(begun: Transcript, item: dict[str, Any]) -> None:
    """An item that is finished, unknown or has an id that is taken cannot be added."""
    begun.whole({"type": "reasoning", "id": "rs_1", "summary": []})
    before = visible(begun)
    with pytest.raises(IllegalMove):
        begun.add(item)
    assert visible(begun) == before


@pytest.mark.parametrize("how", ["open_reasoning", "open_refusal", "approval_request", "add"])
def test_no_item_of_any_kind_comes_before_work_begins(transcript: Transcript, how: str) -> None:
    """An item that comes too early raises, and uses up no id and no index."""
    transcript.created()
    given: dict[str, Any] = {
        "approval_request": ("n", "s", "{}"),
        "add": ({"type": "reasoning", "id": "rs_1", "summary": []},),
    }
    with pytest.raises(IllegalMove):
        getattr(transcript, how)(*given.get(how, ()))
    transcript.in_progress()
    assert transcript.whole(MESSAGE)[0]["item"]["id"] == "msg_0"


def test_a_text_that_is_empty_has_no_delta(begun: Transcript) -> None:
    """A refusal without a word is opened and closed."""
    assert "refusal.delta" not in types(begun.refusal(""))


def test_an_item_is_not_done_before_its_order_says_so(begun: Transcript) -> None:
    """What is left to tell cannot be left out."""
    begun.open_function_call("call_1", "ask")
    before = visible(begun)
    with pytest.raises(IllegalMove):
        begun.done(0)
    assert visible(begun) == before


def test_no_two_events_share_what_is_empty(begun: Transcript) -> None:
    """A caller that changes an event it was given changes no other."""
    begun.open_reasoning()[1][0]["item"]["summary"].append("changed")
    assert begun.open_reasoning()[1][0]["item"]["summary"] == []


def test_annotations_of_a_copy_are_its_own(begun: Transcript) -> None:
    """A copy that is taken between two annotations has the first alone."""
    begun.open_message("final_answer")
    begun.move(0, "text done")
    copied = begun.copy()
    begun.move(0, "annotation", CITED["content"][0]["annotations"][0])
    copied.close(0)
    begun.close(0)
    assert [len(each.output[0]["content"][0]["annotations"]) for each in (copied, begun)] == [0, 1]
