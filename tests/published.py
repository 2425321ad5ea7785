"""The published types of the API, as strict as they can be: OpenAI's own, and those of Open Responses."""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import openresponses_types.types as published
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

OPENAI_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)


def _published_events() -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    for name, model in vars(published).items():
        if name.endswith("StreamingEvent") and issubclass(model, pydantic.BaseModel):
            kind = model.model_fields["type"].annotation
            assert isinstance(kind, type)
            assert issubclass(kind, Enum)
            yield next(iter(kind)).value, model


PUBLISHED_EVENTS = dict(_published_events())


# What the published Open Responses types do not have, and why it is sent all the same.
NOT_PUBLISHED_ITEMS = {
    "custom_tool_call": "OpenAI's form of a tool with free text, sent to those who declared one",
    "mcp_list_tools": "OpenAI's form, sent on request",
    "mcp_call": "OpenAI's form, sent on request",
    "mcp_approval_request": "OpenAI's form of a question that is answered with yes or no, sent on request",
    "mcp_approval_response": "OpenAI's form of the answer to it",
    "web_search_call": "a tool of OpenAI's own platform",
    "file_search_call": "a tool of OpenAI's own platform",
    "code_interpreter_call": "a tool of OpenAI's own platform",
    "image_generation_call": "a tool of OpenAI's own platform",
}
NOT_PUBLISHED_EVENTS = {
    "reasoning_text": "called `response.reasoning` there; OpenAI's clients know this name alone",
    "custom_tool_call_input": "of an item that is not published",
    "mcp_call_arguments": "of an item that is not published",
    "code_interpreter_call_code": "of an item that is not published",
    **dict.fromkeys(NOT_PUBLISHED_ITEMS, "of an item that is not published"),
}


def _check_response(response: dict[str, Any]) -> None:
    parsed = Response.model_validate(response)
    assert [item.type for item in parsed.output] == [item["type"] for item in response["output"]]
    output = [item for item in response["output"] if item["type"] not in NOT_PUBLISHED_ITEMS]
    published.ResponseResource.model_validate({**response, "output": output})


@pytest.fixture(scope="session")
def strict_response() -> Callable[[dict[str, Any]], None]:
    """Validates a response as strictly as a client that was told to, against both published schemas."""

    def check(response: dict[str, Any]) -> None:
        _check_response(response)

    return check


@pytest.fixture(scope="session")
def strict_event() -> Callable[[dict[str, Any]], None]:
    """Validates an event as strictly as a client that was told to, against both published schemas."""

    def check(event: dict[str, Any]) -> None:
        parsed = OPENAI_EVENT.validate_python(event)
        assert parsed.type == event["type"]
        if "response" in event:
            _check_response(event["response"])
        elif event["type"].split(".")[1] not in NOT_PUBLISHED_EVENTS and not (
            "item" in event and event["item"]["type"] in NOT_PUBLISHED_ITEMS
        ):
            PUBLISHED_EVENTS[event["type"]].model_validate(event)

    return check
