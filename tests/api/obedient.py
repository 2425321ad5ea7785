"""A workflow that obeys like a model, as far as the requests of the Open Responses suite go."""

import re
from collections.abc import Sequence
from typing import Never

from agent_host import Executor, Message, TextDelta, WorkflowBuilder, WorkflowContext, handler, response_handler
from agent_host.messages import FilePart, FunctionCall, ImagePart


class Obedient(Executor):
    """Keeps what was said, and answers from it."""

    def __init__(self) -> None:
        super().__init__("obedient")
        self.said: list[str] = []

    @handler
    async def obey(self, messages: list[Message], ctx: WorkflowContext[Never, str]) -> None:
        self.said += [message.text for message in messages]
        wanted = messages[-1].text.lower()
        if "weather" in wanted and any(tool.get("name") == "get_weather" for tool in ctx.turn.tools):
            await ctx.request_info(FunctionCall("get_weather", {"location": "San Francisco, CA"}), str)
        elif counted := re.search(r"count from (\d+) to (\d+)", wanted):
            for number in range(int(counted[1]), int(counted[2]) + 1):
                await ctx.yield_output(TextDelta(f"{number} "))
        else:
            await ctx.yield_output(self.answer(messages, wanted))

    def answer(self, messages: Sequence[Message], wanted: str) -> str:
        seen = [type(part) for message in messages for part in message.parts]
        if any("pirate" in message.text for message in messages if message.role in ("system", "developer")):
            return "Ahoy, matey!"
        if ImagePart in seen:
            return "I see an image."
        if FilePart in seen:
            return "I have read the file."
        if "exactly 3 words" in wanted:
            return "Hello to you"
        if "repeat only the number" in wanted:
            return re.findall(r"\d+", " ".join(self.said))[-1]
        found = re.findall(r"(?:my name is|the word is) (\w+)", " ".join(self.said), re.IGNORECASE)
        return found[-1] if found else "Yes."

    @response_handler
    async def called(self, call: FunctionCall, result: str, ctx: WorkflowContext[Never, str]) -> None:
        await ctx.yield_output(f"The weather: {result}")


workflow = WorkflowBuilder(start_executor=Obedient(), name="obedient").build()
