"""Put the effects of one superstep together, in the order of its invocations, whoever finished first.

Rule 1: two executors that wrote one shared key are an error, unless the key has a reducer: which value wins would
        depend on luck.
Rule 2: equal effects give an equal result, in the same order, however the siblings were timed.
"""

from collections.abc import Callable, Sequence

import msgspec

from agent_host.engine.running.effects import Asked, Effect, Entered, Replied, Sent, Yielded
from agent_host.engine.serialization.codec import Encoded
from agent_host.errors import StateConflictError, WorkflowRunnerException

Reduce = Callable[[str, Sequence[Encoded]], Encoded]


class Merged(msgspec.Struct, frozen=True):
    """What a superstep amounts to for one graph.

    `yielded` holds the index of the invocation, the number within it, executor, output, and attempt.
    """

    sent: list[tuple[str, Sent]]
    yielded: list[tuple[int, int, str, Yielded, int]]
    asked: list[tuple[str, Asked]]
    writes: dict[str, Encoded | None]
    usage: dict[str, int]
    nested: list[tuple[str, Entered | Replied]]
    closed: list[str]
    journals: dict[str, dict[int, Encoded]]


def merge(effects: Sequence[Effect], reduce: Reduce) -> Merged:
    """Combine effects given in invocation order. Raises `StateConflictError` naming executors and key.

    `reduce` puts the updates of a key with a reducer together, on top of what the superstep found.
    """
    writes: dict[str, Encoded | None] = {}
    updates: dict[str, list[Encoded]] = {}
    writers: dict[str, str] = {}
    asked: dict[str, tuple[str, Asked]] = {}
    usage: dict[str, int] = {}
    for effect in effects:
        for key, value in effect.writes.items():
            other = writers.setdefault(key, effect.executor_id)
            if other != effect.executor_id:
                raise StateConflictError(
                    f"{other!r} and {effect.executor_id!r} both wrote the shared state {key!r} in one superstep. "
                    "Let one of them write it, use two keys, or give the key a reducer: WorkflowBuilder(state={...})."
                )
            writes[key] = value
        for key, written in effect.updates.items():
            updates.setdefault(key, []).extend(written)
        for request in effect.asked:
            if request.request_id in asked:
                raise WorkflowRunnerException(f"Two requests of one superstep have the id {request.request_id!r}.")
            asked[request.request_id] = (effect.executor_id, request)
        for name, count in effect.usage.items():
            usage[name] = usage.get(name, 0) + count
    for key, written in updates.items():
        writes[key] = reduce(key, written)
    return Merged(
        sent=[(effect.executor_id, sent) for effect in effects for sent in effect.sent],
        yielded=[
            (index, number, effect.executor_id, output, effect.attempt)
            for index, effect in enumerate(effects)
            for number, output in enumerate(effect.yielded)
        ],
        asked=list(asked.values()),
        writes=writes,
        usage=usage,
        closed=[name for effect in effects for name in effect.closed],
        nested=[(effect.executor_id, entry) for effect in effects for entry in effect.nested],
        journals={effect.executor_id: effect.journal for effect in effects if effect.journal is not None},
    )
