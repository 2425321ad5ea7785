"""Events as bytes and back."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host.wire.sse import KEEP_ALIVE, Decoder, encode, frame

EVENT = {"type": "response.output_text.delta", "sequence_number": 4, "delta": "zwei\nZeilen, \u2028 und \x85 é"}
EVENTS = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["a.b", "c"]), "text": st.text(st.characters(codec="utf-8"))})
)


def test_a_frame_is_an_event_line_a_data_line_and_an_empty_line() -> None:
    """A frame has exactly three lines, and its event line repeats the type."""
    frame = encode({"type": "response.created", "sequence_number": 0})
    assert frame == b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n'


def test_no_reader_finds_more_lines_than_there_are() -> None:
    """Text with any of Unicode's line ends stays on one line, however a reader splits lines."""
    frame = encode(EVENT)
    assert len(frame.decode().splitlines()) == 3
    assert Decoder().feed(frame) == [EVENT]


@given(st.text(st.characters(codec="utf-8")))
def test_a_frame_of_bytes_is_the_frame_of_their_event(text: str) -> None:
    """An event that is JSON already, as a log holds it, makes the same frame as the event itself."""
    event = {"type": "response.output_text.delta", "sequence_number": 4, "delta": text, "item": {"type": "message"}}
    made = frame(msgspec.json.encode(event))
    assert made == encode(event)
    assert made.startswith(b"event: response.output_text.delta\ndata: {")
    assert Decoder().feed(made) == [event]


def test_fed_byte_by_byte_nothing_is_lost() -> None:
    """The decoder gives each event exactly when its last byte has come."""
    decoder = Decoder()
    frames = encode(EVENT) + KEEP_ALIVE + encode({"type": "b"})
    got = [(at, event) for at, byte in enumerate(frames) for event in decoder.feed(bytes([byte]))]
    assert got == [(len(encode(EVENT)) - 1, EVENT), (len(frames) - 1, {"type": "b"})]


@settings(deadline=None)
@given(EVENTS, st.lists(st.integers(0, 2000)))
def test_cuts_do_not_matter(events: list[dict[str, object]], cuts: list[int]) -> None:
    """However the bytes of a stream are cut, the same events come out."""
    stream = b"".join(KEEP_ALIVE + encode(event) for event in events)
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    decoder = Decoder()
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert [event for piece in pieces for event in decoder.feed(piece)] == events


def test_a_keep_alive_is_no_event() -> None:
    """Comments keep a connection open and say nothing."""
    assert Decoder().feed(KEEP_ALIVE * 3) == []


def test_what_other_servers_send_is_understood() -> None:
    """Carriage returns, several data lines, fields without use and an end marker are no obstacle."""
    stream = b'id: 1\r\nevent: a\r\ndata: {"type":\r\ndata: "a"}\r\nretry: 3\r\n\r\ndata: [DONE]\n\n'
    assert Decoder().feed(stream) == [{"type": "a"}]


def test_an_event_without_data_is_skipped() -> None:
    """A frame without data has nothing to give."""
    assert Decoder().feed(b"event: a\n\n") == []


def test_damaged_data_is_reported() -> None:
    """Data that is not JSON raises, it is not skipped."""
    with pytest.raises(msgspec.DecodeError):
        Decoder().feed(b"data: {\n\n")


def test_a_large_frame_in_small_pieces_takes_linear_time() -> None:
    """A frame of a megabyte comes out whole."""
    event = {"type": "response.completed", "text": "x" * 1_000_000}
    frame = encode(event)
    decoder = Decoder()
    got = [each for at in range(0, len(frame), 512) for each in decoder.feed(frame[at : at + 512])]
    assert got == [event]
