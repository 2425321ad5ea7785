"""Two edges with opposite conditions; what a model validated decides which one a message takes."""

from collections.abc import Callable
from typing import Any, Never

from pydantic import BaseModel

from agent_host import WorkflowBuilder, WorkflowContext, executor


class Order(BaseModel):
    item: str
    pieces: int = 1
    in_stock: bool


@executor
async def parse(text: str, ctx: WorkflowContext[Order]) -> None:
    await ctx.send_message(Order.model_validate_json(text))


@executor
async def ship(order: Order, ctx: WorkflowContext[str]) -> None:
    await ctx.send_message(f"{order.pieces} x {order.item}")


@executor
async def label(text: str, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"shipped: {text}")


@executor
async def put_off(order: Order, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"waiting for {order.item}")


def stock_is(wanted: bool) -> Callable[[Any], bool]:
    return lambda message: isinstance(message, Order) and message.in_stock is wanted


async def main() -> Any:
    builder = WorkflowBuilder(start_executor=parse)
    builder.add_edge(parse, ship, condition=stock_is(True)).add_edge(ship, label)
    builder.add_edge(parse, put_off, condition=stock_is(False))
    workflow = builder.build()
    orders = ['{"item": "lamp", "pieces": 3, "in_stock": true}', '{"item": "sofa", "in_stock": false}']
    return {"outputs": [(await workflow.run(order)).get_outputs() for order in orders]}
