"""Any sequence of calls, of restarts and of crashes, against a model of the API."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.properties.machine import Clients


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The log of so many turns that are told to fail helps nobody."""
    log = logging.getLogger("agent_host")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


TestClients = Clients.TestCase
TestClients.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)  # fmt: skip
