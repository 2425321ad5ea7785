"""A workflow written for agent_framework runs here with another import line."""

from pathlib import Path

import pytest

import agent_host

FLOW = """
from agent_framework import Executor, WorkflowBuilder, WorkflowContext, handler
from typing_extensions import Never


class Split(Executor):
    @handler
    async def split(self, text: str, ctx: WorkflowContext[list[str]]) -> None:
        await ctx.send_message([word for word in text.split() if word])


class Tally(Executor):
    def __init__(self, id: str):
        super().__init__(id=id)
        self.seen: dict[str, int] = {}

    @handler
    async def tally(self, words: list[str], ctx: WorkflowContext[str]) -> None:
        for word in words:
            self.seen[word] = self.seen.get(word, 0) + 1
        await ctx.send_message(", ".join(f"{word}: {count}" for word, count in self.seen.items()))

    async def on_checkpoint_save(self):
        return {"seen": dict(self.seen)}

    async def on_checkpoint_restore(self, state):
        self.seen = dict(state["seen"])


class Report(Executor):
    @handler
    async def report(self, text: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(text)


def build():
    split, tally, report = Split(id="split"), Tally("tally"), Report(id="report")
    builder = WorkflowBuilder(start_executor=split, name="tally", output_from=[report])
    return builder.add_edge(split, tally).add_edge(tally, report).build()
"""

NAMES = [
    "Case", "CheckpointStorage", "CustomEvent", "DEFAULT_MAX_ITERATIONS", "Default", "EdgeCondition",
    "EdgeDuplicationError", "Executor", "FunctionExecutor", "GraphConnectivityError", "InMemoryCheckpointStorage",
    "Message", "ResponseStream", "TypeCompatibilityError", "Workflow", "WorkflowBuilder", "WorkflowCheckpoint",
    "WorkflowCheckpointException", "WorkflowContext", "WorkflowConvergenceException", "WorkflowErrorDetails",
    "WorkflowEvent", "WorkflowEventSource", "WorkflowEventType", "WorkflowException", "WorkflowRunResult",
    "WorkflowRunState", "WorkflowRunnerException", "WorkflowValidationError", "executor", "handler",
    "register_checkpoint_type", "response_handler",
]  # fmt: skip


async def test_a_workflow_of_agent_framework_runs_after_changing_its_import_line(tmp_path: Path) -> None:
    """Executors, hooks and edges written for agent_framework work as they stand, and resume from a checkpoint."""
    names: dict[str, object] = {"__name__": "flow"}
    exec(FLOW.replace("from agent_framework import", "from agent_host import"), names)
    workflow = names["build"]()  # type: ignore[operator]
    storage = agent_host.InMemoryCheckpointStorage()
    first = await workflow.run("a b a", checkpoint_storage=storage)
    second = await workflow.run("b", checkpoint_storage=storage)
    again = await workflow.run("c", checkpoint_id=first.checkpoint_id, checkpoint_storage=storage)
    assert [result.get_outputs() for result in (first, second, again)] == [
        ["a: 2, b: 1"], ["a: 2, b: 2"], ["a: 2, b: 1, c: 1"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_agent_framework_is_found_here(name: str) -> None:
    """What a program imports from agent_framework to build and run workflows, it can import from agent_host."""
    assert getattr(agent_host, name) is not None
