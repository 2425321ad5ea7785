"""What the tests of the wire share: facts of a response, ids in order, and the strictness of real clients."""

import itertools
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

import openresponses_types.types as published
import pydantic
import pytest
from openai.types.responses import Response, ResponseStreamEvent

from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript

OPENAI_EVENT: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)


def _published_events() -> Iterator[tuple[str, type[pydantic.BaseModel]]]:
    for name, model in vars(published).items():
        if name.endswith("StreamingEvent") and issubclass(model, pydantic.BaseModel):
            kind = model.model_fields["type"].annotation
            assert isinstance(kind, type)
            assert issubclass(kind, Enum)
            yield next(iter(kind)).value, model


PUBLISHED_EVENTS = dict(_published_events())


@pytest.fixture
def facts() -> ResponseFacts:
    return ResponseFacts(id="resp_1", created_at=1_700_000_000, model="a-model")


@pytest.fixture
def new_id() -> Callable[[str], str]:
    numbers = itertools.count()
    return lambda prefix: f"{prefix}_{next(numbers)}"


@pytest.fixture
def transcript(facts: ResponseFacts, new_id: Callable[[str], str]) -> Transcript:
    return Transcript(facts, new_id)


@pytest.fixture(scope="session")
def strict_response() -> Callable[[dict[str, Any]], None]:
    """Validates a response as strictly as a client that was told to, against both published schemas."""

    def check(response: dict[str, Any]) -> None:
        Response.model_validate(response)
        published.ResponseResource.model_validate(response)

    return check


@pytest.fixture(scope="session")
def strict_event() -> Callable[[dict[str, Any]], None]:
    """Validates an event as strictly as a client that was told to, against both published schemas."""

    def check(event: dict[str, Any]) -> None:
        parsed = OPENAI_EVENT.validate_python(event)
        assert parsed.type == event["type"]
        PUBLISHED_EVENTS[event["type"]].model_validate(event)

    return check
