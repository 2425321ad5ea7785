"""What the tests of the wire share: facts of a response, ids in order, and the strictness of real clients."""

import itertools
from collections.abc import Callable

import pytest

from agent_host.wire.response import ResponseFacts
from agent_host.wire.transcript import Transcript
from tests.published import strict_event, strict_response

__all__ = ["strict_event", "strict_response"]


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
