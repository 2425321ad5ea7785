"""Named places at which a test can let the process die, so that what the store promises there can be seen to hold.

Nothing arms them but a program that calls `watch`; no setting and no variable does. `agent_host.testing.crash_points`
is the kit for it.
"""

from collections.abc import Callable
from enum import StrEnum


class CrashPoint(StrEnum):
    """A place in the program, by what has just happened there or is about to."""

    OPENING = "opening"
    """A step of the migration has been taken and is not committed."""
    OPENED = "opened"
    """The tables are there; the leases of the process before still stand."""
    ADMITTING = "admitting"
    """It is known where a turn starts; nothing of it is stored."""
    ADMITTED_INSIDE = "admitted_inside"
    """A background turn has its row; the transaction is not committed."""
    ADMITTED = "admitted"
    """A turn was let in, and its client has not heard of it."""
    TAKEN = "taken"
    """A background turn has this process as its owner; no work on it has begun."""
    TAKEN_UP = "taken_up"
    """A turn of another process is about to go on; the item that it left open was taken back."""
    SENT = "sent"
    """Events of a foreground stream were given to the client's connection."""
    APPENDING = "appending"
    """Events of background turns are written; the transaction is not committed."""
    APPENDED = "appended"
    """Events of background turns are stored, and nobody has read them."""
    NOTED = "noted"
    """A finished call or step of a superstep is noted; the superstep is not merged."""
    STEPPING = "stepping"
    """A superstep and its events are written; the transaction is not committed."""
    STEPPED = "stepped"
    """A superstep is stored, and nobody has heard of its events."""
    FINISHING = "finishing"
    """The end of a turn is written; the transaction is not committed."""
    FINISHED = "finished"
    """The end of a turn is stored, and nobody has heard of it."""
    ADDING_ITEMS = "adding_items"
    """Items were put into a conversation; the transaction is not committed."""
    DELETING_CONVERSATION = "deleting_conversation"
    """A conversation is removed, its items are not; the transaction is not committed."""
    DELETING_RESPONSE = "deleting_response"
    """A response is removed, what belongs to it is not; the transaction is not committed."""
    DRAINING = "draining"
    """The process was asked to end: it takes no new turns, and those that run have been told to stop."""
    GIVING_BACK = "giving_back"
    """A background turn has stopped at a boundary, and this process still owns it."""
    DRAINED = "drained"
    """Every turn has stopped; the store is not closed."""


Watcher = Callable[[CrashPoint], None]

_watcher: Watcher | None = None


def watch(watcher: Watcher | None) -> None:
    """Call `watcher` at every crash point from now on, in the thread that gets there; None ends it.

    What it raises is raised there.
    """
    global _watcher
    _watcher = watcher


def reached(point: CrashPoint) -> None:
    """The program is at this point."""
    if _watcher is not None:
        _watcher(point)
