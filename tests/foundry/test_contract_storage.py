"""A hosted agent and the platform's storage: what it asks for whom, and what becomes of a turn that storage fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from agent_host.foundry.identity import CALL, USER
from tests.foundry.platform_records import StoredResponse
from tests.foundry.stand_in import Project, Recorded

ALWAYS = 1000
UNKNOWN = f"caresp_{'0' * 18}{'U' * 32}"


def text_of(answer: Any) -> str:
    """What the agent has said."""
    text: str = answer.json()["output"][0]["content"][0]["text"]
    return text


def is_head(request: Recorded) -> bool:
    """Whether a request would write the head of a family, which decides whether a turn is stored."""
    return request.method in ("PUT", "POST") and request.key.startswith("f/")


def is_look(request: Recorded) -> bool:
    """Whether a request looks for what a turn continues."""
    return request.method == "GET"


def is_shown(request: Recorded) -> bool:
    """Whether a request shows a response."""
    return (request.method, request.template) == ("POST", "responses")


MODES = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
BY = pytest.mark.parametrize("by", ["previous_response_id", "conversation"])


class Line:
    """Turns that continue each other, one way or the other."""

    def __init__(self, post: Any, by: str) -> None:
        self._post = post
        self.named = {"conversation": "conv_1"} if by == "conversation" else {}
        self._by = by

    async def say(self, text: str, **more: Any) -> Any:
        """One turn; the next one continues it unless it was refused."""
        answer = await self._post(input=text, **self.named, **more)
        if answer.status_code == 200 and not more:
            self.go_on_from(answer.json()["id"])
        return answer

    def go_on_from(self, response_id: str) -> None:
        """Continue a response with the next turn, unless it is the conversation that is continued."""
        if self._by != "conversation":
            self.named = {"previous_response_id": response_id}


@pytest.fixture
def line(post: Any, by: str) -> Line:
    return Line(post, by)


async def other_process(hosted: Any) -> Callable[..., Any]:
    """Sends bodies to another process of the agent, which has nothing in its memory."""
    site = await hosted("another session")

    async def send(**fields: Any) -> Any:
        return await site.http.post("/responses", json=fields)

    return send


# --- What is unknown ----------------------------------------------------------------------------------------------


@MODES
async def test_what_the_storage_does_not_know_is_the_users_fault(post: Any, fault: Any, stream: bool) -> None:
    """On purpose 400 as at OpenAI, where the official server passes on the storage's own 404."""
    answer = await post(input="x", previous_response_id=UNKNOWN, stream=stream)
    assert fault(answer) == (400, "previous_response_not_found", "previous_response_id", "user")


@MODES
async def test_a_response_of_the_platform_that_has_no_state_is_not_continued(
    post: Any, fault: Any, platform: Project, stream: bool
) -> None:
    """What another program has made has no state of this workflow: it is as unknown."""
    platform.records.responses["", UNKNOWN] = StoredResponse({"id": UNKNOWN, "output": []}, [], [])
    answer = await post(input="x", previous_response_id=UNKNOWN, stream=stream)
    assert fault(answer) == (400, "previous_response_not_found", "previous_response_id", "user")


@MODES
async def test_a_conversation_that_the_storage_does_not_know_begins(post: Any, sse_events: Any, stream: bool) -> None:
    """On purpose: the platform makes conversations, so one without items is a new one."""
    answer = await post(input="x", conversation="conv_new", stream=stream)
    assert answer.status_code == 200
    last = sse_events(answer.text)[-1]["response"] if stream else answer.json()
    assert last["status"] == "completed"


# --- For whom it is asked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"background": True}, {"stream": True}, {"conversation": "conv_1"}], ids=str)
async def test_every_call_carries_the_call_id_of_its_request(
    site: Any, post: Any, platform: Project, more: dict[str, Any], eventually: Any
) -> None:
    """And never the user, which the stand-in would refuse."""
    platform.clear()
    platform.needs_call_id = True
    await post(input="wait 3", headers={CALL: "c1", USER: "u1"}, **more)
    await eventually(lambda: len(platform.records.responses) == 1, "the response is shown")
    assert {request.call_id for request in platform.requests} == {"c1"}


async def test_each_of_many_requests_calls_for_itself(site: Any, platform: Project) -> None:
    """However many users are served at once, also those who share a conversation's id."""
    platform.needs_call_id = True
    platform.users = {f"call-of-{user}": user for user in "abcdef"}

    async def turns(user: str) -> list[str]:
        headers, ids = {CALL: f"call-of-{user}", USER: user}, []
        for text in ("wait 1", "two", "three"):
            body = {"input": f"{text}", "conversation": "conv_1", "background": text == "two"}
            made = (await site.http.post("/responses", json=body, headers=headers)).json()
            while made["status"] in ("queued", "in_progress"):
                await asyncio.sleep(0.02)
                made = (await site.http.get(f"/responses/{made['id']}", headers=headers)).json()
            assert made["status"] == "completed"
            ids.append(made["id"])
        return ids

    made = dict(zip("abcdef", await asyncio.gather(*map(turns, "abcdef")), strict=True))
    shown = {(user, id) for user, ids in made.items() for id in ids}
    assert set(platform.records.responses) == shown
    for user in "abcdef":
        seen = await site.http.get(f"/responses/{made[user][-1]}", headers={CALL: f"call-of-{user}", USER: user})
        assert seen.json()["output"][0]["content"][0]["text"] == "wait 1, two, three"


# --- A storage that fails -----------------------------------------------------------------------------------------


@MODES
@BY
async def test_a_look_up_that_fails_is_the_platforms_fault(
    hosted: Any, line: Line, platform: Project, fault: Any, stream: bool
) -> None:
    """The platform is told the cause in at most 2048 characters; once the storage is back the turn is taken."""
    assert (await line.say("one")).status_code == 200
    send = await other_process(hosted)
    platform.fail(500, ALWAYS, is_look)
    answer = await send(input="two", stream=stream, **line.named)
    assert fault(answer) == (500, "server_error", "", "platform")
    assert "StoreError: The project's storage" in answer.headers["x-platform-error-detail"]
    assert len(answer.headers["x-platform-error-detail"]) <= 2048
    assert "storage" not in answer.text
    platform.faults.clear()
    assert text_of(await send(input="three", **line.named)) == "one, three"


@BY
async def test_a_turn_that_cannot_be_stored_is_an_error_and_leaves_nothing(
    line: Line, platform: Project, fault: Any
) -> None:
    """A client does not send it again by itself; the conversation goes on from where it was."""
    assert (await line.say("one")).status_code == 200
    platform.fail(500, ALWAYS, is_head)
    answer = await line.say("two")
    assert fault(answer) == (500, "server_error", "", "platform")
    assert answer.headers["x-should-retry"] == "false"
    platform.faults.clear()
    assert text_of(await line.say("three")) == "one, three"
    assert len(platform.records.responses) == 2


@BY
async def test_a_stream_that_cannot_be_stored_ends_as_failed(line: Line, platform: Project, sse_events: Any) -> None:
    """On purpose with `server_error`: strict clients know no `storage_error`."""
    assert (await line.say("one")).status_code == 200
    platform.fail(500, ALWAYS, is_head)
    last = sse_events((await line.say("two", stream=True)).text)[-1]
    assert (last["type"], last["response"]["error"]["code"]) == ("response.failed", "server_error")
    platform.faults.clear()
    assert text_of(await line.say("three")) == "one, three"
    assert len(platform.records.responses) == 2


@BY
async def test_a_background_turn_that_cannot_be_accepted_is_an_error(line: Line, platform: Project, fault: Any) -> None:
    """Nobody has heard of it, and it keeps nobody out."""
    assert (await line.say("one")).status_code == 200
    platform.fail(500, ALWAYS, is_head)
    assert fault(await line.say("two", background=True))[:2] == (500, "server_error")
    platform.faults.clear()
    assert text_of(await line.say("three")) == "one, three"


@MODES
@BY
@pytest.mark.parametrize("how", ["cut", "duplicate"])
async def test_what_the_storage_has_already_is_stored(
    line: Line, platform: Project, sse_events: Any, stream: bool, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A write whose answer was lost, and that is then refused as a second one, has happened."""
    if how == "cut":
        platform.cut(1, is_head)
        platform.cut(1, is_shown)
    else:
        platform.fail(409, 1, is_shown)
    answer = await line.say("one", stream=stream)
    made = sse_events(answer.text)[-1]["response"] if stream else answer.json()
    assert made["status"] == "completed"
    assert [id for _, id in platform.records.responses] == ([made["id"]] if how == "cut" else [])
    assert ("is stored, but not shown" in caplog.text) == (how == "cut")
    line.go_on_from(made["id"])
    assert text_of(await line.say("two")) == "one, two"


@MODES
@BY
async def test_a_turn_that_the_platform_does_not_show_has_succeeded(
    line: Line, platform: Project, sse_events: Any, stream: bool
) -> None:
    """It is stored and can be continued; the platform shows it as soon as it takes it."""
    platform.fail(500, 5, is_shown)
    answer = await line.say("one", stream=stream)
    made = sse_events(answer.text)[-1]["response"] if stream else answer.json()
    assert made["status"] == "completed"
    assert platform.records.responses == {}
    line.go_on_from(made["id"])
    assert text_of(await line.say("two")) == "one, two"
