"""The items that a response was given, listed."""

import asyncio
from typing import Any, Never

import openai
import pytest

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, executor


@executor(id="echo")
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(text)


def echoing() -> Workflow:
    return WorkflowBuilder(start_executor=echo, name="echoing").build()


async def test_all_items_are_seen_over_pages(serve_app: Any) -> None:
    """The pager of the client sees each of many items once, newest first unless asked otherwise."""
    client = (await serve_app(echoing())).client
    asked = [{"role": "user", "content": str(number)} for number in range(45)]
    response = await client.responses.create(input=asked)
    newest_first = [item async for item in client.responses.input_items.list(response.id)]
    assert len({item.id for item in newest_first}) == 45
    assert [item.content[0].text for item in newest_first] == [str(number) for number in reversed(range(45))]
    in_order = [item async for item in client.responses.input_items.list(response.id, order="asc", limit=2)]
    assert in_order == newest_first[::-1]
    assert len((await client.responses.input_items.list(response.id)).data) == 20


async def test_a_page_names_its_ends(serve_app: Any) -> None:
    """The answer has the keys of every list, and says whether there is more."""
    site = await serve_app(echoing())
    response = await site.say("hi")
    page = (await site.http.get(f"/responses/{response.id}/input_items")).json()
    (item,) = page["data"]
    assert page == {"object": "list", "data": [item], "first_id": item["id"], "last_id": item["id"], "has_more": False}
    assert item["id"].startswith("msg_")


async def test_only_the_items_of_the_own_request_are_listed(serve_app: Any) -> None:
    """What came in earlier turns is listed with the responses of those."""
    site = await serve_app(echoing())
    first = await site.say("first")
    second = await site.say("second", first.id)
    for response, text in ((first, "first"), (second, "second")):
        page = await site.client.responses.input_items.list(response.id)
        assert [item.content[0].text for item in page.data] == [text]


async def test_a_reference_is_listed_as_the_item_it_stands_for(serve_app: Any) -> None:
    """Clients that list an input with a reference in it find the item, until the response that had it is deleted."""
    site = await serve_app(echoing())
    first = await site.say("first")
    reference = {"type": "item_reference", "id": first.output[0].id}
    second = await site.client.responses.create(input=[reference, {"role": "user", "content": "second"}])
    page = await site.client.responses.input_items.list(second.id, order="asc")
    assert [item.content[0].text for item in page.data] == ["first", "second"]
    assert page.data[0].id == first.output[0].id
    await site.client.responses.delete(first.id)
    raw = (await site.http.get(f"/responses/{second.id}/input_items?order=asc")).json()
    assert [item["type"] for item in raw["data"]] == ["item_reference", "message"]


async def test_an_unknown_response_has_no_items(serve_app: Any) -> None:
    """Its id, well formed or not, is not found."""
    site = await serve_app(echoing())
    for unknown in ("resp_unknown", "no%00id"):
        answer = await site.http.get(f"/responses/{unknown}/input_items")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "response_not_found"


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 101}, {"order": "x"}, {"after": "msg_unknown"}], ids=str)
async def test_a_page_that_cannot_be_is_refused(serve_app: Any, query: dict[str, Any]) -> None:
    """A parameter that cannot be used is named."""
    site = await serve_app(echoing())
    response = await site.say("hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await site.client.responses.input_items.list(response.id, **query)
    assert caught.value.param == next(iter(query))


async def test_a_response_on_its_way_has_no_items_yet(serve_app: Any) -> None:
    """Its input is stored with its end; until then the answer says to wait, and then the items are there."""
    may_end = asyncio.Event()

    @executor(id="gate")
    async def gate(text: str, ctx: WorkflowContext[Never, str]) -> None:
        await may_end.wait()
        await ctx.yield_output(text)

    client = (await serve_app(WorkflowBuilder(start_executor=gate, name="gated").build())).client
    response = await client.responses.create(input="hi", background=True)
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.input_items.list(response.id)
    assert caught.value.code == "response_in_progress"
    may_end.set()
    while response.status in ("queued", "in_progress"):
        response = await client.responses.retrieve(response.id)
    assert len((await client.responses.input_items.list(response.id)).data) == 1
