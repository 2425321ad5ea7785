"""A workflow's graph together with what all its lanes start from: codec, templates, root commit."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.template import Template, save
from agent_host.engine.graph.graph import Graph
from agent_host.engine.migration.graph_policy import GraphPolicy
from agent_host.engine.reducers import Reducer
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import UnsupportedValueError


@dataclass(frozen=True, slots=True)
class OutputDesignation:
    """Which executors' outputs are the answer, and which are comments on the way. None: everything is the answer."""

    output: frozenset[str] | None
    intermediate: frozenset[str]

    def kind(self, executor: str) -> Literal["output", "intermediate"] | None:
        """`output`, `intermediate`, or None for an executor whose outputs stay hidden."""
        if (self.output is None and not self.intermediate) or (self.output is not None and executor in self.output):
            return "output"
        return "intermediate" if executor in self.intermediate else None


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a builder has declared; the rest of a definition is found by looking at the executors."""

    name: str
    graph: Graph
    outputs: OutputDesignation
    max_iterations: int
    signature: str
    reducers: Mapping[str, Reducer]
    graph_policy: GraphPolicy
    named: bool = True


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything about a workflow that no run changes."""

    name: str
    graph: Graph
    codec: Codec
    outputs: OutputDesignation
    max_iterations: int
    signature: str
    templates: Mapping[str, Template]
    root: Commit
    reducers: Mapping[str, Reducer]
    children: Mapping[str, "Definition"]
    graph_policy: GraphPolicy

    @property
    def foreign(self) -> list[str]:
        """`executor.attribute` of everything that all conversations share because it cannot be stored."""
        return [f"{template.executor_id}.{name}" for template in self.templates.values() for name in template.foreign]


async def capture(declared: Declaration, codec: Codec) -> Definition:
    """Take the executors as they are now for pristine, and make the root commit of them.

    The root's id is a hash of what it holds, and of what nested workflows begin with, so every process that runs the
    same program agrees on it.
    """
    graph = declared.graph
    templates = {key: Template.of(executor, codec) for key, executor in graph.executors.items()}
    delta: dict[str, bytes | None] = {}
    blobs: dict[bytes, bytes] = {}
    for key, executor in graph.executors.items():
        for cell, encoded in (await _root_cells(executor, templates[key], codec)).items():
            delta[cell] = encoded.reference
            blobs.update(encoded.blobs)
    children = {
        key: await capture(executor.nested_workflow.declaration, codec)
        for key, executor in graph.executors.items()
        if executor.nested_workflow is not None
    }
    digest = sha256(f"{declared.name}\0{declared.signature}\0".encode())
    for cell in sorted(delta):
        digest.update(cell.encode() + b"\0" + (delta[cell] or b"") + b"\0")
    for key in sorted(children):
        digest.update(f"{key}\0{children[key].root.id}\0".encode())
    root = Commit(
        id=f"chk_root{digest.hexdigest()[:40]}", parent=None, workflow=declared.name, session_id="", kind="root", seq=0,
        step=0, created_at=0.0, signature=declared.signature, delta=delta, complete=True, distance=0, blobs=blobs,
    )  # fmt: skip
    return Definition(
        declared.name, graph, codec, declared.outputs, declared.max_iterations, declared.signature, templates, root,
        declared.reducers, children, declared.graph_policy,
    )  # fmt: skip


async def _root_cells(executor: Executor, template: Template, codec: Codec) -> dict[str, Encoded]:
    if template.hooked:
        saved = await save(executor)
        try:
            return {cells.hook_key(executor.id): codec.encode(saved)}
        except UnsupportedValueError as error:
            raise UnsupportedValueError(f"What on_checkpoint_save of {executor.id!r} returned: {error}") from None
    return {
        cells.field_key(executor.id, name): field.encoded for name, field in template.fields.items() if field.declared
    }
