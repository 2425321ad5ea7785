"""What changes around a background turn while it runs, and a start of the host in between."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.properties.calling import Site
from tests.properties.model import calls_of, texts_of


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path)
    await site.start()
    yield site
    await site.stop()


async def begun(site: Site, text: str, **more: Any) -> str:
    """The id of a background turn that waits at its gate."""
    call = await site.ask("POST", "/responses", {"input": text, "background": True, **more})
    await site.until(lambda: text in site.gates.waiting, "it waits")
    await asyncio.sleep(0.05)
    return str(call.json["id"])


async def test_an_item_that_is_added_while_a_turn_runs_is_heard_by_the_next_also_after_a_crash(site: Site) -> None:
    """A turn that goes on from a commit of its own does not take in what came after it had begun."""
    conversation = (await site.ask("POST", "/conversations", {})).json["id"]
    one = await begun(site, "late 1", conversation=conversation)
    note = {"items": [{"role": "user", "content": "note 2"}]}
    await site.ask("POST", f"/conversations/{conversation}/items", note)
    await site.crash()
    site.gates.open("late 1")
    assert texts_of((await site.ended(one))["output"]) == ("late 1",)
    two = await site.ask("POST", "/responses", {"input": "say 3", "conversation": conversation})
    assert texts_of(two.json["output"]) == ("late 1|note 2\n\nsay 3",)


async def test_a_turn_whose_parent_was_deleted_goes_on_after_a_crash(site: Site) -> None:
    """It was accepted, and the commit it starts from is there: what it continues need not be."""
    parent = await site.ask("POST", "/responses", {"input": "say 1"})
    for text in ("wait 2", "late 3"):
        again = await begun(site, text, previous_response_id=parent.json["id"])
        await site.ask("DELETE", f"/responses/{parent.json['id']}")
        await site.crash()
        site.gates.open(text)
        ended = await site.ended(again)
        assert (ended["status"], texts_of(ended["output"])[-1]) == ("completed", f"say 1|{text}")
        parent = await site.ask("POST", "/responses", {"input": "say 1"})


async def test_an_answer_is_taken_while_an_assistants_item_waits(site: Site) -> None:
    """What the assistant has said outside of a turn is nothing to hear, and no reason to refuse an answer."""
    conversation = (await site.ask("POST", "/conversations", {})).json["id"]
    asked = await site.ask("POST", "/responses", {"input": "ask 1", "conversation": conversation})
    note = {"items": [{"role": "assistant", "content": "note 2"}]}
    await site.ask("POST", f"/conversations/{conversation}/items", note)
    (call_id,) = calls_of(asked.json["output"])
    answer = {"type": "function_call_output", "call_id": call_id, "output": "yes"}
    answered = await site.ask("POST", "/responses", {"input": [answer], "conversation": conversation})
    assert (answered.status, texts_of(answered.json["output"])) == (200, ("ask 1|yes",))
