"""What executors and agents say to each other and to the client. Plain, immutable data.

`Message` is one chat message made of parts. `TextDelta` is a piece of text that leaves at once: consecutive
deltas of one invocation become one message of the response.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["user", "assistant", "system", "developer", "tool"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Text, as the user or the assistant wrote it."""

    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    """An image, by web address, `data:` URL or the id of an uploaded file."""

    url: str | None = None
    file_id: str | None = None
    detail: str = "auto"


@dataclass(frozen=True, slots=True)
class FilePart:
    """A file, by content (a `data:` URL), web address or the id of an uploaded file."""

    filename: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None


Part = TextPart | ImagePart | FilePart


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message. `Message("hello")` is a user's text; parts keep their order."""

    parts: tuple[Part, ...]
    role: Role = "user"

    def __init__(self, content: str | Part | Iterable[Part], role: Role = "user") -> None:
        if isinstance(content, str):
            parts: tuple[Part, ...] = (TextPart(content),)
        elif isinstance(content, (TextPart, ImagePart, FilePart)):
            parts = (content,)
        else:
            parts = tuple(content)
        object.__setattr__(self, "parts", parts)
        object.__setattr__(self, "role", role)

    @property
    def text(self) -> str:
        """The text parts, joined without a separator."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of text to show now: `await ctx.yield_output(TextDelta("Hel"))`.

    The pieces that one invocation yields in a row are one message; any other output, or the end of the
    invocation, ends it. If the invocation fails, what was shown is marked incomplete and is not part of the
    conversation's state.
    """

    text: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """A question that is a call of a function the client has declared: `ctx.request_info(FunctionCall(...), str)`.

    The client sees it under this name with these arguments, JSON text or a mapping; its output is the answer.
    """

    name: str
    arguments: str | dict[str, Any] = "{}"


@dataclass(frozen=True, slots=True)
class ApprovalRequest:
    """A question whether something may be done: `ctx.request_info(ApprovalRequest("refund", {...}), bool)`.

    Served with approvals in MCP's form, clients see an `mcp_approval_request` item; else a function call.
    """

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    server_label: str = "workflow"


@dataclass(frozen=True, slots=True)
class ApprovalResponse:
    """The answer to an `ApprovalRequest` for those who want to know more than yes or no."""

    approve: bool
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a request says besides its input: `ctx.turn`. Read-only, and never part of a checkpoint."""

    response_id: str
    previous_response_id: str | None = None
    conversation_id: str | None = None
    model: str | None = None
    instructions: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] = "auto"
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    client_headers: Mapping[str, str] = field(default_factory=dict)
