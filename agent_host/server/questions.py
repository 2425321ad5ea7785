"""Questions to people: between the engine's requests and the calls that a client sees.

Outward: a request becomes a call whose name and arguments come from the type and the value of what was asked. Inward:
the output of a call becomes a value of the type that the answer must have.

- Every open question is answered in one request, or none is: a workflow goes on with whole answers.
- Nothing here changes anything: what is wrong with an answer is said before a turn begins.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
from pydantic import PydanticSchemaGenerationError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from agent_host.engine import annotations
from agent_host.engine.definition import Definition
from agent_host.engine.running import requests
from agent_host.engine.running.lane import Lane
from agent_host.errors import WorkflowRunnerException
from agent_host.messages import ApprovalRequest, ApprovalResponse, FunctionCall, Message
from agent_host.server.parts import parts_of
from agent_host.server.plain import as_json
from agent_host.stores.records import OpenCall
from agent_host.wire import problems
from agent_host.wire.input import (
    InputApproval,
    InputFunctionCall,
    InputFunctionOutput,
    InputItem,
    InputText,
    OtherItem,
    id_of,
)

_LONGEST_NAME = 64
_YES = frozenset({"y", "yes", "true", "ok", "approve", "approved"})
_NO = frozenset({"n", "no", "false", "deny", "denied", "reject", "rejected"})

AnswerItem = InputFunctionOutput | InputApproval


@dataclass(frozen=True, slots=True)
class Question:
    """A request as a client sees it: a function to call, with its arguments as JSON text."""

    request_id: str
    name: str
    arguments: str
    approval_of: ApprovalRequest | None = None


@dataclass(frozen=True, slots=True)
class Approved:
    """A call that was approved with a turn's request."""

    approval_request_id: str
    of: ApprovalRequest


# --- Outward -----------------------------------------------------------------------------------------------------


def open_questions(lane: Lane) -> list[Question]:
    """What a workflow at rest waits for, in the order in which it was asked."""
    return [
        question_of(request_id, request.data)
        for request_id, (frame, request) in lane.open_requests().items()
        if frame.outward
    ]


def question_of(request_id: str, data: Any) -> Question:
    """A request as a call. Raises `UnsupportedValueError` for data that JSON cannot carry."""
    if isinstance(data, FunctionCall):
        arguments = data.arguments if isinstance(data.arguments, str) else as_json(data.arguments)
        return Question(request_id, data.name, arguments)
    approval = data if isinstance(data, ApprovalRequest) else None
    text = as_json(_argument_object(data))
    return Question(request_id, _name_of(type(data)), text, approval)


def _argument_object(data: Any) -> Any:
    """The arguments of a call are an object: other values stand in one under a name of their own."""
    if isinstance(data, str):
        return {"question": data}
    if isinstance(data, ApprovalRequest):
        return {"name": data.name, "arguments": data.arguments}
    if isinstance(data, (bool, int, float, list, tuple, type(None))):
        return {"value": data}
    return data


def _name_of(kind: Any) -> str:
    """The function's name: the type's, in lower case with underscores."""
    if kind is str:
        return "question"
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", annotations.name(kind))
    return re.sub(r"[^a-z0-9_-]+", "_", words.lower()).strip("_")[:_LONGEST_NAME] or "question"


def declared_questions(definition: Definition) -> list[dict[str, Any]]:
    """What the executors of a workflow may ask, as function tools; `answer` is the schema of a call's output.

    Clients that take only calls of tools they know declare these. Calls of functions that a client brings itself are
    not among them.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for executor, request, response in _asked(definition, ""):
        called = _name_of(request)
        tool = {
            "type": "function",
            "name": called,
            "description": f"Asked by {executor}; the output is {annotations.name(response)}.",
            "parameters": _argument_schema(request),
            "strict": False,
            "answer": _schema(response),
        }
        found.setdefault((called, annotations.name(response)), tool)
    return list(found.values())


def _asked(definition: Definition, within: str) -> Iterator[tuple[str, Any, Any]]:
    for name, executor in definition.graph.executors.items():
        for responder in executor.handler_table.responders:
            for request in annotations.members(responder.input):
                if request is not FunctionCall:
                    yield within + name, request, responder.response
        child = definition.children.get(name)
        if child is not None:
            yield from _asked(child, f"{within}{name}/")


def _argument_schema(request: Any) -> dict[str, Any]:
    if request is ApprovalRequest:
        shown = {"name": {"type": "string"}, "arguments": {"type": "object"}}
        return {"type": "object", "properties": shown, "required": ["name", "arguments"]}
    if request is str:
        return {"type": "object", "properties": {"question": {"type": "string"}}, "required": ["question"]}
    schema = _schema(request)
    if schema.get("type") == "object":
        return schema
    return {"type": "object", "properties": {"value": schema}, "required": ["value"]}


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type; the empty one, which allows everything, for a type that has none."""
    try:
        return TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError, TypeError):
        return {}


# --- Inward ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answers:
    """The answers in a request by the id of what they answer, and the items that are not answers."""

    by_request: Mapping[str, AnswerItem]
    others: tuple[InputItem, ...]


def match(
    items: Sequence[InputItem], calls: Sequence[OpenCall], pending: Sequence[str], known_calls: Collection[str] = ()
) -> Answers:
    """Find the answer to each pending request, or raise the `Problem` of one that is missing or was not asked for.

    The answers come in the order of `pending`, whatever their order in the request.

    An output whose call stands in the request too is a piece of history, and no fault; `known_calls` stood there and
    are known already. `calls` may name a request several times: each of its call ids will do.
    """
    asked = {call.call_id: call.request_id for call in calls if call.request_id in pending}
    history = {*known_calls, *(called for item in items if (called := called_by(item)) is not None)}
    answers: dict[str, AnswerItem] = {}
    others: list[InputItem] = []
    for item in items:
        if not isinstance(item, AnswerItem):
            others.append(item)
            continue
        call_id = call_id_of(item)
        request_id = asked.get(call_id)
        if request_id is None:
            if call_id not in history:
                raise problems.unknown_tool_call(call_id)
            others.append(item)
        elif _said(answers.get(request_id, item)) != _said(item):
            raise problems.duplicate_item(call_id)
        else:
            answers[request_id] = item
    for call_id, request_id in asked.items():
        if request_id not in answers:
            raise problems.missing_tool_output(call_id)
    in_order = {request_id: answers[request_id] for request_id in pending if request_id in answers}
    return Answers(in_order, tuple(others))


def call_id_of(item: AnswerItem) -> str:
    """The id of the call that an item answers."""
    return item.call_id if isinstance(item, InputFunctionOutput) else item.approval_request_id


def called_by(item: InputItem) -> str | None:
    """The id of the call that an item of a history makes; None for one that makes none."""
    if isinstance(item, InputFunctionCall):
        return item.call_id
    if isinstance(item, OtherItem) and item.type == "mcp_approval_request":
        return id_of(item)
    return None


def _said(item: AnswerItem) -> object:
    """What an answer says, wherever it stands."""
    if isinstance(item, InputApproval):
        return item.approve, item.reason
    return [part.text if isinstance(part, InputText) else part for part in item.output]


def read_answers(lane: Lane, answers: Mapping[str, AnswerItem], now: float) -> dict[str, Any]:
    """The answers as values, each accepted by the request it answers; a `Problem` names the one that is not.

    The lane is used up: it is one that was opened to try them. `now` is in seconds since the epoch.
    """
    values: dict[str, Any] = {}
    for request_id, item in answers.items():
        frame, request = lane.open_requests()[request_id]
        wanted = requests.answer_type(frame, request)
        for value in _readings(item, wanted):
            try:
                requests.take(lane, {request_id: value}, now)
            except WorkflowRunnerException:
                continue
            values[request_id] = value
            break
        else:
            raise problems.unreadable_answer(
                f"{item.path}.{'output' if isinstance(item, InputFunctionOutput) else 'approve'}",
                request.response_name, _schema(wanted) if wanted is not None else {},
            )  # fmt: skip
    return values


def _readings(item: AnswerItem, wanted: Any) -> Iterator[Any]:
    """What an answer may mean, the likeliest first; the request decides."""
    if isinstance(item, InputApproval):
        yield from (ApprovalResponse(item.approve, item.reason), item.approve)
        yield {"approve": item.approve, "reason": item.reason}
        yield "approved" if item.approve else "denied"
        return
    if wanted is Message:
        yield Message(parts_of(item.output))
        return
    if any(not isinstance(part, InputText) for part in item.output):
        raise problems.unsupported_input(item.path, "an answer with an image or a file", ["text"])
    text = "".join(part.text for part in item.output if isinstance(part, InputText))
    word = text.strip().lower()
    if wanted is str:
        yield text
        return
    if wanted is Decimal:  # a number of JSON would lose its digits
        yield text.strip()
    with suppress(ValueError, RecursionError):  # what is not JSON is text
        yield msgspec.json.decode(text)
    if wanted is bool and word in _YES | _NO:
        yield word in _YES
    if wanted is ApprovalResponse and word in _YES | _NO:
        yield ApprovalResponse(word in _YES)
    yield text
