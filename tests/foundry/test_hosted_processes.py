"""A hosted agent whose processes come and go with nothing but the platform's storage between them."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.foundry.stand_in import Project
from tests.foundry.tokens import Tokens

DESK = f"{Path(__file__).with_name('desk.py')}:workflow"
CALL, USER = "x-agent-foundry-call-id", "x-agent-user-id"
PATIENCE = 20.0
TURNS = ["one", "two", "three", "four", "five"]


Start = Callable[..., Any]


@pytest.fixture
def start(serve: Any, platform: Project, tokens: Tokens, tmp_path: Path) -> Start:
    """Starts a process of the agent with an empty home, as the platform does, and speaks to it as the user `ann`."""
    numbers = iter(range(100))

    def begin(session: str = "S", agent: str = "desk") -> Any:
        home = tmp_path / f"home-{next(numbers)}"
        home.mkdir()
        told = {
            "FOUNDRY_HOSTING_ENVIRONMENT": "hosted", "FOUNDRY_PROJECT_ENDPOINT": platform.endpoint,
            "FOUNDRY_AGENT_NAME": agent, "FOUNDRY_AGENT_SESSION_ID": session, "HOME": str(home),
        }  # fmt: skip
        process = serve(DESK, "--host", "127.0.0.1", store=None, env={**told, **tokens.environment})
        process.client = process.client.with_options(default_headers={CALL: "call-1", USER: "ann"})
        return process

    return begin


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("by", ["previous_response_id", "conversation"])
def test_every_turn_may_run_in_a_process_of_its_own(start: Start, platform: Project, by: str, end: str) -> None:
    """The state goes on from each to the next, whether a process goes down in order or is killed after its answer."""
    said, previous = [], None
    for text in TURNS:
        process = start()
        more = {"conversation": "conv_of_the_platform"} if by == "conversation" else {}
        response = process.say(text, previous, **more)
        previous = response.id if by == "previous_response_id" else None
        said.append(response.output_text)
        getattr(process, end)()
        assert f"stored in foundry:{platform.endpoint}" in process.log
        assert not re.search("WARNING|ERROR|call-1", process.log), process.log
    assert said == [", ".join(TURNS[: count + 1]) for count in range(len(TURNS))]


def test_the_next_process_of_a_session_goes_on_with_what_a_killed_one_has_left(
    start: Start, platform: Project, tmp_path: Path
) -> None:
    """Without a request: it begins at its start, under the call id of the request that had asked for the turn."""
    first = start()
    running = first.client.responses.create(input="tick 20 0.1", background=True, stream=True)
    begun = [next(running) for _ in range(8)]
    first.kill()
    time.sleep(0.3)
    platform.clear()
    start()
    end = time.monotonic() + PATIENCE
    while not platform.records.responses:
        assert time.monotonic() < end, "the turn does not come to its end"
        time.sleep(0.05)
    [shown] = platform.records.responses.values()
    assert (shown.response["id"], shown.response["status"]) == (begun[0].response.id, "completed")
    written = {request.call_id for request in platform.requests if request.method in ("PUT", "POST", "DELETE")}
    assert written <= {"call-1", ""}
    assert {each.call_id for each in platform.requests if each.template == "responses"} == {"call-1"}


@pytest.mark.parametrize("ends_first", [False, True])
def test_conversations_begin_beside_what_was_left_behind(start: Start, platform: Project, ends_first: bool) -> None:
    """The initial state that an older conversation has brought along is not yet that of a new one."""
    first = start()
    running = first.client.responses.create(input="tick 8 0.1", background=True, stream=True)
    left = next(running).response
    next(running)
    first.kill()
    second = start()
    while ends_first and second.client.responses.retrieve(left.id).status != "completed":
        time.sleep(0.05)
    assert second.say("hello", None).output_text == "hello"
    assert second.client.responses.create(input="again", conversation="conv_1").output_text == "again"


def test_a_copy_that_is_restored_goes_on_with_what_its_session_has_left(start: Start, platform: Project) -> None:
    """A snapshot knows no session yet; restored, its process is the session's next one."""
    first = start()
    running = first.client.responses.create(input="tick 8 0.1", background=True, stream=True)
    left = next(running).response
    next(running)
    first.kill()
    copy = start("")
    httpx2.post(f"{copy.base_url}/_agent/before-snapshot", json={})
    context = {"session_id": "S", "restore_id": "r1", "session_env_overrides": {}}
    httpx2.post(f"{copy.base_url}/_agent/after-restore", json={"session_context": context})
    end = time.monotonic() + PATIENCE
    while left.id not in {id for _, id in platform.records.responses}:
        assert time.monotonic() < end, "the turn does not come to its end"
        time.sleep(0.05)


def test_what_was_left_behind_and_cannot_be_read_harms_nobody(start: Start, platform: Project) -> None:
    """A version that is taken back meets what a newer one has written: it says so, and serves everybody else."""
    good = start("T")
    fine = good.say("fine", None)
    good.stop()
    first = start()
    running = first.client.responses.create(input="tick 8 0.1", background=True, stream=True)
    next(running)
    first.kill()
    records = platform.records.stores["agent_host-desk"].items
    (index,) = [json.loads(item.value) for (_, key), item in records.items() if key.startswith("t/")]
    (head,) = [item for (_, key), item in records.items() if key.startswith("f/") and key.endswith(index["family"])]
    object.__setattr__(head, "value", json.dumps({**json.loads(head.value), "format": 99}).encode())
    second = start()
    assert f"{index['response_id']} was left behind and cannot be read" in second.log
    assert second.say("x", fine.id).output_text == "fine, x"


def test_a_stream_of_a_killed_process_is_read_on_from_the_next_one(start: Start) -> None:
    """Behind the last number that the client has seen, without a gap, to the end."""
    first = start()
    seen = []
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        for event in first.client.responses.create(input="tick 12 0.1", background=True, stream=True):
            seen.append(event)
            if len(seen) == 8:
                first.kill()
    second = start()
    rest = second.client.responses.retrieve(seen[0].response.id, stream=True, starting_after=seen[-1].sequence_number)
    seen += rest
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert second.say("x", seen[0].response.id).output_text == "tick 12 0.1, x"


def test_agents_in_one_conversation_hear_each_other_and_share_no_state(start: Start, platform: Project) -> None:
    """Each has its own, though they were made of the same workflow; what others have said was said before, to both."""
    one, other = start("S", "one"), start("T", "other")
    said = [each.say(text, conversation="conv_1") for each, text in ((one, "a"), (other, "b"), (one, "c"))]
    assert [each.output_text for each in said] == ["a", "b", "a, c"]
    first, second, third = (platform.records.responses["", each.id] for each in said)
    assert second.history == first.own_ids
    assert third.history == [*first.own_ids, *second.own_ids]
    assert set(platform.records.stores) == {"agent_host-one", "agent_host-other"}
