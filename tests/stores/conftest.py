"""The store tests run on asyncio, whose native cancellation is what the stores must withstand."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
