"""Frames of the WebSocket mode as data."""

import json
from typing import Any

import pytest

from agent_host.wire import problems
from agent_host.wire.frames import create_frame, error_frame, event_frame, stream_id_of
from agent_host.wire.problems import Problem
from agent_host.wire.request import parse_request


def test_a_frame_is_a_body_and_what_only_frames_have() -> None:
    """The body is a request for a stream, without the fields of the frame and of other transports."""
    frame = create_frame(
        {"type": "response.create", "stream_id": "a", "generate": False, "stream": False, "background": False,
         "input": "x", "previous_response_id": "resp_1", "stream_options": {"include_obfuscation": True}}
    )  # fmt: skip
    assert (frame.continues, frame.generates) == ("resp_1", False)
    request = parse_request(frame.body)
    assert (request.stream, request.background, request.previous_response_id) == (True, False, "resp_1")


def test_fields_that_are_null_were_not_sent() -> None:
    """Clients send what they were not given as null."""
    fields: dict[str, Any] = dict.fromkeys(["stream_id", "generate", "stream", "background", "previous_response_id"])
    frame = create_frame({"type": "response.create", "input": "x", **fields})
    assert stream_id_of(fields) is None
    assert (frame.continues, frame.generates) == (None, True)
    assert parse_request(frame.body).stream


@pytest.mark.parametrize("name", ["a", "a" * 256, "A-z_0.9", "."])
def test_names_of_lanes(name: str) -> None:
    """Letters, digits, underscores, dashes and periods, up to 256 of them."""
    assert stream_id_of({"stream_id": name}) == name


@pytest.mark.parametrize("name", ["", "a" * 257, "a b", "a\n", "ä", 1, True, [], {}])
def test_what_is_no_name_of_a_lane(name: Any) -> None:
    """It is refused under its own code."""
    with pytest.raises(Problem) as caught:
        stream_id_of({"stream_id": name})
    assert (caught.value.code, caught.value.param) == ("invalid_stream_id", "stream_id")


def test_frames_of_the_server() -> None:
    """An event is sent as it is, a fault with its status; both name the lane that they are for, if it has a name."""
    assert json.loads(event_frame({"type": "x", "sequence_number": 0}, None)) == {"type": "x", "sequence_number": 0}
    assert json.loads(event_frame({"type": "x"}, "a")) == {"type": "x", "stream_id": "a"}
    error = json.loads(error_frame(problems.missing_parameter("input"), "a"))
    assert (error["type"], error["status"], error["stream_id"]) == ("error", 400, "a")
    assert error["error"]["code"] == "missing_required_parameter"
    assert "stream_id" not in json.loads(error_frame(problems.invalid_json(), None))
