"""Turns in every mode in which a client can ask for one, each taken to its end by the stock client."""

import asyncio
from typing import Any

import openai
import pytest

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "stream": {"stream": True},
    "background": {"background": True},
    "background stream": {"background": True, "stream": True},
}


def said(*texts: str) -> list[Any]:
    """Messages of a user."""
    return [{"role": "user", "content": text} for text in texts]


def texts(items: Any) -> list[str]:
    """What messages say."""
    return [item.content[0].text for item in items]


async def take(site: Any, given: Any, mode: str = "plain", **fields: Any) -> Any:
    """The response of a turn that was asked for in this mode, when it has ended."""
    answer = await site.client.responses.create(input=given, **MODES[mode], **fields)
    if "stream" in mode:
        return [event async for event in answer][-1].response
    async with asyncio.timeout(20):
        while answer.status in ("queued", "in_progress"):
            await asyncio.sleep(0.01)
            answer = await site.client.responses.retrieve(answer.id)
    return answer


async def refused(site: Any, mode: str, given: Any = "x", **fields: Any) -> Any:
    """The error that a turn is refused with, by the first and only request of a client that would try again."""
    requests = len(site.requests)
    with pytest.raises(openai.APIStatusError) as caught:
        await take(site, given, mode, **fields)
    # Another turn's client may ask for its response meanwhile.
    assert [made for made in site.requests[requests:] if made.startswith("POST")] == ["POST /responses"]
    return caught.value
