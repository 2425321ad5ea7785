"""Carry out a pickle for the classes of one table, without Python's unpickler.

Python's unpickler imports what a pickle names, and lets a pickle that may name a class change that class. Here an
instruction that imports is unknown, a class comes from the table by its tag, and only instances of the table's classes
are made, called upon or given attributes.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

from agent_host.errors import CheckpointDecodeError


def unpickle(data: bytes, classes: Mapping[str, type]) -> Any:
    """The value of a pickle. Raises `CheckpointDecodeError` for anything that `PickleCodec` would not have written."""
    machine = _Machine(classes)
    try:
        for operation, argument, _ in pickletools.genops(data):
            if operation.name == "STOP":
                (value,) = machine.stack
                return value
            machine.carry_out(operation.name, argument)
    except CheckpointDecodeError:
        raise
    except Exception as error:  # whatever crafted or damaged bytes, or the classes' own code, come to
        raise CheckpointDecodeError(f"A stored pickle cannot be read: {type(error).__name__}: {error}") from error
    raise CheckpointDecodeError("A stored pickle cannot be read: it does not end.")


class _Machine:
    """The stack and the memo of a pickle that is carried out."""

    def __init__(self, classes: Mapping[str, type]) -> None:
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []
        self._memo: list[Any] = []
        self._classes = classes
        self._allowed = frozenset(classes.values())

    def carry_out(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _TUPLES:
            size = _TUPLES[name]
            self.stack[len(self.stack) - size :] = [tuple(self._last(size))]
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in _WITHOUT_EFFECT:
            raise CheckpointDecodeError(f"A stored pickle has the instruction {name}, which is not allowed.")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise CheckpointDecodeError("A stored pickle takes more from its stack than it has put there.")
        return self.stack[-count:]

    def _instance(self, *plain: type) -> Any:
        """The object on top of the stack: an instance of an allowed class, or of one of these."""
        (value,) = self._last(1)
        if type(value) not in self._allowed and type(value) not in plain:
            raise CheckpointDecodeError(f"A stored pickle would change a {type(value).__name__}.")
        return value

    def _class(self, value: Any) -> type:
        if not isinstance(value, type) or value not in self._allowed:
            raise CheckpointDecodeError(f"A stored pickle would call a {type(value).__name__}.")
        return value

    def _pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._marked.pop()
        return items

    # --- Instructions ---

    def mark(self, _: Any) -> None:
        self._marked.append(self.stack)
        self.stack = []

    def pop(self, _: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._pop_to_mark()

    def pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def memoize(self, _: Any) -> None:
        self._memo.append(self._last(1)[0])

    def get(self, position: int) -> None:
        self.stack.append(self._memo[position])

    def tuple(self, _: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append(tuple(items))

    def frozenset(self, _: Any) -> None:
        items = self._pop_to_mark()
        self.stack.append(frozenset(items))

    def append(self, _: Any) -> None:
        item = self.stack.pop()
        self._instance(list).append(item)

    def appends(self, _: Any) -> None:
        items = self._pop_to_mark()
        self._instance(list).extend(items)

    def set_item(self, _: Any) -> None:
        key, value = self._last(2)
        del self.stack[-2:]
        self._instance(dict)[key] = value

    def set_items(self, _: Any) -> None:
        items = self._pop_to_mark()
        target = self._instance(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    def add_items(self, _: Any) -> None:
        items = self._pop_to_mark()
        target = self._instance(set)
        for item in items:
            target.add(item)

    def class_of(self, _: Any) -> None:
        cls = self._classes.get(self.stack.pop())
        if cls is None:
            raise CheckpointDecodeError("A stored pickle names a class that is not among allowed_types.")
        self.stack.append(cls)

    def new(self, _: Any) -> None:
        cls, arguments = self._last(2)
        self.stack[-2:] = [self._class(cls).__new__(cls, *_checked(arguments, tuple))]

    def new_with_keywords(self, _: Any) -> None:
        cls, arguments, keywords = self._last(3)
        made = self._class(cls).__new__(cls, *_checked(arguments, tuple), **_checked(keywords, dict))
        self.stack[-3:] = [made]

    def call(self, _: Any) -> None:
        cls, arguments = self._last(2)
        self.stack[-2:] = [self._class(cls)(*_checked(arguments, tuple))]

    def build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self._instance()
        set_state = getattr(target, "__setstate__", None)
        if set_state is not None:
            set_state(state)
            return
        slots: Any = {}
        if type(state) is tuple and len(state) == 2:
            state, slots = state
        if state:
            target.__dict__.update(_checked(state, dict))
        for name, value in _checked(slots or {}, dict).items():
            setattr(target, _checked(name, str), value)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise CheckpointDecodeError(f"A stored pickle has a {type(value).__name__} in place of a {kind.__name__}.")
    return value


_WITHOUT_EFFECT = frozenset({"PROTO", "FRAME"})
_VALUES = frozenset(
    {
        "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
        "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8",
    }
)  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "MEMOIZE": _Machine.memoize,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple,
    "FROZENSET": _Machine.frozenset,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "ADDITEMS": _Machine.add_items,
    "BINPERSID": _Machine.class_of,
    "NEWOBJ": _Machine.new,
    "NEWOBJ_EX": _Machine.new_with_keywords,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
