"""Declare a workflow: executors, edges, outputs. Everything is checked in `build()`."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from agent_host.engine.definition import Declaration, OutputDesignation
from agent_host.engine.executors.executor import Executor
from agent_host.engine.graph.edges import (
    Case,
    Default,
    EdgeCondition,
    EdgeGroup,
    FanIn,
    FanOut,
    Selection,
    SingleEdge,
    Switch,
    SwitchBranch,
)
from agent_host.engine.graph.graph import Graph
from agent_host.engine.graph.graph_data import groups_from_data, options_from_data
from agent_host.engine.migration.graph_policy import GraphChange, GraphPolicy, Migrate
from agent_host.engine.reducers import Reducer
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.storage.checkpoint_storage import CheckpointStorage, storage_given
from agent_host.engine.workflow import UNNAMED, Workflow
from agent_host.errors import WorkflowValidationError

DEFAULT_MAX_ITERATIONS = 100

Node = Any  # an Executor, or anything with as_executor()


class WorkflowBuilder:
    """Collects a graph. Every method returns the builder, so that calls can be chained.

    `output_from` names the executors whose yields are the answer (a list, or "all"); `intermediate_output_from`
    those whose yields are comments on the way (a list, "all", or "all_other"). With neither, every yield is the
    answer; with either, the yields of executors named in none are hidden.

    `state` gives shared state a reducer by key: `{"total": operator.add}`. Several executors may then write the key
    in one superstep, and what they write is put together with what is there. `codec` replaces the one that stores
    values, for what it cannot store.

    A graph has a signature: a hash of its structure, or the `version` that the author gives. What was stored under
    another one is continued if all of it still has its place and type (`on_graph_change="compatible"`), or never
    (`"strict"`). `migrate(old)` is called first with such a state and may change it: see `StoredState`. The policy of
    the outermost workflow holds for those nested in it.
    """

    def __init__(
        self,
        max_iterations: int = DEFAULT_MAX_ITERATIONS,
        name: str | None = None,
        description: str | None = None,
        *,
        start_executor: Node,
        checkpoint_storage: CheckpointStorage | None = None,
        output_from: "Sequence[Node] | Literal['all'] | None" = None,
        intermediate_output_from: "Sequence[Node] | Literal['all', 'all_other'] | None" = None,
        version: str | None = None,
        state: Mapping[str, Reducer] | None = None,
        codec: Codec | None = None,
        on_graph_change: GraphChange = "compatible",
        migrate: Migrate | None = None,
    ) -> None:
        storage = storage_given(checkpoint_storage)
        if storage is not None and not name:
            raise WorkflowValidationError(
                "A workflow with a checkpoint storage needs a name: checkpoints are found by it after a restart."
            )
        limit: object = max_iterations
        if not isinstance(limit, int) or limit < 1:
            raise WorkflowValidationError(f"max_iterations must be a whole number, at least 1; got {limit!r}.")
        replacement: object = codec
        if replacement is not None and not isinstance(replacement, Codec):
            raise WorkflowValidationError(
                f"codec takes a Codec, such as PickleCodec(allowed_types=[...]); got {replacement!r}."
            )
        self._name = name or UNNAMED
        self._named = bool(name)
        self._description = description
        self._max_iterations = max_iterations
        self._storage = storage
        self._outputs = output_from
        self._intermediates = intermediate_output_from
        self._version = version
        self._reducers = dict(state or {})
        for key, given in self._reducers.items():
            reducer: object = given
            if not callable(reducer) or inspect.iscoroutinefunction(reducer):
                raise WorkflowValidationError(f"state[{key!r}] must be a plain function of two values: {reducer!r}.")
        self._codec = codec
        self._graph_policy = GraphPolicy(on_graph_change, migrate)
        self._executors: dict[str, Executor] = {}
        self._wrapped: dict[int, tuple[Node, Executor]] = {}
        self._groups: list[EdgeGroup] = []
        self._start = self._add(start_executor)

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        executors: Mapping[str, Node],
        conditions: Mapping[str, Callable[..., Any]] | None = None,
        **options: Any,
    ) -> "WorkflowBuilder":
        """A builder of what `Workflow.to_dict()` has described, with the executors and functions that it names.

        `conditions` holds conditions and selections by the names the data uses; `options` are further arguments of
        the builder. Raises `WorkflowValidationError` naming what is missing.
        """
        missing = data["executors"].keys() - executors.keys()
        if missing:
            raise WorkflowValidationError(f"The data names the executor {min(missing)!r}, which was not given.")
        builder = cls(start_executor=executors[data["start"]], **{**options_from_data(data), **options})
        for name in data["executors"]:
            builder._add(executors[name])
        builder._groups += groups_from_data(data["edge_groups"], conditions or {})
        return builder

    def add_edge(
        self, source: Node, target: Node, condition: EdgeCondition | None = None, *, label: str | None = None
    ) -> "WorkflowBuilder":
        """Connect two executors; with a condition only messages for which it holds pass.

        `label` names the condition in drawings and in the graph's signature.
        """
        self._groups.append(SingleEdge(self._add(source), self._add(target), condition, label))
        return self

    def add_chain(self, executors: Sequence[Node]) -> "WorkflowBuilder":
        """Connect executors one after the other."""
        if len(executors) < 2:
            raise WorkflowValidationError("A chain needs at least two executors.")
        for source, target in itertools.pairwise(executors):
            self.add_edge(source, target)
        return self

    def add_fan_out_edges(self, source: Node, targets: Sequence[Node]) -> "WorkflowBuilder":
        """Send every message of the source to all targets that take it."""
        self._groups.append(FanOut(self._add(source), self._several(targets, "A fan-out")))
        return self

    def add_multi_selection_edge_group(
        self, source: Node, targets: Sequence[Node], selection_func: Selection, *, label: str | None = None
    ) -> "WorkflowBuilder":
        """Send every message to the targets whose ids `selection_func(message, target ids)` returns.

        `label` names the selection in drawings and in the graph's signature.
        """
        self._groups.append(FanOut(self._add(source), self._several(targets, "A selection"), selection_func, label))
        return self

    def add_switch_case_edge_group(self, source: Node, cases: Sequence[SwitchBranch]) -> "WorkflowBuilder":
        """Send every message to the first case whose condition holds, else to the default."""
        branches = tuple((case.condition, self._add(case.target)) for case in cases if isinstance(case, Case))
        defaults = [case for case in cases if isinstance(case, Default)]
        if len(defaults) != 1 or not branches:
            raise WorkflowValidationError(
                f"A switch needs at least one Case and exactly one Default; got {len(branches)} and {len(defaults)}."
            )
        labels = tuple(case.label for case in cases if isinstance(case, Case))
        self._groups.append(Switch(self._add(source), branches, self._add(defaults[0].target), labels))
        return self

    def add_fan_in_edges(self, sources: Sequence[Node], target: Node) -> "WorkflowBuilder":
        """Send the target one list once every source has sent something, in the order of the sources."""
        self._groups.append(FanIn(self._several(sources, "A fan-in"), self._add(target)))
        return self

    def build(self) -> Workflow:
        """Check the graph and make the workflow. Raises `WorkflowValidationError` naming what is wrong."""
        graph = Graph.of(self._start, self._executors, self._groups)
        codec = self._codec or Codec()
        codec.allow(graph.declared())
        if self._storage is not None:
            self._storage.bind(codec)
        declaration = Declaration(
            self._name, graph, self._designation(), self._max_iterations,
            graph.signature(self._name, self._version), self._reducers, self._graph_policy, self._named,
        )  # fmt: skip
        return Workflow(declaration, codec, description=self._description, storage=self._storage)

    def _add(self, node: Node) -> str:
        executor = self._as_executor(node)
        known = self._executors.setdefault(executor.id, executor)
        if known is not executor:
            raise WorkflowValidationError(f"Two executors have the id {executor.id!r}; give one of them another.")
        return executor.id

    def _as_executor(self, node: Node) -> Executor:
        if isinstance(node, Executor):
            return node
        as_executor: Callable[[], Executor] | None = getattr(node, "as_executor", None)
        if as_executor is None:
            raise WorkflowValidationError(
                f"{node!r} is neither an Executor nor has as_executor(); decorate a function with @executor."
            )
        if id(node) not in self._wrapped:
            self._wrapped[id(node)] = (node, as_executor())
        return self._wrapped[id(node)][1]

    def _several(self, nodes: Sequence[Node], what: str) -> tuple[str, ...]:
        if len(nodes) < 2:
            raise WorkflowValidationError(
                f"{what} needs at least two executors on its many side; use add_edge for one."
            )
        return tuple(self._add(node) for node in nodes)

    def _designation(self) -> OutputDesignation:
        output = self._ids(self._outputs, "output_from")
        middle = self._intermediates
        if middle == "all_other":
            intermediate: frozenset[str] | None = frozenset(self._executors) - (output or frozenset())
        else:
            intermediate = self._ids(middle, "intermediate_output_from")
        both = (output or frozenset()) & (intermediate or frozenset())
        if both:
            raise WorkflowValidationError(
                f"{min(both)!r} stands in output_from and in intermediate_output_from; its yields are one or the other."
            )
        return OutputDesignation(output, intermediate or frozenset())

    def _ids(self, nodes: "Sequence[Node] | str | None", parameter: str) -> frozenset[str] | None:
        if nodes is None:
            return None
        if nodes == "all":
            return frozenset(self._executors)
        if isinstance(nodes, str):
            raise WorkflowValidationError(f"{parameter} takes a list of executors or 'all'; got {nodes!r}.")
        ids = frozenset(node if isinstance(node, str) else self._as_executor(node).id for node in nodes)
        unknown = ids - self._executors.keys()
        if unknown:
            raise WorkflowValidationError(f"{parameter} names {min(unknown)!r}, which is not part of the workflow.")
        for name in sorted(ids):
            executor = self._executors[name]
            declared = [h.yields for h in executor._all_handlers()]
            if all(hint is not None for hint in declared) and not executor.workflow_output_types:
                raise WorkflowValidationError(
                    f"{parameter} names {name!r}, which never yields: annotate its context as "
                    "WorkflowContext[..., str]."
                )
        return ids
