"""Compacting, and counting tokens: the endpoints that look back over a whole conversation."""

from pathlib import Path
from typing import Any, Never

import openai
import openresponses_types.types as published
import pytest

from agent_host import Workflow, WorkflowBuilder, WorkflowContext, create_app, executor
from agent_host.ids import key_of
from agent_host.settings import Settings


@executor(id="counter")
async def counter(text: str, ctx: WorkflowContext[Never, str]) -> None:
    seen = ctx.get_state("seen", [])
    ctx.set_state("seen", [*seen, text])
    await ctx.yield_output(f"After {len(seen)}: {text}")


def counting() -> Workflow:
    return WorkflowBuilder(start_executor=counter, name="counting").build()


async def compacted(site: Any, **body: Any) -> dict[str, Any]:
    """The answer of a compaction, after the published types have seen it."""
    answer = await site.http.post("/responses/compact", json={"model": "m", **body})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    published.CompactResource.model_validate(found)
    return found


def user_texts(answer: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in answer["output"] if item["type"] == "message"]


async def tokens(site: Any, **body: Any) -> int:
    return int((await site.client.responses.input_tokens.count(**body)).input_tokens)


# --- Compacting --------------------------------------------------------------------------------------------------


async def test_a_compaction_keeps_what_the_user_said_and_a_handle(serve_app: Any) -> None:
    """The answer has the user's messages of all turns in order, then one item with a handle that says nothing."""
    site = await serve_app(counting())
    second = await site.say("two", (await site.say("one")).id)
    answer = await compacted(site, previous_response_id=second.id, input="three", instructions="be brief")
    assert answer["object"] == "response.compaction"
    assert user_texts(answer) == ["one", "two", "three"]
    assert [item["type"] for item in answer["output"]] == ["message", "message", "message", "compaction"]
    handle = answer["output"][-1]["encrypted_content"]
    assert handle.startswith(f"handle_{key_of(second.id)}")
    assert handle != (await compacted(site, previous_response_id=second.id))["output"][-1]["encrypted_content"]


async def test_a_handle_keeps_all_items_and_the_commit(serve_app: Any) -> None:
    """The store has every item of the chain under the handle, and where the workflow stood."""
    site = await serve_app(counting())
    first = await site.say("one")
    answer = await compacted(site, previous_response_id=first.id)
    kept = await site.host.store.read_compaction("", answer["output"][-1]["encrypted_content"])
    assert kept is not None
    assert b'"one"' in kept.items
    assert b"After 0: one" in kept.items
    point = await site.host.store.resolve("", first.id)
    assert kept.commit == point.commit
    assert await site.host.store.read_compaction("somebody else", kept.handle) is None


async def test_a_compaction_can_be_compacted(serve_app: Any) -> None:
    """What a compaction stands for is said once, though its messages were sent again, and its commit is kept."""
    site = await serve_app(counting())
    first = await compacted(site, previous_response_id=(await site.say("one")).id)
    again = await compacted(site, input=[*first["output"], {"role": "user", "content": "two"}])
    assert user_texts(again) == ["one", "two"]
    store = site.host.store
    kept = [await store.read_compaction("", each["output"][-1]["encrypted_content"]) for each in (first, again)]
    assert kept[0].commit == kept[1].commit is not None
    assert kept[1].items.index(b'"one"') < kept[1].items.index(b"After 0: one") < kept[1].items.index(b'"two"')
    assert kept[1].items.count(b'"one"') == 1


async def test_items_of_the_input_are_compacted_without_a_commit(serve_app: Any) -> None:
    """A history that a client keeps itself can be compacted too; there is no state to continue from."""
    site = await serve_app(counting())
    response = await site.say("one")
    answer = await compacted(site, input=[{"type": "item_reference", "id": response.output[0].id}])
    kept = await site.host.store.read_compaction("", answer["output"][-1]["encrypted_content"])
    assert (kept.commit, user_texts(answer)) == (None, [])
    assert b"After 0: one" in kept.items


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "hi"}, 400, "model", "missing_required_parameter"),
        ({"model": "m"}, 400, "", "missing_required_parameter"),
        ({"model": "m", "previous_response_id": "r"}, 400, "previous_response_id", "previous_response_not_found"),
        ({"model": "m", "input": [{"id": "msg_unknown"}]}, 404, "input", "item_not_found"),
        (
            {"model": "m", "input": [{"type": "compaction", "encrypted_content": "unknown"}]},
            400,
            "input[0].encrypted_content",
            "unknown_compaction",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_what_cannot_be_compacted_is_refused(
    serve_app: Any, body: dict[str, Any], status: int, param: str, code: str
) -> None:
    """A request that names what is not there is refused as one for a response is."""
    site = await serve_app(counting())
    answer = await site.http.post("/responses/compact", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)


# --- Counting ----------------------------------------------------------------------------------------------------


async def test_tokens_are_a_quarter_of_the_bytes(serve_app: Any) -> None:
    """Without a tokenizer input, instructions and tools count with their bytes, divided by four and rounded up."""
    site = await serve_app(counting())
    assert await tokens(site) == 0
    assert await tokens(site, input="12345678") == 2
    assert await tokens(site, input="123456789") == 3
    assert await tokens(site, input="1234567", instructions="12345678") == 4
    tool = {"type": "function", "name": "look", "parameters": {}, "strict": None}
    assert await tokens(site, input="12345678", tools=[tool]) > 10


async def test_tokens_include_what_is_continued(serve_app: Any) -> None:
    """The whole chain of a response counts, and all items of a conversation, each with both sides."""
    site = await serve_app(counting())
    first = await site.say("one" * 100)
    second = await site.say("two" * 100, first.id)
    one, both = [await tokens(site, previous_response_id=each.id) for each in (first, second)]
    assert one > 150
    assert both > one + 150
    assert await tokens(site, previous_response_id=second.id, input="x" * 400) in (both + 100, both + 101)
    items: Any = [{"role": "user", "content": "y" * 400}]
    conversation = await site.client.conversations.create(items=items)
    assert await tokens(site, conversation=conversation.id, input="z" * 399) == 200


async def test_a_turn_of_a_conversation_counts_with_what_was_said_before_it(serve_app: Any) -> None:
    """A response that was given in a conversation has the conversation until then before it, and no more."""
    site = await serve_app(counting())
    items: Any = [{"role": "user", "content": "y" * 400}]
    conversation = await site.client.conversations.create(items=items)
    response = await site.say("one", conversation=conversation.id)
    count = await tokens(site, previous_response_id=response.id)
    assert count >= 200
    await site.client.conversations.items.create(conversation.id, items=items)
    assert await tokens(site, previous_response_id=response.id) == count
    assert await tokens(site, conversation=conversation.id) > count
    await site.client.conversations.delete(conversation.id)
    assert 0 < await tokens(site, previous_response_id=response.id) < count


async def test_a_tokenizer_of_ones_own_counts(serve_app: Any, tmp_path: Path) -> None:
    """An application that knows better says how many tokens a text has."""
    app = create_app(
        counting(), f"sqlite:///{tmp_path}/own.db", settings=Settings(), tokenizer=lambda text: len(text.split())
    )
    site = await serve_app(app)
    assert await tokens(site, input="one two three", instructions="four five") == 5


async def test_what_cannot_be_counted_is_refused(serve_app: Any) -> None:
    """Unknown responses and conversations are answered as in a request for a response."""
    site = await serve_app(counting())
    with pytest.raises(openai.BadRequestError) as bad:
        await tokens(site, previous_response_id="resp_unknown")
    assert bad.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError) as unknown:
        await tokens(site, conversation="conv_unknown")
    assert unknown.value.code == "conversation_not_found"
