"""The connection to a project's storage: whatever goes wrong is told in time, with the remedy."""

import asyncio
import time
from typing import Any, Never

import pytest
from azure.core.exceptions import ClientAuthenticationError

from agent_host.errors import StoreError
from agent_host.foundry import storage as storage_module
from agent_host.foundry.storage import OvertakenError, ProjectStorage
from tests.foundry.platform_records import Reply
from tests.foundry.platform_store import Credential, storage_of
from tests.foundry.stand_in import Fault, Project, always


@pytest.fixture
async def storage(platform: Project) -> Any:
    """A connection that waits a second at most."""
    made = storage_of(platform, patience=1.0)
    await made.open()
    yield made
    await made.aclose()


async def test_a_platform_that_never_answers_is_waited_for_so_long_and_not_longer(
    platform: Project, storage: ProjectStorage
) -> None:
    """A call that hangs ends as an error that says how long was waited, and the connection goes on to work."""
    platform.hang(100)
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"no answer in 1 seconds. Look at FOUNDRY_PROJECT_ENDPOINT"):
        await storage.read("a")
    assert 0.9 < time.monotonic() - began < 3
    platform.faults.clear()
    assert await storage.read("a") is None


async def test_one_attempt_that_hangs_is_repeated(platform: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that does not come in its time is asked for again, long before the patience for the call is over."""
    assert 2 * storage_module._TIMEOUTS["read_timeout"] < storage_module.PATIENCE
    monkeypatch.setitem(storage_module._TIMEOUTS, "read_timeout", 0.3)
    storage = storage_of(platform)
    await storage.open()
    platform.hang(1)
    assert await storage.read("a") is None
    await storage.aclose()


async def test_a_busy_platform_is_asked_again_when_it_says(platform: Project, storage: ProjectStorage) -> None:
    """After 429 the time that `Retry-After` names is waited, and never longer than the patience for the call."""
    await storage.put("a", {"n": 1})
    platform.fail(429, 1, retry_after=0)
    platform.fail(429, 1, retry_after=0)
    found = await storage.read("a")
    assert found is not None and found.value == {"n": 1}
    storage = storage_of(platform, patience=2.5)
    await storage.open()
    platform.clear()
    platform.fail(429, 1, retry_after=1)
    assert await storage.read("a") is not None
    first, second = platform.requests
    assert second.started - first.ended > 0.9
    platform.fail(429, 1, retry_after=3600)
    with pytest.raises(StoreError, match="no answer in"):
        await storage.read("a")
    await storage.aclose()


async def test_an_error_that_passes_is_not_seen(platform: Project, storage: ProjectStorage) -> None:
    """A call that fails once with 500 is repeated, a write under a condition too."""
    platform.fail(500, 1)
    etag = await storage.replace("a", {"n": 1}, None)
    platform.fail(503, 1)
    etag = await storage.replace("a", {"n": 2}, etag)
    with pytest.raises(OvertakenError):
        await storage.replace("a", {"n": 3}, "other")
    with pytest.raises(OvertakenError):
        await storage.replace("a", {"n": 3}, None)
    found = await storage.read("a")
    assert found is not None and (found.value, found.etag) == ({"n": 2}, etag)


async def test_what_the_platform_finds_too_large_is_said(platform: Project, storage: ProjectStorage) -> None:
    """413 says that the value must be smaller."""
    body = {"error": {"code": "too_large", "message": "The value is too large."}}
    platform.faults.append(Fault(always, 1, Reply(413, body)))
    with pytest.raises(StoreError, match=r"\(413: The value is too large.\). .* Make it smaller"):
        await storage.put("a", {})


async def test_an_error_without_the_services_shape_is_told_as_it_is(platform: Project, storage: ProjectStorage) -> None:
    """A gateway's answer that is no error object of the service has its status in the message."""
    platform.faults.append(Fault(always, 1, Reply(418, "I am a teapot")))
    with pytest.raises(StoreError, match="418"):
        await storage.read("a")


async def test_a_credential_that_gives_no_token_is_said_in_one_line(platform: Project) -> None:
    """The error tells how to sign in, and not what each kind of credential has tried."""

    class Nobody(Credential):
        async def get_token(self, *scopes: str, **options: Any) -> Never:
            raise ClientAuthenticationError("No credential gave a token.\nAttempted:\n\tone\n\tanother")

    storage = storage_of(platform, credential=Nobody())
    with pytest.raises(StoreError, match=r"No credential gave a token. .* az login$") as raised:
        await storage.open()
    assert "Attempted" not in str(raised.value)
    assert not platform.requests
    await storage.aclose()


async def test_an_answer_of_something_else_is_said() -> None:
    """A page in the place of an answer means that the address is wrong, and nothing is made of it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n<html>no</html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    storage = storage_of(Project(f"http://127.0.0.1:{port}/api/projects/page"))
    with pytest.raises(StoreError, match=r"is no JSON. Look at FOUNDRY_PROJECT_ENDPOINT"):
        await storage.open()
    await storage.aclose()
    server.close()
    await server.wait_closed()


async def test_an_address_where_nobody_listens_is_said(platform: Project) -> None:
    """The error names the address and the variable that it comes from."""
    nowhere = Project("http://127.0.0.1:9/api/projects/nowhere")
    storage = storage_of(nowhere)
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9/api/projects/nowhere cannot .*FOUNDRY_PROJECT_ENDPOINT"):
        await storage.open()
    await storage.aclose()
