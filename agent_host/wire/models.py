"""Models on the wire: a host has one, which is its workflow."""

from collections.abc import Mapping, Sequence
from typing import Any

OWNER = "agent_host"


def model_object(name: str, questions: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """A workflow as a model. Nobody knows when it was made, and clients want a number.

    `questions` are the function tools that its answers may call: clients that take only calls they know declare these.
    """
    model: dict[str, Any] = {"id": name, "object": "model", "created": 0, "owned_by": OWNER}
    if questions:
        model["tools"] = list(questions)
    return model


def models_object(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The list of all models."""
    return {"object": "list", "data": list(models)}
