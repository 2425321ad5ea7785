"""What clients see of executors that are tried again, and of nested workflows."""

from typing import Any

from agent_host import (
    Executor,
    RetryPolicy,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    handler,
)


class Teller(Executor):
    """Streams a text in pieces, counts its turns, and loses its connection in the middle of the first attempt."""

    def __init__(self) -> None:
        super().__init__("teller", retry=RetryPolicy(max_attempts=2, delay=0))
        self.turns = 0

    @handler
    async def tell(self, text: str, ctx: WorkflowContext[str, str]) -> None:
        self.turns += 1
        await ctx.yield_output(TextDelta(f"{text} "))
        if Teller.failures:
            Teller.failures -= 1
            raise ConnectionError("lost")
        await ctx.yield_output(TextDelta(str(self.turns)))

    failures = 0


def nested() -> Workflow:
    inner = WorkflowBuilder(start_executor=Teller(), name="inner").build()
    outer = WorkflowExecutor(inner, "outer", allow_direct_output=True)
    return WorkflowBuilder(start_executor=outer, name="outer").build()


async def test_text_of_a_failed_attempt_is_taken_back(serve_app: Any) -> None:
    """The item of the failed attempt ends empty and incomplete; the next attempt's text is an item of its own."""
    site = await serve_app(nested())
    Teller.failures = 1
    done = []
    async with site.client.responses.stream(model="m", input="hello") as stream:
        async for event in stream:
            if event.type == "response.output_item.done":
                done.append(event.item)
        final = await stream.get_final_response()
    assert [(item.status, [part.text for part in item.content]) for item in done] == [
        ("incomplete", []),
        ("completed", ["hello 1"]),
    ]
    assert final.status == "completed"
    assert final.output_text == "hello 1"


async def test_a_nested_workflow_remembers_its_conversation(serve_app: Any) -> None:
    """State inside a nested workflow follows previous_response_id, and branches do not see each other."""
    site = await serve_app(nested())
    one = await site.say("a")
    two = await site.say("b", previous_response_id=one.id)
    branch = await site.say("c", previous_response_id=one.id)
    fresh = await site.say("d")
    assert [response.output_text for response in (one, two, branch, fresh)] == ["a 1", "b 2", "c 2", "d 1"]
