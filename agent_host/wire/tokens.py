"""Counting the tokens of a request before it is sent. Without a tokenizer the count is an estimate."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from agent_host.wire import checks, problems
from agent_host.wire.body import read_body
from agent_host.wire.fields import field_checks
from agent_host.wire.input import InputItem, ItemReader

BYTES_PER_TOKEN = 4

_SHARED = (
    *("model", "tools", "tool_choice", "text", "reasoning", "parallel_tool_calls", "truncation", "instructions"),
    *("conversation", "previous_response_id"),
)
FIELDS: Mapping[str, checks.Check] = {
    "input": checks.anything,
    "personality": checks.text(64),
    **{name: check for name, check in field_checks(closed=True).items() if name in _SHARED},
}
_READER = ItemReader(closed=True)
_SPOKEN = frozenset({"text", "refusal", "name", "arguments", "output", "input", "code", "reason"})


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What is to be counted: items and instructions and tools, behind what is stored of an earlier exchange."""

    items: tuple[InputItem, ...]
    instructions: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    previous_response_id: str | None = None
    conversation: str | None = None


def parse_token_request(body: bytes, *, lenient: bool = False) -> TokenRequest:
    """The request in `body`, or the `Problem` with it. A `lenient` reader ignores fields it does not know."""
    given = read_body(body, FIELDS, lenient=lenient)
    items = _READER.read(given["input"]) if "input" in given else ()
    conversation = given.get("conversation")
    if conversation is not None and "previous_response_id" in given:
        raise problems.mutually_exclusive()
    return TokenRequest(
        items=items,
        instructions=given.get("instructions", ""),
        tools=tuple(given.get("tools", ())),
        previous_response_id=given.get("previous_response_id"),
        conversation=conversation["id"] if type(conversation) is dict else conversation,
    )


def counted_text(
    items: Iterable[Mapping[str, Any]], instructions: str = "", tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """All text that a model would read: instructions, what the items say, and the tools as JSON, in lines."""
    written = [msgspec.json.encode(tool).decode() for tool in tools]
    spoken = (text for item in items for text in _texts(item))
    return "\n".join(text for text in (instructions, *spoken, *written) if text)


def _texts(value: Any) -> Iterator[str]:
    """The texts in an item, at whatever depth; images, files, ids and encrypted content are not among them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str):
                if key in _SPOKEN:
                    yield inner
            else:
                yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def estimated_tokens(text: str) -> int:
    """A quarter of the bytes of the text, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def tokens_object(count: int) -> dict[str, Any]:
    """The answer."""
    return {"object": "response.input_tokens", "input_tokens": count}
