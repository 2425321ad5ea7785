"""The keys of a lane's cell map: what lives where.

    s/<key>                   shared state
    x/<executor>              what an executor's save hook returned
    x/<executor>/<attribute>  an attribute of an executor
    q/<n>                     a queued message
    e/<edge group>/<source>/<n>  a message waiting in a join
    r/<request id>            an open request

User keys stand behind `s/`, so none can touch the engine's own data.
"""

from collections.abc import Iterator, Mapping

STATE, EXECUTOR, QUEUE, JOIN, REQUEST = "s/", "x/", "q/", "e/", "r/"


def state_key(key: str) -> str:
    return STATE + key


def hook_key(executor: str) -> str:
    return EXECUTOR + executor


def field_key(executor: str, attribute: str) -> str:
    return f"{EXECUTOR}{executor}/{attribute}"


def queue_key(position: int) -> str:
    return f"{QUEUE}{position:06d}"


def join_key(group: str, source: str, position: int) -> str:
    return f"{JOIN}{group}/{source}/{position:06d}"


def request_key(request_id: str) -> str:
    return REQUEST + request_id


def split_executor_key(key: str) -> tuple[str, str | None]:
    """The executor and the attribute of an `x/` key; no attribute for what a hook returned."""
    executor, _, attribute = key[len(EXECUTOR) :].partition("/")
    return executor, attribute or None


def split_join_key(key: str) -> tuple[str, str]:
    """The edge group and the source of an `e/` key."""
    group, source, _ = key[len(JOIN) :].rsplit("/", 2)
    return group, source


def under(prefix: str, cells: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """The cells below a prefix, in key order."""
    return ((key, cells[key]) for key in sorted(key for key in cells if key.startswith(prefix)))
