"""What a run changes on top of a stored state, cell by cell, until it is committed."""

from collections.abc import Callable, Mapping
from typing import Any

from agent_host.engine.checkpoint import (
    BLOB,
    MANIFEST_EVERY,
    Commit,
    CommitKind,
    body_references,
    cell_references,
)
from agent_host.engine.migration.stored_state import Migrated
from agent_host.engine.serialization.codec import Codec, Encoded
from agent_host.engine.view import View


class Draft:
    """The cells of a lane: those of its view, and what has changed since.

    `stored`: whether anything is ever written, or the state never leaves the process. `by_reference`: whether
    messages that cannot change pass as they are until the next commit. What a migration has changed is carried along
    and becomes part of the next commit; no commit is made for it alone.
    """

    def __init__(
        self, view: View, codec: Codec, bodies: dict[bytes, Any], *, stored: bool, migrated: Migrated | None = None
    ) -> None:
        self.view = view
        self.cells = view.cells if migrated is None else migrated.cells
        self._carried: Mapping[str, bytes | None] = {} if migrated is None else migrated.delta
        self._carried_blobs: Mapping[bytes, bytes] = {} if migrated is None else migrated.blobs
        self.codec = codec
        self.bodies = bodies
        self.stored = stored
        self.by_reference = not stored
        self._delta: dict[str, bytes | None] = {}
        self._blobs: dict[bytes, bytes] = {}
        self._proposed: dict[str, bytes] = {}
        self.bodies.update(self._carried_blobs)

    def __repr__(self) -> str:
        return f"<Draft on {self.view.commit_id}, {len(self._delta)} cells changed>"

    def current(self, key: str) -> bytes | None:
        """The reference of a cell as it stands now; None if there is no such cell."""
        return self._delta[key] if key in self._delta else self.cells.get(key)

    def put(self, key: str, encoded: Encoded | None) -> None:
        """Change a cell, or remove it."""
        self._delta[key] = None if encoded is None else encoded.reference
        if encoded is not None:
            self._blobs.update(encoded.blobs)
            self.bodies.update(encoded.blobs)

    def known(self, reference: bytes | None) -> set[bytes]:
        """The blobs that are stored because the cell's last form needed them."""
        if reference is None:
            return set()
        if reference[:1] != BLOB:
            return set(cell_references(reference))
        body = self.bodies.get(reference[1:]) or self.codec.shared.body(reference[1:])
        return {reference[1:], *(body_references(body) if isinstance(body, bytes) else ())}

    def commit(
        self, kind: CommitKind, new_id: Callable[[], str], clock: Callable[[], float], *, steps: int,
        workflow: str, session_id: str, signature: str, even_if_equal: bool = False,
    ) -> Commit | None:  # fmt: skip
        """The changes as a commit on top of the view; None if there are none. `clock` gives seconds since the epoch.

        The draft moves to it when it is durable: see `accept`.
        """
        view = self.view
        delta = {key: reference for key, reference in self._delta.items() if self.cells.get(key) != reference}
        if not delta and not even_if_equal:
            self._delta, self._blobs = {}, {}
            return None
        self._proposed = dict(self.cells)
        for key, reference in delta.items():
            if reference is None:
                del self._proposed[key]
            else:
                self._proposed[key] = reference
        blobs = self._blobs
        if self._carried:
            delta, blobs = {**self._carried, **delta}, {**self._carried_blobs, **blobs}
        complete = view.distance + 1 >= MANIFEST_EVERY
        return Commit(
            id=new_id(), parent=view.commit_id, workflow=workflow, session_id=session_id, kind=kind,
            seq=view.seq + 1, step=view.step + steps, created_at=clock(), signature=signature,
            delta=dict(self._proposed) if complete else delta, complete=complete,
            distance=0 if complete else view.distance + 1, blobs=blobs,
        )  # fmt: skip

    def accept(self, commit: Commit) -> None:
        """Stand at the commit that was made last: it is durable now."""
        self.view, self.cells = View.of(commit, self._proposed), self._proposed
        self._carried, self._carried_blobs = {}, {}
        self._delta, self._blobs = {}, {}

    def discard(self) -> None:
        """Forget what has changed since the last commit."""
        self._delta, self._blobs = {}, {}
