"""Structs of msgspec: what they leave out, and how one is made as it was without running its code."""

import typing
from functools import lru_cache
from typing import Any

import msgspec


def transient_fields(cls: type) -> frozenset[str]:
    """The fields that are not stored: `raw: Annotated[Any, msgspec.Meta(extra={"transient": True})] = None`."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return frozenset(name for name in cls.__struct_fields__ if _is_transient(hints[name]))  # type: ignore[attr-defined]  # a Struct has them


def _is_transient(hint: Any) -> bool:
    if typing.get_origin(hint) is not typing.Annotated:
        return False
    return any(isinstance(mark, msgspec.Meta) and (mark.extra or {}).get("transient") for mark in hint.__metadata__)


def make(cls: type, fields: dict[str, Any]) -> Any:
    """A Struct of exactly this class with these values. Its `__post_init__` is not called."""
    if not hasattr(cls, "__post_init__"):
        return cls(**fields)
    made = _quiet(cls)(**fields)
    _set_class(made, cls)
    return made


class _Quiet:
    """In front of a Struct's bases: neither making the class nor making an object of it calls the Struct's own code."""

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: Any) -> None: ...

    def __post_init__(self) -> None: ...


@lru_cache(maxsize=4096)
def _quiet(cls: type) -> type:
    # A Struct has no `__new__` that could be called without its `__post_init__`: a subclass of the same layout has.
    return type(cls)(cls.__name__, (_Quiet, cls), {"__module__": cls.__module__})


_set_class = object.__dict__["__class__"].__set__  # the way past a frozen Struct's own `__setattr__`
