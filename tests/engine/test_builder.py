"""What the builder adds to the graph: labels, and a workflow made of data."""

from typing import Any

import pytest

from agent_host import Case, Default, Workflow, WorkflowBuilder, WorkflowContext, executor
from agent_host.errors import WorkflowValidationError


@executor(id="sort")
async def sort(number: int, ctx: WorkflowContext[int]) -> None:
    await ctx.send_message(number)


@executor(id="small")
async def small(number: int, ctx: WorkflowContext[int, str]) -> None:
    await ctx.yield_output(f"small {number}")
    await ctx.send_message(number)


@executor(id="large")
async def large(number: int, ctx: WorkflowContext[int, str]) -> None:
    await ctx.yield_output(f"large {number}")
    await ctx.send_message(number)


@executor(id="even")
async def even(number: int, ctx: WorkflowContext[int, str]) -> None:
    await ctx.yield_output(f"even {number}")


@executor(id="end")
async def end(number: int, ctx: WorkflowContext[int, str]) -> None:
    await ctx.yield_output(f"end {number}")


EXECUTORS = {one.id: one for one in (sort, small, large, even, end)}


def is_large(number: int) -> bool:
    return number > 9


def is_even(number: int) -> bool:
    return number % 2 == 0


def both(number: int, targets: list[str]) -> list[str]:
    return targets


def sorting(**labels: str) -> Workflow:
    builder = WorkflowBuilder(start_executor=sort, name="sorting", max_iterations=7, output_from=[small, even, end])
    builder.add_switch_case_edge_group(sort, [Case(is_large, large, label=labels.get("switch")), Default(small)])
    builder.add_edge(large, even, is_even, label=labels.get("edge"))
    return builder.add_multi_selection_edge_group(small, [even, end], both, label=labels.get("selection")).build()


async def test_a_workflow_made_of_its_data_is_the_same_workflow() -> None:
    """What `to_dict` describes and the functions it names give the same graph, options and results."""
    workflow = sorting()
    conditions = {"is_large": is_large, "is_even": is_even, "both": both}
    again = WorkflowBuilder.from_dict(workflow.to_dict(), EXECUTORS, conditions).build()
    assert again.to_dict() == workflow.to_dict()
    assert again.signature == workflow.signature
    assert again.max_iterations == 7
    for number in (3, 12):
        assert (await again.run(number)).get_outputs() == (await workflow.run(number)).get_outputs()


@pytest.mark.parametrize("missing", ["large", "is_even"])
def test_data_that_names_what_was_not_given_is_refused(missing: str) -> None:
    """The error names the executor or the function."""
    executors: dict[str, Any] = {name: one for name, one in EXECUTORS.items() if name != missing}
    conditions = {f.__name__: f for f in (is_large, is_even, both) if f.__name__ != missing}
    with pytest.raises(WorkflowValidationError, match=missing):
        WorkflowBuilder.from_dict(sorting().to_dict(), executors, conditions).build()


@pytest.mark.parametrize("where", ["switch", "edge", "selection"])
def test_a_label_is_part_of_the_graph(where: str) -> None:
    """A label that is given stands in the data and changes the signature; without one a function may be renamed."""
    plain, labelled = sorting(), sorting(**{where: "by size"})
    assert labelled.signature != plain.signature
    assert "by size" in str(labelled.to_dict())
    assert "by size" not in str(plain.to_dict())
