"""The response object and its parts."""

from collections.abc import Callable
from typing import Any

import pytest
from openai.types.responses import ResponseError
from openai.types.responses.response_usage import ResponseUsage

from agent_host.wire.items import function_call_item, message_item, text_part
from agent_host.wire.response import (
    ERROR_CODES,
    ResponseFacts,
    Status,
    error_object,
    facts_of,
    snapshot,
    usage_object,
)

Check = Callable[[dict[str, Any]], None]
REQUIRED_KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "error", "incomplete_details", "model", "instructions"),
    *("previous_response_id", "conversation", "output", "usage", "parallel_tool_calls", "tools", "tool_choice"),
    *("truncation", "text", "temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"),
    *("reasoning", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key", "user"),
}
ENDINGS: dict[Status, dict[str, Any]] = {
    "queued": {},
    "in_progress": {},
    "completed": {"usage": usage_object(3, 4, cached=1, reasoning=2), "completed_at": 1_700_000_001},
    "incomplete": {"usage": usage_object(), "incomplete_details": {"reason": "max_output_tokens"}},
    "failed": {"usage": None, "error": error_object("rate_limit_exceeded", "The model is busy.")},
    "cancelled": {"usage": usage_object()},
}


@pytest.mark.parametrize("status", ENDINGS)
def test_strict_clients_accept_every_status(facts: ResponseFacts, strict_response: Check, status: Status) -> None:
    """A response in any status validates against the schemas that clients are generated from."""
    items = [
        message_item("msg_1", [text_part("hi")], "completed", "final_answer"),
        message_item("msg_2", [], "incomplete", "commentary"),
        function_call_item("fc_1", "call_1", "ask", "{}", "completed"),
    ]
    strict_response(snapshot(facts, status=status, output=items, **ENDINGS[status]))


def test_every_key_is_there(facts: ResponseFacts) -> None:
    """An unset field is null, not absent; only `text.verbosity` is absent, as null is refused there."""
    response = snapshot(facts, status="in_progress", output=[])
    assert set(response) == REQUIRED_KEYS
    assert response["text"] == {"format": {"type": "text"}}


def test_set_fields_are_repeated(strict_response: Check) -> None:
    """What the client set appears in the response, the conversation as an object."""
    facts = ResponseFacts(
        id="resp_1",
        created_at=1,
        model="m",
        previous_response_id=None,
        conversation="conv_1",
        instructions="Be kind.",
        store=False,
        metadata={"a": "b"},
        echo={"temperature": 0.5, "user": "u", "reasoning": {"effort": "low", "summary": None}},
    )
    response = snapshot(facts, status="completed", output=[])
    strict_response(response)
    assert response["conversation"] == {"id": "conv_1"}
    assert (response["temperature"], response["user"], response["store"]) == (0.5, "u", False)
    assert response["metadata"] == {"a": "b"}


def test_a_snapshot_does_not_grow(facts: ResponseFacts) -> None:
    """An item added after a snapshot was taken is not in it."""
    output = [message_item("msg_1", [], "completed", "final_answer")]
    response = snapshot(facts, status="in_progress", output=output)
    output.append(message_item("msg_2", [], "completed", "final_answer"))
    assert len(response["output"]) == 1


def test_facts_can_be_read_back_from_a_snapshot() -> None:
    """A response tells the facts that it was made from: snapshots of either are equal, in their order of keys too."""
    facts = ResponseFacts("resp_1", 1, "m", conversation="conv_1", metadata={"k": "v"}, echo={"prompt": {"id": "p"}})
    response = snapshot(facts, status="completed", output=[], usage=usage_object(1, 2), completed_at=2)
    again = snapshot(facts_of(response), status="queued", output=[])
    assert list(again.items()) == list(snapshot(facts, status="queued", output=[]).items())


def test_usage_adds_up() -> None:
    """Usage has all the numbers that clients want, and their sum."""
    usage = usage_object(3, 4, cached=1, reasoning=2)
    ResponseUsage.model_validate(usage)
    assert usage["total_tokens"] == 7
    assert usage["input_tokens_details"] == {"cached_tokens": 1, "cache_write_tokens": 0}


@pytest.mark.parametrize("code", sorted(ERROR_CODES))
def test_error_codes_are_those_clients_know(code: str) -> None:
    """Each code of our list is one that strict clients accept."""
    error = error_object(code, "why")
    ResponseError.model_validate(error)
    assert error == {"code": code, "message": "why", "type": "server_error", "param": None}


def test_an_unknown_error_code_becomes_server_error() -> None:
    """A code that strict clients would refuse never reaches them."""
    assert error_object("my_own_code", "why")["code"] == "server_error"
