"""Three questions are open when a program ends; the next ones answer one each, and are told of those still open."""

from typing import Any, Never

from agent_host import (
    CheckpointStorage,
    Executor,
    Workflow,
    WorkflowBuilder,
    WorkflowContext,
    handler,
    response_handler,
)


class Survey(Executor):
    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.answers: dict[str, str] = {}

    @handler
    async def begin(self, questions: list[str], ctx: WorkflowContext) -> None:
        for question in questions:
            await ctx.request_info(question, str)

    @response_handler
    async def hear(self, question: str, answer: str, ctx: WorkflowContext[Never, str]) -> None:
        self.answers[question] = answer
        await ctx.yield_output(f"{len(self.answers)}: {question} {answer}")

    async def on_checkpoint_save(self) -> dict[str, Any]:
        return {"answers": self.answers}

    async def on_checkpoint_restore(self, state: dict[str, Any]) -> None:
        self.answers = state.get("answers", {})


def build(storage: CheckpointStorage) -> Workflow:
    return WorkflowBuilder(start_executor=Survey("survey"), name="survey", checkpoint_storage=storage).build()


async def main(storage: CheckpointStorage) -> Any:
    result = await build(storage).run(["colour?", "number?", "day?"])
    told, outputs = [_open(result)], []
    for answer in ("blue", "seven", "Sunday"):
        latest = await storage.get_latest(workflow_name="survey")
        assert latest is not None
        question = result.get_request_info_events()[0]
        responses = {question.request_id: answer}
        result = await build(storage).run(checkpoint_id=latest.checkpoint_id, responses=responses)
        told.append(_open(result))
        outputs += result.get_outputs()
    return {"open": told, "outputs": outputs, "ends": result.get_final_state().value}


def _open(result: Any) -> list[str]:
    return [event.data for event in result.get_request_info_events()]
