"""What the Open Responses project asks of a server over HTTP, in our own words, with requests that are bare JSON."""

from typing import Any

import openresponses_types.types as published
import pytest

from tests.api.obedient import workflow

PNG = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
PDF = "data:application/pdf;base64,JVBERi0xLjQKJSVFT0YK"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather at a place.",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
}


class Server:
    """The host as a client without a library sees it. All that it answers is checked against the published types."""

    def __init__(self, site: Any) -> None:
        self.site = site

    async def create(self, *items: Any, **fields: Any) -> dict[str, Any]:
        """A response that has been completed and holds something."""
        body = {"model": "obedient", "input": list(items), **fields}
        answer = await self.site.http.post("/responses", json=body)
        assert answer.status_code == 200, answer.text
        response: dict[str, Any] = answer.json()
        assert response["status"] == "completed"
        assert response["output"]
        return response

    async def reply(self, *items: Any, **fields: Any) -> str:
        """The text of a response whose output is one message."""
        (message,) = (await self.create(*items, **fields))["output"]
        assert (message["type"], message["role"]) == ("message", "assistant")
        return "".join(part["text"] for part in message["content"])


@pytest.fixture
async def server(serve_checked: Any) -> Server:
    return Server(await serve_checked(workflow))


def said(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": text, **more}


def shown(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(parts)}


async def test_a_simple_wish(server: Server) -> None:
    """A user's message gets a completed response with text."""
    assert len((await server.reply(said("user", "Say hello in exactly 3 words."))).split()) == 3


async def test_phases_of_the_assistant(server: Server) -> None:
    """A history may say which of its messages were commentary and which the answer."""
    history = [
        said("user", "Think of a number."),
        said("assistant", "I am thinking of one.", phase="commentary"),
        said("assistant", "It is 42.", phase="final_answer"),
    ]
    assert await server.reply(*history, said("user", "Repeat only the number.")) == "42"


async def test_the_published_types_know_phases(server: Server) -> None:
    """The phase of our messages is one that the published type of a message has."""
    (message,) = (await server.create(said("user", "Say hello in exactly 3 words.")))["output"]
    assert message["phase"] in {phase.value for phase in published.Phase}


async def test_a_stream(server: Server, told: Any) -> None:
    """Its last event shows the completed response."""
    events = await told(server.site, {"model": "obedient", "input": [said("user", "Count from 1 to 5.")]})
    final = events[-1]["response"]
    assert (events[-1]["type"], final["status"]) == ("response.completed", "completed")
    assert final["output"][0]["content"][0]["text"] == "1 2 3 4 5 "


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_a_system_prompt(server: Server, role: str) -> None:
    """What the system says reaches the workflow."""
    assert "Ahoy" in await server.reply(said(role, "You are a pirate. Speak like one."), said("user", "Say hello."))


async def test_a_call_of_a_tool(server: Server) -> None:
    """A client that declares a function gets a call of it, and gives back what it returns, by id."""
    question = said("user", "What's the weather like in San Francisco?")
    asked = await server.create(question, tools=[WEATHER])
    (call,) = [item for item in asked["output"] if item["type"] == "function_call"]
    assert (call["name"], call["status"]) == ("get_weather", "completed")
    assert "San Francisco" in call["arguments"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    assert await server.reply(output, tools=[WEATHER], previous_response_id=asked["id"]) == "The weather: sunny"


async def test_a_call_of_a_tool_in_a_history(server: Server) -> None:
    """The same without an id: the call and its output stand in the input."""
    question = said("user", "What's the weather like in San Francisco?")
    (call,) = (await server.create(question, tools=[WEATHER]))["output"]
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    assert await server.reply(question, call, output, tools=[WEATHER]) == "The weather: sunny"


async def test_a_call_that_the_server_never_made(server: Server) -> None:
    """A history with the call of some other server and its output is answered all the same."""
    history = [
        said("user", "What's the weather like?"),
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
    ]
    assert await server.reply(*history, said("user", "Say hello in exactly 3 words.")) == "Hello to you"


async def test_an_image(server: Server) -> None:
    """An image comes as a part of a message."""
    parts = ({"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": PNG})
    assert await server.reply(shown(*parts)) == "I see an image."


async def test_a_file(server: Server) -> None:
    """So does a file."""
    parts = (
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
        {"type": "input_text", "text": "What does it say?"},
    )
    assert await server.reply(shown(*parts)) == "I have read the file."


async def test_several_turns_in_one_request(server: Server) -> None:
    """A client may send the whole conversation each time."""
    history = [said("user", "My name is Alice."), said("assistant", "Hello Alice!")]
    assert await server.reply(*history, said("user", "What is my name?")) == "Alice"


async def test_several_turns_by_id(server: Server) -> None:
    """Or only what is new, with the id of the response before."""
    first = await server.create(said("user", "The word is papaya. Remember it."))
    second = await server.create(said("user", "Say hello in exactly 3 words."), previous_response_id=first["id"])
    assert second["previous_response_id"] == first["id"]
    assert await server.reply(said("user", "Which word was it?"), previous_response_id=second["id"]) == "papaya"
    assert await server.reply(said("user", "Which word was it?")) == "Yes."


async def test_a_compaction(server: Server) -> None:
    """A conversation becomes the user's messages and one compaction item, which go on as the next input."""
    history = [said("user", "My name is Alice."), said("assistant", "Hello Alice!")]
    body = {"model": "obedient", "input": history, "prompt_cache_key": "k"}
    answer = await server.site.http.post("/responses/compact", json=body)
    assert answer.status_code == 200, answer.text
    compacted = answer.json()
    assert compacted["object"] == "response.compaction"
    assert type(compacted["created_at"]) is int
    assert compacted["usage"]["total_tokens"] >= 0
    assert [item["type"] for item in compacted["output"]] == ["message", "compaction"]
    assert await server.reply(*compacted["output"], said("user", "What is my name?")) == "Alice"


async def test_a_compaction_needs_a_model(server: Server) -> None:
    """Without it the request is refused."""
    answer = await server.site.http.post("/responses/compact", json={"input": [said("user", "hi")]})
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["param"] == "model"
