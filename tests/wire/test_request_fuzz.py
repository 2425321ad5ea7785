"""Whatever bytes arrive, the answer is a request or a refusal."""

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host.wire.items import KINDS
from agent_host.wire.problems import Problem, problem_body
from agent_host.wire.request import KNOWN_FIELDS, CreateRequest, parse_request, stored_items
from agent_host.wire.response import ResponseFacts, snapshot

WORDS = st.sampled_from(
    [
        *KINDS,
        *("user", "assistant", "input_text", "output_text", "refusal", "input_image", "input_file", "function"),
        *("json_schema", "allowed_tools", "auto", "none", "text", "hi", "", "call_1", "completed", "commentary"),
    ]
)
KEYS = st.sampled_from(
    [
        *("type", "role", "content", "text", "id", "status", "phase", "name", "call_id", "output", "arguments"),
        *("image_url", "file_id", "detail", "format", "schema", "verbosity", "effort", "summary", "mode", "tools"),
        *("parameters", "strict", "approve", "approval_request_id", "annotations", "refusal"),
    ]
) | st.text(max_size=5)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    LEAVES | WORDS | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6),
    max_leaves=12,
)
PARTS = st.fixed_dictionaries({"type": WORDS}, optional={"text": JSON, "image_url": JSON, "file_data": JSON})
ITEMS = st.fixed_dictionaries(
    {},
    optional={"type": WORDS, "role": WORDS, "content": st.lists(PARTS | JSON, max_size=3) | JSON, "id": WORDS},
)


def outcome(body: bytes, lenient: bool = False) -> CreateRequest | Problem:
    """The request, which can then be stored and echoed, or the problem, which can then be answered."""
    try:
        request = parse_request(body, lenient=lenient)
    except Problem as problem:
        assert 400 <= problem.status < 500
        error = msgspec.json.decode(msgspec.json.encode(problem_body(problem)))["error"]
        assert all(isinstance(error[key], str) for key in ("message", "type", "param", "code"))
        return problem
    facts = ResponseFacts("resp_1", 1, "m", metadata=request.metadata, echo=request.echo)
    msgspec.json.encode(snapshot(facts, status="completed", output=[]))
    msgspec.json.encode(stored_items(request, lambda prefix: f"{prefix}_1"))
    return request


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    """Bytes without sense are refused."""
    outcome(body)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(KNOWN_FIELDS)), JSON, st.booleans())
def test_any_value_of_any_field(field: str, value: Any, lenient: bool) -> None:
    """Whatever a known field holds, the request is read or refused."""
    outcome(json.dumps({"input": "hi", field: value}).encode(), lenient)


@settings(max_examples=400, deadline=None)
@given(st.lists(ITEMS | JSON, max_size=3), st.booleans())
def test_any_items(items: list[Any], lenient: bool) -> None:
    """Whatever stands in the input, it is read or refused."""
    outcome(json.dumps({"input": items}).encode(), lenient)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KNOWN_FIELDS)) | KEYS, JSON, max_size=8), st.booleans())
def test_any_object(body: dict[str, Any], lenient: bool) -> None:
    """Whatever fields come together, the request is read or refused."""
    outcome(json.dumps(body).encode(), lenient)


def test_a_nest_at_the_limit_can_be_written_again() -> None:
    """What is just not too deep to be accepted is not too deep to be echoed either."""
    for depth in range(90, 110):
        parameters = b'{"a":' * depth + b"{}" + b"}" * depth
        outcome(b'{"input":"hi","tools":[{"type":"function","name":"f","parameters":' + parameters + b"}]}")
