"""How the turns of a hosted agent end, and what can be done with them while they run and afterwards."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent_host.foundry.answers import fault_headers
from tests.server.unsteady import UnsteadyStore

PATIENCE = 10.0


async def read(site: Any, response_id: str) -> Any:
    return (await site.http.get(f"/responses/{response_id}")).json()


async def ended(site: Any, response_id: str) -> Any:
    """The response when it has ended."""
    async with asyncio.timeout(PATIENCE):
        while (response := await read(site, response_id))["status"] in ("queued", "in_progress"):
            await asyncio.sleep(0.02)
    return response


@pytest.mark.parametrize("background", [False, True])
async def test_a_handlers_fault_is_a_failed_response(site: Any, post: Any, background: bool) -> None:
    """On purpose 200 also where the handler raises at once, where the official server says 500: a client must not
    run the turn again by itself. The answer shows neither the cause nor a traceback."""
    answer = await post(input="fail", background=background)
    assert answer.status_code == 200
    response = await ended(site, answer.json()["id"]) if background else answer.json()
    assert (response["status"], response["error"]["code"], response["output"]) == ("failed", "server_error", [])
    if not background:
        assert "fire" in response["error"]["message"]  # these settings were made by hand, and expose causes


async def test_a_handlers_fault_is_the_end_of_its_stream(post: Any, sse_events: Any) -> None:
    """On purpose `response.failed` behind `response.created`, where the official server sends one `error` alone."""
    events = sse_events((await post(input="fail", stream=True)).text)
    assert [event["type"] for event in events] == ["response.created", "response.in_progress", "response.failed"]
    assert events[-1]["response"]["error"]["code"] == "server_error"


async def test_a_background_turn_is_answered_before_it_ends(site: Any, post: Any) -> None:
    """It is read as running, and later as completed."""
    answer = await post(input="wait 3", background=True)
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert (await ended(site, answer.json()["id"]))["status"] == "completed"


@pytest.mark.parametrize("verb", ["get", "delete", "post"])
async def test_what_is_not_stored_is_not_found(site: Any, post: Any, fault: Any, verb: str) -> None:
    """Neither to be read nor to be deleted nor to be cancelled."""
    made = (await post(input="x", store=False)).json()
    answer = await getattr(site.http, verb)(f"/responses/{made['id']}{'/cancel' if verb == 'post' else ''}")
    assert fault(answer) == (404, "response_not_found", "response_id", "user")


async def test_a_foreground_turn_in_flight_is_not_found(site: Any, post: Any, fault: Any) -> None:
    """It is there when it has ended; who made it has not heard of it yet."""
    wanted = f"caresp_{'0' * 18}{'B' * 32}"
    running = asyncio.create_task(post(input="wait 5", headers={"x-agent-response-id": wanted}))
    await asyncio.sleep(0.2)
    path = f"/responses/{wanted}"
    for answer in (await site.http.get(path), await site.http.delete(path), await site.http.post(f"{path}/cancel")):
        assert fault(answer) == (404, "response_not_found", "response_id", "user")
    assert (await running).json()["id"] == wanted
    assert (await read(site, wanted))["status"] == "completed"


@pytest.mark.parametrize("more", [{}, {"background": True}], ids=str)
async def test_any_stored_response_replays(site: Any, post: Any, sse_events: Any, more: dict[str, Any]) -> None:
    """On purpose also one that was not streamed, or not in the background, which the official server refuses."""
    made = (await post(input="x", **more)).json()
    await ended(site, made["id"])
    events = sse_events((await site.http.get(f"/responses/{made['id']}?stream=true")).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"


async def test_a_replay_goes_on_behind_a_number(site: Any, post: Any, sse_events: Any) -> None:
    """And ends with the last event; what is no number is named."""
    whole = sse_events((await post(input="x", background=True, stream=True)).text)
    path = f"/responses/{whole[0]['response']['id']}?stream=true&starting_after="
    assert sse_events((await site.http.get(f"{path}3")).text) == whole[4:]
    refused = await site.http.get(f"{path}x")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "starting_after")


async def test_a_deleted_response_is_gone(site: Any, post: Any) -> None:
    """The first deletion says so, every later look finds nothing."""
    made = (await post(input="x")).json()
    path = f"/responses/{made['id']}"
    assert (await site.http.delete(path)).json() == {"id": made["id"], "object": "response", "deleted": True}
    for again in (site.http.delete(path), site.http.get(path), site.http.get(f"{path}/input_items")):
        assert (await again).status_code == 404


async def test_a_turn_in_flight_is_cancelled_before_it_is_deleted(site: Any, post: Any, fault: Any) -> None:
    """Cancelling it twice is no error, and it stays cancelled."""
    made = (await post(input="wait 50", background=True)).json()
    path = f"/responses/{made['id']}"
    assert fault(await site.http.delete(path)) == (400, "response_in_progress", "response_id", "user")
    for _ in range(2):
        answer = await site.http.post(f"{path}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert (await read(site, made["id"]))["status"] == "cancelled"


async def test_cancelling_what_has_ended_shows_it(site: Any, post: Any, fault: Any) -> None:
    """On purpose 200 for a background response, as at OpenAI; one of the foreground is refused, as everywhere."""
    done = (await post(input="x", background=True)).json()
    assert (await ended(site, done["id"]))["status"] == "completed"
    answer = await site.http.post(f"/responses/{done['id']}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    plain = (await post(input="x")).json()
    refused = await site.http.post(f"/responses/{plain['id']}/cancel")
    assert fault(refused) == (400, "cannot_cancel_synchronous", "response_id", "user")
    assert refused.json()["error"]["message"] == "Cannot cancel a synchronous response."


async def test_a_cancelled_stream_ends_as_failed_with_a_cancelled_response(
    site: Any, post: Any, sse_events: Any
) -> None:
    """The last event's type and the status of its response differ, as at the official server."""
    wanted = f"caresp_{'0' * 18}{'C' * 32}"
    stream = asyncio.create_task(
        post(input="wait 50", background=True, stream=True, headers={"x-agent-response-id": wanted})
    )
    async with asyncio.timeout(PATIENCE):
        while (await site.http.get(f"/responses/{wanted}")).status_code != 200:
            await asyncio.sleep(0.02)
    await site.http.post(f"/responses/{wanted}/cancel")
    last = sse_events((await stream).text)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "cancelled")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_cancels_its_turn(site: Any, stream: bool) -> None:
    """Within three seconds it can be read as cancelled."""
    wanted = f"caresp_{'0' * 18}{'D' * 32}"
    body = {"input": "wait 100", "stream": stream}
    asking = asyncio.create_task(site.http.post("/responses", json=body, headers={"x-agent-response-id": wanted}))
    await asyncio.sleep(0.3)
    asking.cancel()
    async with asyncio.timeout(3):
        while (answer := await site.http.get(f"/responses/{wanted}")).status_code == 404:
            await asyncio.sleep(0.02)
    assert answer.json()["status"] == "cancelled"


async def test_a_background_turn_goes_on_without_its_client(site: Any, sse_events: Any) -> None:
    """It can be read meanwhile, and its whole stream afterwards."""
    wanted = f"caresp_{'0' * 18}{'E' * 32}"
    body = {"input": "wait 8", "stream": True, "background": True}
    asking = asyncio.create_task(site.http.post("/responses", json=body, headers={"x-agent-response-id": wanted}))
    await asyncio.sleep(0.3)
    asking.cancel()
    assert (await read(site, wanted))["status"] == "in_progress"
    await ended(site, wanted)
    events = sse_events((await site.http.get(f"/responses/{wanted}?stream=true")).text)
    assert events[-1]["type"] == "response.completed"


# --- One conversation, one response ------------------------------------------------------------------------------


async def test_a_busy_conversation_is_locked(post: Any, fault: Any) -> None:
    """On purpose 400 as at OpenAI, where the official server says 409."""
    first = asyncio.create_task(post(input="wait 5", conversation="c1"))
    await asyncio.sleep(0.2)
    assert fault(await post(input="x", conversation="c1")) == (400, "conversation_locked", "conversation", "user")
    assert (await first).json()["status"] == "completed"


async def test_an_older_response_can_be_continued(post: Any) -> None:
    """On purpose: every stored response is a save point, also where the official server steers and refuses forks."""
    first = (await post(input="a")).json()["id"]
    told = []
    for text in ("b", "c"):
        branch = (await post(input=text, previous_response_id=first)).json()
        told.append(branch["output"][0]["content"][0]["text"])
    assert told == ["a, b", "a, c"]


# --- A store that fails ------------------------------------------------------------------------------------------


class Unreadable(UnsteadyStore):
    """One that also fails to find what is continued."""

    async def resolve(self, user: str, response_id: str) -> Any:
        await self._reach("resolve")
        return await super().resolve(user, response_id)


@pytest.fixture
async def unsteady(hosted: Any, tmp_path: Path) -> Any:
    """A hosted agent, and its store, whose verbs can be made to fail."""
    store = Unreadable(tmp_path / "unsteady.db")
    return await hosted(store=store), store


async def test_a_store_that_cannot_be_read_is_the_platforms_fault(unsteady: Any, fault: Any) -> None:
    """The platform is told the cause, in one line that is not too long; the client is not."""
    site, store = unsteady
    made = (await site.http.post("/responses", json={"input": "x"})).json()
    store.failures["resolve"] = 1
    answer = await site.http.post("/responses", json={"input": "y", "previous_response_id": made["id"]})
    assert fault(answer) == (500, "server_error", "", "platform")
    assert answer.headers["x-platform-error-detail"] == "StoreError: The disk is at fault."
    assert "disk" not in answer.text


def test_what_the_platform_is_told_of_a_cause_is_one_line_of_ascii() -> None:
    """A cause may say anything; the header holds 2048 characters of it and says that there is more."""
    [_, (_, short)] = fault_headers(500, ValueError("line\r\nx-injected: 1\x00 \u2028 é"))
    assert short == b"ValueError: line x-injected: 1 \\xe9"
    [_, (_, long)] = fault_headers(503, ValueError("x" * 5000))
    assert (len(long), long[-14:]) == (2048 + 14, b"...[truncated]")


async def test_a_turn_that_cannot_be_stored_is_the_platforms_fault(unsteady: Any, fault: Any) -> None:
    """On purpose `platform`, which is the truth, where the official server blames the handler. Nothing is kept."""
    site, store = unsteady
    store.failures["finish"] = 1
    answer = await site.http.post("/responses", json={"input": "x"})
    assert fault(answer) == (500, "server_error", "", "platform")
    assert answer.headers["x-platform-error-detail"] == "StoreError: The disk is at fault."
    assert answer.headers["x-agent-session-id"]


async def test_a_stream_that_cannot_be_stored_ends_as_failed(unsteady: Any, sse_events: Any) -> None:
    """On purpose with `server_error`: strict clients know no `storage_error`."""
    site, store = unsteady
    store.failures["finish"] = 1
    answer = await site.http.post("/responses", json={"input": "x", "stream": True})
    last = sse_events(answer.text)[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    assert (await site.http.get(f"/responses/{last['response']['id']}")).status_code == 404
