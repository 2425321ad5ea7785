"""What a SQL store tells of itself, from one consistent state."""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter

from agent_host.stores import rows
from agent_host.stores.database import Connection
from agent_host.stores.queries import parse, sql_text
from agent_host.stores.records import Description

_STATEMENTS = parse(sql_text("description.sql"))


def describe(connection: Connection) -> Description:
    """Count everything and add up its bytes; reads all of the store."""
    ask = connection.execute
    conversations, responses, commits, blobs, in_flight, oldest = ask(_STATEMENTS["counts"]).fetchone()
    size, free = ask(_STATEMENTS["room"]).fetchone()
    return Description(
        size=size,
        free=free,
        sizes=dict(ask(_STATEMENTS["sizes"]).fetchall()),
        users=ask(_STATEMENTS["users"]).fetchone()[0],
        conversations=conversations,
        responses=responses,
        commits=commits,
        blobs=blobs,
        in_flight=in_flight,
        pending=ask(_STATEMENTS["pending"]).fetchone()[0],
        oldest_response=oldest,
        largest=tuple((rows.user_of(own), *found) for own, *found in ask(_STATEMENTS["largest"]).fetchall()),
    )


_LARGEST = 5


def total(parts: Sequence[Description]) -> Description:
    """What several stores hold together."""
    sizes: Counter[str] = Counter()
    for part in parts:
        sizes.update(part.sizes)
    largest = sorted((each for part in parts for each in part.largest), key=lambda each: -each[3])
    summed = {
        name: sum(map(attrgetter(name), parts))
        for name in ("size", "free", "conversations", "responses", "commits", "blobs", "in_flight", "pending")
    }
    return Description(
        **summed,
        sizes=dict(sizes),
        users=max((part.users for part in parts), default=0),
        oldest_response=min((each for part in parts if (each := part.oldest_response) is not None), default=None),
        largest=tuple(largest[:_LARGEST]),
    )
