"""Structs, annotations and models as values; edited lists; and bytes that somebody made up."""

import copy
import datetime as dt
import math
import os
import subprocess
import sys
import typing
import zoneinfo
from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel, field_validator

from agent_host import (
    Executor,
    InMemoryCheckpointStorage,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowEvent,
    handler,
    register_checkpoint_type,
)
from agent_host.engine.serialization import encoding, stored_types
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.shared_values import SharedValues
from agent_host.errors import CheckpointDecodeError, UnsupportedValueError
from tests.engine.values import (
    PATIENT,
    VALUES,
    Customer,
    Kind,
    Parcel,
    Place,
    Size,
    again,
    changing_parts,
    crafted,
    fresh,
    shape,
)

T = TypeVar("T")


@settings(PATIENT, max_examples=250)
@given(VALUES)
def test_any_value_comes_back_equal_and_as_objects_of_its_own(value: Any) -> None:
    """Value and type are the same at every depth, and no object that can change is shared with the original."""
    codec = fresh()
    encoded = codec.encode(value)
    for reader in (codec, fresh()):
        back = reader.decode(encoded.reference, encoded.blobs)
        assert shape(back) == shape(value)
        assert not set(changing_parts(back)) & set(changing_parts(value))
        assert reader.encode(back).reference == encoded.reference


# --- Structs ------------------------------------------------------------------------------------------------------


def test_a_struct_is_made_without_running_its_code() -> None:
    """Whatever `__post_init__`, subclass hooks and options a Struct has, reading gives exactly it and calls nothing."""
    called: list[str] = []

    def made(name: str, **options: Any) -> list[Any]:
        class Base(msgspec.Struct, **options):
            a: int

            def __init_subclass__(cls, **kwargs: Any) -> None:
                called.append(f"subclass {cls.__name__}")
                super().__init_subclass__(**kwargs)

            def __post_init__(self) -> None:
                called.append("base")

        class Derived(Base, **options):
            b: Any = None

            def __post_init__(self) -> None:
                called.append("derived")

        Base.__qualname__, Derived.__qualname__ = f"Base{name}", f"Derived{name}"
        return [Base(1), Derived(1, [2])] if "kw_only" not in options else [Base(a=1), Derived(a=1, b=[2])]

    options: list[dict[str, bool]] = [
        {}, {"frozen": True}, {"kw_only": True}, {"gc": False}, {"weakref": True}, {"dict": True}, {"order": True},
        {"frozen": True, "cache_hash": True}, {"tag": True}, {"array_like": True}, {"forbid_unknown_fields": True},
    ]  # fmt: skip
    for number, option in enumerate(options):
        for value in made(str(number), **option):
            called.clear()
            back = again(value, type(value))
            assert called == []
            assert (type(back), back) == (type(value), value)
            assert (copy.copy(back), repr(back)) == (value, repr(value))


def test_frozen_structs_are_shared_and_others_are_not() -> None:
    """A long list of frozen Structs is decoded once for everybody; one that carries more than its fields is not."""

    class Loose(msgspec.Struct, frozen=True, dict=True):
        text: str

    codec = fresh(Size, Parcel, Loose)
    sizes = [Size(n) for n in range(500)]
    encoded = codec.encode(sizes)
    one, two = (codec.decode(encoded.reference, encoded.blobs) for _ in range(2))
    assert one[0] is two[0] is sizes[0]
    assert codec.is_immutable(Loose("a"))
    assert not codec.is_immutable(Parcel(size=Size(1)))
    loose = Loose("a")
    loose.__dict__["secret"] = "of one user"
    assert not codec.is_immutable(loose)


def test_a_transient_field_of_a_struct_comes_back_as_its_default() -> None:
    """It is marked in its annotation, stands in no byte, and keeps the Struct from being shared."""

    class Reply(msgspec.Struct, frozen=True):
        text: str
        raw: Annotated[Any, msgspec.Meta(extra={"transient": True})] = None

    codec = fresh(Reply)
    encoded = codec.encode(Reply("t", raw=["provider payload"]))
    assert b"payload" not in encoded.reference
    assert codec.decode(encoded.reference) == Reply("t")
    assert not codec.is_immutable(Reply("t"))


def test_a_struct_is_checked_and_migrated_like_any_class() -> None:
    """Wrong types, unknown and missing fields and old versions are errors that name the field or the remedy."""

    def version(fields: list[Any], number: int = 1, migrate: Any = None) -> tuple[Codec, Any]:
        cls = msgspec.defstruct("Record", fields)
        codec = Codec((), SharedValues())
        codec._allow(stored_types._stored_type(cls, "Record", number, migrate))
        return codec, cls

    old, record = version([("a", int), ("b", int)])
    reference = old.encode(record(1, 2)).reference
    for fields, message in [
        ([("a", int), ("b", int), ("c", int)], "lacks the field 'c'"),
        ([("a", int)], "field 'b', which the class no longer has"),
        ([("a", str), ("b", int)], "has a int in the field 'a', declared as str"),
    ]:
        with pytest.raises(CheckpointDecodeError, match=message):
            version(fields)[0].decode(reference)
    with pytest.raises(CheckpointDecodeError, match="version 1; this program reads 2"):
        version([("a", int)], 2)[0].decode(reference)
    newer, wider = version([("a", int), ("b", int), ("c", list, [])])
    assert newer.decode(reference) == wider(1, 2, [])
    moved, narrower = version([("a", int)], 2, lambda fields, number: {"a": fields["a"] + fields["b"] + number})
    assert moved.decode(reference) == narrower(4)
    with pytest.raises(UnsupportedValueError, match=r"'a' of a .*Record is declared as int and holds a str"):
        old.encode(record("x", 2))


def test_a_generic_class_is_declared_by_its_parametrized_form() -> None:
    """`Box[Size]` in an annotation allows values of `Box` and of `Size`, for dataclasses and Structs."""

    @dataclass
    class Box(Generic[T]):
        content: T

    class Crate(msgspec.Struct, Generic[T]):
        content: T

    for value in (Box(Size(1)), Crate(Size(2))):
        assert again(value, list[Box[Size]], Crate[Size] | None) == value


# --- Annotations as values ----------------------------------------------------------------------------------------

DECLARED = (
    list[str], bool | None, dict[str, Size] | None, Literal["yes", "no"], Annotated[float, "seconds"],
    tuple[int, ...], Any, Customer | Size, typing.List[Place],  # noqa: UP006 - the old spelling is still met
)  # fmt: skip


@pytest.mark.parametrize(
    "hint",
    [
        *(set(DECLARED) - {Annotated[float, "seconds"]}), str, int, type(None), bytearray, Size, Customer, Place, bool,
        dict[str, Size], Kind,
    ],
    ids=str,
)  # fmt: skip
def test_an_annotation_is_a_value(hint: Any) -> None:
    """What the graph declares, its parts and its classes, and the simple types come back as the same annotation."""
    back = again([{"type": hint}], *DECLARED, Kind)[0]["type"]
    assert (back, type(back)) == (hint, type(hint))


def test_two_spellings_of_an_annotation_are_one() -> None:
    """They have the same bytes, and come back as the graph spells it."""
    codec = fresh(str | None, list[int])
    assert codec.encode(None | str).reference == codec.encode(typing.Optional[str]).reference  # noqa: UP045 - as above
    assert codec.encode(typing.List[int]).reference == codec.encode(list[int]).reference  # noqa: UP006 - as above
    assert codec.decode(codec.encode(None | str).reference) == (str | None)


@pytest.mark.parametrize("hint", [Size, list[Size], list[int], object, int | str, os.PathLike, type])
def test_an_annotation_that_is_not_declared_is_refused_when_saved(hint: Any) -> None:
    """It could not be found again: the error names it."""
    with pytest.raises(UnsupportedValueError, match=r"The type .* cannot be stored as a value.*\['type'\]"):
        fresh(list[str]).encode({"type": hint})


def test_an_annotation_of_another_program_is_a_decode_error() -> None:
    """A name that this graph does not declare is looked up nowhere else."""
    reference = fresh(list[Size]).encode(list[Size]).reference
    with pytest.raises(CheckpointDecodeError, match=r"annotation 'list\[Size\]'"):
        fresh(Size).decode(reference)


def test_one_name_for_two_annotations_is_an_error_only_where_it_is_used() -> None:
    """A graph may have both; storing the name would be a guess. A registered name tells classes apart."""

    def made() -> type:
        @dataclass
        class Twin:
            a: int

        return Twin

    first, second = made(), made()
    register_checkpoint_type(second, name="Second")
    try:
        hints: list[Any] = [list[first], list[second]]  # type: ignore[valid-type]  # made above
        codec = fresh(*hints)
        assert codec.decode(codec.encode([first, second, second(1)]).reference) == [first, second, second(1)]
        for hint in hints:
            assert codec.annotation_name(hint) is None
            with pytest.raises(UnsupportedValueError, match="two that differ have this name"):
                codec.encode(hint)
        assert codec.annotation_named("Second") is second
        assert codec.annotation_named(first.__qualname__) is first
    finally:
        del stored_types._registered[second]


def test_the_union_of_two_codecs_has_the_annotations_of_both() -> None:
    """A storage that serves two workflows reads what either wrote."""
    one, two = fresh(list[str]), fresh(dict[str, int])
    both = one.union(two)
    assert [both.decode(codec.encode(hint).reference) for codec, hint in ((one, list[str]), (two, dict[str, int]))] == [
        list[str],
        dict[str, int],
    ]


async def test_an_annotation_can_be_sent_and_kept() -> None:
    """A declared type is a message and an attribute like any other value, with a storage too."""

    class Asker(Executor):
        def __init__(self) -> None:
            super().__init__("asker")
            self.wanted: list[Any] = []

        @handler
        async def take(self, kind: type, ctx: WorkflowContext[Any, Any]) -> None:
            self.wanted.append(kind)
            await ctx.yield_output(list(self.wanted))

        @handler
        async def look(self, size: Size) -> None: ...

    storage = InMemoryCheckpointStorage()
    workflow = WorkflowBuilder(start_executor=Asker(), name="asker", checkpoint_storage=storage).build()
    await workflow.run(Size)
    assert (await workflow.run(bool)).get_outputs() == [[Size, bool]]
    with pytest.raises(UnsupportedValueError, match="Parcel"):
        await workflow.run(Parcel)


def test_an_event_of_the_engine_comes_back() -> None:
    """Events stand inside the requests of nested workflows, with the type of the answer they wait for."""
    event = WorkflowEvent(type="request_info", session_id="s", sequence=3, data=Size(1), response_type=bool | None)
    back = again(event)
    assert (back, type(back.data)) == (event, Size)
    assert back.response_type == (bool | None)


# --- What would not come back equal is refused --------------------------------------------------------------------


def test_a_model_that_its_own_validation_would_refuse_or_change_is_refused_when_saved() -> None:
    """Reading validates, so a model is saved only if it passes and comes out the same."""

    class Shouted(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def shout(cls, text: str) -> str:
            return text + "!"

    class Numbers(BaseModel):
        numbers: list[float] = []

    with pytest.raises(UnsupportedValueError, match=r"'text' of a .*Shouted would not come back equal"):
        fresh(Shouted).encode(Shouted(text="a"))
    wrong = Numbers()
    wrong.numbers = 5  # type: ignore[assignment]  # assignments are not validated
    with pytest.raises(UnsupportedValueError, match="does not pass its own validation"):
        fresh(Numbers).encode(wrong)
    wrong.numbers = [1]
    with pytest.raises(UnsupportedValueError, match="'numbers'"):
        fresh(Numbers).encode(wrong)
    assert again(Numbers(numbers=[1.0, math.inf]), Numbers) == Numbers(numbers=[1.0, math.inf])


def test_a_root_model_comes_back() -> None:
    """A model that is one value is validated as that value."""

    class Names(RootModel[list[str]]): ...

    assert again(Names(["a"]), Names) == Names(["a"])


def test_a_class_with_content_beside_its_fields_is_not_stored() -> None:
    """A dataclass that is a dict, a list or an exception too would lose what it inherits."""

    @dataclass
    class Rows(dict[str, int]):
        title: str = ""

    @dataclass
    class Failure(Exception):
        text: str = ""

    for value in (Rows(), Failure()):
        with pytest.raises(UnsupportedValueError, match=f"{type(value).__name__} cannot be stored"):
            fresh(Rows, Failure).encode(value)


def test_a_field_that_was_never_set_is_refused_when_saved() -> None:
    """Reading could not set it either; nor a transient one that has no default."""

    @dataclass
    class Late:
        text: str = field(init=False)

    @dataclass
    class Raw:
        payload: Any = field(metadata={"transient": True})

    with pytest.raises(UnsupportedValueError, match=r"'text' of a .*Late has not been set"):
        fresh(Late).encode(Late())
    with pytest.raises(UnsupportedValueError, match=r"'payload' of a .*Raw has no default"):
        fresh(Raw).encode(Raw(1))


def test_a_named_tuple_is_made_without_running_its_code() -> None:
    """A subclass with a constructor of its own comes back as it was; a missing field takes its default."""

    class Checked(Place):
        def __new__(cls, name: str, at: Any = 0) -> "Checked":
            return super().__new__(cls, name + "!", at)

    value = Checked("a", 5)
    back = again(value, Checked)
    assert (type(back), tuple(back)) == (Checked, ("a!", 5))
    assert fresh().decode(crafted(encoding.OBJECT, ["Place", 1, {"name": "x"}])) == Place("x")
    with pytest.raises(CheckpointDecodeError, match="lacks the field 'name'"):
        fresh().decode(crafted(encoding.OBJECT, ["Place", 1, {}]))


def test_a_time_zone_that_has_no_name_is_refused() -> None:
    """A zone read from a file cannot be found again; the date would come back without one."""
    path = next(os.path.join(root, "UTC") for root in zoneinfo.TZPATH if os.path.exists(os.path.join(root, "UTC")))
    with open(path, "rb") as file:
        nameless = zoneinfo.ZoneInfo.from_file(file)
    with pytest.raises(UnsupportedValueError, match=r"time zone.*\['when'\]"):
        fresh().encode({"when": dt.datetime(2024, 1, 1, tzinfo=nameless)})


# --- Long lists, edited -------------------------------------------------------------------------------------------

LONG = st.one_of(
    st.text(max_size=20), st.text(min_size=300, max_size=900), st.integers(), st.builds(Size, st.integers()),
    st.tuples(st.text(), st.integers()), st.lists(st.text(max_size=5), max_size=3),
)  # fmt: skip
EDITS = st.lists(
    st.tuples(st.sampled_from(["append", "insert", "delete", "replace", "double"]), st.floats(0, 1), LONG), max_size=6
)
WRAPPERS: list[Any] = [
    (lambda items: items, lambda value: value),
    (lambda items: {"deep": [1, {"items": items}]}, lambda value: value["deep"][1]["items"]),
    (lambda items: Parcel(size=Size(1), anything=(items, 1)), lambda value: value.anything[0]),
    (lambda items: deque([items]), lambda value: value[0]),
]


def edit(items: list[Any], how: str, where: float, item: Any) -> None:
    at = int(where * len(items))
    if how == "append":
        items.append(item)
    elif how == "insert":
        items.insert(at, item)
    elif how == "double":
        items.extend(items[at : at + 300])
    elif items and how == "delete":
        del items[at : at + 7]
    elif items:
        items[min(at, len(items) - 1)] = item


@settings(PATIENT, max_examples=80)
@given(st.lists(LONG, min_size=1, max_size=12), st.integers(1, 60), EDITS, st.sampled_from(WRAPPERS), st.booleans())
def test_a_long_list_that_is_edited_is_what_it_was_edited_to(
    start: list[Any], times: int, edits: list[Any], wrapper: Any, reread: bool
) -> None:
    """At any depth, after any edits: equal to the list, and to the bytes of one that was always so."""
    wrap, unwrap = wrapper
    codec, items, stored = fresh(), start * times, dict[bytes, bytes]()
    stored |= codec.encode(wrap(items)).blobs
    for how, where, item in edits:
        edit(items, how, where, item)
        encoded = codec.encode(wrap(items), known=set(stored))
        stored |= encoded.blobs
        value = fresh().decode(encoded.reference, stored)
        assert shape(unwrap(value)) == shape(items)
        assert fresh().encode(wrap(items)).reference == encoded.reference
        items = unwrap(codec.decode(encoded.reference, stored)) if reread else items


@settings(PATIENT, max_examples=25)
@given(st.integers(100, 6000), st.integers(60, 400), st.sampled_from(WRAPPERS))
def test_an_append_writes_a_bounded_number_of_blobs(length: int, size: int, wrapper: Any) -> None:
    """However long the list: one chunk, what seals full runs, and the body with at most 64 hashes of each level."""
    wrap, _ = wrapper
    codec = fresh()
    items = [f"{n:06}" + "x" * size for n in range(length)]
    known = set(codec.encode(wrap(items)).blobs)
    for n in range(70):
        items.append(f"new {n}" + "y" * size)
        written = codec.encode(wrap(items), known=known).blobs
        known |= written.keys()
        assert len(written) <= 5
        assert sum(map(len, written.values())) < 512 + size + 10 + 3 * (64 * 16 + 2) + 64 * 16 + 200


# --- The same bytes everywhere ------------------------------------------------------------------------------------

CANONICAL = """
import hashlib, sys
sys.path.insert(0, {root!r})
from tests.engine import values as t
words = [f"word {{n}}" for n in range(40)]
value = t.Order([t.Parcel(size=t.Size(n), anything={{w: set(words) for w in words[:n]}}) for n in range(30)],
                t.Place("p", frozenset(words)), [t.Customer(name=w, seen={{1: set(words)}}) for w in words])
values = [value, {{t.Size(n) for n in range(20)}}, {{t.Kind.PAIR, t.Right(3), t.Size(1), None, "x", 5}}, bool | None]
for one in values:
    encoded = t.fresh().encode(one)
    print(encoded.reference.hex(), hashlib.sha256(b"".join(sorted(encoded.blobs.values()))).hexdigest())
"""


def test_equal_objects_give_equal_bytes_in_every_process() -> None:
    """Neither the order of sets nor the process's hash seed is in the bytes of Structs, models and their fields."""
    script = CANONICAL.format(root=os.getcwd())
    outputs = set()
    for seed in ("0", "1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, check=True).stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().splitlines()) == 4
