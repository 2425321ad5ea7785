"""Values of every type that can be stored, as types, as strategies, and taken apart for comparison."""

import dataclasses
import datetime as dt
import enum
import math
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from agent_host import WorkflowEvent
from agent_host.engine.checkpoint import INLINE
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.shared_values import SharedValues


class Kind(enum.Enum):
    ONE = 1
    PAIR = ("a", 2)


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Place(NamedTuple):
    name: str
    at: Any = 0


class Size(msgspec.Struct, frozen=True):
    wide: int
    high: float = 1.5


class Parcel(msgspec.Struct, kw_only=True):
    size: Size
    tags: list[str] = []
    inside: "dict[str, Parcel]" = msgspec.field(default_factory=dict)
    note: str | msgspec.UnsetType = msgspec.UNSET
    anything: Any = None


@dataclass
class Order:
    parcels: list[Parcel]
    place: Place | None = None
    meta: Any = None


@dataclass(frozen=True)
class Address:
    street: str
    kinds: tuple[Kind, ...] = ()


class Customer(BaseModel):
    name: str
    address: Address | None = None
    orders: list[Any] = []
    seen: dict[int, set[str]] = {}


TYPES = (Order, Customer, Kind, Right, Place, Parcel, WorkflowEvent, list[str], bool | None, dict[str, int])


def fresh(*hints: Any) -> Codec:
    """A codec with a cache of its own."""
    return Codec(hints or TYPES, SharedValues())


def again(value: Any, *hints: Any) -> Any:
    """The value as another process would read it."""
    encoded = fresh(*hints).encode(value)
    return fresh(*hints).decode(encoded.reference, encoded.blobs)


def shape(value: Any) -> Any:
    """A value as nested tuples that are equal only if values and types are, all the way down."""
    kind = type(value)
    if isinstance(value, float):
        return kind, math.copysign(1, value), "nan" if value != value else value
    if isinstance(value, complex):
        return kind, shape(value.real), shape(value.imag)
    if isinstance(value, dict):
        factory = getattr(value, "default_factory", None)
        return kind, factory, tuple((shape(key), shape(item)) for key, item in value.items())
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(map(shape, value))
    if isinstance(value, (list, tuple, deque)):
        return kind, getattr(value, "maxlen", None), tuple(map(shape, value))
    if isinstance(value, dt.datetime):
        return kind, value.isoformat(), value.fold, repr(value.tzinfo)
    if isinstance(value, Decimal):
        return kind, value.as_tuple()
    if dataclasses.is_dataclass(value) or isinstance(value, (msgspec.Struct, BaseModel)):
        return kind, tuple((name, shape(getattr(value, name))) for name in _field_names(value))
    return kind, value


def _field_names(value: Any) -> list[str]:
    if isinstance(value, BaseModel):
        return list(type(value).model_fields)
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) else msgspec.structs.fields(type(value))
    return [one.name for one in fields]


def changing_parts(value: Any) -> list[int]:
    """The ids of all objects in a value that somebody could change."""
    found = [id(value)] if isinstance(value, (list, dict, set, deque, bytearray, Parcel, Order, Customer)) else []
    inner: list[Any] = []
    if isinstance(value, dict):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, (list, tuple, deque)):
        inner = list(value)
    elif isinstance(value, (Order, Customer, Parcel)):
        inner = [getattr(value, name) for name in _field_names(value)]
    return found + [part for item in inner for part in changing_parts(item)]


ZONES = st.sampled_from(
    [None, dt.UTC, dt.timezone(-dt.timedelta(hours=3, seconds=7)), zoneinfo.ZoneInfo("America/New_York")]
)
ATOMS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**63 - 2, 2**64 + 2), st.text(), st.binary(max_size=20),
    st.floats(), st.uuids(), st.decimals(), st.fractions(), st.dates(), st.times(timezones=ZONES), st.timedeltas(),
    st.datetimes(timezones=ZONES), st.complex_numbers(), st.sampled_from(Kind), st.builds(Right, st.integers(0, 3)),
    st.builds(Size, st.integers(), st.floats(allow_nan=False)), st.builds(Place, st.text(), st.integers()),
    st.just(10**4000), st.sampled_from([bool, Size, list[str], bool | None, type(None), msgspec.UNSET]),
)  # fmt: skip
KEYS = st.one_of(
    st.integers(), st.text(), st.none(), st.tuples(st.text(), st.booleans()), st.builds(Size, st.integers())
)


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    texts = st.dictionaries(st.text(max_size=5), inner, max_size=4)
    parcels = st.builds(
        Parcel, size=st.builds(Size, st.integers()), tags=st.lists(st.text(), max_size=3), anything=inner,
        note=st.one_of(st.text(), st.just(msgspec.UNSET)),
    )  # fmt: skip
    orders = st.builds(Order, st.lists(parcels, max_size=3), st.builds(Place, st.text(), inner), inner)
    numbered = st.dictionaries(st.integers(), st.sets(st.text(), max_size=3), max_size=3)
    return st.one_of(
        st.lists(inner, max_size=6), st.lists(inner, max_size=4).map(tuple), texts, texts.map(OrderedDict),
        st.dictionaries(KEYS, inner, max_size=4), st.sets(KEYS, max_size=4), st.frozensets(KEYS, max_size=4),
        st.builds(deque, st.lists(inner, max_size=4), st.sampled_from([None, 9])),
        st.builds(Counter, st.lists(st.text(max_size=2))), st.builds(defaultdict, st.sampled_from([list, int]), texts),
        st.binary(max_size=9).map(bytearray), parcels, orders,
        st.builds(Customer, name=st.text(), orders=st.lists(orders, max_size=2), seen=numbered,
                  address=st.builds(Address, st.text(), st.tuples(st.sampled_from(Kind)))),
        st.builds(lambda item, times: [item] * times, ATOMS, st.integers(50, 400)),
    )  # fmt: skip


VALUES = st.recursive(ATOMS, _nested, max_leaves=25)
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def crafted(code: int, plain: Any) -> bytes:
    """A reference whose only content is an extension type."""
    inner = msgspec.msgpack.encode(plain)
    return INLINE + b"\x00\x00" + msgspec.msgpack.encode(msgspec.msgpack.Ext(code, inner))
