"""Notes about a superstep that has not been committed: what is finished of it, so that a retry does not repeat it.

A note's key is the call it belongs to; behind `/j/` the position of a step of that call. Notes belong to a session
and to the commit from which its superstep started; another session that starts from the same commit never sees them.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from agent_host.engine import annotations, cells
from agent_host.engine.executors.executor import Executor
from agent_host.engine.running.effects import Asked, Effect, Entered, Replied, Sent, Yielded
from agent_host.engine.running.frame import response_type
from agent_host.engine.running.lane import Lane
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.errors import CheckpointDecodeError

_STEP = "/j/"
_DIGITS = 6

log = logging.getLogger("agent_host.engine")
Cells = dict[str, Encoded | None]


class Finished(msgspec.Struct, frozen=True):
    """A call that has ended well: its effect, and what it left of its executor's state and writes."""

    executor_id: str
    kind: str
    effect: Effect
    cells: Cells
    own_writes: Cells


class Notes(msgspec.Struct):
    """What is known of the superstep that runs next: finished calls, and the finished steps of others.

    `seed` is text that every attempt at the superstep shares and no other superstep has; `began` is when the first
    attempt could begin, in seconds since the epoch.
    """

    seed: str
    began: float
    calls: dict[str, Finished] = msgspec.field(default_factory=dict)
    steps: dict[str, dict[int, Encoded]] = msgspec.field(default_factory=dict)


def call_key(prefix: str, index: int) -> str:
    """The key of a call: where its graph stands, and its number in the superstep there."""
    return f"{prefix}{index:0{_DIGITS}d}"


def step_key(call: str, position: int) -> str:
    """The key of a step of a call."""
    return f"{call}{_STEP}{position:06d}"


def split_step_key(key: str) -> tuple[str, int] | None:
    """The call and the position of a step; None for the key of a call."""
    call, separator, position = key.rpartition(_STEP)
    return (call, int(position)) if separator else None


def encode(finished: Finished, codec: Codec) -> bytes:
    """A finished call as bytes. Raises `UnsupportedValueError` for what cannot be stored."""
    effect = finished.effect
    content = [
        finished.executor_id,
        finished.kind,
        [[sent.payload, sent.target] for sent in effect.sent],
        [[output.whole, output.pieces is not None] for output in effect.yielded],
        [[a.request_id, a.data, annotations.name(a.response_type), a.expires_at, a.default] for a in effect.asked],
        _cells_out(effect.writes),
        {key: [_out(update) for update in updates] for key, updates in effect.updates.items()},
        effect.usage,
        [[e.payload] if isinstance(e, Entered) else [e.request_id, e.answer] for e in effect.nested],
        None if effect.journal is None else [[position, _out(entry)] for position, entry in effect.journal.items()],
        effect.attempt,
        effect.closed,
        _cells_out(finished.cells),
        _cells_out(finished.own_writes),
    ]
    return codec.encode(content, split=False).reference


def decode(data: bytes, codec: Codec, executors: Mapping[str, Executor]) -> Finished | None:
    """A finished call from its bytes; None if its executor is not among `executors`."""
    (
        executor, kind, sent, yielded, asked, writes, updates, usage, nested, journal, attempt, closed, cells, own,
    ) = codec.decode(data)  # fmt: skip
    if executor not in executors:
        return None
    table = executors[executor].handler_table
    effect = Effect(
        executor,
        sent=[Sent(payload, target) for payload, target in sent],
        yielded=[Yielded(None, [whole]) if streamed else Yielded(whole) for whole, streamed in yielded],
        asked=[
            Asked(request_id, content, response_type(name, table, codec), expires_at, default)
            for request_id, content, name, expires_at, default in asked
        ],
        writes=_cells_in(writes),
        updates={key: [_in(update) for update in found] for key, found in updates.items()},
        usage=usage,
        nested=[Entered(*entry) if len(entry) == 1 else Replied(*entry) for entry in nested],
        journal=None if journal is None else {position: _in(entry) for position, entry in journal},
        closed=closed,
        attempt=attempt,
    )
    return Finished(executor, kind, effect, _cells_in(cells), _cells_in(own))


def take_up(found: Notes, recorded: Mapping[str, bytes], lane: Lane) -> None:
    """Add what an earlier attempt recorded. What cannot be read any more is left out: those calls are repeated."""
    for key, data in recorded.items():
        step = split_step_key(key)
        if step is not None:
            found.steps.setdefault(step[0], {})[step[1]] = Encoded(data)
            continue
        frame = lane.frames.get(cells.path_of(key[:-_DIGITS]))
        try:
            finished = decode(data, lane.codec, frame.definition.graph.executors) if frame is not None else None
        except CheckpointDecodeError as error:
            log.warning("A note of session %r cannot be read, its call is repeated: %s", lane.session_id, error)
            continue
        if finished is not None:
            found.calls[key] = finished


def _out(encoded: Encoded) -> list[Any]:
    return [encoded.reference, list(encoded.blobs.items())]


def _in(entry: list[Any]) -> Encoded:
    return Encoded(entry[0], dict(entry[1]))


def _cells_out(cells: Cells) -> dict[str, Any]:
    return {key: None if encoded is None else _out(encoded) for key, encoded in cells.items()}


def _cells_in(cells: dict[str, Any]) -> Cells:
    return {key: None if entry is None else _in(entry) for key, entry in cells.items()}
