"""What one WebSocket remembers of responses that are not stored, and of warm-ups."""

from typing import Any

import pytest

from agent_host.engine.serialization.shared_values import SharedValues
from tests.server.websocket_client import Dial, Memo, dial, memo, output, said, site, strict_event

__all__ = ["dial", "memo", "site", "strict_event"]


async def test_an_unstored_response_is_continued_over_its_connection(dial: Dial, site: Any) -> None:
    """From any lane, twice if need be; the store knows nothing of it."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        two = await client.turn("two", store=False, previous_response_id=one["id"], stream_id="a")
        assert said(two) == "one|two"
        other = await client.turn("other", store=False, previous_response_id=one["id"])
        assert said(other) == "one|other"
        assert (await site.http.get(f"/responses/{two['id']}")).status_code == 404
        assert len(await site.host.store.save_points(0)) == 0


async def test_an_unstored_response_is_unknown_everywhere_else(dial: Dial, site: Any) -> None:
    """On another connection and over HTTP it cannot be continued; a fresh turn on the same connection works."""
    async with dial() as client:
        one = await client.turn("one", store=False)
    answer = await site.http.post("/responses", json={"input": "x", "previous_response_id": one["id"]})
    assert answer.json()["error"]["code"] == "previous_response_not_found"
    async with dial() as client:
        assert (await client.turn("two", previous_response_id=one["id"]))["code"] == "previous_response_not_found"
        assert said(await client.turn("two", store=False)) == "two"


async def test_a_stored_turn_stores_what_it_stands_on(dial: Dial, site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind unstored turns, a stored one can be continued by everybody; also a second one from the same place."""
    long = "x" * 5000  # more than a cell holds by itself
    await site.host.open()
    # What the process has at hand of state need not be read, and would hide what cannot be.
    monkeypatch.setattr(site.host.definition.codec, "shared", SharedValues(limit=0))
    async with dial() as client:
        one = await client.turn(long, store=False)
        two = await client.turn("two", store=False, previous_response_id=one["id"])
        three = await client.turn("three", previous_response_id=two["id"])
        again = await client.turn("again", previous_response_id=two["id"])
    assert said(three) == f"{long}|two|three"
    site.host._views.clear()
    assert (await site.say("four", three["id"])).output_text == f"{long}|two|three|four"
    assert (await site.say("five", again["id"])).output_text == f"{long}|two|again|five"


async def test_a_failed_unstored_turn_is_continued_from_where_it_began(dial: Dial) -> None:
    """Its own input is not part of the state, as with stored ones."""
    async with dial() as client:
        one = await client.turn("one", store=False)
        failed = await client.turn("fail", store=False, previous_response_id=one["id"])
        assert failed["status"] == "failed"
        assert said(await client.turn("two", store=False, previous_response_id=failed["id"])) == "one|two"


async def test_a_question_of_an_unstored_turn_is_answered_over_its_connection(dial: Dial) -> None:
    """It can be answered twice, and also behind a turn that has failed, whether the asking one is stored or not."""
    async with dial() as client:
        one = await client.turn("ask", store=False)
        [call] = one["output"]
        missing = await client.turn("two", store=False, previous_response_id=one["id"], stream_id="fork")
        assert missing["code"] == "missing_tool_output"
        for store in (False, True):
            assert said(await client.turn(output(call, 7), store=store, previous_response_id=one["id"])) == "ask|7"
        for asked in (one, await client.turn("ask")):
            [call] = asked["output"]
            failed = await client.turn(output(call, 13), store=False, previous_response_id=asked["id"])
            assert failed["status"] == "failed"
            assert said(await client.turn(output(call, 7), previous_response_id=failed["id"])) == "ask|7"


async def test_a_failed_continuation_forgets_what_it_continued(dial: Dial) -> None:
    """On its own lane; what fails elsewhere is a fork, and leaves it to those who made it."""
    wrong = output({"call_id": "call_1"}, 7)
    async with dial() as client:
        one = await client.turn("one", store=False)
        fork = await client.turn(wrong, previous_response_id=one["id"], stream_id="fork")
        assert fork["code"] == "unknown_tool_call"
        assert said(await client.turn("two", store=False, previous_response_id=one["id"])) == "one|two"
        assert (await client.turn(wrong, previous_response_id=one["id"]))["code"] == "unknown_tool_call"
        assert (await client.turn("two", previous_response_id=one["id"]))["code"] == "previous_response_not_found"


async def test_a_compacted_history_begins_a_new_chain(dial: Dial, site: Any) -> None:
    """What the endpoint for compaction gave is input like any other."""
    one = await site.say("one")
    compacted = (await site.http.post("/responses/compact", json={"previous_response_id": one.id, "model": "m"})).json()
    async with dial() as client:
        items = [*compacted["output"], {"type": "message", "role": "user", "content": "two"}]
        response = await client.turn(items, store=False, tools=[])
        assert response["status"] == "completed"
        assert said(response) == "one|two"


async def test_what_an_unstored_response_has_heard_is_not_heard_again(dial: Dial) -> None:
    """Items that a client repeats over its connection are known, by whichever turn they were heard."""
    one_said, two_said, go = ({"role": "user", "content": text, "id": f"msg_{text}"} for text in ("one", "two", "go"))
    async with dial() as client:
        one = await client.turn([one_said], store=False)
        two = await client.turn([one_said, two_said], store=False, previous_response_id=one["id"])
        assert said(two) == "one|two"
        three = await client.turn([one_said, *one["output"], two_said, go], previous_response_id=two["id"])
        assert said(three) == "one|two|go"
        warm = await client.turn([one_said], generate=False)
        assert said(await client.turn([one_said, go], previous_response_id=warm["id"])) == "one\n\ngo"


async def test_a_warm_up_runs_nothing_and_keeps_its_input(dial: Dial, site: Any, memo: Memo) -> None:
    """Its response is empty and unstored; the turn that continues it finds the input before its own."""
    async with dial() as client:
        one = await client.turn("one")
        warm = await client.turn("warm", generate=False, previous_response_id=one["id"])
        assert [event["type"] for event in client.heard[-3:]] == [
            "response.created", "response.in_progress", "response.completed",
        ]  # fmt: skip
        assert (warm["output"], warm["store"], memo.begun) == ([], False, ["one"])
        warmer = await client.turn("warmer", generate=False, previous_response_id=warm["id"])
        two = await client.turn("two", previous_response_id=warmer["id"])
        assert said(two) == "one|warm\n\nwarmer\n\ntwo"
        listed = (await site.client.responses.input_items.list(two["id"], order="asc")).data
        assert [item.content[0].text for item in listed] == ["warm", "warmer", "two"]
        assert (await site.http.get(f"/responses/{warm['id']}")).status_code == 404
        wrong = await client.turn("x", generate=False, previous_response_id="resp_1")
        assert wrong["code"] == "previous_response_not_found"
