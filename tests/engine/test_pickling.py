"""Pickle by explicit choice: what it carries, what it refuses, and that no store can make it do anything else."""

import builtins
import datetime
import enum
import importlib
import io
import logging
import os
import pickle
import pickletools
import random
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from agent_host import Executor, InMemoryCheckpointStorage, PickleCodec, WorkflowBuilder, WorkflowContext, handler
from agent_host.engine.checkpoint import INLINE
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.serialization.encoding import PICKLE, pack
from agent_host.engine.serialization.unpickling import unpickle
from agent_host.errors import CheckpointDecodeError, UnsupportedValueError, WorkflowValidationError


class Matrix:
    """A class that the codec itself knows nothing of."""

    limit = 10

    def __init__(self, rows: int) -> None:
        self.cells = [[0] * rows for _ in range(rows)]
        self.neighbour: Any = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Matrix) and self.cells == other.cells

    __hash__ = None  # type: ignore[assignment]  # it can change


class Slotted:
    __slots__ = ("left", "right")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right


class Locked:
    def __init__(self, name: str) -> None:
        self.name, self.lock = name, threading.Lock()

    def __getstate__(self) -> dict[str, str]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.name, self.lock = state["name"], threading.Lock()


class Stack(list[Any]):
    title = ""


class Table(OrderedDict[str, int]):
    pass


class Colour(enum.Enum):
    RED = 1


class Keyed:
    def __new__(cls, *, key: str) -> "Keyed":
        made = super().__new__(cls)
        made.key = key  # type: ignore[attr-defined]  # set here alone
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, str]]:
        return (), {"key": self.key}  # type: ignore[attr-defined]  # see above


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("echo owned",)


ALLOWED = [Matrix, Slotted, Locked, Stack, Table, Colour, Keyed, datetime.datetime, threading.Event]


def codec(*classes: type) -> PickleCodec:
    return PickleCodec(allowed_types=classes or ALLOWED)


def roundtrip(value: Any) -> Any:
    encoded = codec().encode(value)
    return codec().decode(encoded.reference, encoded.blobs)


def stored(data: bytes) -> bytes:
    """A cell that holds this as a pickled value."""
    return INLINE + b"\x00\x00" + pack(msgspec.msgpack.Ext(PICKLE, pack(data)))


# --- What it carries ------------------------------------------------------------------------------------------------


def test_instances_of_the_named_classes_come_back() -> None:
    """By attributes, slots, own state functions and arguments, as lists, dicts and enums; new, of the same class."""
    matrix = Matrix(3)
    for _ in range(2):
        found = roundtrip(matrix)
        assert found == matrix
        assert found is not matrix
        assert type(found) is Matrix
    slotted = roundtrip(Slotted(("a", {1, 2}), Slotted(frozenset({b"b"}), None)))
    assert (slotted.left, slotted.right.left, slotted.right.right) == (("a", {1, 2}), frozenset({b"b"}), None)
    assert roundtrip(Locked("door")).name == "door"
    stack = Stack([1, Matrix(1)])
    stack.title = "all"
    assert roundtrip(stack) == stack
    assert roundtrip(stack).title == "all"
    table = Table(b=1, a=2)
    assert list(roundtrip(table).items()) == [("b", 1), ("a", 2)]
    assert roundtrip(Slotted(Colour.RED, datetime.datetime(2020, 1, 2))).left is Colour.RED
    assert roundtrip(Keyed(key="k")).key == "k"


def test_values_inside_come_back() -> None:
    """Every plain value, whatever its size, beside objects that refer to each other and to themselves."""
    plain = [
        None, True, False, 0, 255, 65_536, -1, 2**31, -(2**63), 2**2000, 1.5, float("inf"), "", "text", "ä" * 300,
        b"", b"b" * 300, b"b" * 70_000, bytearray(b"c"), (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [],
        list(range(3000)), {}, {"a": 1}, {n: str(n) for n in range(3000)}, set(), set(range(3000)), frozenset({1}),
        "x" * 70_000,
    ]  # fmt: skip
    found = roundtrip(Slotted(plain, dict(enumerate(plain))))
    assert found.left == plain
    assert [type(value) for value in found.left] == [type(value) for value in plain]
    assert found.right == dict(enumerate(plain))
    left, right = Matrix(1), Matrix(2)
    left.neighbour, right.neighbour = right, left
    again = roundtrip(left)
    assert again.neighbour.neighbour is again
    loop = Slotted([], None)
    loop.left.append((loop, loop.left))
    again = roundtrip(loop)
    assert again.left[0][0] is again
    assert again.left[0][1] is again.left


def test_it_stands_beside_declared_values() -> None:
    """In lists, dicts and long lists of a value that the codec stores itself."""
    value = {"all": [Matrix(1), "text", (Matrix(2),)], "long": [Matrix(n % 3) for n in range(200)]}
    assert roundtrip(value) == value


def test_what_was_read_is_stored_as_the_same_bytes() -> None:
    """So that state that nobody has changed does not count as changed when a conversation goes on."""
    name = "".join(["na", "me"])
    value = Slotted([name, "name", name], {"name": Matrix(2), "other": ["name"]})
    first = codec().encode(value)
    again = codec().decode(first.reference, first.blobs)
    assert codec().encode(again).reference == first.reference


async def test_a_workflow_keeps_them() -> None:
    """In attributes, shared state and messages of a workflow that was built with the codec."""

    class Holder(Executor):
        def __init__(self) -> None:
            super().__init__("holder")
            self.matrix = Matrix(1)

        @handler
        async def take(self, count: int, ctx: WorkflowContext[Any, list[int]]) -> None:
            self.matrix.cells.append([count])
            ctx.set_state("matrix", self.matrix)
            await ctx.yield_output([row[0] for row in self.matrix.cells])

    storage = InMemoryCheckpointStorage()
    outputs = []
    for count in (1, 2):  # built again, as another process would
        builder = WorkflowBuilder(start_executor=Holder(), name="w", checkpoint_storage=storage, codec=codec(Matrix))
        outputs.append((await builder.build().run(count)).get_outputs())
    assert outputs == [[[0, 1]], [[0, 1, 2]]]
    latest = await storage.get_latest(workflow_name="w")
    assert latest is not None
    assert latest.state["matrix"].cells == [[0], [1], [2]]


def test_its_first_use_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Writing or reading, the codec says once that it pickles, and what."""
    one, other = codec(), codec()
    with caplog.at_level(logging.WARNING):
        one.encode("nothing of it")
        assert caplog.records == []
        encoded = one.encode(Matrix(1))
        one.encode([Matrix(1)])
        assert [record.getMessage() for record in caplog.records] == [
            f"Values of {__name__}.Matrix are stored as pickle, because a PickleCodec allows it: whoever can write the "
            "store decides with what these classes are called."
        ]
        other.decode(encoded.reference, encoded.blobs)
        assert len(caplog.records) == 2


# --- What it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Slotted(threading.Lock(), None), r"it holds a _thread\.lock"),
        (Slotted(Evil(), None), r"it holds a .*\.Evil"),
        (Slotted(os.system, None), "it holds a builtins.builtin_function_or_method"),
        (Slotted(Evil, None), r"it refers to the class .*\.Evil"),
        (Slotted(datetime.date(2020, 1, 1), None), r"it holds a datetime\.date"),
        (Slotted(lambda: None, None), "it holds a builtins.function"),
        (threading.Event(), "it holds a"),
    ],
)
def test_what_is_not_named_is_refused_when_it_is_stored(value: Any, reason: str) -> None:
    """The error says what the value holds, and where it is."""
    with pytest.raises(UnsupportedValueError, match=rf"cannot be pickled: {reason}.*\(at \['x'\]\)"):
        codec().encode({"x": value})


def test_a_subclass_is_not_its_parent() -> None:
    """Exactly the named classes are pickled."""

    class Special(Matrix):
        pass

    with pytest.raises(UnsupportedValueError, match="Special"):
        codec().encode(Special(1))


def test_what_could_not_be_read_again_is_refused() -> None:
    """A class whose state function fails is found out before its value is in the store."""

    class Broken:
        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("not today")

        def __getstate__(self) -> int:
            return 1

    with pytest.raises(UnsupportedValueError, match=r"could not be unpickled again: .*not today"):
        codec(Broken).encode(Broken())


def test_two_classes_of_one_name_are_refused() -> None:
    """A stored name means one class."""
    other = type("Matrix", (), {"__qualname__": "Matrix", "__module__": "elsewhere"})
    with pytest.raises(WorkflowValidationError, match=r"'Matrix': elsewhere\.Matrix and .*test_pickling\.Matrix"):
        codec(Matrix, other)


def test_a_codec_without_it_refuses() -> None:
    """The error names the remedy; one that lacks the class refuses too; together they read what either reads."""
    encoded = codec(Matrix).encode(Matrix(1))
    with pytest.raises(CheckpointDecodeError, match=r"codec=PickleCodec\(allowed_types"):
        Codec().decode(encoded.reference, encoded.blobs)
    with pytest.raises(CheckpointDecodeError, match="not among allowed_types"):
        codec(Slotted).decode(encoded.reference, encoded.blobs)
    with pytest.raises(UnsupportedValueError, match="Matrix"):
        Codec().encode(Matrix(1))
    for both in (Codec().union(codec(Matrix)), codec(Slotted).union(codec(Matrix)), codec(Matrix).union(Codec())):
        assert both.decode(encoded.reference, encoded.blobs) == Matrix(1)
        assert both.covers(codec(Matrix))
        assert not Codec().covers(both)


# --- What a crafted store cannot do ---------------------------------------------------------------------------------


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of what was called although nothing may."""
    called: list[str] = []

    def guard(owner: Any, name: str) -> None:
        monkeypatch.setattr(owner, name, lambda *a, **k: called.append(name))

    for owner, name in (
        (os, "system"), (os, "popen"), (subprocess, "Popen"), (builtins, "eval"), (builtins, "exec"),
        (importlib, "import_module"), (pickle, "loads"), (pickle, "load"),
    ):  # fmt: skip
        guard(owner, name)
    yield called


class Crafter(pickle.Pickler):
    """Writes tags for the allowed classes, and anything else as pickle would."""

    def persistent_id(self, obj: Any) -> str | None:
        return obj.__qualname__ if isinstance(obj, type) and obj in ALLOWED else None


def crafted(value: Any, protocol: int = 5) -> bytes:
    file = io.BytesIO()
    Crafter(file, protocol).dump(value)
    return file.getvalue()


def calling(module: str, name: str, *arguments: Any) -> Any:
    """An object that a pickle makes by calling this."""

    class Call:
        def __reduce__(self) -> Any:
            return getattr(importlib.__import__(module, fromlist=[name]), name), arguments

    return Call()


HOSTILE = [
    b"cos\nsystem\n(S'echo owned'\ntR.",
    b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0aecho owned\x85R.",
    b"(S'echo owned'\nios\nsystem\n.",
    b"(cos\nsystem\nS'echo owned'\no.",
    b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93.",
    b"\x80\x02\x82\x01.",  # a number of the extension registry
    b"\x80\x04\x8c\x09os.system\x88Q.",
    b"\x80\x04\x8c\x09os.systemQ\x8c\x0aecho owned\x85R.",
    b"\x80\x04\x8c\x06MatrixQ}\x8c\x05limitK\x01s\x86b.",  # would set an attribute of the class
    b"\x80\x04\x8c\x06MatrixQN}\x8c\x05limitK\x01s\x86b.",
    b"\x80\x04\x8c\x06MatrixQ}b.",
    b"\x80\x04\x8c\x06MatrixQ.",  # the class itself
    b"\x80\x04]\x8c\x06MatrixQa.",
    b"\x80\x04K\x01(K\x02e.",
    b"\x80\x04K\x01)R.",
    b"\x80\x04\x8c\x06MatrixQ]R.",
    b"\x80\x04\x8c\x06MatrixQ)\x81N}\x8c\x09__class__K\x01s\x86b.",
    b"\x80\x04h\x05.",
    b"\x80\x04(.",
    b"\x80\x04",
    b"",
    b".",
    b"P1\n.",
    b"\x80\x05\x97.",
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_a_crafted_pickle_calls_nothing(data: bytes, guarded: list[str]) -> None:
    """It is refused before anything is imported, called or changed."""
    before = dict(vars(Matrix))
    with pytest.raises(CheckpointDecodeError):
        codec().decode(stored(data))
    assert guarded == []
    assert dict(vars(Matrix)) == before


class Button:
    pressed = 0

    def __call__(self, *arguments: Any) -> None:
        Button.pressed += 1


def test_an_instance_that_can_be_called_is_not_called() -> None:
    """Only a class is called, and only to make an instance of it."""
    for call in (b"\x80\x04\x8c\x06ButtonQ)\x81)R.", b"\x80\x04\x8c\x06ButtonQ)\x81)\x81.", b"\x80\x04\x8c\x01a)R."):
        with pytest.raises(CheckpointDecodeError, match=r"would call a (Button|str)"):
            codec(Button).decode(stored(call))
    assert Button.pressed == 0


@pytest.mark.parametrize("protocol", range(6))
def test_a_reduced_value_calls_nothing(protocol: int, guarded: list[str]) -> None:
    """Whatever pickle would write for a value that wants something called, alone or inside an allowed one."""
    monkey = [
        calling("posix", "getpid"), calling("builtins", "getattr", "a", "upper"),
        calling("operator", "attrgetter", "x"), calling("functools", "partial", print),
        calling("copyreg", "_reconstructor", Matrix, object, None),
        calling("importlib", "reload", "os"),
    ]  # fmt: skip
    for hostile in monkey:
        for value in (hostile, Slotted(hostile, None), [Matrix(1), hostile], Stack([hostile])):
            try:
                data = crafted(value, protocol)
            except (pickle.PicklingError, TypeError):
                continue
            with pytest.raises(CheckpointDecodeError):
                codec().decode(stored(data))
    assert guarded == []


def test_every_name_of_the_table_is_only_a_class(guarded: list[str]) -> None:
    """A tag that is a module's, a function's or another class's name is unknown, whatever its form."""
    for tag in ("os.system", "builtins.eval", "Matrix.__init__", "Matrix.limit", "__class__", "", "matrix", "object"):
        data = b"\x80\x04\x8c" + bytes([len(tag)]) + tag.encode() + b"Q)R."
        with pytest.raises(CheckpointDecodeError, match="not among allowed_types"):
            codec().decode(stored(data))
    assert guarded == []


def test_noise_is_refused(guarded: list[str]) -> None:
    """Bytes that were changed at random give a value of the named classes or an error, and never anything else."""
    chance = random.Random(7)
    value = Slotted([Matrix(2), Locked("a"), Stack([1]), Table(a=1), Keyed(key="k")], {"b": {1, 2}, "c": (1.5, b"d")})
    encoded = codec().encode(value)
    (whole, *_) = encoded.blobs.values() or [encoded.reference[1:]]
    opcodes = [ord(opcode.code) for opcode in pickletools.opcodes]
    kept = codec()
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(2, len(data))] = chance.choice([chance.randrange(256), chance.choice(opcodes)])
        try:
            kept.decode(INLINE + bytes(data))
        except CheckpointDecodeError:
            continue
    assert guarded == []
    assert Matrix.limit == 10


def test_the_interpreter_reads_as_python_does() -> None:
    """For what the named classes and plain values are written as, it gives what Python's own unpickler gives."""
    classes = {cls.__qualname__: cls for cls in ALLOWED}

    class Reader(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return classes[pid]

    shared = ["shared"]
    loop: list[Any] = [shared]
    loop.append((loop, (loop, shared)))
    for value in ([shared, shared, loop[0]], Table(a=1), [Stack([1, 2]), {"k": (1, 2, 3, 4, 5)}], Matrix(2)):
        data = crafted(value)
        assert unpickle(data, classes) == Reader(io.BytesIO(data)).load()
    found = unpickle(crafted(loop), classes)
    assert found[1][0] is found
    assert found[1][1][1] is found[0]
