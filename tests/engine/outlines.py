"""What can be seen of workflows, made of graphs alone."""

from typing import Any

from agent_host import Executor, WorkflowContext, handler
from agent_host.engine.definition import OutputDesignation
from agent_host.engine.graph.graph import Graph


class Step(Executor):
    """Takes and sends anything, yields text."""

    @handler
    async def go(self, value: Any, ctx: WorkflowContext[Any, str]) -> None: ...


class Outline:
    """What can be seen of a workflow, made of a graph alone."""

    max_iterations = 100

    def __init__(self, graph: Graph, name: str = "outline") -> None:
        self.name = name
        self.graph = graph
        self.signature = graph.signature(name, None)
        self.outputs = OutputDesignation(None, frozenset())


class Holding(Step):
    """An executor that stands for a workflow."""

    def __init__(self, id: str, inside: Any) -> None:
        super().__init__(id)
        self.inside = inside

    @property
    def nested_workflow(self) -> Any:
        return self.inside
