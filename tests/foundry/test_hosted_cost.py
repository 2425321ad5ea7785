"""What a hosted turn costs in calls to the storage that wait for each other, from the request to the answer."""

import asyncio
import itertools
import random
import time
from typing import Any

import pytest

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.workflow import Workflow
from agent_host.foundry.identity import RESPONSE
from tests.foundry.stand_in import Project

LATENCY = 0.05
KEYED = f"conv_{'1' * 16}00{'C' * 32}"
STATE = 500 * 1024
"""Bytes, just under the 512 KB that the promise is about, and of a kind that cannot be made smaller."""


class Times:
    """When the handlers of the last turn ran, and the seconds that the first one took."""

    work = 0.0
    first = 0.0
    last = 0.0


class Step(Executor):
    """Changes a third of the state, and passes on what it got."""

    def __init__(self, id: str, number: int) -> None:
        super().__init__(id)
        self.number = number
        self.data = b""

    @handler
    async def take(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        if self.number == 0:
            Times.first = time.monotonic()
            await asyncio.sleep(Times.work)
        self.data = random.randbytes(STATE // 3)
        if self.number < 2:
            await ctx.send_message(text)
        else:
            await ctx.yield_output(text)
            Times.last = time.monotonic()


def heavy() -> Workflow:
    first, second, third = (Step(f"step{number}", number) for number in range(3))
    return WorkflowBuilder(start_executor=first, name="heavy").add_edge(first, second).add_edge(second, third).build()


async def turn(site: Any, platform: Project, headers: dict[str, str], **fields: Any) -> tuple[str, int, int]:
    """A turn: its id, and the round trips before its first superstep and after its last one."""
    began = time.monotonic()
    answer = await site.http.post("/responses", json={"input": "x", **fields}, headers=headers)
    done = time.monotonic()
    assert answer.status_code == 200
    assert "response.failed" not in answer.text
    # Nobody waits for what is removed, nor for the last response, which a new process shows once more.
    waited_for = [each for each in platform.requests if each.status != 409 and each.method != "DELETE"]
    platform.requests[:] = waited_for
    id = answer.text.partition('"caresp_')[2].partition('"')[0]
    return f"caresp_{id}", platform.rounds(began, Times.first), platform.rounds(Times.last, done)


@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
@pytest.mark.parametrize("case", ["chain", "chosen id", "conversation", "conversation without a key"])
async def test_a_turn_waits_for_the_storage_three_times_before_and_three_times_after_its_work(
    hosted: Any, platform: Project, case: str, stream: bool
) -> None:
    """At the most, by the whole way over HTTP, in a process that begins with nothing and in one that goes on.

    What is written so that an id of another key is found is written meanwhile, if the work takes as long as that. To
    look whether an id that was chosen for the response is free, and where the one before it points, is one more.
    """
    platform.latency = LATENCY
    named = {"conversation": KEYED if case == "conversation" else "conv_1"} if "conversation" in case else {}
    Times.work = 0.0 if case in ("chain", "conversation") else 2 * LATENCY
    seen, numbers = [], itertools.count(1)
    for session in ("S", "T"):
        site = await hosted(session, workflow=heavy())
        await site.http.get(f"/responses/caresp_{'0' * 18}{'A' * 32}")  # opens the store
        for _ in range(2):
            chosen = {RESPONSE: f"caresp_{next(numbers):016x}00{'B' * 32}"} if case == "chosen id" else {}
            id, before, after = await turn(site, platform, chosen, stream=stream, **named)
            named = named if "conversation" in case else {"previous_response_id": id}
            seen.append((session, before, after))
    most = 4 if case == "chosen id" else 3
    assert all(before <= most and after <= 3 for _, before, after in seen), seen
