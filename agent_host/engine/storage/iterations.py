"""How many supersteps a commit is away from the last input."""

from collections.abc import Iterable, Sequence

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit, cells_of
from agent_host.engine.view import ReadChain

_INPUTS = ("root", "input", "response")


async def steps_since_input(chain: Sequence[Commit], read_chain: ReadChain) -> int:
    """The supersteps between the newest commit of a chain and the input that set them off.

    They began at a commit that took an input, or at one where nothing was queued: from there nothing goes on without
    an input, also when a whole turn is one commit.
    """
    newest = chain[0]
    if newest.kind in _INPUTS:
        return 0
    while True:
        for position, commit in enumerate(chain):
            begins = commit.kind in _INPUTS or not _has_queue(cells_of(chain[position:]))
            if commit is not newest and begins:
                return newest.step - commit.step
        oldest = chain[-1]
        chain = await read_chain(oldest.parent) if oldest.parent is not None else []
        if not chain:  # what went before was deleted
            return newest.step - oldest.step


def _has_queue(keys: Iterable[str]) -> bool:
    return any(cells.split_nested(key)[1].startswith(cells.QUEUE) for key in keys)
