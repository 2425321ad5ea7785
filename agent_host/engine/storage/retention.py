"""Which of a session's commits may go."""

from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit, cells_of
from agent_host.engine.view import ReadChain


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: the newest `keep_last`, what was made at or after `since`, these kinds, and pauses if wanted.

    None keeps nothing by itself. `since` is in seconds since the epoch.
    """

    keep_last: int | None
    since: float | None
    keep_kinds: AbstractSet[str]
    keep_pauses: bool

    def removable(self, commits: Sequence[Commit], kept: Collection[str], pauses: Collection[str]) -> list[str]:
        """The ids, in order, of a session's commits, oldest first, that are not kept by this nor among `kept`."""
        old = commits[: max(len(commits) - (self.keep_last or 0), 0)]
        return [
            commit.id
            for commit in old
            if commit.id not in kept
            and commit.kind not in self.keep_kinds
            and (self.since is None or commit.created_at < self.since)
            and not (self.keep_pauses and commit.id in pauses)
        ]


async def find_pauses(commits: Sequence[Commit], read_chain: ReadChain) -> set[str]:
    """The ids of those commits, oldest first, that have an open request, in a nested workflow or outside."""
    requests: dict[str, AbstractSet[str]] = {}
    for commit in commits:
        before = requests.get(commit.parent or "")
        if commit.complete:
            requests[commit.id] = _requests_after(frozenset(), commit.delta)
        elif before is not None:
            requests[commit.id] = _requests_after(before, commit.delta)
        else:
            requests[commit.id] = _requests_after(frozenset(), cells_of(await read_chain(commit.id)))
    return {commit_id for commit_id, keys in requests.items() if keys}


def _requests_after(before: AbstractSet[str], delta: Mapping[str, bytes | None]) -> AbstractSet[str]:
    changed = {key: ref for key, ref in delta.items() if cells.split_nested(key)[1].startswith(cells.REQUEST)}
    return {key for key in before if key not in changed} | {key for key, ref in changed.items() if ref is not None}
