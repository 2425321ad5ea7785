"""A workflow as one executor of another. Its executors work in the same supersteps as those of the outer one.

What flows in enters an instance of the nested workflow; what the instance yields leaves as messages of the executor.
A request that it makes goes to the outer workflow as a `SubWorkflowRequestMessage`, or out to whoever answers the
requests of the outer one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Never, Union

from agent_host.engine import annotations
from agent_host.engine.events import WorkflowEvent
from agent_host.engine.executors.executor import Executor
from agent_host.engine.executors.handlers import Handler, HandlerTable
from agent_host.engine.executors.policies import RetryPolicy
from agent_host.engine.running.attempt import Attempt
from agent_host.engine.running.effects import Entered, Replied
from agent_host.errors import WorkflowValidationError

if TYPE_CHECKING:
    from agent_host.engine.workflow import Workflow


@dataclass(frozen=True)
class SubWorkflowResponseMessage:
    """An answer on its way to the nested workflow that asked. Send it to the executor that stands for it."""

    data: Any
    source_event: WorkflowEvent


@dataclass(frozen=True)
class SubWorkflowRequestMessage:
    """A request of a nested workflow, for an executor of the outer one to answer.

    `source_event` is the request as an event: `data`, `request_id`, `response_type`. `executor_id` names the executor
    that stands for the nested workflow: answer with
    `ctx.send_message(request.create_response(answer), target_id=request.executor_id)`.
    """

    source_event: WorkflowEvent
    executor_id: str

    def create_response(self, data: Any) -> SubWorkflowResponseMessage:
        """The answer as a message. Raises `TypeError` if it is not of the type that was asked for."""
        wanted = self.source_event.response_type
        if not annotations.matcher(wanted)(data):
            raise TypeError(
                f"The answer to request {self.source_event.request_id!r} must be a {annotations.name(wanted)}, not a "
                f"{type(data).__qualname__}."
            )
        return SubWorkflowResponseMessage(data, self.source_event)


class WorkflowExecutor(Executor, shared=True):
    """Runs a workflow inside another one.

    Each input goes to an instance of the nested workflow that is idle, so inputs that overlap do not meet, and those
    that follow each other find the state that the one before has left. With `allow_direct_output` what it yields is
    yielded by the outer workflow instead of sent on; with `propagate_request` its requests are open requests of the
    outer workflow instead of messages in it.
    """

    def __init__(
        self,
        workflow: "Workflow",
        id: str,
        allow_direct_output: bool = False,
        propagate_request: bool = False,
        *,
        retry: RetryPolicy | None = None,
        timeout: float | None = None,
    ) -> None:
        if retry is not None or timeout is not None:
            raise WorkflowValidationError(
                f"The nested workflow {id!r} takes no retry and no timeout: give them to its executors."
            )
        super().__init__(id)
        self.workflow = workflow
        self.allow_direct_output = allow_direct_output
        self.propagate_request = propagate_request
        self._agent_host_own_table = HandlerTable(type(self).__name__, self._handlers())

    @property
    def handler_table(self) -> HandlerTable:
        return self._agent_host_own_table

    @property
    def nested_workflow(self) -> "Workflow":
        return self.workflow

    @property
    def input_types(self) -> list[Any]:
        """What enters the nested workflow; answers to its requests come besides."""
        return list(self.workflow.input_types)

    def _handlers(self) -> list[Handler]:
        inner = self.workflow
        yielding = [executor for executor in inner.get_executors_list() if inner.outputs.kind(executor.id) == "output"]
        declared = all(h.yields is not None for executor in yielding for h in executor.handler_table.handlers)
        asks = any(executor.handler_table.responders for executor in inner.get_executors_list())
        requests = [SubWorkflowRequestMessage] if asks and not self.propagate_request else []
        sends: Any = None
        yields: Any = None
        if declared:
            yields = _one_of(inner.output_types) if self.allow_direct_output else Never
            sends = _one_of([*([] if self.allow_direct_output else inner.output_types), *requests])
        return [
            _handler("enter", _enter, _one_of(inner.input_types), sends, yields),
            _handler("reply", _reply, SubWorkflowResponseMessage, sends, yields),
        ]


def _one_of(hints: list[Any]) -> Any:
    return Union[tuple(hints)] if hints else Never  # noqa: UP007 - the members are known only at run time


def _handler(name: str, function: Any, takes: Any, sends: Any, yields: Any) -> Handler:
    return Handler(
        name=name, function=function, input=takes, response=None, sends=sends, yields=yields, takes_self=True,
        takes_context=False, is_async=True, takes_attempt=True,
    )  # fmt: skip


async def _enter(executor: WorkflowExecutor, message: Any, attempt: Attempt) -> None:
    attempt.effect.nested.append(Entered(message))


async def _reply(executor: WorkflowExecutor, response: SubWorkflowResponseMessage, attempt: Attempt) -> None:
    attempt.effect.nested.append(Replied(response.source_event.request_id or "", response.data))
