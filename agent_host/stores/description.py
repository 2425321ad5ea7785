"""What a SQL store tells of itself, from one consistent state."""

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
