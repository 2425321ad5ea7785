"""The part of an address behind the question mark: which page of a list, and how a response is to be read.

Parameters that the API does not have are ignored: gateways add their own. Of one that is given twice the last counts.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent_host.wire import checks, problems
from agent_host.wire.fields import INCLUDE
from agent_host.wire.input import ITEM_ID

Query = Sequence[tuple[str, str]]
"""Names and values in the order of the address, decoded."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")
_ORDER = checks.one_of("asc", "desc")
_LIMIT = checks.integer(1, 100)
_POSITION = checks.integer(0)
_WORDS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page of a list: at most `limit` elements behind the element `after`, newest or oldest first."""

    after: str | None = None
    limit: int = 20
    newest_first: bool = True


@dataclass(frozen=True, slots=True)
class RetrieveQuery:
    """How a response is to be read: whole or as a stream of its events behind a sequence number, -1 for all of them."""

    stream: bool = False
    starting_after: int = -1


def page_query(query: Query) -> PageQuery:
    """The page that is asked for, or the `Problem` with the query."""
    given = _given(query)
    page = PageQuery()
    after, limit, order = given.get("after", page.after), page.limit, given.get("order", "desc")
    if "limit" in given:
        limit = _integer("limit", given["limit"])
        _LIMIT(limit, "limit")
    _ORDER(order, "order")
    if after is not None:
        ITEM_ID(after, "after")
    return PageQuery(after, limit, order == "desc")


def retrieve_query(query: Query) -> RetrieveQuery:
    """How a response is asked for, or the `Problem` with the query."""
    given = _given(query)
    stream = _boolean("stream", given.get("stream", "false"))
    _boolean("include_obfuscation", given.get("include_obfuscation", "true"))
    if "starting_after" not in given:
        return RetrieveQuery(stream)
    starting_after = _integer("starting_after", given["starting_after"])
    _POSITION(starting_after, "starting_after")
    return RetrieveQuery(stream, starting_after)


def _given(query: Query) -> dict[str, str]:
    """The parameters by name, once `include` is known to hold only what the API has."""
    INCLUDE([value for name, value in query if name in ("include", "include[]")], "include")
    return dict(query)


def _integer(name: str, text: str) -> int:
    if _INTEGER.fullmatch(text) is None:
        raise problems.invalid_type(name, "an integer", "a string")
    return int(text)


def _boolean(name: str, text: str) -> bool:
    word = _WORDS.get(text.lower())
    if word is None:
        raise problems.invalid_value(name, text, ("true", "false"))
    return word
