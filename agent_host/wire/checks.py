"""Small checks that are put together to a description of a field: what a request may say, as a table.

- A check takes a decoded JSON value and its path (`input[0].content`). It returns nothing or raises a `Problem`.
- Values are judged strictly: `"yes"` and `1` are not booleans, `true` is not a number, `16.0` is not an integer.
- The first fault found is the one reported, in the order of the table, so an answer does not depend on the
  order of keys in the request.
- Null is as good as absent inside objects: clients send back what they were given, nulls included.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from agent_host.wire import problems

Check = Callable[[Any, str], None]

_JSON_NAMES: Mapping[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def json_name(value: object) -> str:
    """What people call a JSON value of this type, with its article."""
    return _JSON_NAMES.get(type(value), type(value).__name__)


def wrong_type(value: object, path: str, expected: str) -> problems.Problem:
    """The problem of a value that is not what it should be."""
    return problems.invalid_type(path, expected, json_name(value))


def anything(value: Any, path: str) -> None:
    """What is accepted without a look."""


def boolean(value: Any, path: str) -> None:
    """`true` or `false`."""
    if type(value) is not bool:
        raise wrong_type(value, path, "a boolean")


def json_object(value: Any, path: str) -> None:
    """Any object."""
    if type(value) is not dict:
        raise wrong_type(value, path, "an object")


def integer(least: int | None = None, most: int | None = None) -> Check:
    """An integer between two bounds."""

    def check(value: Any, path: str) -> None:
        if type(value) is not int:
            raise wrong_type(value, path, "an integer")
        _bounded(value, path, least, most)

    return check


def number(least: float | None = None, most: float | None = None) -> Check:
    """A number between two bounds, with or without a fraction."""

    def check(value: Any, path: str) -> None:
        if type(value) is not int and type(value) is not float:
            raise wrong_type(value, path, "a decimal number")
        _bounded(value, path, least, most)

    return check


def _bounded(value: float, path: str, least: float | None, most: float | None) -> None:
    if least is not None and value < least:
        raise problems.below_minimum(path, least, value)
    if most is not None and value > most:
        raise problems.above_maximum(path, most, value)


def text(most: int | None = None, least: int = 0, pattern: str | None = None) -> Check:
    """A string, perhaps bounded in length and form."""
    form = re.compile(pattern) if pattern else None

    def check(value: Any, path: str) -> None:
        if type(value) is not str:
            raise wrong_type(value, path, "a string")
        if len(value) < least:
            raise problems.too_short(path, least, len(value))
        if most is not None and len(value) > most:
            raise problems.too_long(path, most, len(value))
        if form is not None and form.fullmatch(value) is None:
            raise problems.invalid_format(path, value, form.pattern)

    return check


def one_of(*words: str) -> Check:
    """One word of a list."""
    known = frozenset(words)

    def check(value: Any, path: str) -> None:
        if type(value) is not str:
            raise wrong_type(value, path, "a string")
        if value not in known:
            raise problems.invalid_value(path, value, words)

    return check


def array(element: Check, least: int = 0, most: int | None = None) -> Check:
    """An array whose elements all pass the same check."""

    def check(value: Any, path: str) -> None:
        if type(value) is not list:
            raise wrong_type(value, path, "an array")
        if len(value) < least or (most is not None and len(value) > most):
            raise problems.wrong_array_length(path, least, most or least, len(value))
        for index, each in enumerate(value):
            element(each, f"{path}[{index}]")

    return check


def fields(known: Mapping[str, Check], required: Collection[str] = (), closed: bool = False) -> Check:
    """An object with these fields. A `closed` one has no others, as far as they are not null."""

    def check(value: Any, path: str) -> None:
        json_object(value, path)
        for name in required:
            if name not in value:
                raise problems.missing_parameter(f"{path}.{name}")
        if closed:
            for name, each in value.items():
                if name not in known and each is not None:
                    raise problems.unknown_parameter(f"{path}.{name}")
        for name, inner in known.items():
            each = value.get(name)
            if each is not None or (name in required and name in value):
                inner(each, f"{path}.{name}")

    return check


def tagged(kinds: Mapping[str, Check], at: str = "") -> Check:
    """An object whose `type` says which check it must pass. An unknown type is reported at `path` plus `at`."""

    def check(value: Any, path: str) -> None:
        json_object(value, path)
        if "type" not in value:
            raise problems.missing_parameter(f"{path}.type")
        kind = value["type"]
        if type(kind) is not str:
            raise wrong_type(kind, f"{path}.type", "a string")
        inner = kinds.get(kind)
        if inner is None:
            raise problems.invalid_value(f"{path}{at}", kind, kinds)
        inner(value, path)

    return check


def either(string: Check, other: Check, expected: str) -> Check:
    """A string that passes one check, or an object that passes the other."""

    def check(value: Any, path: str) -> None:
        if type(value) is str:
            string(value, path)
        elif type(value) is dict:
            other(value, path)
        else:
            raise wrong_type(value, path, expected)

    return check


def string_map(pairs: int, key_length: int, value_length: int) -> Check:
    """An object of strings, bounded in number, key length and value length."""

    def check(value: Any, path: str) -> None:
        json_object(value, path)
        if len(value) > pairs:
            raise problems.too_many_properties(path, pairs, len(value))
        for key, each in value.items():
            where = f"{path}.{key}"
            if len(key) > key_length:
                raise problems.too_long(where, key_length, len(key))
            if type(each) is not str:
                raise wrong_type(each, where, "a string")
            if len(each) > value_length:
                raise problems.too_long(where, value_length, len(each))

    return check
