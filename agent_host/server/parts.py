"""The content of messages: parts of a request's items as parts of what executors take."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_host.messages import FilePart, ImagePart, Message, Part, TextPart
from agent_host.wire.input import InputFile, InputImage, InputMessage, InputPart, InputRefusal, InputText

_PARTS: Mapping[type, Callable[[Any], Part]] = {
    InputText: lambda part: TextPart(part.text),
    InputRefusal: lambda part: TextPart(part.refusal),
    InputImage: lambda part: ImagePart(url=part.image_url, file_id=part.file_id, detail=part.detail),
    InputFile: lambda part: FilePart(part.filename, part.file_data, part.file_url, part.file_id),
}


def parts_of(parts: Sequence[InputPart]) -> list[Part]:
    """The parts as executors know them, in their order."""
    return [_PARTS[type(part)](part) for part in parts]


def message_of(item: InputMessage) -> Message:
    """A message of a request as executors take it."""
    return Message(parts_of(item.parts), item.role)  # type: ignore[arg-type]  # the request has checked the role
