"""A whole round of forgetting, in steps that any store takes.

What was answered goes by its age, then the commits that nothing needs any more, then the blobs that no commit needs.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from agent_host.stores.base import Store
from agent_host.stores.records import CommitName, Freed

_RESPONSES = 32
_COMMITS = 32
"""How many one step takes: some milliseconds."""

MOST_COMMITS = 50_000
"""Commits that one round removes at most; their names are kept in memory meanwhile, in some ten megabytes."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round has removed."""

    responses: Freed = field(default_factory=Freed)
    commits: Freed = field(default_factory=Freed)
    blobs: Freed = field(default_factory=Freed)
    compactions: Freed = field(default_factory=Freed)
    events: Freed = field(default_factory=Freed)
    keys: Freed = field(default_factory=Freed)

    @property
    def size(self) -> int:
        """The bytes of all of it."""
        return sum(freed.size for freed in self._kinds.values())

    @property
    def summary(self) -> str:
        """All of it in words, such as "120 responses, 340 commits, 2.1 MB freed"; what is none is left out."""
        kinds = self._kinds.items()
        parts = [f"{freed.count:,} {kind}{'s' * (freed.count != 1)}" for kind, freed in kinds if freed.count]
        return ", ".join([*parts, f"{in_words(self.size)} freed"]) if parts else "nothing"

    def __bool__(self) -> bool:
        return any(freed.count for freed in self._kinds.values())

    @property
    def _kinds(self) -> dict[str, Freed]:
        return {
            "response": self.responses,
            "compaction": self.compactions,
            "event log": self.events,
            "idempotency key": self.keys,
            "commit": self.commits,
            "blob": self.blobs,
        }


def in_words(size: int) -> str:
    """A number of bytes for people, such as "2.1 MB"."""
    for unit, bytes_ in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} bytes"


async def forget(store: Store, before: float | None, ended_before: float) -> Collected:
    """Remove the responses and the compactions from before a time, None for none, and logs and keys from another."""
    return Collected(
        events=await _all(store.forget_events, ended_before),
        keys=await _all(store.forget_keys, ended_before),
        responses=await _all(store.forget_responses, before),
        compactions=await _all(store.forget_compactions, before),
    )


async def _all(some: Callable[[float, int], Awaitable[Freed]], before: float | None) -> Freed:
    if before is None:
        return Freed()
    freed = step = await some(before, _RESPONSES)
    while step.count:
        step = await some(before, _RESPONSES)
        freed += step
    return freed


async def prune(store: Store, names: Sequence[CommitName], roots: Collection[str]) -> Freed:
    """Remove those of these commits that nothing needs still; `names` are as `Store.unneeded_commits` gave them."""
    freed = Freed()
    for start in range(0, len(names), _COMMITS):
        freed += await store.prune(names[start : start + _COMMITS], roots)
    return freed


async def collect(
    store: Store, before: float | None, roots: Collection[str] = (), *, ended_before: float = 0
) -> Collected:
    """Remove everything that may go, at once; only for a store that nobody uses meanwhile. Times are as in `forget`."""
    collected = await forget(store, before, ended_before)
    commits = Freed()
    while names := await store.unneeded_commits(MOST_COMMITS, roots):
        step = await prune(store, names, roots)
        commits += step
        if not step.count:
            break
    return replace(collected, commits=commits, blobs=await store.collect_blobs())
