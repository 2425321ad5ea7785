"""What a type annotation means for routing and storage: does a value match, which of two types is narrower.

Rule 1: `bool` is not an `int`, though Python says so: a flag sent to a graph must not reach a number's handler.
Rule 2: generic containers are judged by their elements; an empty container matches every element type.
Rule 3: everything here is a function of the annotation alone, so answers are cached for ever.
"""

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from typing_extensions import TypeAliasType

Matcher = Callable[[Any], bool]

_SEQUENCES = (list, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def plain(hint: Any) -> Any:
    """The annotation without `Annotated`, aliases and other wrappers that do not change its values."""
    while True:
        if isinstance(hint, TypeAliasType):
            hint = hint.__value__
        elif get_origin(hint) in (Annotated, typing.Required, typing.NotRequired, typing.Final, typing.ClassVar):
            hint = get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif hint is None:
            return types.NoneType
        else:
            return hint


def members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union, flattened; the annotation itself if it is none. `Never` has no members."""
    hint = plain(hint)
    if hint in (typing.Never, typing.NoReturn):
        return ()
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(member for argument in get_args(hint) for member in members(argument))
    return (hint,)


def is_top(hint: Any) -> bool:
    """Whether every value matches."""
    return hint is Any or hint is object


def is_unresolved(hint: Any) -> bool:
    """Whether the annotation is or contains a type variable or a name that was never resolved."""
    hint = plain(hint)
    if isinstance(hint, (typing.TypeVar, typing.ForwardRef, str)):
        return True
    if get_origin(hint) is Literal:
        return False
    return any(is_unresolved(argument) for argument in get_args(hint) if not isinstance(argument, (list, tuple)))


def is_typed_dict(hint: Any) -> bool:
    return isinstance(hint, type) and typing.is_typeddict(hint)


def name(hint: Any) -> str:
    """The annotation as a person would write it."""
    hint = plain(hint)
    alternatives = members(hint)
    if len(alternatives) > 1:
        return " | ".join(map(name, alternatives))
    arguments = get_args(hint)
    if isinstance(hint, type) and not arguments:
        return "None" if hint is types.NoneType else hint.__qualname__
    origin = get_origin(hint)
    if isinstance(origin, type) and not any(isinstance(argument, (list, tuple)) for argument in arguments):
        return f"{origin.__qualname__}[{', '.join('...' if a is Ellipsis else name(a) for a in arguments)}]"
    return str(hint).replace("typing.", "")


@lru_cache(maxsize=4096)
def matcher(hint: Any) -> Matcher:
    """A function that tells whether a value is of this type."""
    hint = plain(hint)
    if is_top(hint):
        return lambda value: True
    alternatives = members(hint)
    if len(alternatives) != 1:
        checks = tuple(matcher(member) for member in alternatives)
        return lambda value: any(check(value) for check in checks)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        allowed = tuple((type(choice), choice) for choice in arguments)
        return lambda value: any(type(value) is kind and value == choice for kind, choice in allowed)
    if origin is not None:
        return _generic(origin, arguments)
    if is_typed_dict(hint):
        return _typed_dict(hint)
    return _class(hint)


def _class(hint: Any) -> Matcher:
    if hint is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return lambda value: isinstance(value, float)
    if not isinstance(hint, type):
        return lambda value: True
    if getattr(hint, "_is_protocol", False) and not getattr(hint, "_is_runtime_protocol", False):
        return lambda value: True
    kind: type = hint
    return lambda value: isinstance(value, kind)


def _generic(origin: Any, arguments: tuple[Any, ...]) -> Matcher:
    outer = _class(origin)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        fields = tuple(matcher(argument) for argument in arguments)
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(fields)
            and all(check(item) for check, item in zip(fields, value, strict=True))
        )
    if origin in (*_SEQUENCES, tuple) and arguments:
        element = matcher(arguments[0])
        return lambda value: outer(value) and all(element(item) for item in value)
    if origin in _MAPPINGS and len(arguments) == 2:
        key, item = matcher(arguments[0]), matcher(arguments[1])
        return lambda value: outer(value) and all(key(k) and item(v) for k, v in value.items())
    return outer


def _typed_dict(hint: Any) -> Matcher:
    fields = {field: matcher(kind) for field, kind in typing.get_type_hints(hint).items()}
    required = frozenset(hint.__required_keys__)
    return lambda value: (
        isinstance(value, dict)
        and required <= value.keys()
        and all(field in fields and fields[field](item) for field, item in value.items())
    )


@lru_cache(maxsize=4096)
def is_subtype(narrow: Any, wide: Any) -> bool:
    """Whether every value of `narrow` is a value of `wide`, as far as annotations tell."""
    narrow, wide = plain(narrow), plain(wide)
    if is_top(wide) or narrow == wide:
        return True
    if is_top(narrow):
        return False
    if len(members(narrow)) != 1 or len(members(wide)) != 1:
        return all(any(is_subtype(n, w) for w in members(wide)) for n in members(narrow))
    if get_origin(narrow) is Literal:
        return all(matcher(wide)(choice) for choice in get_args(narrow))
    if get_origin(wide) is Literal:
        return False
    narrow_class, wide_class = get_origin(narrow) or narrow, get_origin(wide) or wide
    narrow_class = dict if is_typed_dict(narrow_class) else narrow_class
    if is_typed_dict(wide_class) or not (isinstance(narrow_class, type) and isinstance(wide_class, type)):
        return False
    if (narrow_class is bool and wide_class is int) or not issubclass(narrow_class, wide_class):
        return False
    wanted = get_args(wide)
    given = get_args(narrow)
    if not wanted or all(is_top(argument) for argument in wanted):
        return True
    if len(given) != len(wanted):
        return False
    return all(n is w or is_subtype(n, w) for n, w in zip(given, wanted, strict=True))


def may_deliver(sent: Any, handled: Any) -> bool:
    """Whether a value declared as `sent` can be one that a handler for `handled` takes.

    Wider on purpose than `is_subtype`: a source that declares a base class may well send a subclass.
    """
    return any(
        is_subtype(s, h) or is_subtype(h, s) or ((get_origin(s) or s) == (get_origin(h) or h) and _elements_meet(s, h))
        for s in members(sent)
        for h in members(handled)
    )


def _elements_meet(left: Any, right: Any) -> bool:
    lefts, rights = get_args(left), get_args(right)
    if not lefts or not rights or len(lefts) != len(rights):
        return not lefts or not rights
    return all(a is b or may_deliver(a, b) for a, b in zip(lefts, rights, strict=True))


def classes_in(hint: Any) -> Iterator[type]:
    """Every class the annotation names, in containers and unions too; fields of classes are not followed."""
    for member in members(hint):
        if get_origin(member) is Literal:
            yield from {type(choice) for choice in get_args(member)}
            continue
        origin = get_origin(member)
        if isinstance(member, type) and origin is None:
            yield member
        elif isinstance(origin, type) and hasattr(origin, "__parameters__"):
            yield origin  # a generic class of the program's own: its values are of the class itself
        for argument in get_args(member):
            if argument is not Ellipsis and not isinstance(argument, (list, tuple)):
                yield from classes_in(argument)


def field_types(cls: type) -> dict[str, Any]:
    """The stored fields of a dataclass, Struct, named tuple, typed dict or pydantic model, with their annotations."""
    if dataclasses.is_dataclass(cls):
        hints = typing.get_type_hints(cls)
        return {field.name: hints.get(field.name, Any) for field in dataclasses.fields(cls)}
    if is_pydantic(cls):
        return {field: info.annotation for field, info in cls.model_fields.items()}  # type: ignore[attr-defined]  # by shape
    if is_typed_dict(cls):
        return typing.get_type_hints(cls)
    if is_named_tuple(cls):
        hints = typing.get_type_hints(cls)
        return {field: hints.get(field, Any) for field in cls._fields}  # type: ignore[attr-defined]  # by its shape
    if is_struct(cls):
        hints = typing.get_type_hints(cls)
        return {field: hints[field] for field in cls.__struct_fields__}  # type: ignore[attr-defined]  # a Struct has them
    return {}


def is_struct(cls: type) -> bool:
    return issubclass(cls, msgspec.Struct)


def is_pydantic(cls: type) -> bool:
    """Whether a class is a pydantic model. Told by its shape: the engine itself does not need pydantic."""
    return isinstance(getattr(cls, "model_fields", None), dict) and hasattr(cls, "model_validate")


def is_named_tuple(cls: type) -> bool:
    return issubclass(cls, tuple) and hasattr(cls, "_fields")
