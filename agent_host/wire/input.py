"""The input of a request: a string, or items, read into plain immutable data.

- An item without a `type` is a message if it has a role or content, and a reference if it has nothing but an id.
- A message of the assistant holds what an assistant says (`output_text`, `refusal`), any other message what is
  said to it (`input_text`, `input_image`, `input_file`). A string stands for one text part.
- Calls, their outputs, approvals, references and compactions have types of their own; every other item is kept as it
  came, without its nulls. What items mean is decided elsewhere.
- An item that is sent twice with the same id counts once; two different ones under one id are refused.
- Every item and part knows its path in the request, so that whoever cannot use it can name it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_host.wire import checks, problems
from agent_host.wire.items import KINDS, text_part

MAX_ITEMS = 10_000
MAX_PARTS = 10_000
MAX_TEXT = 10_485_760
MAX_IMAGE_URL = 20_971_520
MAX_FILE_DATA = 33_554_432

ROLES = ("user", "assistant", "system", "developer")
PHASES = ("commentary", "final_answer")
STATUSES = ("in_progress", "completed", "incomplete")
_VISIBLE = "[!-~]+"  # every client's ids are such, and every store can hold and find them
ITEM_ID = checks.text(256, least=1, pattern=_VISIBLE)
CALL_ID = checks.text(64, least=1, pattern=_VISIBLE)


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
class InputFunctionCall:
    """A call of a function that an earlier response has asked for. `arguments` is JSON text.

    `more` is what else came with an item (of this and the next types); it is stored and listed with it.
    """

    call_id: str
    name: str
    arguments: str
    path: str
    id: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputFunctionOutput:
    """What a call has given. One that was sent as a string `is_text`: it has one part, and is listed as a string."""

    call_id: str
    output: tuple[InputPart, ...]
    path: str
    id: str | None = None
    is_text: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputApproval:
    """A person's decision about a call that needs one."""

    approval_request_id: str
    approve: bool
    path: str
    reason: str | None = None
    id: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InputReference:
    """The id of a stored item, in the place of the item."""

    id: str
    path: str


@dataclass(frozen=True, slots=True)
class InputCompaction:
    """A handle that stands for the items of an earlier conversation."""

    encrypted_content: str
    path: str
    id: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OtherItem:
    """An item of another kind, as it came."""

    type: str
    raw: Mapping[str, Any]
    path: str


InputItem = (
    InputMessage
    | InputFunctionCall
    | InputFunctionOutput
    | InputApproval
    | InputReference
    | InputCompaction
    | OtherItem
)


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


@dataclass(frozen=True, slots=True)
class _PartKind:
    """How a kind of part is read."""

    known: Mapping[str, checks.Check]
    required: tuple[str, ...]
    build: Callable[[dict[str, Any], str], InputPart]


_SAID_TO = {
    "input_text": _PartKind(
        {"type": checks.anything, "text": checks.text(MAX_TEXT), "prompt_cache_breakpoint": checks.anything},
        ("text",),
        _text,
    ),
    "input_image": _PartKind(
        {
            "type": checks.anything,
            "image_url": checks.text(MAX_IMAGE_URL),
            "file_id": checks.text(),
            "detail": checks.one_of("low", "high", "auto", "original"),
            "prompt_cache_breakpoint": checks.anything,
        },
        (),
        _image,
    ),
    "input_file": _PartKind(
        {
            "type": checks.anything,
            "filename": checks.text(),
            "file_data": checks.text(MAX_FILE_DATA),
            "file_url": checks.text(),
            "file_id": checks.text(),
            "detail": checks.one_of("auto", "low", "high"),
            "prompt_cache_breakpoint": checks.anything,
        },
        (),
        _file,
    ),
}

_SAID_BY = {
    "output_text": _PartKind(
        {
            "type": checks.anything,
            "text": checks.text(MAX_TEXT),
            "annotations": checks.array(checks.json_object),
            "logprobs": checks.array(checks.anything),
            "parsed": checks.anything,  # client libraries keep the parsed answer here and send it back
        },
        ("text",),
        _text,
    ),
    "refusal": _PartKind({"type": checks.anything, "refusal": checks.text(MAX_TEXT)}, ("refusal",), _refusal),
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
    "type": checks.anything,
    "role": checks.anything,
    "content": checks.anything,
    "id": ITEM_ID,
    "status": checks.one_of(*STATUSES),
    "phase": checks.one_of(*PHASES),
}
# Beside an item's own fields: what servers put on items that clients send back.
_SERVED: Mapping[str, checks.Check] = {
    "type": checks.anything,
    "id": ITEM_ID,
    "status": checks.one_of(*STATUSES),
    "caller": checks.json_object,
    "created_by": checks.anything,
}


@dataclass(frozen=True, slots=True)
class _ItemKind:
    """How a kind of item is checked. `own` are the fields that its type holds; the others are kept beside them."""

    known: Mapping[str, checks.Check]
    own: tuple[str, ...]
    required: tuple[str, ...]


_TYPED: Mapping[str, _ItemKind] = {
    "function_call": _ItemKind(
        {
            **_SERVED,
            "call_id": CALL_ID,
            "name": checks.text(128, least=1),
            "arguments": checks.text(MAX_TEXT),
            "namespace": checks.text(),
            "async": checks.anything,
            "async_": checks.anything,  # how the Python client names it when it writes an item that it has read
        },
        ("id", "call_id", "name", "arguments"),
        ("call_id", "name", "arguments"),
    ),
    "function_call_output": _ItemKind(
        {**_SERVED, "call_id": CALL_ID, "output": checks.anything, "name": checks.text(), "namespace": checks.text()},
        ("id", "call_id", "output"),
        ("call_id", "output"),
    ),
    "mcp_approval_response": _ItemKind(
        {
            **_SERVED,
            "approval_request_id": ITEM_ID,
            "approve": checks.boolean,
            "reason": checks.text(MAX_TEXT),
        },
        ("id", "approval_request_id", "approve", "reason"),
        ("approval_request_id", "approve"),
    ),
    "item_reference": _ItemKind({"type": checks.anything, "id": ITEM_ID}, ("id",), ("id",)),
    "compaction": _ItemKind(
        {**_SERVED, "encrypted_content": checks.text(MAX_TEXT, least=1)},
        ("id", "encrypted_content"),
        ("encrypted_content",),
    ),
}
_OTHER = checks.fields({"id": ITEM_ID})


class ItemReader:
    """Reads the items of requests; a `closed` one refuses fields that the API does not have."""

    __slots__ = ("_message", "_said_by", "_said_to", "_typed")

    def __init__(self, *, closed: bool) -> None:
        self._message = checks.fields(_MESSAGE, (), closed)
        self._said_by = _part_reader(_SAID_BY, closed)
        self._said_to = _part_reader(_SAID_TO, closed)
        self._typed = {name: checks.fields(kind.known, kind.required, closed) for name, kind in _TYPED.items()}

    def read(self, value: Any) -> tuple[InputItem, ...]:
        """The items of `input`, a string or an array; none if it is empty."""
        if type(value) is str:
            if len(value) > MAX_TEXT:
                raise problems.too_long("input", MAX_TEXT, len(value))
            return (InputMessage("user", (InputText(value, "input"),), path="input"),) if value else ()
        if type(value) is not list:
            raise checks.wrong_type(value, "input", "a string or an array of input items")
        return self.read_array(value, "input")

    def read_array(self, value: list[Any], path: str) -> tuple[InputItem, ...]:
        """The items of an array that stands at `path`."""
        if len(value) > MAX_ITEMS:
            raise problems.too_many_input_items(path, MAX_ITEMS, len(value))
        items = tuple(self.item(item, f"{path}[{index}]") for index, item in enumerate(value))
        return without_repeats(items)

    def item(self, item: Any, path: str) -> InputItem:
        """One item that stands at `path`."""
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
        if kind in _TYPED:
            self._typed[kind](item, path)
            return self._read_typed(kind, item, path)
        _OTHER(item, path)
        return OtherItem(kind, {key: value for key, value in item.items() if value is not None}, path)

    def _read_typed(self, kind: str, item: dict[str, Any], path: str) -> InputItem:
        id, own = item.get("id"), _TYPED[kind].own
        more = {key: value for key, value in item.items() if value is not None and key not in own and key != "type"}
        if kind == "function_call":
            return InputFunctionCall(item["call_id"], item["name"], item["arguments"], path, id, more)
        if kind == "function_call_output":
            output = self._parts(item["output"], f"{path}.output", self._said_to)
            return InputFunctionOutput(item["call_id"], output, path, id, type(item["output"]) is str, more)
        if kind == "mcp_approval_response":
            return InputApproval(item["approval_request_id"], item["approve"], path, item.get("reason"), id, more)
        if kind == "compaction":
            return InputCompaction(item["encrypted_content"], path, id, more)
        return InputReference(item["id"], path)

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
        if len(content) > MAX_PARTS:
            raise problems.wrong_array_length(path, 0, MAX_PARTS, len(content))
        return tuple(read(part, f"{path}[{index}]") for index, part in enumerate(content))


def without_repeats(items: Iterable[InputItem]) -> tuple[InputItem, ...]:
    """The items without those that repeat an earlier one; raises the `Problem` of another one under the same id."""
    seen: dict[str, InputItem] = {}
    kept: list[InputItem] = []
    for item in items:
        id = None if isinstance(item, InputReference) else id_of(item)
        first = seen.setdefault(id, item) if id is not None else item
        if first is item:
            kept.append(item)
        elif said(first) != said(item):
            raise problems.duplicate_item(id or "")
    return tuple(kept)


def id_of(item: InputItem) -> str | None:
    """The id that an item came with."""
    if isinstance(item, OtherItem):
        given: str | None = item.raw.get("id")
        return given
    return item.id


def said(item: InputItem) -> object:
    """What an item says, however it is written; clients leave out, and add, what is beside that."""
    if isinstance(item, InputMessage):
        return item.role, _parts_said(item.parts)
    if isinstance(item, InputFunctionCall):
        return item.call_id, item.name
    if isinstance(item, InputFunctionOutput):
        return item.call_id, _parts_said(item.output)
    if isinstance(item, InputApproval):
        return item.approval_request_id, item.approve
    return item.type if isinstance(item, OtherItem) else type(item)


def _parts_said(parts: Iterable[InputPart]) -> list[object]:
    """What parts say: texts that follow each other are one."""
    fields = ("refusal", "image_url", "file_id", "file_data", "file_url")
    found: list[object] = []
    for part in parts:
        if isinstance(part, InputText):
            before = found.pop() if found and isinstance(found[-1], str) else ""
            found.append(f"{before}{part.text}")
        else:
            found.append(tuple(getattr(part, name, None) for name in fields))
    return found


def is_item_id(text: str) -> bool:
    """Whether an item can have this id."""
    try:
        ITEM_ID(text, "id")
    except problems.Problem:
        return False
    return True


_STORED = ItemReader(closed=False)


def read_item(item: Any, path: str) -> InputItem:
    """An item that was stored, as if it stood at `path` of a request."""
    return _STORED.item(item, path)


def read_items(items: Sequence[Any], path: str) -> tuple[InputItem, ...]:
    """Items that were stored, however many, as if they stood in an array at `path` of a request."""
    return tuple(_STORED.item(item, f"{path}[{index}]") for index, item in enumerate(items))


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


def _typed_json(item: InputItem) -> tuple[str, str | None, Mapping[str, Any], dict[str, Any]]:
    """The kind of an item, its id, what else came with it, and its own fields."""
    if isinstance(item, InputFunctionCall):
        fields = {"call_id": item.call_id, "name": item.name, "arguments": item.arguments}
        return "function_call", item.id, item.more, fields
    if isinstance(item, InputFunctionOutput):
        output = [_part_json(part, "user") for part in item.output]
        shown = output[0]["text"] if item.is_text else output
        return "function_call_output", item.id, item.more, {"call_id": item.call_id, "output": shown}
    if isinstance(item, InputApproval):
        decision: dict[str, Any] = {"approval_request_id": item.approval_request_id, "approve": item.approve}
        if item.reason is not None:
            decision["reason"] = item.reason
        return "mcp_approval_response", item.id, item.more, decision
    if isinstance(item, InputCompaction):
        return "compaction", item.id, item.more, {"encrypted_content": item.encrypted_content}
    if isinstance(item, InputReference):
        return "item_reference", item.id, {}, {}
    assert isinstance(item, OtherItem), "messages are written elsewhere"
    return item.type, item.raw.get("id"), item.raw, {}


def _item_json(item: InputItem, new_id: Callable[[str], str]) -> dict[str, Any]:
    if not isinstance(item, InputMessage):
        name, id, more, fields = _typed_json(item)
        kind = KINDS[name]
        stored = {**more, "id": id or new_id(kind.prefix), "type": name, **fields}
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
