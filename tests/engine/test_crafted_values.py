"""Bytes that somebody made up or damaged can be refused, or be another value, but can do nothing."""

import contextlib
import importlib
import os
import sys
import typing
import zoneinfo
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_host.engine.serialization import encoding
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.containers import CONTAINERS_BY_NAME
from agent_host.engine.serialization.scalars import SCALARS_BY_NAME
from agent_host.errors import CheckpointDecodeError
from tests.engine.values import PATIENT, VALUES, crafted, fresh


class Called(BaseException):
    """Something was done that no stored byte may do."""


_refused = False
_EVENTS = {"import", "exec", "compile", "os.system", "subprocess.Popen", "open", "socket.connect"}


def _refuse(event: str, args: Any) -> None:
    # A time zone is looked up among the files and the package of time zones.
    if _refused and event in _EVENTS and not str(args[0]).startswith(("tzdata", *zoneinfo.TZPATH)):
        raise Called(event, str(args[0]))


sys.addaudithook(_refuse)


@contextlib.contextmanager
def nothing_may_be_called() -> typing.Iterator[None]:
    """Whoever imports, evaluates, opens or starts anything meanwhile gets an exception that no code catches."""
    global _refused
    _refused = True
    try:
        yield
    finally:
        _refused = False


def test_the_guard_refuses() -> None:
    """What the tests below rely on."""
    for call in (lambda: os.system("true"), lambda: importlib.import_module("this"), lambda: eval("1")):
        with pytest.raises(Called), nothing_may_be_called():
            call()


def _warm() -> Codec:
    """A codec, after the standard library has imported what it needs for a time zone that does not exist."""
    with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError):
        zoneinfo.ZoneInfo("No/Such")
    return fresh()


@settings(PATIENT, max_examples=400)
@given(
    VALUES, st.lists(st.tuples(st.floats(0, 1), st.sampled_from("xdi"), st.binary(min_size=1, max_size=4)), max_size=4)
)
def test_damaged_bytes_call_nothing_and_raise_one_error(value: Any, damages: list[Any]) -> None:
    """Any bytes changed, dropped or put in anywhere give a value or `CheckpointDecodeError`, and call nothing."""
    codec = _warm()
    encoded = codec.encode(value)
    bodies = {blob: bytes(_damaged(body, damages)) for blob, body in encoded.blobs.items()}
    reference = encoded.reference if bodies else bytes(_damaged(encoded.reference, damages))
    reader = fresh()
    with nothing_may_be_called(), contextlib.suppress(CheckpointDecodeError):
        reader.decode(reference, bodies)


def _damaged(data: bytes, damages: list[Any]) -> bytearray:
    damaged = bytearray(data)
    for where, how, new in damages:
        at = 1 + int(where * (len(damaged) - 1))
        if how == "x":
            damaged[at : at + len(new)] = new
        elif how == "d":
            del damaged[at : at + len(new)]
        else:
            damaged[at:at] = new
    return damaged


NAMES = [
    "os.system", "builtins.eval", "eval", "exec", "__import__", "subprocess.Popen", "object", "type", "Codec",
    "agent_host.engine.serialization.codec.Codec", "../../etc/passwd", "list[os.system]", "", 5, None, ["str"], {},
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_a_crafted_name_is_found_nowhere(name: Any) -> None:
    """In every place where a stored value has a name, one that the graph does not declare is an error."""
    codec = _warm()
    plain: list[tuple[int, Any]] = [
        (encoding.ANNOTATION, name), (encoding.OBJECT, [name, 1, {"text": "true"}]),
        (encoding.SCALAR, [name, "true"]), (encoding.CONTAINER, [name, ["true"]]),
        (encoding.SCALAR, ["datetime", ["2024-01-01", 0, name]]) if name is not None else (encoding.ANNOTATION, name),
        (encoding.CONTAINER, ["defaultdict", [name, {}]]),
    ]  # fmt: skip
    for code, value in plain:
        data = crafted(code, value)
        with pytest.raises(CheckpointDecodeError), nothing_may_be_called():
            codec.decode(data)


def test_no_registered_name_takes_wrong_contents() -> None:
    """Every class, scalar and container there is, with contents that do not belong to it: an error, and no call."""
    codec = _warm()
    wrong: list[Any] = [None, True, -1, 2**64 - 1, "x", b"x", [], {}, [[]], [1, 2, 3, 4], {"os.system": "true"}]
    wrong += [{"__class__": "x"}, {"__init__": 1}, {"__dict__": {}}, {"name": 5, "size": 5, "wide": "x", "a": []}]
    for tag, stored in codec._by_tag.items():
        for contents in wrong:
            for version in (1, 0, None, "1"):
                data = crafted(encoding.OBJECT, [tag, version, contents])
                with nothing_may_be_called(), contextlib.suppress(CheckpointDecodeError):
                    assert type(codec.decode(data)) is stored.cls
    for code, names in ((encoding.SCALAR, SCALARS_BY_NAME), (encoding.CONTAINER, CONTAINERS_BY_NAME)):
        for name in names:
            for contents in wrong:
                data = crafted(code, [name, contents])
                with nothing_may_be_called(), contextlib.suppress(CheckpointDecodeError):
                    assert not callable(codec.decode(data))
