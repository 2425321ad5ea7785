"""Calls a deployed agent: turns that continue a response, a branch of one, and turns in a conversation."""

import sys

from openai import OpenAI

from agent_host.foundry.project import project_client

AGENT = "help-desk"


def connect(url: str | None) -> OpenAI:
    """The agent that is deployed in the project; with an address, the same workflow as it is served there."""
    if url is not None:
        return OpenAI(base_url=url, api_key="none")
    return project_client().get_openai_client(agent_name=AGENT)


def by_response(agent: OpenAI) -> None:
    """Each turn names the response that it continues, and may do so once more."""
    first = agent.responses.create(input="The printer prints blank pages")
    print(first.output_text)
    for answer in ("Since Monday", "It is urgent"):
        print(agent.responses.create(input=answer, previous_response_id=first.id).output_text)


def by_conversation(agent: OpenAI) -> None:
    """Each turn names the conversation, which knows what was said last."""
    conversation = agent.conversations.create()
    for text in ("The printer prints blank pages", "Since Monday"):
        print(agent.responses.create(input=text, conversation=conversation.id).output_text)


if __name__ == "__main__":
    with connect(sys.argv[1] if len(sys.argv) > 1 else None) as agent:
        by_response(agent)
        by_conversation(agent)
