"""A workflow inside another waits for a human; in a new process the question is there again and can be answered."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, Never

from agent_host import (
    CheckpointStorage,
    Executor,
    SubWorkflowRequestMessage,
    SubWorkflowResponseMessage,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    WorkflowExecutor,
    handler,
    response_handler,
)

TODAY = date(2030, 5, 1)


@dataclass
class Commission:
    title: str
    due: date
    attempt: int = 1


@dataclass
class Score:
    title: str
    bars: list[str]
    attempt: int


@dataclass
class Audition:
    """What the human is to judge."""

    title: str
    attempt: int
    opening: str
    due: str
    advice: list[str] = field(default_factory=list)


@dataclass
class Judged:
    audition: Audition
    word: str


@dataclass
class Piece:
    title: str
    attempts: int
    printed: date


class Composer(Executor):
    @handler
    async def compose(self, commission: Commission, ctx: WorkflowContext[Score]) -> None:
        ctx.set_state("due", commission.due)
        bars = [f"{commission.title} {bar}" for bar in range(commission.attempt, commission.attempt + 3)]
        await ctx.send_message(Score(commission.title, bars, commission.attempt), target_id="hall")


class Hall(Executor):
    @handler
    async def play(self, score: Score, ctx: WorkflowContext) -> None:
        due = ctx.get_state("due").isoformat()
        audition = Audition(score.title, score.attempt, score.bars[0], due, ["listen twice", "be kind"])
        await ctx.request_info(audition, str)

    @response_handler
    async def hear(self, audition: Audition, word: str, ctx: WorkflowContext[Judged]) -> None:
        await ctx.send_message(Judged(audition, word))


class Press(Executor):
    @handler
    async def finish(self, judged: Judged, ctx: WorkflowContext[Commission, Piece]) -> None:
        audition = judged.audition
        if judged.word == "bravo":
            await ctx.yield_output(Piece(audition.title, audition.attempt, date.fromisoformat(audition.due)))
        else:
            due = date.fromisoformat(audition.due) + timedelta(days=7)
            await ctx.send_message(Commission(audition.title, due, audition.attempt + 1), target_id="composer")


class Patron(Executor):
    """Passes the questions of the workshop on to the outside, and its answers back."""

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.open: dict[str, SubWorkflowRequestMessage] = {}

    @handler
    async def order(self, title: str, ctx: WorkflowContext[Commission]) -> None:
        await ctx.send_message(Commission(title, TODAY))

    @handler
    async def pass_on(self, request: SubWorkflowRequestMessage, ctx: WorkflowContext) -> None:
        audition = request.source_event.data
        assert isinstance(audition, Audition)
        self.open[audition.title] = request
        await ctx.request_info(audition, str)

    @response_handler
    async def pass_back(self, audition: Audition, word: str, ctx: WorkflowContext[SubWorkflowResponseMessage]) -> None:
        await ctx.send_message(self.open.pop(audition.title).create_response(word))

    @handler
    async def receive(self, piece: Piece, ctx: WorkflowContext[Never, Piece]) -> None:
        await ctx.yield_output(piece)

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"open": self.open}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.open = state.get("open", {})


def workshop() -> Workflow:
    composer, hall, press = Composer("composer"), Hall("hall"), Press("press")
    builder = WorkflowBuilder(start_executor=composer).add_edge(composer, hall)
    return builder.add_edge(hall, press).add_edge(press, composer).build()


def build(storage: CheckpointStorage) -> Workflow:
    patron, inner = Patron("patron"), WorkflowExecutor(workshop(), id="workshop")
    builder = WorkflowBuilder(start_executor=patron, name="commissioning", checkpoint_storage=storage)
    return builder.add_edge(patron, inner).add_edge(inner, patron).build()


async def head(storage: CheckpointStorage) -> str:
    latest = await storage.get_latest(workflow_name="commissioning")
    assert latest is not None
    return latest.checkpoint_id


async def main(storage: CheckpointStorage) -> Any:
    asked = await build(storage).run("waltz")

    second = build(storage)
    again = await second.run(checkpoint_id=await head(storage))
    (question,) = again.get_request_info_events()
    refused = await second.run(responses={question.request_id: "slower"})

    third = build(storage)
    once_more = await third.run(checkpoint_id=await head(storage))
    (question,) = once_more.get_request_info_events()
    done = await third.run(responses={question.request_id: "bravo"})
    results = {"asked": asked, "again": again, "refused": refused, "once more": once_more, "done": done}
    return {
        "auditions": {name: _auditions(result) for name, result in results.items()},
        "outputs": [str(output) for output in done.get_outputs()],
        "ends": [result.get_final_state().value for result in results.values()],
    }


def _auditions(result: Any) -> list[str]:
    return [str(event.data) for event in result.get_request_info_events()]
