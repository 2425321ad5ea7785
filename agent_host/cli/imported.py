"""Whether an imported conversation can be served: its bytes are read once as the server will read them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypedDict

import msgspec

from agent_host.errors import StoreFormatError
from agent_host.server.stored import response_of
from agent_host.stores.archive import Archive
from agent_host.stores.records import Item, ResponseRecord
from agent_host.wire.input import read_item, read_items
from agent_host.wire.problems import Problem
from agent_host.wire.replay import replay
from agent_host.wire.transcript import IllegalMove


class _Said(TypedDict):
    id: str
    type: str


class _Body(msgspec.Struct):
    model: str
    instructions: Any = None
    metadata: dict[str, str] = {}
    echo: dict[str, Any] = {}
    output: list[_Said] = []
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


_read_body = msgspec.json.Decoder(_Body).decode
_read_input = msgspec.json.Decoder(list[_Said]).decode
_read_said = msgspec.json.Decoder(_Said).decode
_read_metadata = msgspec.json.Decoder(dict[str, str]).decode
_read_journal = msgspec.msgpack.Decoder(list[list[int]]).decode
_decode = msgspec.json.Decoder().decode
_Ended = Literal["completed", "incomplete", "failed", "cancelled"]


def check_content(archive: Archive) -> None:
    """Raise `StoreFormatError` naming the first response, item or conversation that no server could show."""
    for record in archive.responses:
        with _readable(f"response {record.id!r}"):
            _check_response(record)
    if archive.conversation is not None:
        with _readable(f"conversation {archive.conversation.id!r}"):
            _read_metadata(archive.conversation.metadata)
    for item, _ in archive.items:
        with _readable(f"item {item.id!r}"):
            _check_item(item)


def _check_response(record: ResponseRecord) -> None:
    msgspec.convert(record.status, _Ended)
    _read_body(record.body)
    _read_input(record.input)
    read_items(_decode(record.input), "input")
    replay(response_of(record), _read_journal(record.delta_lengths))


def _check_item(item: Item) -> None:
    if _read_said(item.body)["id"] != item.id:
        raise ValueError("it has another id")
    read_item(_decode(item.body), "item")


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except (msgspec.DecodeError, Problem, IllegalMove, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StoreFormatError(
            f"The file cannot be imported: {what} cannot be read ({error}). Nothing was stored; export it again."
        ) from error
