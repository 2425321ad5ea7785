"""The keys of a lane's cell map: what lives where.

    s/<key>                   shared state
    x/<executor>              what an executor's save hook returned
    x/<executor>/<attribute>  an attribute of an executor
    q/<n>                     a queued message
    e/<edge group>/<source>/<n>  a message waiting in a join
    r/<request id>            an open request
    j/<executor>/<n>          the result of a step, of a function that waits for an answer
    w/<executor>/<n>/...      the same keys again, for the n-th instance of a nested workflow

User keys stand behind `s/`, so none can touch the engine's own data; an executor's id has no `/`.
"""

from collections.abc import Iterator, Mapping

STATE, EXECUTOR, QUEUE, JOIN, REQUEST, JOURNAL, NESTED = "s/", "x/", "q/", "e/", "r/", "j/", "w/"

Path = tuple[tuple[str, int], ...]
"""Where a nested workflow stands: executor and instance number, from the outside in; empty for the outermost."""


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


def journal_key(executor: str, position: int) -> str:
    return f"{JOURNAL}{executor}/{position:06d}"


def prefix_of(path: Path) -> str:
    """What stands before the keys of a nested workflow's instance."""
    return "".join(f"{NESTED}{executor}/{instance}/" for executor, instance in path)


def split_nested(key: str) -> tuple[str, str]:
    """The prefix of the instance that a key belongs to, empty for the outermost workflow, and the key within it."""
    at = 0
    while key.startswith(NESTED, at):
        at = key.index("/", key.index("/", at + len(NESTED)) + 1) + 1
    return key[:at], key[at:]


def path_of(prefix: str) -> Path:
    """The instance that a prefix belongs to."""
    parts = prefix.split("/")
    return tuple((parts[at + 1], int(parts[at + 2])) for at in range(0, len(parts) - 1, 3))


def by_instance(cells: Mapping[str, bytes]) -> dict[str, Mapping[str, bytes]]:
    """The cells of the outermost workflow and of every instance of a nested one, by prefix, with their own keys."""
    if not any(key.startswith(NESTED) for key in cells):
        return {"": cells}
    found: dict[str, dict[str, bytes]] = {"": {}}
    for key, reference in cells.items():
        prefix, own = split_nested(key)
        found.setdefault(prefix, {})[own] = reference
    return {**found}
