"""One of several ways: the first case that holds, else the default."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Never

from agent_host import Case, Default, WorkflowBuilder, WorkflowContext, executor


@dataclass
class Parcel:
    label: str
    kilos: float
    fragile: bool = False


@executor
async def weigh(text: str, ctx: WorkflowContext[Parcel]) -> None:
    label, kilos, *marks = text.split()
    await ctx.send_message(Parcel(label, float(kilos), "fragile" in marks))


@executor
async def by_hand(parcel: Parcel, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{parcel.label}: carried by hand")


@executor
async def by_crane(parcel: Parcel, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{parcel.label}: lifted, {parcel.kilos:g} kg")


@executor
async def by_belt(parcel: Parcel, ctx: WorkflowContext[Never, str]) -> None:
    await ctx.yield_output(f"{parcel.label}: on the belt")


def heavier_than(kilos: float) -> Callable[[Any], bool]:
    return lambda parcel: isinstance(parcel, Parcel) and parcel.kilos > kilos


async def main() -> Any:
    cases: list[Case | Default] = [
        Case(condition=lambda parcel: parcel.fragile, target=by_hand),
        Case(condition=heavier_than(30), target=by_crane),
        Default(target=by_belt),
    ]
    workflow = WorkflowBuilder(start_executor=weigh).add_switch_case_edge_group(weigh, cases).build()
    parcels = ["books 12", "engine 80", "vase 2 fragile", "piano 200 fragile"]
    return {"outputs": [(await workflow.run(parcel)).get_outputs() for parcel in parcels]}
