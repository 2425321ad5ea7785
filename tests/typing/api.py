"""The public API as a user writes it, for the type checker. Never executed."""

import asyncio
from dataclasses import dataclass
from typing import Never, assert_type

from starlette.applications import Starlette

from agent_host import (
    Case,
    CustomEvent,
    Default,
    Executor,
    FileCheckpointStorage,
    InMemoryCheckpointStorage,
    Message,
    ResponseStream,
    TextDelta,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    WorkflowRunResult,
    WorkflowRunState,
    config,
    create_app,
    executor,
    handler,
    open_store,
    register_checkpoint_type,
    response_handler,
    state,
)


@dataclass
class Order:
    item: str
    count: int = 1


@register_checkpoint_type
@dataclass
class Approval:
    granted: bool


class Clerk(Executor):
    """Attributes, declared and not, and every verb of the context."""

    seen: list[str] = state(factory=list)
    limit: int = config(3)

    def __init__(self, id: str = "clerk") -> None:
        super().__init__(id)
        self.count = 0

    @handler
    async def read(self, text: str, ctx: WorkflowContext[Order, str]) -> None:
        self.count += 1
        self.seen.append(text)
        ctx.set_state("last", text)
        ctx.add_usage(input_tokens=len(text))
        await ctx.add_event(CustomEvent("warning", f"{self.limit - self.count} left"))
        await ctx.yield_output(TextDelta("reading "))
        await ctx.yield_output(text)
        await ctx.send_message(Order(text), target_id="stock")
        await ctx.send_message("not an order")  # type: ignore[arg-type]
        await ctx.yield_output(5)  # type: ignore[arg-type]

    @handler
    async def ask(self, message: Message, ctx: WorkflowContext[Order]) -> None:
        await ctx.request_info(Order(message.text), Approval, request_id="question")

    @response_handler
    async def answered(self, asked: Order, answer: Approval, ctx: WorkflowContext[Order]) -> None:
        if answer.granted:
            await ctx.send_message(asked)

    @handler(input=Order, output=Order)
    async def again(self, order: Order, ctx: WorkflowContext[Order]) -> None:
        await ctx.send_message(order)


class Stock(Executor):
    """An executor that ends the workflow, with hooks of its own."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.left: dict[str, int] = {}

    @handler
    async def take(self, order: Order, ctx: WorkflowContext[Never, str]) -> None:
        self.left[order.item] = self.left.get(order.item, 10) - order.count
        await ctx.yield_output(f"{self.left[order.item]} left")

    async def on_checkpoint_save(self) -> dict[str, object]:
        return {"left": self.left}

    async def on_checkpoint_restore(self, state: dict[str, dict[str, int]]) -> None:
        self.left = state["left"]


@executor
async def shout(text: str, ctx: WorkflowContext[str]) -> None:
    await ctx.send_message(text.upper())


@executor(id="join")
async def join(texts: list[str], ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(" ".join(texts))


@executor(id="whisper")
def whisper(text: str, ctx: WorkflowContext[str]) -> None:
    ctx.send_message(text.lower())


def chosen(order: Order, targets: list[str]) -> list[str]:
    return targets[: order.count]


async def has_stock(order: Order) -> bool:
    return order.count > 0


clerk, near, far = Clerk(), Stock("stock"), Stock("far")
workflow = (
    WorkflowBuilder(start_executor=clerk, name="shop", output_from=[near, far], intermediate_output_from=[clerk])
    .add_edge(clerk, near, condition=has_stock)
    .add_switch_case_edge_group(clerk, [Case(lambda order: order.count > 1, far), Default(near)])
    .add_multi_selection_edge_group(clerk, [near, far], chosen)
    .build()
)
assert_type(workflow, Workflow)

words = (
    WorkflowBuilder(start_executor=shout)
    .add_fan_out_edges(shout, [whisper, join])
    .add_fan_in_edges([shout, whisper], join)
    .add_chain([shout, whisper, join])
    .build()
)


async def use() -> None:
    result = await workflow.run("tea")
    assert_type(result, WorkflowRunResult)
    assert_type(result.get_final_state(), WorkflowRunState)
    print(result.get_outputs(), result.checkpoint_id)

    stream = workflow.run(Message("tea"), stream=True, session_id="two")
    assert_type(stream, ResponseStream)
    async for event in stream:
        assert_type(event, WorkflowEvent)
        print(event.type, event.data, event.executor_id)
    assert_type(await stream.get_final_response(), WorkflowRunResult)
    async with workflow.run("tea", stream=True) as closing:
        async for event in closing:
            print(event.type)

    storage = InMemoryCheckpointStorage()
    assert_type(await FileCheckpointStorage("checkpoints").prune("orders", keep_last=3, older_than=60.0), list[str])
    await workflow.run(responses={"question": Approval(True)}, checkpoint_storage=storage)
    checkpoint = await workflow.create_checkpoint("two", checkpoint_storage=storage)
    await workflow.run("tea", checkpoint_id=checkpoint, checkpoint_storage=storage)
    await workflow.reset("two")

    both = await asyncio.gather(workflow.run("a", session_id="a"), workflow.run("b", session_id="b"))
    assert_type(both, tuple[WorkflowRunResult, WorkflowRunResult])
    task = asyncio.create_task(workflow.run("c"))
    assert_type(await task, WorkflowRunResult)


app = create_app(workflow)
assert_type(app, Starlette)
also = create_app(workflow, store=open_store("sqlite:///shop.db"))
