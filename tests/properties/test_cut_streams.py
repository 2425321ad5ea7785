"""A background stream that is cut at any byte and taken up again behind its last whole event misses nothing."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.properties.calling import Call, Site, events_in

TEXT = "stream a text long enough for ☃ and for 'quotes\"'"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.start()
    yield site
    await site.stop()


async def recorded(site: Site, text: str, **more: Any) -> bytes:
    """The bytes of a whole background stream."""
    body = {"input": text, "background": True, "stream": True, **more}
    call = await site.ask("POST", "/responses", body)
    assert events_in(call.body)[-1]["type"] == "response.completed"
    return call.body


def cut(stream: bytes, at: int) -> tuple[list[dict[str, Any]], str]:
    """What a client has of a stream that was cut there, and how it asks for the rest."""
    events = events_in(stream[:at])
    return events, f"&starting_after={events[-1]['sequence_number']}" if events else ""


@pytest.mark.parametrize("text", ["say it whole", TEXT, "pair of questions", "wait for nobody"])
async def test_a_stream_that_was_cut_at_any_byte_is_the_same_when_taken_up_again(site: Site, text: str) -> None:
    """Whatever a client has of a finished response's stream, with the rest it has every event once, in order."""
    site.gates.open(text)
    stream = await recorded(site, text)
    whole = events_in(stream)
    path = f"/responses/{whole[0]['response']['id']}?stream=true"
    rests: dict[str, Call] = {}
    for at in range(len(stream) + 1):
        had, behind = cut(stream, at)
        if behind not in rests:
            rests[behind] = await site.ask("GET", path + behind)
        assert had + rests[behind].events == whole
    assert len(rests) == len(whole) + 1
    assert rests[""].body == stream


async def test_a_stream_that_is_cut_while_it_runs_is_the_same_when_taken_up_again(site: Site) -> None:
    """A client that leaves after some bytes and comes back while the turn runs gets the rest as it comes."""
    began = await site.ask("POST", "/responses", {"input": "late in the day", "background": True})
    path = f"/responses/{began.json['id']}?stream=true"
    first = site.begin("GET", path)
    await site.until(lambda: b"output_text.delta" in first.body, "the first delta")
    so_far = first.body
    await first.leave()
    pieces = []
    for at in range(0, len(so_far) + 1, 7):
        had, behind = cut(so_far, at)
        pieces.append((had, site.begin("GET", path + behind)))
    site.gates.open("late in the day")
    whole = (await site.ask("GET", path)).events
    for had, rest in pieces:
        await site.until(lambda rest=rest: rest.ended, "the end of the stream")
        assert had + rest.events == whole
    assert events_in(so_far) == whole[: len(events_in(so_far))]
    assert whole[-1]["response"] == await site.ended(began.json["id"])


async def test_a_stream_that_is_cut_again_and_again_is_whole_in_the_end(site: Site) -> None:
    """A client that loses its connection after every event needs as many as there are events, and has them all."""
    began = await site.ask("POST", "/responses", {"input": TEXT, "background": True})
    path = f"/responses/{began.json['id']}?stream=true"
    events: list[dict[str, Any]] = []
    while not events or events[-1]["type"] != "response.completed":
        call = site.begin("GET", path + (f"&starting_after={len(events) - 1}" if events else ""))
        await site.until(lambda call=call: call.events, "one more event")
        events.append(call.events[0])
        await call.leave()
    assert events == (await site.ask("GET", path)).events


async def test_events_that_are_not_there_yet_are_waited_for(site: Site) -> None:
    """A place that the turn has not come to is no error: what comes before it is left out."""
    began = await site.ask("POST", "/responses", {"input": "late again", "background": True})
    path = f"/responses/{began.json['id']}?stream=true"
    early = site.begin("GET", path + "&starting_after=8")
    await site.until(lambda: "late again" in site.gates.waiting, "it waits")
    site.gates.open("late again")
    whole = (await site.ask("GET", path)).events
    await site.until(lambda: early.ended, "its end")
    assert early.events == whole[9:]
    assert len(whole) > 9
