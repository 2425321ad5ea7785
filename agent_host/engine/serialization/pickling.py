"""Pickle for values that nothing else can carry, as an explicit choice and for named classes only.

Rule 1: classes are stored by tags and looked up in the codec's table. Nothing is imported or called by a name that
        stands in a store.
Rule 2: what is read is carried out by `unpickling.py`, one instruction at a time, and not by Python's unpickler.
Rule 3: what could not be read again is refused when it is stored.
"""

import io
import logging
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.shared_values import PROCESS_WIDE, SharedValues
from agent_host.engine.serialization.stored_types import where
from agent_host.engine.serialization.unpickling import unpickle
from agent_host.errors import CheckpointDecodeError, UnsupportedValueError, WorkflowValidationError

log = logging.getLogger(__name__)

PROTOCOL = 5
_PLAIN = frozenset({type(None), bool, int, float, str, bytes, bytearray, tuple, list, dict, set, frozenset})


class PickleCodec(Codec):
    """A codec that also stores instances of exactly these classes, whatever they hold, as pickle.

    What an instance holds must be of these classes too, or plain: numbers, text, bytes, None, and lists, tuples, dicts
    and sets of such. Subclasses are not included. Reading calls `__new__`, `__setstate__` and the constructor of these
    classes with what the store says, so name only classes for which that is harmless. Equal values may be stored as
    different bytes, and then count as changed.
    """

    def __init__(
        self, hints: Iterable[Any] = (), *, allowed_types: Iterable[type], shared: SharedValues = PROCESS_WIDE
    ) -> None:
        super().__init__(hints, shared)
        self.pickled_types = frozenset(allowed_types)
        self._by_pickle_tag = _by_tag(self.pickled_types)
        self._told = False

    def _fresh(self, pickled_types: frozenset[type]) -> Codec:
        return PickleCodec(allowed_types=pickled_types, shared=self.shared)

    def pickled(self, value: Any) -> bytes:
        self._tell(type(value))
        try:
            data = _pickle(value, self.pickled_types)
            # Once around, so that what was read is stored as the same bytes again and does not count as changed.
            return _pickle(unpickle(data, self._by_pickle_tag), self.pickled_types)
        except CheckpointDecodeError as error:
            raise UnsupportedValueError(f"A {where(type(value))} could not be unpickled again: {error}") from error
        except (pickle.PicklingError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise UnsupportedValueError(f"A {where(type(value))} cannot be pickled: {error}") from error

    def unpickled(self, data: Any) -> Any:
        if not isinstance(data, bytes):
            raise CheckpointDecodeError("A stored pickle is no bytes.")
        value = unpickle(data, self._by_pickle_tag)
        if type(value) not in self.pickled_types:
            raise CheckpointDecodeError(f"A stored pickle holds a {where(type(value))}, which is not to be pickled.")
        self._tell(type(value))
        return value

    def _tell(self, cls: type) -> None:
        if not self._told:
            self._told = True
            log.warning(
                "Values of %s are stored as pickle, because a PickleCodec allows it: whoever can write the store "
                "decides with what these classes are called.",
                where(cls),
            )


def _by_tag(classes: Iterable[type]) -> Mapping[str, type]:
    found: dict[str, type] = {}
    for cls in sorted(classes, key=where):
        other = found.setdefault(cls.__qualname__, cls)
        if other is not cls:
            raise WorkflowValidationError(
                f"Two classes would be pickled under the name {cls.__qualname__!r}: {where(other)} and {where(cls)}. "
                "Rename one of them."
            )
    return found


class _Pickler(pickle.Pickler):
    """Writes classes by their tags, and refuses everything that is neither plain nor allowed."""

    def __init__(self, file: io.BytesIO, allowed: frozenset[type]) -> None:
        super().__init__(file, PROTOCOL)
        self._allowed = allowed

    def persistent_id(self, obj: Any) -> str | None:
        if isinstance(obj, type):
            if obj not in self._allowed:
                raise pickle.PicklingError(f"it refers to the class {where(obj)}, which is not among allowed_types")
            return obj.__qualname__
        if type(obj) not in _PLAIN and type(obj) not in self._allowed:
            raise pickle.PicklingError(f"it holds a {where(type(obj))}, which is not among allowed_types")
        return None


def _pickle(value: Any, allowed: frozenset[type]) -> bytes:
    file = io.BytesIO()
    _Pickler(file, allowed).dump(value)
    return file.getvalue()
