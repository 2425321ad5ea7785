"""Put the effects of one superstep together, in the order of its invocations, whoever finished first.

Rule 1: two executors that wrote one shared key are an error: which value wins would depend on luck.
Rule 2: equal effects give an equal result, in the same order, however the siblings were timed.
"""

from collections.abc import Sequence

import msgspec

from agent_host.engine.context import Asked, Effect, Sent, Yielded
from agent_host.engine.events import CustomEvent
from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import StateConflictError, WorkflowRunnerException


class Merged(msgspec.Struct, frozen=True):
    """What a superstep amounts to. Entries keep the index of the invocation they come from."""

    sent: tuple[tuple[str, Sent], ...]
    yielded: tuple[tuple[int, int, str, Yielded], ...]
    asked: tuple[tuple[str, Asked], ...]
    writes: dict[str, Encoded | None]
    events: tuple[tuple[str, CustomEvent], ...]
    usage: dict[str, int]


def merge(effects: Sequence[Effect]) -> Merged:
    """Combine effects given in invocation order. Raises `StateConflictError` naming executors and key."""
    writes: dict[str, Encoded | None] = {}
    writers: dict[str, str] = {}
    asked: dict[str, tuple[str, Asked]] = {}
    usage: dict[str, int] = {}
    for effect in effects:
        for key, value in effect.writes.items():
            other = writers.setdefault(key, effect.executor_id)
            if other != effect.executor_id:
                raise StateConflictError(
                    f"{other!r} and {effect.executor_id!r} both wrote the shared state {key!r} in one superstep. "
                    "Let one of them write it, or use two keys."
                )
            writes[key] = value
        for request in effect.asked:
            if request.request_id in asked:
                raise WorkflowRunnerException(f"Two requests of one superstep have the id {request.request_id!r}.")
            asked[request.request_id] = (effect.executor_id, request)
        for name, count in effect.usage.items():
            usage[name] = usage.get(name, 0) + count
    return Merged(
        sent=tuple((effect.executor_id, sent) for effect in effects for sent in effect.sent),
        yielded=tuple(
            (index, number, effect.executor_id, output)
            for index, effect in enumerate(effects)
            for number, output in enumerate(effect.yielded)
        ),
        asked=tuple(asked.values()),
        writes=writes,
        events=tuple((effect.executor_id, event) for effect in effects for event in effect.events),
        usage=usage,
    )
