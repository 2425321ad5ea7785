"""What an executor holds that cannot be stored: what may be shared by all conversations, and what is refused.

Rule 1: a foreign object, a client or a lock, is shared; the containers it lies in are copied for each conversation.
Rule 2: an object of the program's own, or one that only holds data, is an error at start: it would be everybody's.
        If the executor has hooks, it is an error if the restore hook does not replace it.
Rule 3: so is a function that reaches the executor: it would act on the original, not on the clone it is called for.
"""

import array
import functools
import io
import logging
import types
from collections import ChainMap, Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_host.engine.executors.executor import Executor
from agent_host.engine.serialization.codec import Codec
from agent_host.errors import ExecutorStateError

log = logging.getLogger("agent_host.engine")

FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type)
_CONTAINERS = (list, tuple, set, frozenset)
CHANGING = (list, dict, set, bytearray, deque, OrderedDict, Counter, defaultdict)
_HOLDERS = (types.SimpleNamespace, UserDict, UserList, ChainMap, array.array, io.StringIO, io.BytesIO)


def leaves(value: Any, depth: int = 0) -> Iterator[Any]:
    """Everything in a value that is not a plain container."""
    if isinstance(value, dict) and depth < 20:
        for key, item in value.items():
            yield from leaves(key, depth + 1)
            yield from leaves(item, depth + 1)
    elif isinstance(value, _CONTAINERS) and depth < 20:
        if type(value) not in _CONTAINERS:
            yield value
        for item in value:
            yield from leaves(item, depth + 1)
    else:
        yield value


def own_objects(executor: Executor, value: Any, codec: Codec) -> list[Any]:
    """What of an attribute that cannot be stored may not be shared either."""
    home = type(executor).__module__
    found = []
    for leaf in leaves(value):
        cls = type(leaf)
        if codec.allows(cls) or isinstance(leaf, FUNCTIONS):
            continue
        same_package = cls.__module__.partition(".")[0] == home.partition(".")[0] != "builtins"
        if isinstance(leaf, _HOLDERS) or cls.__module__ == home or same_package:
            found.append(leaf)
    return found


def refuse_own_object(executor: Executor, name: str, own: Any) -> None:
    """Raise the `ExecutorStateError` for one of the `own_objects` of an attribute."""
    cls = type(own)
    if isinstance(own, _HOLDERS):
        raise ExecutorStateError(
            f"Executor {executor.id!r} keeps a {cls.__qualname__} in {name!r}, which cannot be stored, and all "
            f"conversations would share what is in it. Use a list, a dict, a deque or a dataclass, or declare "
            f"`{name} = config()` if it is meant to be shared."
        )
    raise ExecutorStateError(
        f"Executor {executor.id!r} keeps a {cls.__qualname__} in {name!r}, which cannot be stored, and all "
        f"conversations would share it. Make {cls.__qualname__} a dataclass, write checkpoint hooks, or "
        f"declare `{name} = config()` if it is meant to be shared."
    )


def refuse_kept_objects(executor: Executor, name: str, originals: Sequence[Any]) -> None:
    """Raise `ExecutorStateError` if a restored clone still holds objects of the original."""
    for leaf in leaves(vars(executor).get(name)):
        if any(leaf is original for original in originals):
            raise ExecutorStateError(
                f"After on_checkpoint_restore the executor {executor.id!r} still has the {type(leaf).__qualname__} in "
                f"{name!r} that the program made, and all conversations would share it. Put a new one there in the "
                f"hook, or declare `{name} = config()` if it is meant to be shared."
            )


def skeleton(value: Any) -> Any:
    """A copy of the containers of a value, with the very same things in them."""
    if type(value) is dict:
        return {key: skeleton(item) for key, item in value.items()}
    if type(value) in _CONTAINERS:
        return type(value)(skeleton(item) for item in value)
    return value


def same_skeleton(one: Any, other: Any) -> bool:
    """Whether two values are the same containers of the very same, or equal plain, things."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if type(one) is dict:
        return list(one) == list(other) and all(same_skeleton(item, other[key]) for key, item in one.items())
    if type(one) in (list, tuple):
        return len(one) == len(other) and all(map(same_skeleton, one, other))
    return bool(type(one) in (str, int, float, bytes, set, frozenset) and one == other)


def _parts(value: Any, depth: int = 0) -> Iterator[Any]:
    """A value and every container inside it."""
    yield value
    if depth < 20 and isinstance(value, (dict, *_CONTAINERS, deque)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _parts(item, depth + 1)


def refuse_own_methods(executor: Executor, name: str, value: Any) -> None:
    """Refuse a bound method of the executor in a shared object: it would act on the original, not on a clone."""
    for leaf in leaves(value):
        _refuse_own_method(executor, name, leaf)


def _refuse_own_method(executor: Executor, name: str, leaf: Any) -> None:
    inside = [getattr(leaf, "__dict__", {})]
    if isinstance(leaf, functools.partial):
        inside += [leaf.func, leaf.args, leaf.keywords]
    if _acts_on(leaf, executor):
        raise ExecutorStateError(
            f"The function in {name!r} of executor {executor.id!r} reaches the executor or one of its values: it "
            "would always act on the original, not on the conversation it is called in. Write it as a method."
        )
    for inner in (leaf, *leaves(inside)):
        if isinstance(inner, types.MethodType) and inner.__self__ is executor:
            raise ExecutorStateError(
                f"The {type(leaf).__qualname__} in {name!r} of executor {executor.id!r} holds the executor's own "
                f"method {inner.__name__!r}: it would always act on the original, not on the conversation it is called "
                "in. Pass a function that does not belong to the executor."
            )


def _acts_on(function: Any, executor: Executor) -> bool:
    """Whether a function reaches the executor through what it holds, or is a method of one of its changing values."""
    own = {
        id(part) for value in vars(executor).values() if not callable(value) for part in _parts(value)
        if type(part) in CHANGING
    }  # fmt: skip
    if isinstance(function, types.BuiltinMethodType) and id(function.__self__) in own:
        return True
    return any(held is executor for held in _held_by(function, set()))


def _held_by(function: Any, seen: set[int]) -> Iterator[Any]:
    """What a function carries: its closure, its defaults, the arguments of a partial, and what those carry."""
    if id(function) in seen or not isinstance(function, (types.FunctionType, functools.partial)):
        return
    seen.add(id(function))
    if isinstance(function, functools.partial):
        held = [function.func, *function.args, *function.keywords.values()]
    else:
        held = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for value in held:
        yield value
        yield from _held_by(value, seen)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - reading an empty cell raises
    except ValueError:
        return False
    return True


def warn_of_common_parts(executor_id: str, values: Mapping[str, Any]) -> None:
    """Tell of two attributes that hold one changing object: in each conversation they are two objects."""
    holders: dict[int, str] = {}
    for name, value in values.items():
        for part in _parts(value):
            if type(part) not in CHANGING:
                continue
            other = holders.setdefault(id(part), name)
            if other != name:
                log.warning(
                    "The attributes %r and %r of executor %r hold the same %s. Each conversation gets a copy of every "
                    "attribute, so a change through one will not show in the other: keep it in one attribute.",
                    other, name, executor_id, type(part).__name__,
                )  # fmt: skip
                return
