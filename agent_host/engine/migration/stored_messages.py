"""Queued messages and open requests as their cells hold them, without looking at the graph."""

from dataclasses import dataclass
from typing import Any

from agent_host.engine.migration.salvage import type_name
from agent_host.engine.running.routing import MessageKind


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message on its way. The payload of a `response` is the request's data and the answer."""

    source: str
    target: str | None
    kind: MessageKind
    request_id: str | None
    response_name: str | None
    payload: Any

    @classmethod
    def of(cls, value: Any) -> "StoredMessage | None":
        """The message in a cell's value; None if the value is no message."""
        if not isinstance(value, list) or len(value) != 6 or not isinstance(value[0], str):
            return None
        made = cls(*value)
        return None if made.kind == "response" and not _is_pair(made.payload) else made

    @property
    def type(self) -> str:
        """The name of the payload's type; of a response, that of the request it answers."""
        return type_name(self.payload[0] if self.kind == "response" else self.payload)

    def content(self) -> list[Any]:
        """The value of its cell."""
        return [self.source, self.target, self.kind, self.request_id, self.response_name, self.payload]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A question that waits for its answer. `more` holds when it expires and what it is answered with then."""

    request_id: str
    executor: str
    data: Any
    response_name: str
    more: tuple[Any, ...] = ()

    @classmethod
    def of(cls, value: Any) -> "StoredRequest | None":
        """The request in a cell's value; None if the value is no request."""
        if not isinstance(value, list) or len(value) < 4 or not isinstance(value[1], str):
            return None
        request_id, executor, data, response_name, *more = value
        return cls(request_id, executor, data, response_name, tuple(more))

    @property
    def type(self) -> str:
        """The name of the type of what was asked."""
        return type_name(self.data)

    def content(self) -> list[Any]:
        """The value of its cell."""
        return [self.request_id, self.executor, self.data, self.response_name, *self.more]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2
