"""A workflow inside another whose outputs and questions go straight to the outside."""

from typing import Any, Never

from agent_host import Executor, Workflow, WorkflowBuilder, WorkflowContext, WorkflowExecutor, handler, response_handler


class Greeter(Executor):
    @handler
    async def greet(self, name: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"Good day, {name}.")
        await ctx.request_info(f"How old is {name}?", int)

    @response_handler
    async def hear(self, question: str, age: int, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"{question} {age}!")


class Door(Executor):
    @handler
    async def open(self, name: str, ctx: WorkflowContext[str]) -> None:
        await ctx.send_message(name.capitalize())


def greeting() -> Workflow:
    return WorkflowBuilder(start_executor=Greeter("greeter")).build()


async def main() -> Any:
    door = Door("door")
    inner = WorkflowExecutor(greeting(), id="greeting", allow_direct_output=True, propagate_request=True)
    workflow = WorkflowBuilder(start_executor=door).add_edge(door, inner).build()
    asked = await workflow.run("vera")
    (question,) = asked.get_request_info_events()
    answered = await workflow.run(responses={question.request_id: 44})
    return {
        "question": [question.data, question.response_type.__name__],
        "outputs": [asked.get_outputs(), answered.get_outputs()],
        "ends": [asked.get_final_state().value, answered.get_final_state().value],
    }
