"""Values of the standard library that are one thing, not a container: how each is written and read.

`to_plain` gives text, bytes or a short list of numbers; `from_plain` gives an equal value of the same type.
"""

import datetime as dt
import pathlib
import uuid
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Scalar:
    """One type's stored form."""

    name: str
    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def _zone(tz: dt.tzinfo | None) -> Any:
    if tz is None:
        return None
    if type(tz) is zoneinfo.ZoneInfo and tz.key is not None:
        return tz.key
    if type(tz) is dt.timezone:
        offset = tz.utcoffset(None)
        return [offset.days, offset.seconds, offset.microseconds]
    raise ValueError(
        f"A date with a time zone of type {type(tz).__name__} cannot be stored; use zoneinfo.ZoneInfo(name)"
    )


def _unzone(plain: Any) -> dt.tzinfo | None:
    if plain is None:
        return None
    if isinstance(plain, str):
        try:
            return zoneinfo.ZoneInfo(plain)
        except OSError:  # a folder of time zones, a name that no file can have
            raise ValueError(f"There is no time zone {plain!r}") from None
    days, seconds, microseconds = plain
    offset = dt.timedelta(days, seconds, microseconds)
    return dt.timezone(offset) if offset else dt.UTC


def _datetime(value: dt.datetime) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo)]


def _to_datetime(plain: list[Any]) -> dt.datetime:
    return dt.datetime.fromisoformat(plain[0]).replace(fold=plain[1], tzinfo=_unzone(plain[2]))


def _time(value: dt.time) -> list[Any]:
    return [value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _zone(value.tzinfo)]


def _to_time(plain: list[Any]) -> dt.time:
    return dt.time.fromisoformat(plain[0]).replace(fold=plain[1], tzinfo=_unzone(plain[2]))


def _fraction(value: Fraction) -> list[str]:
    return [hex(value.numerator), hex(value.denominator)]


def _to_fraction(plain: list[str]) -> Fraction:
    return Fraction(int(plain[0], 16), int(plain[1], 16))


# Hexadecimal: Python refuses to write or read decimal numbers of more than a few thousand digits.
SCALARS: dict[type, Scalar] = {
    int: Scalar("int", hex, lambda p: int(p, 16)),
    bytearray: Scalar("bytearray", bytes, lambda p: bytearray(memoryview(p))),
    complex: Scalar("complex", lambda v: [v.real, v.imag], lambda p: complex(*p)),
    Decimal: Scalar("decimal", str, Decimal),
    Fraction: Scalar("fraction", _fraction, _to_fraction),
    uuid.UUID: Scalar("uuid", lambda v: v.bytes, lambda p: uuid.UUID(bytes=p)),
    dt.datetime: Scalar("datetime", _datetime, _to_datetime),
    dt.date: Scalar("date", dt.date.isoformat, dt.date.fromisoformat),
    dt.time: Scalar("time", _time, _to_time),
    dt.timedelta: Scalar("timedelta", lambda v: [v.days, v.seconds, v.microseconds], lambda p: dt.timedelta(*p)),
    msgspec.UnsetType: Scalar("unset", lambda v: None, lambda p: msgspec.UNSET),
    pathlib.PosixPath: Scalar("path", str, pathlib.Path),
    pathlib.WindowsPath: Scalar("path", str, pathlib.Path),
    pathlib.PurePosixPath: Scalar("posix-path", str, pathlib.PurePosixPath),
    pathlib.PureWindowsPath: Scalar("windows-path", str, pathlib.PureWindowsPath),
}
SCALARS_BY_NAME = {scalar.name: scalar for scalar in SCALARS.values()}

ATOMS = frozenset({str, int, float, bool, type(None), bytes, *SCALARS} - {bytearray})
