"""Read stored values though the program has changed: what cannot be built any more is shown as it is stored.

Rule 1: one value that cannot be built never hides what stands around it.
Rule 2: what is read here is looked at or taken apart; it is never handed to an executor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_host.engine.serialization.codec import Codec
from agent_host.errors import CheckpointDecodeError


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object whose class the program no longer has, or whose stored fields no longer fit it.

    `type` is the name it is stored under, `version` that of `register_checkpoint_type`, `fields` what it holds.
    """

    type: str
    version: int
    fields: Any


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a value cannot be read as it was stored. `type` is the innermost type at fault; `declared` if it is known."""

    type: str
    why: str
    declared: bool


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A value, with a `StoredObject` for whatever could not be built; `fault` is the first reason, None if all is well.

    The value is None where not even its outline could be read.
    """

    value: Any
    fault: Fault | None


def salvage(codec: Codec, reference: bytes, bodies: Mapping[bytes, Any]) -> Salvaged:
    """Read a cell's value as far as it can be read. Never raises for what a store or a changed class may hold."""
    tolerant = _Tolerant(codec)
    try:
        value = type(codec).decode(tolerant, reference, bodies)  # type: ignore[arg-type]  # it stands in for the codec
    except CheckpointDecodeError as error:
        return Salvaged(None, tolerant.fault or Fault("value", str(error), declared=True))
    return Salvaged(value, tolerant.fault)


def type_name(value: Any) -> str:
    """The type that a person is told of: for what could not be built, the name it is stored under."""
    return value.type if isinstance(value, StoredObject) else type(value).__qualname__


class _Tolerant:
    """Stands in for a codec while a value is read, and notes what cannot be built."""

    def __init__(self, codec: Codec) -> None:
        self.fault: Fault | None = None
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def build(self, tag: str, version: int, fields: Any) -> Any:
        """The object, or what is stored of it. Inner objects are built before outer ones, so the first is the cause."""
        try:
            return self._codec.build(tag, version, fields)
        except Exception as error:  # noqa: BLE001 - the author's `migrate` and validators may raise anything
            if self.fault is None:
                why = str(error) if isinstance(error, CheckpointDecodeError) else f"{type(error).__name__}: {error}"
                self.fault = Fault(tag, why, declared=self._codec.class_named(tag) is not None)
            return StoredObject(tag, version, fields)
