"""Conversations and their items, as clients make, read, list, change and delete them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

import openai
import pytest
from openai import AsyncOpenAI

from agent_host import (
    Executor,
    RetryPolicy,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    config,
    executor,
    handler,
)
from agent_host.stores import Store, open_store


@executor(id="echo")
async def echo(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"You said {text}")


def echoing() -> Workflow:
    return WorkflowBuilder(start_executor=echo, name="echoing").build()


@pytest.fixture
async def client(serve_app: Any) -> AsyncOpenAI:
    """A client that validates every answer strictly, and repeats no request."""
    site = await serve_app(echoing())
    strict: AsyncOpenAI = site.client.with_options(max_retries=0)
    return strict


def said(*texts: str) -> list[Any]:
    return [{"role": "user", "content": text} for text in texts]


def texts(items: Any) -> list[str]:
    return [item.content[0].text for item in items]


async def listed(client: AsyncOpenAI, conversation_id: str, **query: Any) -> list[str]:
    """The texts of all items, over as many pages as there are."""
    return texts([item async for item in client.conversations.items.list(conversation_id, **query)])


async def test_a_conversation_is_made_read_changed_and_deleted(client: AsyncOpenAI) -> None:
    """It has an id, a time and metadata; a change replaces the metadata; what was deleted cannot be deleted again."""
    made = await client.conversations.create()
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {})
    assert await client.conversations.retrieve(made.id) == made

    await client.conversations.update(made.id, metadata={"a": "1", "b": "2"})
    changed = await client.conversations.update(made.id, metadata={"c": "3"})
    assert changed.metadata == {"c": "3"}
    assert (changed.id, changed.created_at) == (made.id, made.created_at)
    assert await client.conversations.retrieve(made.id) == changed
    assert (await client.conversations.update(made.id, metadata=None)).metadata == {}

    deleted = await client.conversations.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.conversations.delete(made.id)
    assert (caught.value.code, caught.value.param) == ("conversation_not_found", "conversation")


async def test_nothing_is_done_to_an_unknown_conversation(client: AsyncOpenAI) -> None:
    """Whatever is asked of it, it is not found, and not made on the way."""
    everything = client.conversations
    for unknown in ("conv_unknown", "no%00id", "x" * 300):
        calls: list[Callable[[], Any]] = [
            lambda id=unknown: everything.retrieve(id),
            lambda id=unknown: everything.update(id, metadata={}),
            lambda id=unknown: everything.delete(id),
            lambda id=unknown: everything.items.create(id, items=said("a")),
            lambda id=unknown: everything.items.list(id),
            lambda id=unknown: everything.items.retrieve("msg_1", conversation_id=id),
            lambda id=unknown: everything.items.delete("msg_1", conversation_id=id),
        ]
        for call in calls:
            with pytest.raises(openai.NotFoundError) as caught:
                await call()
            assert caught.value.code == "conversation_not_found"


class Particular:
    """A store that cannot be asked for a text with a zero in it, as there are databases that cannot."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._store, name)

        def ask(*arguments: Any, **more: Any) -> Any:
            for argument in (*arguments, *more.values()):
                assert not isinstance(argument, str) or "\0" not in argument
            return verb(*arguments, **more)

        return ask


async def test_what_cannot_be_an_id_is_not_looked_for(serve_app: Any, tmp_path: Path) -> None:
    """No store is asked for the impossible: it is not found, or it is a fault of the request."""
    site = await serve_app(echoing(), Particular(open_store(f"sqlite:///{tmp_path}/particular.db")))
    conversation = (await site.http.post("/conversations", json={})).json()["id"]
    for path, status in {
        "/conversations/a%00b": 404,
        "/conversations/a%00b/items": 404,
        f"/conversations/{conversation}/items/a%00b": 404,
        f"/conversations/{conversation}/items?after=a%00b": 400,
        "/responses/a%00b/input_items": 404,
        "/responses/a%00b": 404,
        "/responses/a%00b?stream=true": 404,
    }.items():
        assert (await site.http.get(path)).status_code == status, path


async def test_items_are_added_behind_those_that_are_there(client: AsyncOpenAI) -> None:
    """Each gets an id of its own, those of one call stay together, and the newest is listed first."""
    conversation = await client.conversations.create(items=said("a", "b"), metadata={"k": "v"})
    assert conversation.metadata == {"k": "v"}
    added = await client.conversations.items.create(conversation.id, items=said("c", "d"))
    assert texts(added.data) == ["c", "d"]
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[1].id, False)
    assert await listed(client, conversation.id) == ["d", "c", "b", "a"]
    assert await listed(client, conversation.id, order="asc") == ["a", "b", "c", "d"]


async def test_items_are_listed_in_pages(client: AsyncOpenAI) -> None:
    """Whoever follows the pages sees each of many items once; each page names its ends and whether more follow."""
    conversation = await client.conversations.create(items=said(*map(str, range(20))))
    await client.conversations.items.create(conversation.id, items=said(*map(str, range(20, 25))))
    for limit in (1, 7, 25):
        assert await listed(client, conversation.id, order="asc", limit=limit) == [str(number) for number in range(25)]
    assert len(await listed(client, conversation.id)) == 25

    page = await client.conversations.items.list(conversation.id, limit=3)
    assert texts(page.data) == ["24", "23", "22"]
    assert (page.last_id, page.has_more) == (page.data[-1].id, True)
    rest = await client.conversations.items.list(conversation.id, order="asc", after=page.data[1].id)
    assert (texts(rest.data), rest.has_more) == (["24"], False)
    ended = await client.conversations.items.list(conversation.id, order="asc", after=page.data[0].id)
    assert (ended.data, ended.last_id, ended.has_more) == ([], None, False)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "x"}, "order"),
        ({"after": "msg_unknown"}, "after"),
        ({"include": ["bogus"]}, "include[0]"),
    ],
    ids=str,
)
async def test_a_page_that_cannot_be_is_refused(client: AsyncOpenAI, query: dict[str, Any], param: str) -> None:
    """What stands in the address is judged as strictly as what stands in a body."""
    conversation = await client.conversations.create(items=said("a"))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.items.list(conversation.id, **query)
    assert caught.value.param == param


async def test_an_item_is_read_and_deleted_by_its_id(client: AsyncOpenAI) -> None:
    """Deleting gives the conversation; the item is then in no list, and cannot be read or deleted again."""
    conversation = await client.conversations.create(items=said("a", "b"))
    items = client.conversations.items
    newest, oldest = (await items.list(conversation.id, include=["reasoning.encrypted_content"])).data
    assert oldest.id is not None
    assert await items.retrieve(oldest.id, conversation_id=conversation.id) == oldest

    assert await items.delete(oldest.id, conversation_id=conversation.id) == conversation
    assert await listed(client, conversation.id) == ["b"]
    for call in (items.retrieve, items.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await call(oldest.id, conversation_id=conversation.id)
        assert (caught.value.code, caught.value.param) == ("item_not_found", "item_id")
    assert (await items.retrieve(newest.id or "", conversation_id=conversation.id)).id == newest.id


async def test_items_of_any_kind_are_kept(client: AsyncOpenAI) -> None:
    """What was once an output, or an answer to it, can be put into a conversation and is given back as it was."""
    given: list[Any] = [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "t", "annotations": []}]},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "yes"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
    ]
    conversation = await client.conversations.create(items=given)
    page = await client.conversations.items.list(conversation.id, order="asc")
    assert [item.type for item in page.data] == [item["type"] for item in given]
    assert [(item.id or "").split("_")[0] for item in page.data] == ["msg", "fc", "fco", "rs"]


async def test_a_reference_brings_the_item_itself(client: AsyncOpenAI) -> None:
    """An item of a response enters a conversation by its id; an unknown id is not found, and nothing is added."""
    response = await client.responses.create(input="hello")
    conversation = await client.conversations.create(items=[{"type": "item_reference", "id": response.output[0].id}])
    assert await listed(client, conversation.id) == ["You said hello"]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.conversations.items.create(
            conversation.id, items=[*said("a"), {"type": "item_reference", "id": "msg_unknown"}]
        )
    assert (caught.value.code, caught.value.param) == ("item_not_found", "input")
    assert await listed(client, conversation.id) == ["You said hello"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call_output", "call_id": "call_1", "output": "yes"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "yes"}]},
        {"type": "mcp_call", "name": "f", "server_label": "s", "arguments": "{}", "output": "yes"},
        {
            "type": "computer_call_output",
            "call_id": "call_1",
            "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AAAA"},
        },
    ],
)
async def test_an_item_with_an_output_is_referred_to(client: AsyncOpenAI, item: Any) -> None:
    """What it calls its output are no items, as the output of a response is."""
    conversation = await client.conversations.create(items=[item])
    [kept] = (await client.conversations.items.list(conversation.id)).data
    other = await client.conversations.create(items=[{"type": "item_reference", "id": kept.id}])
    [again] = (await client.conversations.items.list(other.id)).data
    assert again.to_dict() == kept.to_dict()


async def test_an_item_is_in_a_conversation_once(client: AsyncOpenAI) -> None:
    """An id that the conversation has already is refused with all that came with it; elsewhere it may be used."""
    item: Any = {"role": "user", "content": "a", "id": "msg_mine"}
    conversation = await client.conversations.create(items=[item])
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.items.create(conversation.id, items=[*said("b"), item])
    assert caught.value.code == "duplicate_item"
    assert "msg_mine" in caught.value.message
    assert await listed(client, conversation.id) == ["a"]
    assert await listed(client, (await client.conversations.create(items=[item])).id) == ["a"]


async def test_one_item_to_twenty_are_added_at_a_time(client: AsyncOpenAI) -> None:
    """Twenty pass; none and twenty-one are refused."""
    conversation = await client.conversations.create()
    await client.conversations.items.create(conversation.id, items=said(*"abcdefghijklmnopqrst"))
    for items in ([], said(*"abcdefghijklmnopqrstu")):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.conversations.items.create(conversation.id, items=items)
        assert caught.value.param == "items"
    assert len(await listed(client, conversation.id)) == 20


class Stumbling(Executor):
    """Says something, fails once, and says it again."""

    attempts: list[int] = config()

    def __init__(self) -> None:
        super().__init__("stumbling", retry=RetryPolicy(max_attempts=2, delay=0))
        self.attempts = []

    @handler
    async def tell(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        self.attempts.append(1)
        await ctx.yield_output(TextDelta(f"attempt {len(self.attempts)}"))
        if len(self.attempts) == 1:
            raise ConnectionError("lost")


async def test_what_was_taken_back_is_not_said_in_the_conversation(serve_app: Any) -> None:
    """The response shows the item of the failed attempt as incomplete; the conversation has what counts."""
    site = await serve_app(WorkflowBuilder(start_executor=Stumbling(), name="stumbling").build())
    made = await site.client.conversations.create()
    response = await site.client.responses.create(input="go", conversation=made.id)
    assert [item.status for item in response.output] == ["incomplete", "completed"]
    assert await listed(site.client, made.id, order="asc") == ["go", "attempt 2"]


# --- What waits -----------------------------------------------------------------------------------------------------


async def test_a_request_may_leave_the_input_to_what_waits(client: AsyncOpenAI) -> None:
    """What the workflow needs may have entered the conversation before."""
    talk = (await client.conversations.create(items=[{"role": "user", "content": "hi", "type": "message"}])).id
    answer = await client.responses.create(input=[{"role": "developer", "content": "be brief"}], conversation=talk)
    assert answer.output_text == "You said hi"


async def test_a_waiting_item_that_nobody_can_take_is_named(client: AsyncOpenAI) -> None:
    """The turn is refused as long as it waits; deleted, it is in nobody's way."""
    image = {"role": "user", "content": [{"type": "input_image", "image_url": "https://x.example/y.png"}]}
    talk = (await client.conversations.create(items=[image])).id
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.create(input="hi", conversation=talk)
    (waiting,) = (await client.conversations.items.list(talk)).data
    assert f"{waiting.id}.content[0]" in caught.value.message
    await client.conversations.items.delete(waiting.id, conversation_id=talk)
    assert (await client.responses.create(input="hi", conversation=talk)).output_text == "You said hi"
