"""Whatever is posted, the answer is a refusal in the shape of all refusals, and nothing is stored."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import httpx2
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent_host import WorkflowBuilder, WorkflowContext, create_app, executor
from agent_host.settings import Settings
from agent_host.wire import compaction, tokens
from agent_host.wire.items import KINDS
from agent_host.wire.request import KNOWN_FIELDS

LARGEST = 1_000_000  # bytes; more than any of the wrong values has
NESTED = {"a": {"b": [{"c": {}}] * 3}}
NO_TEXT: list[Any] = [7, True, 1.5, [], {}, ["x"]]
NO_BOOLEAN: list[Any] = [7, 1, "yes", "true", [], {}]
NO_OBJECT: list[Any] = [7, True, "x", [], [{}]]
NO_WORD: list[Any] = [7, True, [], {}, "", "bogus"]
NO_INTEGER: list[Any] = [True, 1.5, 16.0, "16", [], {}, -1, 10**30 * -1]
NO_NUMBER: list[Any] = [True, "1", [], {}, -100, 100, 10**30]
NO_ID: list[Any] = [*NO_TEXT, "", "a b", "x" * 129, "é", "a\u0000"]
NO_ITEMS: list[Any] = [
    *(7, True, 1.5, {}, [7], [None], [[]], [{}], ["hi"], [{"role": "user"}], [{"type": "bogus"}], [{"type": 7}]),
    *([{"role": "bogus", "content": "x"}], [{"role": ["user"], "content": "x"}], [{"role": "user", "content": None}]),
    *([{"role": "user", "content": [{"type": "bogus"}]}], [{"role": "user", "content": [{"type": "input_text"}]}]),
    *([{"role": "user", "content": "x", "id": value}] for value in (7, "", "a\u0000", "x" * 257)),
    *([{"role": "user", "content": "x", "bogus": value}] for value in (7, "", NESTED)),
    *([{"type": "function_call_output", "call_id": value, "output": "x"}] for value in (7, "", "x" * 65, None, {})),
    *([{"type": "function_call_output", "call_id": "call_1", "output": value}] for value in (7, None, {}, [7], [{}])),
    *([{"type": "function_call", "call_id": "c", "name": "f", "arguments": value}] for value in (7, None, {}, [])),
    *([{"type": "mcp_approval_response", "approval_request_id": "m", "approve": value}] for value in (1, "yes", None)),
    *([{"type": "item_reference", "id": value}] for value in (7, "", None, "msg_unknown", {})),
    *([{"type": "compaction", "encrypted_content": value}] for value in (7, "", None, "unknown", {})),
    [{"role": "user", "content": "a", "id": "msg_1"}, {"role": "user", "content": "b", "id": "msg_1"}],
    [{"role": "user", "content": "x"}] * 10_001,
]
NO_METADATA: list[Any] = [
    *NO_OBJECT,
    *({"k": 7}, {"k": None}, {"k": {}}, {"k" * 65: "v"}, {"k": "v" * 513}, {f"k{n}": "v" for n in range(17)}),
]

# What no request may hold, by field: every field of every endpoint is here.
WRONG: dict[str, list[Any]] = {
    "model": NO_TEXT,
    "input": NO_ITEMS,
    "items": [*NO_ITEMS, "hi", [{"role": "user", "content": "x"}] * 21],
    "instructions": NO_TEXT,
    "user": NO_TEXT,
    "personality": [*NO_TEXT, "x" * 65],
    "previous_response_id": [*NO_ID, "resp_unknown"],
    "conversation": [*NO_ID, {"id": 7}, {"id": "a b"}, {"id": "conv_1", "bogus": 1}, "conv_unknown"],
    "include": [7, True, "x", {}, [7], ["bogus"], [[]]],
    "tools": [7, "x", {}, [7], [{}], [{"type": "bogus"}], [{"type": []}], [{"type": "function"}]],
    "tool_choice": [7, True, [], {}, "bogus", {"type": "bogus"}, {"type": "function"}, {"type": "allowed_tools"}],
    "text": [*NO_OBJECT, {"bogus": 1}, {"verbosity": 7}, {"format": 7}, {"format": {}}, {"format": {"type": "bogus"}}],
    "reasoning": [*NO_OBJECT, {"bogus": 1}, {"effort": 7}, {"effort": "bogus"}, {"summary": NESTED}],
    "metadata": NO_METADATA,
    "parallel_tool_calls": NO_BOOLEAN,
    "stream": NO_BOOLEAN,
    "store": NO_BOOLEAN,
    "background": NO_BOOLEAN,
    "stream_options": [*NO_OBJECT, {}, {"include_obfuscation": "no"}, {"include_usage": True}],
    "max_output_tokens": [*NO_INTEGER, 15],
    "max_tool_calls": [*NO_INTEGER, 0],
    "top_logprobs": [*NO_INTEGER, 21, 10**30],
    "temperature": NO_NUMBER,
    "top_p": NO_NUMBER,
    "presence_penalty": NO_NUMBER,
    "frequency_penalty": NO_NUMBER,
    "safety_identifier": [*NO_TEXT, "x" * 129],
    "prompt_cache_key": [*NO_TEXT, "x" * 65],
    "prompt_cache_retention": NO_WORD,
    "prompt_cache_options": NO_OBJECT,
    "prompt": [*NO_OBJECT, {}, {"id": 7}, {"id": "p", "variables": 7}],
    "moderation": NO_OBJECT,
    "access_programs": NO_OBJECT,
    "image": NO_OBJECT,
    "truncation": NO_WORD,
    "service_tier": NO_WORD,
    "context_management": [7, "x", {}, [7], [{}], [{"type": 7}]],
    "agent_session_id": [*NO_TEXT, "x" * 129],
    "agent_reference": NO_OBJECT,
}

# Every endpoint that reads a body, with a good one and all fields it takes.
ENDPOINTS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "/responses": ({"input": "hi"}, set(KNOWN_FIELDS)),
    "/responses/compact": ({"model": "m", "input": "hi"}, set(compaction.FIELDS)),
    "/responses/input_tokens": ({"input": "hi"}, set(tokens.FIELDS)),
    "/conversations": ({}, {"items", "metadata"}),
    "/conversations/{conversation}": ({"metadata": {}}, {"metadata"}),
    "/conversations/{conversation}/items": ({"items": [{"role": "user", "content": "x"}]}, {"items"}),
}
CASES = [(path, field) for path, (_, fields) in ENDPOINTS.items() for field in sorted(fields)]


@executor(id="echo")
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


@dataclass
class Site:
    """A host in this process, with a conversation, and its file."""

    runner: asyncio.Runner
    client: httpx2.AsyncClient
    file: Path
    conversation: str = ""

    def post(self, path: str, body: bytes) -> httpx2.Response:
        where = path.format(conversation=self.conversation)
        return self.runner.run(self.client.post(where, content=body))

    def stored(self) -> list[str]:
        """Everything in the file."""
        with contextlib.closing(sqlite3.connect(f"file:{self.file}?mode=ro", uri=True)) as connection:
            return list(connection.iterdump())

    def refused(self, path: str, body: bytes) -> int:
        """Post a body that must be refused, and nothing may be stored; returns the status."""
        before = self.stored()
        answer = self.post(path, body)
        shaped(answer, body)
        assert self.stored() == before, body[:200]
        return answer.status_code


def shaped(answer: httpx2.Response, body: bytes) -> None:
    """A refusal says what is wrong in four strings, and that it is the client's fault."""
    assert 400 <= answer.status_code < 500, (answer.status_code, body[:200], answer.text[:500])
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert all(type(error[key]) is str for key in ("message", "type", "param", "code")), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert error["code"]
    assert len(answer.content) < 4000
    assert answer.headers["x-should-retry"] == "false"
    assert answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("store") / "host.db"
    workflow = WorkflowBuilder(start_executor=echo, name="echoing").build()
    app = create_app(workflow, f"sqlite:///{file}", settings=Settings(max_body_bytes=LARGEST))
    with asyncio.Runner() as runner:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        made = Site(runner, httpx2.AsyncClient(transport=transport, base_url="http://host"), file)
        made.conversation = made.post("/conversations", b"{}").json()["id"]
        yield made
        runner.run(made.client.aclose())
        runner.run(app.state.agent_host.aclose())


def test_no_field_is_forgotten() -> None:
    """For each field of each endpoint there are values that it must not take."""
    assert {field for _, field in CASES} == set(WRONG)
    assert all(WRONG.values())


def test_the_good_bodies_are_good(site: Site) -> None:
    """Without the wrong field each body is accepted, so the field is what is refused."""
    for path, (body, _) in ENDPOINTS.items():
        answer = site.post(path, json.dumps(body).encode())
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("path", "field"), CASES, ids=[" ".join(case) for case in CASES])
def test_no_wrong_value_of_a_field_is_taken(site: Site, path: str, field: str) -> None:
    """Each wrong value is a refusal that stores nothing, whether anything else is wrong or not."""
    good, _ = ENDPOINTS[path]
    for value in WRONG[field]:
        assert site.refused(path, json.dumps({**good, field: value}).encode()) in (400, 404), "it must be read"
        site.refused(path, json.dumps({field: value, "bogus": NESTED}).encode())


@pytest.mark.parametrize("path", ENDPOINTS)
def test_no_body_without_sense_is_taken(site: Site, path: str) -> None:
    """What is not JSON, not an object, too deep, too large, or has fields that nobody knows is refused."""
    bodies = [
        *(b"{", b"[]", b"null", b"7", b'"hi"', b"\xff", b'{"input": NaN}', b'{"input": "\\ud800"}', b"[" * 100_000),
        *(b'{"a":' * 150 + b"1" + b"}" * 150, b'{"bogus": 1}', b'{"": ""}', b" " * (LARGEST + 1)),
    ]
    for body in bodies:
        site.refused(path, body)


def test_the_body_of_a_cancellation_is_not_read(site: Site) -> None:
    """Clients send anything or nothing along; what counts is whether there is something to cancel."""
    response = site.post("/responses", b'{"input": "hi"}').json()["id"]
    for body in (b"", b"{", b"\xff"):
        site.refused(f"/responses/{response}/cancel", body)
        site.refused("/responses/resp_unknown/cancel", body)


# --- Any body ----------------------------------------------------------------------------------------------------

WORDS = st.sampled_from([*KINDS, "user", "assistant", "input_text", "function", "json_schema", "auto", "", "call_1"])
KEYS = st.sampled_from(["type", "role", "content", "text", "id", "name", "call_id", "output", "format"]) | st.text(
    max_size=3
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


def judge(site: Site, path: str, body: bytes) -> None:
    """A body that may be good by chance: it is accepted, or refused without a trace."""
    before = site.stored()
    answer = site.post(path, body)
    if answer.status_code != 200:
        shaped(answer, body)
        assert site.stored() == before, body[:200]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(CASES), JSON)
def test_any_value_of_any_field(site: Site, case: tuple[str, str], value: Any) -> None:
    """Whatever one field holds, the request is taken or refused, and a refused one stores nothing."""
    path, field = case
    assume(not (field == "background" and value is True))  # it would still store while the next one is judged
    judge(site, path, json.dumps({**ENDPOINTS[path][0], field: value}).encode())


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ENDPOINTS)), st.data())
def test_any_items(site: Site, path: str, data: st.DataObject) -> None:
    """Whatever stands where items are expected, it is taken or refused, and a refused one stores nothing."""
    item = st.fixed_dictionaries(
        {}, optional={"type": WORDS, "role": WORDS, "content": JSON, "id": WORDS, "call_id": WORDS, "output": JSON}
    )
    items = data.draw(st.lists(item | JSON, max_size=3))
    good, fields = ENDPOINTS[path]
    judge(site, path, json.dumps({**good, "items" if "items" in fields else "input": items}).encode())


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(ENDPOINTS)), st.binary(max_size=100))
def test_any_bytes(site: Site, path: str, body: bytes) -> None:
    """Bytes without sense are refused; only a conversation may begin with none at all."""
    judge(site, path, body)
