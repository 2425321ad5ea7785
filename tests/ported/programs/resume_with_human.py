"""A draft that a human approves, in processes of their own: the question outlives the program that asked it."""

from dataclasses import dataclass
from typing import Any

from agent_host import (
    CheckpointStorage,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    response_handler,
)


@dataclass
class Wish:
    text: str
    changes: list[str]


@dataclass
class Draft:
    text: str


@dataclass
class Review:
    draft: str = ""
    round: int = 0


class Tidy(Executor):
    @handler
    async def tidy(self, text: str, ctx: WorkflowContext[Wish]) -> None:
        wish = " ".join(text.split()).rstrip(".") + "."
        ctx.set_state("wish", wish)
        await ctx.send_message(Wish(wish, []), target_id="writer")


class Writer(Executor):
    @handler
    async def write(self, wish: Wish, ctx: WorkflowContext[Draft]) -> None:
        await ctx.send_message(Draft(" ".join([wish.text, *(f"({change})" for change in wish.changes)])))


class Editor(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.rounds = 0
        self.changes: list[str] = []

    @handler
    async def show(self, draft: Draft, ctx: WorkflowContext) -> None:
        self.rounds += 1
        await ctx.request_info(Review(draft.text, self.rounds), str)

    @response_handler
    async def hear(self, review: Review, reply: str, ctx: WorkflowContext[Wish, str]) -> None:
        if reply == "approve":
            await ctx.yield_output(f"{review.draft} [wished: {ctx.get_state('wish')}]")
            return
        self.changes.append(reply)
        await ctx.send_message(Wish(ctx.get_state("wish"), self.changes), target_id="writer")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"rounds": self.rounds, "changes": self.changes}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.rounds = state.get("rounds", 0)
        self.changes = state.get("changes", [])


def build(storage: CheckpointStorage) -> Workflow:
    tidy, writer, editor = Tidy("tidy"), Writer("writer"), Editor("editor")
    builder = WorkflowBuilder(start_executor=tidy, name="drafting", max_iterations=20, checkpoint_storage=storage)
    return builder.add_edge(tidy, writer).add_edge(writer, editor).add_edge(editor, writer).build()


async def head(storage: CheckpointStorage) -> str:
    latest = await storage.get_latest(workflow_name="drafting")
    assert latest is not None
    return latest.checkpoint_id


async def main(storage: CheckpointStorage) -> Any:
    asked = await build(storage).run("  a kettle   that sings ")
    paused = await head(storage)

    second = build(storage)
    again = await second.run(checkpoint_id=paused)
    (question,) = again.get_request_info_events()
    revised = await second.run(responses={question.request_id: "louder"})

    (question,) = revised.get_request_info_events()
    once_more = await build(storage).run(checkpoint_id=await head(storage), responses={question.request_id: "kinder"})
    (question,) = once_more.get_request_info_events()
    approved = (
        await build(storage)
        .run(checkpoint_id=await head(storage), responses={question.request_id: "approve"}, stream=True)
        .get_final_response()
    )

    (question,) = asked.get_request_info_events()
    branch = await build(storage).run(checkpoint_id=paused, responses={question.request_id: "approve"})
    results = {"asked": asked, "again": again, "revised": revised, "once more": once_more}
    return {
        "reviews": {name: _reviews(result) for name, result in results.items()},
        "approved": approved.get_outputs(),
        "approved from the first pause": branch.get_outputs(),
        "ends": [result.get_final_state().value for result in (*results.values(), approved, branch)],
    }


def _reviews(result: Any) -> list[Any]:
    return [[event.data.round, event.data.draft] for event in result.get_request_info_events()]
