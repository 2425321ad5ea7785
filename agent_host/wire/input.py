"""The input of a request: a string, or items, read into plain immutable data.

- An item without a `type` is a message if it has a role or content, and a reference if it has nothing but an id.
- A message of the assistant holds what an assistant says (`output_text`, `refusal`), any other message what is
  said to it (`input_text`, `input_image`, `input_file`). A string stands for one text part.
- Items that are not messages are kept as they came, without their nulls; what they mean is decided elsewhere.
- Every item and part knows its path in the request, so that whoever cannot use it can name it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_host.wire import checks, problems
from agent_host.wire.items import KINDS, text_part

MAX_TEXT = 10_485_760
MAX_IMAGE_URL = 20_971_520
MAX_FILE_DATA = 33_554_432

ROLES = ("user", "assistant", "system", "developer")
PHASES = ("commentary", "final_answer")
STATUSES = ("in_progress", "completed", "incomplete")
CALL_ID = checks.text(64, least=1)


@dataclass(frozen=True, slots=True)
class InputText:
    """Text, said by any role; `annotations` are those of an assistant's text."""

    text: str
    path: str
    annotations: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class InputImage:
    """An image, by address (web or `data:`) or by the id of a file."""

    image_url: str | None
    file_id: str | None
    detail: str
    path: str


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file, by content, address or id."""

    filename: str | None
    file_data: str | None
    file_url: str | None
    file_id: str | None
    path: str


@dataclass(frozen=True, slots=True)
class InputRefusal:
    """What an assistant said instead of an answer."""

    refusal: str
    path: str


InputPart = InputText | InputImage | InputFile | InputRefusal


@dataclass(frozen=True, slots=True)
class InputMessage:
    """A message, with what the client says of its identity if it sends back one that it was given."""

    role: str
    parts: tuple[InputPart, ...]
    id: str | None = None
    status: str | None = None
    phase: str | None = None
    path: str = "input[0]"


@dataclass(frozen=True, slots=True)
class OtherItem:
    """An item of another kind, as it came."""

    type: str
    raw: Mapping[str, Any]
    path: str


InputItem = InputMessage | OtherItem


# --- Parts -----------------------------------------------------------------------------------------------------


def _text(part: dict[str, Any], path: str) -> InputPart:
    return InputText(part["text"], path, tuple(part.get("annotations") or ()))


def _image(part: dict[str, Any], path: str) -> InputPart:
    url, file_id = part.get("image_url"), part.get("file_id")
    if url is None and file_id is None:
        raise problems.missing_parameter(f"{path}.image_url")
    return InputImage(url, file_id, part.get("detail") or "auto", path)


def _file(part: dict[str, Any], path: str) -> InputPart:
    data, url, file_id = part.get("file_data"), part.get("file_url"), part.get("file_id")
    if data is None and url is None and file_id is None:
        raise problems.missing_parameter(f"{path}.file_data")
    return InputFile(part.get("filename"), data, url, file_id, path)


def _refusal(part: dict[str, Any], path: str) -> InputPart:
    return InputRefusal(part["refusal"], path)


def _anything(value: Any, path: str) -> None:
    """What is accepted without a look."""


@dataclass(frozen=True, slots=True)
class _PartKind:
    """How a kind of part is read."""

    known: Mapping[str, checks.Check]
    required: tuple[str, ...]
    build: Callable[[dict[str, Any], str], InputPart]


_SAID_TO = {
    "input_text": _PartKind(
        {"type": _anything, "text": checks.text(MAX_TEXT), "prompt_cache_breakpoint": _anything}, ("text",), _text
    ),
    "input_image": _PartKind(
        {
            "type": _anything,
            "image_url": checks.text(MAX_IMAGE_URL),
            "file_id": checks.text(),
            "detail": checks.one_of("low", "high", "auto", "original"),
            "prompt_cache_breakpoint": _anything,
        },
        (),
        _image,
    ),
    "input_file": _PartKind(
        {
            "type": _anything,
            "filename": checks.text(),
            "file_data": checks.text(MAX_FILE_DATA),
            "file_url": checks.text(),
            "file_id": checks.text(),
            "detail": checks.one_of("auto", "low", "high"),
            "prompt_cache_breakpoint": _anything,
        },
        (),
        _file,
    ),
}

_SAID_BY = {
    "output_text": _PartKind(
        {
            "type": _anything,
            "text": checks.text(MAX_TEXT),
            "annotations": checks.array(checks.json_object),
            "logprobs": checks.array(_anything),
            "parsed": _anything,  # client libraries keep the parsed answer here and send it back
        },
        ("text",),
        _text,
    ),
    "refusal": _PartKind({"type": _anything, "refusal": checks.text(MAX_TEXT)}, ("refusal",), _refusal),
}

_Reader = Callable[[Any, str], InputPart]


def _part_reader(kinds: Mapping[str, _PartKind], closed: bool) -> _Reader:
    table = {name: checks.fields(kind.known, kind.required, closed) for name, kind in kinds.items()}
    check = checks.tagged(table, at=".type")

    def read(value: Any, path: str) -> InputPart:
        check(value, path)
        return kinds[value["type"]].build(value, path)

    return read


# --- Items -----------------------------------------------------------------------------------------------------

_MESSAGE = {
    "type": _anything,
    "role": _anything,
    "content": _anything,
    "id": checks.text(256, least=1),
    "status": checks.one_of(*STATUSES),
    "phase": checks.one_of(*PHASES),
}
_OTHER: Mapping[str, checks.Check] = {
    "function_call": checks.fields(
        {"call_id": CALL_ID, "name": checks.text(128, least=1), "arguments": checks.text(MAX_TEXT)},
        ("call_id", "name", "arguments"),
    ),
    "function_call_output": checks.fields({"call_id": CALL_ID}, ("call_id", "output")),
    "mcp_approval_response": checks.fields(
        {"approval_request_id": checks.text(256, least=1), "approve": checks.boolean, "reason": checks.text(MAX_TEXT)},
        ("approval_request_id", "approve"),
    ),
    "item_reference": checks.fields({"id": checks.text(256, least=1)}, ("id",)),
}
_OTHER_DEFAULT = checks.fields({"id": checks.text(256, least=1)})


class InputReader:
    """Reads the `input` of requests; a `closed` one refuses fields that the API does not have."""

    __slots__ = ("_message", "_said_by", "_said_to")

    def __init__(self, *, closed: bool) -> None:
        self._message = checks.fields(_MESSAGE, (), closed)
        self._said_by = _part_reader(_SAID_BY, closed)
        self._said_to = _part_reader(_SAID_TO, closed)

    def read(self, value: Any) -> tuple[InputItem, ...]:
        """The items; none if the input is empty."""
        if type(value) is str:
            if len(value) > MAX_TEXT:
                raise problems.too_long("input", MAX_TEXT, len(value))
            return (InputMessage("user", (InputText(value, "input"),), path="input"),) if value else ()
        if type(value) is not list:
            raise checks.wrong_type(value, "input", "a string or an array of input items")
        return tuple(self._item(item, f"input[{index}]") for index, item in enumerate(value))

    def _item(self, item: Any, path: str) -> InputItem:
        checks.json_object(item, path)
        kind = item.get("type")
        if kind is None:
            reference = "id" in item and "role" not in item and "content" not in item
            kind = "item_reference" if reference else "message"
        if type(kind) is not str:
            raise checks.wrong_type(kind, f"{path}.type", "a string")
        if kind == "message":
            return self._read_message(item, path)
        if kind not in KINDS:
            raise problems.invalid_value(path, kind, KINDS)
        _OTHER.get(kind, _OTHER_DEFAULT)(item, path)
        return OtherItem(kind, {key: value for key, value in item.items() if value is not None}, path)

    def _read_message(self, item: dict[str, Any], path: str) -> InputMessage:
        if "role" not in item:
            raise problems.missing_parameter(f"{path}.role")
        role = item["role"]
        if type(role) is not str:
            raise checks.wrong_type(role, f"{path}.role", "a string")
        if role not in ROLES:
            raise problems.invalid_value(path, role, ROLES)
        self._message(item, path)
        if role != "assistant" and item.get("phase") is not None:
            raise problems.unknown_parameter(f"{path}.phase")
        if "content" not in item:
            raise problems.missing_parameter(f"{path}.content")
        parts = self._parts(item["content"], f"{path}.content", self._said_by if role == "assistant" else self._said_to)
        return InputMessage(role, parts, item.get("id"), item.get("status"), item.get("phase"), path)

    def _parts(self, content: Any, path: str, read: _Reader) -> tuple[InputPart, ...]:
        if type(content) is str:
            if len(content) > MAX_TEXT:
                raise problems.too_long(path, MAX_TEXT, len(content))
            return (InputText(content, path),)
        if type(content) is not list:
            raise checks.wrong_type(content, path, "a string or an array of content parts")
        return tuple(read(part, f"{path}[{index}]") for index, part in enumerate(content))


# --- Back to JSON ----------------------------------------------------------------------------------------------


def _part_json(part: InputPart, role: str) -> dict[str, Any]:
    if isinstance(part, InputText):
        if role != "assistant":
            return {"type": "input_text", "text": part.text}
        return {**text_part(part.text), "annotations": list(part.annotations)}
    if isinstance(part, InputRefusal):
        return {"type": "refusal", "refusal": part.refusal}
    if isinstance(part, InputImage):
        fields = {"type": "input_image", "image_url": part.image_url, "file_id": part.file_id, "detail": part.detail}
    else:
        fields = {
            "type": "input_file",
            "filename": part.filename,
            "file_data": part.file_data,
            "file_url": part.file_url,
            "file_id": part.file_id,
        }
    return {key: value for key, value in fields.items() if value is not None}


def _item_json(item: InputItem, new_id: Callable[[str], str]) -> dict[str, Any]:
    if isinstance(item, OtherItem):
        kind = KINDS[item.type]
        stored = {"id": item.raw.get("id") or new_id(kind.prefix), **item.raw, "type": item.type}
        if kind.has_status:
            stored.setdefault("status", "completed")
        return stored
    message = {
        "id": item.id or new_id(KINDS["message"].prefix),
        "type": "message",
        "role": item.role,
        "status": item.status or "completed",
        "content": [_part_json(part, item.role) for part in item.parts],
    }
    if item.phase is not None:
        message["phase"] = item.phase
    return message


def items_json(items: Sequence[InputItem], new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """The items as they are stored and listed: each complete, each with an id (the client's, or a new one)."""
    return [_item_json(item, new_id) for item in items]
