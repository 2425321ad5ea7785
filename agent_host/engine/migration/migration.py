"""Take up a state that another version of the workflow has stored: ask the policy, migrate, and check.

A state is never changed where it is stored. What a migration makes of it is carried by the run and becomes part of
its next commit; until then the same migration is made again by whoever opens the state.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from agent_host.engine.definition import Definition
from agent_host.engine.migration.compatibility import Incompatibility, problems, refuse
from agent_host.engine.migration.graph_policy import GraphPolicy, Migrate, version_of
from agent_host.engine.migration.stored_state import Migrated, StoredState
from agent_host.engine.view import View
from agent_host.errors import WorkflowCheckpointException


async def admit(
    policy: GraphPolicy, definition: Definition, view: View, bodies: Mapping[bytes, Any]
) -> Migrated | None:
    """What must become of a view before a lane stands on it; None if it goes on as it is stored.

    A view of the present graph is not looked into. Raises `WorkflowCheckpointException` naming what could not be
    continued, and for a migration that raises.
    """
    if view.signature == definition.signature:
        return None
    if policy.on_change == "strict":
        raise WorkflowCheckpointException(
            f"The checkpoint {view.commit_id!r} was stored by {_named(view.signature)} of the workflow "
            f"{definition.name!r}; this is {_named(definition.signature)}, built with on_graph_change='strict'. "
            "Continue it with the program that made it, or build the workflow with on_graph_change='compatible'."
        )
    migrated = await apply(policy.migrate, definition, view, bodies) if policy.migrate is not None else None
    refuse(view.commit_id, _problems(definition, view, migrated, bodies))
    return migrated


async def examine(
    policy: GraphPolicy, definition: Definition, view: View, bodies: Mapping[bytes, Any]
) -> list[Incompatibility]:
    """Everything that speaks against continuing a view, as `admit` would tell it one by one.

    Looks into views of the present graph too: a handler or a class may have changed where the graph has not.
    """
    migrated = None
    if view.signature != definition.signature:
        if policy.on_change == "strict":
            return [
                Incompatibility(
                    "", "graph", _named(view.signature),
                    f"This is {_named(definition.signature)}, built with on_graph_change='strict'.",
                    "Build the workflow with on_graph_change='compatible', or let these conversations end first.",
                )
            ]  # fmt: skip
        if policy.migrate is not None:
            try:
                migrated = await _migrate(policy.migrate, definition, view, bodies)
            except Exception as error:  # noqa: BLE001 - whatever the author's migration raises is the finding
                return [
                    Incompatibility(
                        "", "migration", type(error).__qualname__, f"migrate raised: {error}",
                        f"Correct it for what {_named(view.signature)} has stored.",
                    )
                ]  # fmt: skip
    return _problems(definition, view, migrated, bodies)


async def apply(migrate: Migrate, definition: Definition, view: View, bodies: Mapping[bytes, Any]) -> Migrated:
    """Run a migration on a view. Raises `WorkflowCheckpointException` naming the checkpoint if it raises."""
    try:
        return await _migrate(migrate, definition, view, bodies)
    except Exception as error:
        raise WorkflowCheckpointException(
            f"The checkpoint {view.commit_id!r}, stored by {_named(view.signature)} of the workflow "
            f"{definition.name!r}, could not be migrated: {type(error).__qualname__}: {error}"
        ) from error


async def _migrate(migrate: Migrate, definition: Definition, view: View, bodies: Mapping[bytes, Any]) -> Migrated:
    state = StoredState.of(view.commit_id, view.signature, view.cells, definition.codec, bodies)
    returned: Any = migrate(state)
    if inspect.isawaitable(returned):
        returned = await returned
    if returned is not None and returned is not state:
        raise TypeError(
            "migrate changes the state that it is given and returns nothing; it returned a "
            f"{type(returned).__qualname__}."
        )
    made = state.changed_cells(definition)
    now = {key: encoded.reference for key, encoded in made.items()}
    delta: dict[str, bytes | None] = {key: None for key in view.cells if key not in now}
    delta.update((key, reference) for key, reference in now.items() if view.cells.get(key) != reference)
    blobs = {blob: body for key in delta if key in made for blob, body in made[key].blobs.items()}
    return Migrated(now, delta, blobs)


def _problems(
    definition: Definition, view: View, migrated: Migrated | None, bodies: Mapping[bytes, Any]
) -> list[Incompatibility]:
    if migrated is None:
        return problems(definition, view.cells, definition.codec, bodies)
    return problems(definition, migrated.cells, definition.codec, {**bodies, **migrated.blobs})


def _named(signature: str) -> str:
    """A version as a person tells it from another."""
    version = version_of(signature)
    return f"version {version!r}" if version is not None else f"graph {signature[:12]}"
