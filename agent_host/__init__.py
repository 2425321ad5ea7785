"""Serve one long-lived workflow through the OpenAI Responses API, with every stored response a save point."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from agent_host.engine.builder import DEFAULT_MAX_ITERATIONS as DEFAULT_MAX_ITERATIONS
    from agent_host.engine.builder import WorkflowBuilder as WorkflowBuilder
    from agent_host.engine.drawing.workflow_viz import WorkflowViz as WorkflowViz
    from agent_host.engine.events import CustomEvent as CustomEvent
    from agent_host.engine.events import WorkflowErrorDetails as WorkflowErrorDetails
    from agent_host.engine.events import WorkflowEvent as WorkflowEvent
    from agent_host.engine.events import WorkflowEventSource as WorkflowEventSource
    from agent_host.engine.events import WorkflowEventType as WorkflowEventType
    from agent_host.engine.events import WorkflowRunResult as WorkflowRunResult
    from agent_host.engine.events import WorkflowRunState as WorkflowRunState
    from agent_host.engine.executors.executor import Executor as Executor
    from agent_host.engine.executors.executor import FunctionExecutor as FunctionExecutor
    from agent_host.engine.executors.executor import config as config
    from agent_host.engine.executors.executor import executor as executor
    from agent_host.engine.executors.executor import state as state
    from agent_host.engine.executors.handlers import handler as handler
    from agent_host.engine.executors.handlers import response_handler as response_handler
    from agent_host.engine.executors.policies import RetryPolicy as RetryPolicy
    from agent_host.engine.functional.functional_workflow import FunctionalWorkflow as FunctionalWorkflow
    from agent_host.engine.functional.functional_workflow import (
        FunctionalWorkflowDefinition as FunctionalWorkflowDefinition,
    )
    from agent_host.engine.functional.functional_workflow import workflow as workflow
    from agent_host.engine.functional.run_context import RunContext as RunContext
    from agent_host.engine.functional.run_context import get_run_context as get_run_context
    from agent_host.engine.functional.step_wrapper import StepWrapper as StepWrapper
    from agent_host.engine.functional.step_wrapper import step as step
    from agent_host.engine.graph.edges import Case as Case
    from agent_host.engine.graph.edges import Default as Default
    from agent_host.engine.graph.edges import EdgeCondition as EdgeCondition
    from agent_host.engine.graph.graph import WorkflowWarning as WorkflowWarning
    from agent_host.engine.history import CheckpointInfo as CheckpointInfo
    from agent_host.engine.migration.salvage import StoredObject as StoredObject
    from agent_host.engine.migration.stored_state import StoredState as StoredState
    from agent_host.engine.nested import SubWorkflowRequestMessage as SubWorkflowRequestMessage
    from agent_host.engine.nested import SubWorkflowResponseMessage as SubWorkflowResponseMessage
    from agent_host.engine.nested import WorkflowExecutor as WorkflowExecutor
    from agent_host.engine.running.context import WorkflowContext as WorkflowContext
    from agent_host.engine.running.response_stream import ResponseStream as ResponseStream
    from agent_host.engine.serialization.pickling import PickleCodec as PickleCodec
    from agent_host.engine.serialization.stored_types import register_checkpoint_type as register_checkpoint_type
    from agent_host.engine.storage.checkpoint_storage import CheckpointStorage as CheckpointStorage
    from agent_host.engine.storage.checkpoint_storage import FileCheckpointStorage as FileCheckpointStorage
    from agent_host.engine.storage.checkpoint_storage import InMemoryCheckpointStorage as InMemoryCheckpointStorage
    from agent_host.engine.storage.workflow_checkpoint import WorkflowCheckpoint as WorkflowCheckpoint
    from agent_host.engine.workflow import Workflow as Workflow
    from agent_host.errors import AgentHostError as AgentHostError
    from agent_host.errors import CheckpointDecodeError as CheckpointDecodeError
    from agent_host.errors import CheckpointNotFoundError as CheckpointNotFoundError
    from agent_host.errors import EdgeDuplicationError as EdgeDuplicationError
    from agent_host.errors import ExecutorTimeoutError as ExecutorTimeoutError
    from agent_host.errors import GraphConnectivityError as GraphConnectivityError
    from agent_host.errors import StepMismatchError as StepMismatchError
    from agent_host.errors import TypeCompatibilityError as TypeCompatibilityError
    from agent_host.errors import UnknownRequestError as UnknownRequestError
    from agent_host.errors import WorkflowBusyError as WorkflowBusyError
    from agent_host.errors import WorkflowCheckpointException as WorkflowCheckpointException
    from agent_host.errors import WorkflowConflictError as WorkflowConflictError
    from agent_host.errors import WorkflowConvergenceException as WorkflowConvergenceException
    from agent_host.errors import WorkflowException as WorkflowException
    from agent_host.errors import WorkflowRunnerException as WorkflowRunnerException
    from agent_host.errors import WorkflowValidationError as WorkflowValidationError
    from agent_host.messages import Message as Message
    from agent_host.messages import TextDelta as TextDelta
    from agent_host.server.app import create_app as create_app
    from agent_host.stores import open_store as open_store

__all__ = [
    "Case",
    "CustomEvent",
    "Default",
    "Executor",
    "FileCheckpointStorage",
    "InMemoryCheckpointStorage",
    "Message",
    "ResponseStream",
    "RetryPolicy",
    "TextDelta",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowContext",
    "WorkflowEvent",
    "WorkflowExecutor",
    "WorkflowRunResult",
    "WorkflowRunState",
    "config",
    "create_app",
    "executor",
    "handler",
    "open_store",
    "register_checkpoint_type",
    "response_handler",
    "state",
]

# Where every public name lives. Names are loaded when they are first used, so that a program that only needs the
# engine loads no web server. `__all__` has those that a first program needs; the others are just as public.
_HOMES = {
    "WorkflowBuilder": "engine.builder",
    "register_checkpoint_type": "engine.serialization.stored_types",
    "WorkflowContext": "engine.running.context",
    "CustomEvent": "engine.events",
    "WorkflowEvent": "engine.events",
    "WorkflowRunResult": "engine.events",
    "WorkflowRunState": "engine.events",
    "WorkflowErrorDetails": "engine.events",
    "WorkflowEventSource": "engine.events",
    "WorkflowEventType": "engine.events",
    "Executor": "engine.executors.executor",
    "FunctionExecutor": "engine.executors.executor",
    "config": "engine.executors.executor",
    "executor": "engine.executors.executor",
    "state": "engine.executors.executor",
    "WorkflowViz": "engine.drawing.workflow_viz",
    "Case": "engine.graph.edges",
    "Default": "engine.graph.edges",
    "EdgeCondition": "engine.graph.edges",
    "WorkflowWarning": "engine.graph.graph",
    "FunctionalWorkflow": "engine.functional.functional_workflow",
    "FunctionalWorkflowDefinition": "engine.functional.functional_workflow",
    "workflow": "engine.functional.functional_workflow",
    "RunContext": "engine.functional.run_context",
    "get_run_context": "engine.functional.run_context",
    "StepWrapper": "engine.functional.step_wrapper",
    "step": "engine.functional.step_wrapper",
    "handler": "engine.executors.handlers",
    "response_handler": "engine.executors.handlers",
    "CheckpointStorage": "engine.storage.checkpoint_storage",
    "FileCheckpointStorage": "engine.storage.checkpoint_storage",
    "InMemoryCheckpointStorage": "engine.storage.checkpoint_storage",
    "PickleCodec": "engine.serialization.pickling",
    "WorkflowCheckpoint": "engine.storage.workflow_checkpoint",
    "DEFAULT_MAX_ITERATIONS": "engine.builder",
    "ResponseStream": "engine.running.response_stream",
    "Workflow": "engine.workflow",
    "WorkflowExecutor": "engine.nested",
    "SubWorkflowRequestMessage": "engine.nested",
    "SubWorkflowResponseMessage": "engine.nested",
    "RetryPolicy": "engine.executors.policies",
    "CheckpointInfo": "engine.history",
    "ExecutorTimeoutError": "errors",
    "StepMismatchError": "errors",
    "UnknownRequestError": "errors",
    "CheckpointNotFoundError": "errors",
    "CheckpointDecodeError": "errors",
    "StoredObject": "engine.migration.salvage",
    "StoredState": "engine.migration.stored_state",
    "Message": "messages",
    "TextDelta": "messages",
    "create_app": "server.app",
    "open_store": "stores",
    "AgentHostError": "errors",
    "EdgeDuplicationError": "errors",
    "GraphConnectivityError": "errors",
    "TypeCompatibilityError": "errors",
    "WorkflowBusyError": "errors",
    "WorkflowCheckpointException": "errors",
    "WorkflowConflictError": "errors",
    "WorkflowConvergenceException": "errors",
    "WorkflowException": "errors",
    "WorkflowRunnerException": "errors",
    "WorkflowValidationError": "errors",
}


if not TYPE_CHECKING:  # for a type checker only the names above exist

    def __getattr__(name: str) -> Any:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module 'agent_host' has no attribute {name!r}")
        import importlib

        value = getattr(importlib.import_module(f"agent_host.{home}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
