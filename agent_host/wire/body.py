"""The body of a request: a JSON object with known fields."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from agent_host.wire import checks, problems

MAX_VALUES = 1_000_000
"""Values in a body: each costs up to a hundred times its bytes, and time in which nobody else is served."""
_MAX_NESTING = 100  # deeper JSON could be read but, inside a response, no longer written


def read_body(
    body: bytes,
    known: Mapping[str, checks.Check],
    required: Collection[str] = (),
    *,
    nullable: Collection[str] = (),
    lenient: bool = False,
) -> dict[str, Any]:
    """The fields of a body that are not null, or the `Problem` with it: what is missing, then what is unknown, then
    what is wrong, in the order of the table. A required field that is `nullable` must be there, and may be null. A
    `lenient` reader ignores what it does not know."""
    raw = decoded(body)
    given = {name: value for name, value in raw.items() if value is not None}
    for name in required:
        if name not in (raw if name in nullable else given):
            raise problems.missing_parameter(name)
    if not lenient:
        refuse_unknown(raw, known)
    for name, check in known.items():
        if name in given:
            check(given[name], name)
    return given


def decoded(body: bytes) -> dict[str, Any]:
    """The object in a body, or the `Problem` with it. Nothing is nested deeper than it could be written again."""
    if _is_crowded(body):
        raise problems.too_many_values(MAX_VALUES)
    try:
        raw = msgspec.json.decode(body)
    except (ValueError, RecursionError) as error:
        raise problems.invalid_json(str(error)) from None
    if type(raw) is not dict:
        raise checks.wrong_type(raw, "", "an object")
    if body.count(b"{") + body.count(b"[") > _MAX_NESTING and _too_deep(raw):
        raise problems.invalid_json(f"It is nested more than {_MAX_NESTING} levels deep.")
    return raw


def refuse_unknown(raw: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise the `Problem` of the first field that is not known, with the name that was perhaps meant."""
    for name in raw:
        if name not in known:
            raise problems.unknown_parameter(name, _nearest(name, known))


def _is_crowded(body: bytes) -> bool:
    """Whether there are more values than may be. Nothing is decoded for it, and what texts hold is not counted."""
    if _marks(body) <= MAX_VALUES:
        return False
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Among twice as many strings as values may be, there is a mark for every second one: the rest need not be split.
    return _marks(b"".join(unescaped.split(b'"', 4 * MAX_VALUES)[::2])) > MAX_VALUES


def _marks(text: bytes) -> int:
    """What values begin behind: each needs one of its own."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _too_deep(raw: dict[str, Any]) -> bool:
    level: list[Any] = [raw]
    for _ in range(_MAX_NESTING):
        level = [inner for value in level for inner in (value.values() if type(value) is dict else value)]
        level = [value for value in level if type(value) is dict or type(value) is list]
        if not level:
            return False
    return True


# --- "Did you mean" --------------------------------------------------------------------------------------------


def _nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that two typing errors at most turn into `name`."""
    near = ((_distance(name, each), each) for each in known if abs(len(each) - len(name)) <= 2)
    best = min(near, default=(3, ""))
    return best[1] if best[0] <= 2 else None


def _distance(one: str, other: str) -> int:
    """How many letters must be added, dropped or changed to make one word the other."""
    row = list(range(len(other) + 1))
    for index, letter in enumerate(one, 1):
        above, row[0] = row[0], index
        for column, each in enumerate(other, 1):
            above, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, above + (letter != each))
    return row[-1]
