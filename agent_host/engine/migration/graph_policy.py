"""What a workflow does with a state that another version of its graph has stored."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from agent_host.errors import WorkflowValidationError

if TYPE_CHECKING:
    from agent_host.engine.migration.stored_state import StoredState

GraphChange = Literal["strict", "compatible"]
Migrate = Callable[["StoredState"], "Awaitable[Any] | None"]
"""Turns what an older version has stored into what this one can continue, by changing what it is given."""

_VERSION = "version "


@dataclass(frozen=True, slots=True)
class GraphPolicy:
    """`strict` refuses every state that was stored under another signature; `compatible` continues what it can.

    `migrate` is called first with such a state. It may be called more than once for one state: it is kept with the
    next commit on top of it.
    """

    on_change: GraphChange = "compatible"
    migrate: Migrate | None = None

    def __post_init__(self) -> None:
        if self.on_change not in get_args(GraphChange):
            raise WorkflowValidationError(
                f"on_graph_change is {' or '.join(map(repr, get_args(GraphChange)))}; got {self.on_change!r}."
            )
        if self.migrate is not None and not callable(self.migrate):
            raise WorkflowValidationError(f"migrate takes a function of the stored state; got {self.migrate!r}.")
        if self.migrate is not None and self.on_change == "strict":
            raise WorkflowValidationError(
                "on_graph_change='strict' refuses what another graph has stored, so migrate would never be called. "
                "Leave out one of them."
            )


def signature_of(version: str) -> str:
    """The signature of a graph whose author names its version. It can be read, so that `migrate` can go by it."""
    return _VERSION + version


def version_of(signature: str) -> str | None:
    """The version in a signature; None for a hash of the structure."""
    return signature[len(_VERSION) :] if signature.startswith(_VERSION) else None
