"""The one mapping between the words of the wire and the words of the engine.

Inward: the items of a request become the input of the start executor, whose handlers say what they take. Outward:
the events of a run become moves of a transcript.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import TypeAdapter, ValidationError

from agent_host.engine import annotations
from agent_host.engine.events import RESERVED, OutputKey, WorkflowEvent
from agent_host.errors import UnsupportedValueError
from agent_host.foundry.identity import Identity
from agent_host.messages import Message, Turn
from agent_host.server.parts import message_of
from agent_host.server.plain import as_json
from agent_host.server.questions import Approved, Question
from agent_host.stores.records import OpenCall
from agent_host.wire.events import Event
from agent_host.wire.input import InputFile, InputImage, InputItem, InputMessage, InputText
from agent_host.wire.items import Phase
from agent_host.wire.problems import Problem, unsupported_input
from agent_host.wire.request import CreateRequest
from agent_host.wire.response import ResponseFacts, usage_object
from agent_host.wire.transcript import Transcript

# --- Inward ------------------------------------------------------------------------------------------------------


class InputReader:
    """Turns a request's items into what a start executor takes.

    The first of these that it handles is used: `list[Message]` (all messages), `Message` (the last user message), a
    model or dataclass (from JSON text), `str`. The text is that of the user messages after the last answer, joined
    by a blank line.
    """

    def __init__(self, input_types: Sequence[Any]) -> None:
        self._models = [kind for kind in input_types if _is_model(kind)]
        self._names = [annotations.name(kind) for kind in input_types]
        choices: list[tuple[Any, Callable[[Sequence[InputItem]], Any]]] = [
            (list[Message], self._messages),
            (Message, self._message),
            *((kind, self._model) for kind in self._models[:1]),
            (str, self._text),
        ]
        self._read = next(
            (read for kind, read in choices if any(annotations.is_subtype(kind, taken) for taken in input_types)), None
        )

    @property
    def is_possible(self) -> bool:
        """Whether the start executor takes anything that a request can carry."""
        return self._read is not None

    def read(self, items: Sequence[InputItem]) -> Any:
        """The input of the start executor. Raises a `Problem` that names the item it cannot carry."""
        assert self._read is not None, "checked when the host starts"
        return self._read(items)

    def _messages(self, items: Sequence[InputItem]) -> list[Message]:
        return [message_of(item) for item in items if isinstance(item, InputMessage)]

    def _message(self, items: Sequence[InputItem]) -> Message:
        users = [item for item in items if isinstance(item, InputMessage) and item.role == "user"]
        if not users:
            self._refuse_without_user(items)
            return Message("")
        return message_of(users[-1])

    def _text(self, items: Sequence[InputItem]) -> str:
        recent: list[InputMessage] = []
        for item in items:
            if not isinstance(item, InputMessage) or item.role == "assistant":
                recent.clear()
            elif item.role == "user":
                recent.append(item)
        if not recent:
            self._refuse_without_user(items)
        return "\n\n".join("".join(self._only_text(part) for part in item.parts) for item in recent)

    def _model(self, items: Sequence[InputItem]) -> Any:
        text = self._text(items)
        faults = []
        for kind in self._models:
            try:
                return TypeAdapter(kind).validate_json(text)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                place = ".".join(map(str, first["loc"])) or "the text"
                faults.append(f"{annotations.name(kind)}: {place}: {first['msg']}")
        path = items[-1].path if items else "input"
        raise Problem(
            400, f"The text of '{path}' must be JSON of {' or '.join(faults)}.", param=path, code="invalid_value"
        )

    def _only_text(self, part: Any) -> str:
        if isinstance(part, InputText):
            return part.text
        kind = {InputImage: "an image", InputFile: "a file"}.get(type(part), "a refusal")
        raise unsupported_input(part.path, kind, ["text"])

    def _refuse_without_user(self, items: Sequence[InputItem]) -> None:
        if items:
            raise unsupported_input(items[-1].path, "an input that does not end with a user's message", self._names)


def _is_model(kind: Any) -> bool:
    return (
        isinstance(kind, type)
        and kind is not Message
        and (dataclasses.is_dataclass(kind) or annotations.is_pydantic(kind))
    )


def turn_of(request: CreateRequest, facts: ResponseFacts, who: Identity) -> Turn:
    """What handlers see of the request as `ctx.turn`."""
    return Turn(
        response_id=facts.id,
        previous_response_id=request.previous_response_id,
        conversation_id=request.conversation,
        model=request.model,
        instructions=request.instructions,
        tools=request.tools,
        tool_choice=request.tool_choice,
        metadata=request.metadata,
        user=who.user,
        client_headers=who.client_headers,
    )


# --- Outward -----------------------------------------------------------------------------------------------------

_PHASES: Mapping[bool, Phase] = {False: "final_answer", True: "commentary"}

Progress = Literal["off", "commentary", "reasoning"]
"""How a client sees what the executors do: not at all, as messages on the way, or as reasoning."""

LIVE = frozenset({"output_delta", "executor_failed"})
"""What is told while a superstep runs."""
SETTLED = frozenset({"output", "intermediate"})
"""What is told when its superstep has merged."""


class Narrator:
    """Tells one run in the words of the wire: each engine event becomes moves of the transcript, told at once."""

    def __init__(
        self, transcript: Transcript, tell: Callable[[list[Event]], None], *, progress: Progress = "off"
    ) -> None:
        self._transcript = transcript
        self._tell = tell
        self._progress = progress
        self._streaming: dict[OutputKey, int] = {}

    def hear(self, event: WorkflowEvent) -> None:
        """Take in one event of the run; most say nothing to a client."""
        move = _MOVES.get(event.type)
        if move is not None:
            move(self, event)
        elif self._progress != "off":
            self._report(event)

    def _delta(self, event: WorkflowEvent) -> None:
        key = event.output
        assert key is not None
        index = self._streaming.get(key)
        if index is None:
            index, opening = self._transcript.open_message(_PHASES[event.intermediate])
            self._streaming[key] = index
            self._tell(opening)
        self._tell(self._transcript.text_delta(index, event.data))

    def _output(self, event: WorkflowEvent) -> None:
        index = self._streaming.pop(event.output, None) if event.output else None
        if index is not None:
            self._tell(self._transcript.close_message(index))
        else:
            self._tell(self._transcript.message(as_text(event.data), _PHASES[event.type == "intermediate"]))

    def _void(self, event: WorkflowEvent) -> None:
        """Take back what was shown of an attempt that has failed; another attempt opens an item of its own."""
        failed = event.output
        for key in [key for key in self._streaming if failed and _same_attempt(key, failed)]:
            self._tell(self._transcript.abandon(self._streaming.pop(key)))

    def _report(self, event: WorkflowEvent) -> None:
        """Say what an executor does, or what it says of itself with an event of its own."""
        if event.type == "executor_invoked":
            text = f"Running {event.executor_id}."
        elif event.type not in _UNTOLD and isinstance(event.data, str) and event.executor_id:
            text = f"{event.executor_id}: {event.data}"
        else:
            return
        if self._progress == "reasoning":
            self._tell(self._transcript.reasoning([text]))
        else:
            self._tell(self._transcript.message(text, "commentary"))


_MOVES: Mapping[str, Callable[[Narrator, WorkflowEvent], None]] = {
    "output_delta": Narrator._delta,
    "output": Narrator._output,
    "intermediate": Narrator._output,
    "executor_failed": Narrator._void,
}
_UNTOLD = (RESERVED | {"warning", "error"}) - _MOVES.keys()


def heard(progress: Progress, *, is_background: bool, shows_events: bool) -> frozenset[str] | None:
    """The live events of a run that its narrator needs; None for all of them.

    The outputs of a background turn come with the boundary that stores them.
    """
    if progress != "off" or shows_events:
        return None
    return LIVE if is_background else LIVE | SETTLED


def progress_of(request: CreateRequest, default: Progress) -> Progress:
    """A client that asks for summaries of the reasoning gets what the executors do in that form."""
    reasoning = request.echo.get("reasoning") or {}
    return "reasoning" if reasoning.get("summary") else default


def end_questions(
    transcript: Transcript, questions: Sequence[Question], new_id: Callable[[str], str], *, mcp_approvals: bool
) -> tuple[list[Event], tuple[OpenCall, ...]]:
    """The calls that ask what a workflow at rest waits for, and what each of them stands for."""
    told: list[Event] = []
    calls: list[OpenCall] = []
    for question in questions:
        approval = question.approval_of
        if approval is not None and mcp_approvals:
            events = transcript.approval_request(approval.name, approval.server_label, as_json(approval.arguments))
            call_id = str(events[0]["item"]["id"])
        else:
            call_id = new_id("call")
            events = transcript.function_call(call_id, question.name, question.arguments)
        told += events
        calls.append(OpenCall(call_id, question.request_id))
    return told, tuple(calls)


def approved_calls(transcript: Transcript, approved: Sequence[Approved]) -> list[Event]:
    """The calls that were approved with this turn's request, as carried out: their results are the turn's outputs."""
    told: list[Event] = []
    for one in approved:
        told += transcript.mcp_call(
            one.of.name, one.of.server_label, as_json(one.of.arguments), approval_request_id=one.approval_request_id
        )
    return told


def workflow_event(event: WorkflowEvent) -> Event:
    """An event of the workflow for those who have asked for them; it has no number and is not part of the response."""
    fields = {"executor_id": event.executor_id, "iteration": event.iteration, "data": _shown(event.data)}
    return {"type": f"workflow.{event.type}", **{name: value for name, value in fields.items() if value is not None}}


def _shown(data: Any) -> Any:
    try:
        return msgspec.json.decode(as_json(data)) if data is not None else None
    except UnsupportedValueError:
        return None


def _same_attempt(one: OutputKey, other: OutputKey) -> bool:
    return (one.iteration, one.invocation, one.attempt) == (other.iteration, other.invocation, other.attempt)


_SHOWN = (dict, list, tuple, int, float)


def as_text(output: Any) -> str:
    """An output as the text of a message: text as it is, everything else as JSON.

    Raises `UnsupportedValueError` for a value that JSON cannot carry.
    """
    if isinstance(output, str):
        return output
    if isinstance(output, Message):
        return output.text
    if not isinstance(output, _SHOWN) and not _is_model(type(output)):
        raise UnsupportedValueError(
            f"An output of type {type(output).__qualname__} cannot be shown to a client: it has no JSON form that is "
            "always the same. Yield text, a Message, a model, a dataclass, or plain JSON values."
        )
    return as_json(output)


def usage_of(tokens: Mapping[str, int]) -> dict[str, Any]:
    """What handlers counted with `ctx.add_usage`, as the response's `usage`."""
    return usage_object(
        input_tokens=tokens.get("input_tokens", 0),
        output_tokens=tokens.get("output_tokens", 0),
        cached=tokens.get("cached_tokens", 0),
        reasoning=tokens.get("reasoning_tokens", 0),
        cache_write=tokens.get("cache_write_tokens", 0),
    )
