"""Several executors work on one input; one gathers what they made, of different types, in the order of its sources."""

from typing import Any, Never

from agent_host import Executor, WorkflowBuilder, WorkflowContext, handler


class Sensor(Executor):
    @handler
    async def read(self, readings: list[int], ctx: WorkflowContext[list[int]]) -> None:
        await ctx.send_message([reading for reading in readings if reading >= 0])


class Mean(Executor):
    @handler
    async def mean(self, readings: list[int], ctx: WorkflowContext[float]) -> None:
        await ctx.send_message(sum(readings) / len(readings))


class Highest(Executor):
    @handler
    async def highest(self, readings: list[int], ctx: WorkflowContext[int]) -> None:
        await ctx.send_message(max(readings))


class Trend(Executor):
    @handler
    async def trend(self, readings: list[int], ctx: WorkflowContext[str]) -> None:
        await ctx.send_message("rising" if readings[-1] > readings[0] else "falling")


class Board(Executor):
    @handler
    async def show(self, values: list[float | int | str], ctx: WorkflowContext[Never, list[float | int | str]]) -> None:
        await ctx.yield_output(values)


async def main() -> Any:
    sensor, board = Sensor("sensor"), Board("board")
    views: list[Executor] = [Mean("mean"), Highest("highest"), Trend("trend")]
    workflow = (
        WorkflowBuilder(start_executor=sensor).add_fan_out_edges(sensor, views).add_fan_in_edges(views, board).build()
    )
    first = await workflow.run([4, -1, 9, 8])
    second = await workflow.run([7, 3])
    return {"first": first.get_outputs(), "second": second.get_outputs()}
