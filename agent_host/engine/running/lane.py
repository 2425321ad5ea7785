"""One conversation while it runs: a draft on top of a stored state, and the frames that work on it.

Rule 1: a lane starts from a view and never changes it; a run that fails leaves the view as it was.
Rule 2: new conversation, resume, branch, reset, retry and restart are one operation: `Lane.open`.
Rule 3: only executors that were called are asked for their state.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from agent_host.engine import cells
from agent_host.engine.checkpoint import Commit, CommitKind
from agent_host.engine.definition import Definition
from agent_host.engine.migration.migration import admit
from agent_host.engine.nested import WorkflowExecutor
from agent_host.engine.running.draft import Draft
from agent_host.engine.running.frame import Frame, OpenRequest, Waiting
from agent_host.engine.serialization.codec import Codec
from agent_host.engine.view import ReadBlobs, View, gather
from agent_host.errors import WorkflowCheckpointException

Unfinished = Mapping[cells.Path, Waiting]


class Shown(msgspec.Struct, frozen=True):
    """What an output becomes: an output of the workflow under this executor's name, or a message in a frame."""

    kind: Literal["output", "intermediate"]
    executor_id: str
    message_in: cells.Path | None


class Lane:
    """The mutable side of one run of one conversation."""

    def __init__(self, session_id: str, definition: Definition, draft: Draft) -> None:
        self.session_id = session_id
        self.definition = definition
        self.draft = draft
        self.frames: dict[cells.Path, Frame] = {}

    def __repr__(self) -> str:
        return (
            f"<Lane {self.session_id!r} at {self.view.commit_id}, {self.queued} queued, "
            f"{len(self.open_requests())} open requests>"
        )

    @classmethod
    async def open(
        cls,
        session_id: str,
        definition: Definition,
        view: View,
        read_blobs: ReadBlobs,
        *,
        stored: bool = True,
        live: Unfinished | None = None,
    ) -> "Lane":
        """Materialise a view: clone every executor and give the clones the view's state.

        `live` replaces what the view has queued, for state that never leaves the process. If anything fails,
        nothing has changed anywhere.
        """
        bodies = await gather(list(view.cells.values()), definition.codec, read_blobs) if view.cells else {}
        migrated = await admit(definition.graph_policy, definition, view, bodies)
        lane = cls(session_id, definition, Draft(view, definition.codec, bodies, stored=stored, migrated=migrated))
        await lane.roll_back(live=live)
        return lane

    @property
    def view(self) -> View:
        """Where the lane stands: its last commit."""
        return self.draft.view

    @property
    def codec(self) -> Codec:
        return self.definition.codec

    @property
    def root(self) -> Frame:
        """The frame of the workflow itself."""
        return self.frames[()]

    @property
    def queued(self) -> int:
        """How many messages are on their way."""
        if len(self.frames) == 1:
            return len(self.root.waiting.queue)
        return sum(len(frame.waiting.queue) for frame in self.frames.values())

    @property
    def waits(self) -> bool:
        """Whether any request is open."""
        return any(frame.waiting.requests for frame in self.frames.values())

    def unfinished(self) -> Unfinished:
        """What every frame waits for."""
        return {path: frame.waiting for path, frame in self.frames.items()}

    def open_requests(self) -> dict[str, tuple[Frame, OpenRequest]]:
        """Every open request by its id, in the order in which they were asked, at whatever depth."""
        found = [(frame, request) for frame in self.frames.values() for request in frame.waiting.requests.values()]
        return {request.request_id: (frame, request) for frame, request in sorted(found, key=lambda one: one[1].number)}

    def next_request(self) -> int:
        """The number of the next request: greater than that of any which is open."""
        return 1 + max((request.number for _, request in self.open_requests().values()), default=0)

    def is_open(self, request_id: str) -> bool:
        """Whether a request with this id waits for its answer."""
        return any(request_id in frame.waiting.requests for frame in self.frames.values())

    def in_order(self) -> list[Frame]:
        """The frames, owners before what they own, instances by number."""
        return [self.frames[path] for path in sorted(self.frames)] if len(self.frames) > 1 else [self.root]

    def from_inside(self) -> list[Frame]:
        """The frames, what is owned before its owner."""
        if len(self.frames) == 1:
            return [self.root]
        return sorted(self.frames.values(), key=lambda frame: (-len(frame.path), frame.path))

    # --- Materialise ---

    async def roll_back(self, *, live: Unfinished | None = None) -> None:
        """Give the lane fresh clones with the state of its last commit. If a hook fails, nothing has changed."""
        found = {cells.path_of(prefix): stored for prefix, stored in cells.by_instance(self.draft.cells).items()}
        made: dict[cells.Path, Frame] = {}
        paths = {path[:depth] for path in (*found, *(live or ())) for depth in range(len(path) + 1)}
        for path in sorted({(), *paths}):
            frame = self._frame(path, found.get(path, {}))
            frame.refuse_strangers()
            if live is not None:
                frame.waiting = live.get(path, Waiting())
            else:
                frame.read_waiting()
            made[path] = frame
        await made[()].materialise()  # instances of nested workflows follow when they are called
        self.draft.discard()
        self.frames = made

    def _frame(self, path: cells.Path, stored: Mapping[str, bytes]) -> Frame:
        definition, outward = self.definition, True
        for executor, _ in path:
            owner = definition.graph.executors.get(executor)
            if not isinstance(owner, WorkflowExecutor):
                raise WorkflowCheckpointException(
                    f"The checkpoint {self.view.commit_id!r} holds state of the nested workflow {executor!r}, which "
                    "the workflow no longer has."
                )
            definition = definition.children[executor]
            outward = outward and owner.propagate_request
        return Frame(self.draft, definition, path, stored, outward=outward)

    def instance_for(self, owner: Frame, executor: str) -> Frame:
        """An instance of a nested workflow that is free to take an input: the first idle one, else a new one.

        So inputs that overlap are independent, and those that follow each other meet the same state again.
        """
        instance = 1
        while True:
            path = (*owner.path, (executor, instance))
            frame = self.frames.get(path)
            if frame is None:
                return self.frames.setdefault(path, self._frame(path, {}))
            if not any(below.waiting for below in self.below(path)):
                return frame
            instance += 1

    def below(self, path: cells.Path) -> Iterator[Frame]:
        """The frame at a path and all below it."""
        return (frame for other, frame in self.frames.items() if other[: len(path)] == path)

    def instances(self, owner: Frame, executor: str) -> Iterator[Frame]:
        """The instances of a nested workflow, and all below them."""
        depth = len(owner.path)
        return (
            frame
            for frame in self.below(owner.path)
            if frame.path[depth : depth + 1] and frame.path[depth][0] == executor
        )

    # --- What leaves a nested workflow ---

    def designation(self, frame: Frame, executor: str) -> Shown | None:
        """Where an executor's output goes; None if nobody sees it."""
        kind, path = frame.definition.outputs.kind(executor), frame.path
        while kind is not None and path:
            path, (executor, _) = path[:-1], path[-1]
            outer = self.frames[path].definition
            owner = outer.graph.executors[executor]
            if kind == "output":
                if not (isinstance(owner, WorkflowExecutor) and owner.allow_direct_output):
                    return Shown(kind, executor, path)
                kind = outer.outputs.kind(executor)
        return Shown(kind, executor, None) if kind is not None else None

    def interceptor(self, frame: Frame) -> tuple[str, cells.Path]:
        """Who takes the requests of a nested workflow: the executor that stands for it, and where that stands."""
        path = frame.path
        while path:
            path, (executor, _) = path[:-1], path[-1]
            owner = self.frames[path].definition.graph.executors[executor]
            if isinstance(owner, WorkflowExecutor) and not owner.propagate_request:
                return executor, path
        raise AssertionError("a frame whose requests are for the outside has no interceptor")

    # --- Commit ---

    async def settle(self) -> None:
        """Bring the cells in line with what executors hold and, where they are stored, with what is waiting."""
        for frame in self.frames.values():
            await frame.settle_executors()
            if self.draft.stored:
                frame.settle_waiting()

    def commit(
        self,
        kind: CommitKind,
        new_id: Callable[[], str],
        clock: Callable[[], float],
        *,
        steps: int,
        even_if_equal: bool = False,
    ) -> Commit | None:
        """The boundary reached, as a commit on top of the last one; None if no cell has changed since.

        The lane moves to it when it is durable: see `accept`.
        """
        definition = self.definition
        return self.draft.commit(
            kind, new_id, clock, steps=steps, workflow=definition.name, session_id=self.session_id,
            signature=definition.signature, even_if_equal=even_if_equal,
        )  # fmt: skip

    def accept(self, commit: Commit) -> None:
        """Stand at the commit that was made last: it is durable now."""
        self.draft.accept(commit)
